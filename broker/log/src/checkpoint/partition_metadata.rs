//! `partition.metadata`: which topic a partition's directory belongs to, by id (KIP-516).
//!
//! ```text
//! version: 0
//! topic_id: AAAAAAAAAAAAAAAAAAAAAQ
//! ```

use uuid::Uuid;

use super::meta_properties::{uuid_from_base64, uuid_to_base64};
use super::{FormatError, text};

/// The file's name.
pub const FILE_NAME: &str = "partition.metadata";

/// The file's bytes.
#[must_use]
pub fn encode(topic_id: Uuid) -> Vec<u8> {
    format!("version: 0\ntopic_id: {}", uuid_to_base64(topic_id)).into_bytes()
}

/// Reads the file's bytes.
///
/// # Errors
/// Another version, or no topic id.
pub fn decode(bytes: &[u8]) -> Result<Uuid, FormatError> {
    let mut lines = text(bytes)?.lines();
    match lines
        .next()
        .and_then(|line| line.strip_prefix("version:"))
        .map(str::trim)
    {
        Some("0") => {}
        other => return Err(FormatError::new(format!("version {other:?} is not 0"))),
    }
    lines
        .next()
        .and_then(|line| line.strip_prefix("topic_id:"))
        .and_then(|id| uuid_from_base64(id.trim()))
        .ok_or_else(|| FormatError::new("no valid topic_id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let id = Uuid::from_u128(77);
        assert_eq!(decode(&encode(id)).unwrap(), id);
        for bad in [
            "",
            "version: 1\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ",
            "version: 0\n",
            "version: 0\ntopic_id: zz",
        ] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
