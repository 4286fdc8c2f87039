//! `.clean_shutdown` and `last-broker-epoch`: did the last process end well, and which life of the broker was it.
//!
//! The clean mark is written last, after every flush, and removed first at the start of loading (KAFKA-10471); it
//! holds the broker epoch, so that a mark of an older life proves nothing (KIP-966).

use super::properties::{self, required};
use super::{FormatError, number};

/// The clean mark's name.
pub const FILE_NAME: &str = ".clean_shutdown";
/// The name of the file with the last broker epoch.
pub const LAST_EPOCH_FILE_NAME: &str = "last-broker-epoch";

/// The bytes of either file.
#[must_use]
pub fn encode(broker_epoch: i64) -> Vec<u8> {
    properties::encode(&[("version", "1".to_owned()), ("broker.epoch", broker_epoch.to_string())])
}

/// Reads the bytes of either file.
///
/// # Errors
/// A wrong checksum or version, or no epoch.
pub fn decode(bytes: &[u8]) -> Result<i64, FormatError> {
    let pairs = properties::decode(bytes, true)?;
    match required(&pairs, "version")? {
        "1" => number("broker.epoch", required(&pairs, "broker.epoch")?),
        other => Err(FormatError::new(format!("version {other} is not 1"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        assert_eq!(decode(&encode(42)).unwrap(), 42);
        assert!(decode(b"").is_err());
        assert!(
            decode(b"version=1\nbroker.epoch=42\n").is_err(),
            "a checksum is required"
        );
    }
}
