//! What a stream is resumed with.

use millrace_proto::{batch::crc::crc32c, v1::ErrorReason};

use crate::error::ApiError;

/// The form of a token: version, producer id, check.
const TOKEN_VERSION: u8 = 1;
const TOKEN_LEN: usize = 1 + 8 + 4;

/// The token of a stream, bound to the cluster.
pub fn encode_token(cluster_id: &str, producer_id: i64) -> Vec<u8> {
    let mut token = vec![TOKEN_VERSION];
    token.extend(producer_id.to_be_bytes());
    let check = crc32c(&[cluster_id.as_bytes(), &token].concat());
    token.extend(check.to_be_bytes());
    token
}

/// The producer id in a token.
///
/// # Errors
/// It is no token, or another cluster's.
pub fn decode_token(cluster_id: &str, token: &[u8]) -> Result<i64, ApiError> {
    let invalid = || {
        ApiError::new(
            ErrorReason::InvalidResumeToken,
            "The resume token is not one of this cluster's: open a new stream, and treat what was not answered as unknown.",
        )
    };
    let id: [u8; 8] = token
        .get(1..9)
        .and_then(|id| id.try_into().ok())
        .filter(|_| token.len() == TOKEN_LEN)
        .ok_or_else(invalid)?;
    let producer_id = i64::from_be_bytes(id);
    if producer_id < 0 || encode_token(cluster_id, producer_id) != token {
        return Err(invalid());
    }
    Ok(producer_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bound_to_their_cluster_and_checked() {
        let token = encode_token("c1", 77);
        assert_eq!(decode_token("c1", &token), Ok(77));
        assert!(decode_token("c2", &token).is_err());
        for at in 0..token.len() {
            let mut bad = token.clone();
            bad[at] ^= 1;
            assert!(decode_token("c1", &bad).is_err(), "byte {at}");
            assert!(decode_token("c1", &token[..at]).is_err(), "cut at {at}");
        }
    }
}
