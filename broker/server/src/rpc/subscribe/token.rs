//! What a subscriber resumes with.

use millrace_proto::{batch::crc::crc32c, v1::ErrorReason};
use uuid::Uuid;

use crate::error::ApiError;

/// The form of a token: version, member id, an epoch that the member had, check.
///
/// ```text
///  | 1 | 16: member id | 4: member epoch | 4: CRC-32C of cluster, group and all before |
/// ```
const TOKEN_VERSION: u8 = 1;
const BODY_BYTES: usize = 1 + 16 + 4;

fn check(cluster_id: &str, group: &str, body: &[u8]) -> [u8; 4] {
    // A zero byte is in neither of them.
    crc32c(&[cluster_id.as_bytes(), &[0], group.as_bytes(), &[0], body].concat()).to_be_bytes()
}

/// The token of a member, bound to the cluster and the group. It holds no positions: those the subscriber knows better
/// than whoever sent it the messages.
pub fn encode_token(cluster_id: &str, group: &str, member: Uuid, epoch: i32) -> Vec<u8> {
    let mut token = vec![TOKEN_VERSION];
    token.extend(member.as_bytes());
    token.extend(epoch.to_be_bytes());
    let check = check(cluster_id, group, &token);
    token.extend(check);
    token
}

/// The member in a token, and an epoch that it had.
///
/// # Errors
/// It is no token, or another cluster's or group's.
pub fn decode_token(cluster_id: &str, group: &str, token: &[u8]) -> Result<(Uuid, i32), ApiError> {
    let invalid = || {
        ApiError::new(
            ErrorReason::InvalidResumeToken,
            "The resume token is not one of this cluster and group: open without it.",
        )
        .with("field", "open.resume_token")
    };
    let (body, sum) = token.split_at_checked(BODY_BYTES).ok_or_else(invalid)?;
    if *sum != check(cluster_id, group, body) || body[0] != TOKEN_VERSION {
        return Err(invalid());
    }
    let member = Uuid::from_slice(&body[1..17]).map_err(|_| invalid())?;
    let epoch = body[17..].try_into().map(i32::from_be_bytes).map_err(|_| invalid())?;
    if epoch <= 0 {
        return Err(invalid());
    }
    Ok((member, epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bound_to_their_cluster_and_group_and_checked() {
        let member = Uuid::from_u128(77);
        let token = encode_token("c1", "g", member, 3);
        assert_eq!(decode_token("c1", "g", &token), Ok((member, 3)));
        assert!(decode_token("c2", "g", &token).is_err());
        assert!(decode_token("c1", "h", &token).is_err());
        assert!(decode_token("c1", "g", &encode_token("c1", "g", member, 0)).is_err());
        for at in 0..token.len() {
            let mut bad = token.clone();
            bad[at] ^= 1;
            assert!(decode_token("c1", "g", &bad).is_err(), "byte {at}");
            assert!(decode_token("c1", "g", &token[..at]).is_err(), "cut at {at}");
        }
        assert!(decode_token("c1", "g", &[token, vec![0]].concat()).is_err());
    }
}
