//! `meta.properties`: whose disk this is (KIP-631, KIP-858).

use std::path::Path;

use uuid::Uuid;

use super::properties::{self, required};
use super::{FormatError, Loaded, load, number};
use crate::fs::FileSystem;

/// The file's name.
pub const FILE_NAME: &str = "meta.properties";

/// Whose disk a data directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirIdentity {
    /// The cluster the data belongs to.
    pub cluster_id: String,
    /// The broker the data belongs to.
    pub node_id: i32,
    /// The directory's own id, made when it was formatted.
    pub directory_id: Uuid,
}

/// Kafka's spelling of a UUID: 22 characters of URL-safe base64 without padding.
#[must_use]
pub fn uuid_to_base64(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 128 bits are 21 digits of 6 bits and one of 2, which stands in the high bits.
    let value = id.as_u128();
    (0..22)
        .map(|digit| {
            let index = if digit < 21 {
                value >> (122 - 6 * digit)
            } else {
                value << 4
            };
            ALPHABET[(index & 63) as usize] as char
        })
        .collect()
}

/// Reads [`uuid_to_base64`]'s spelling.
#[must_use]
pub fn uuid_from_base64(text: &str) -> Option<Uuid> {
    let text = text.trim_end_matches('=');
    if text.len() != 22 {
        return None;
    }
    let mut value: u128 = 0;
    for (digit, byte) in text.bytes().enumerate() {
        let index = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        if digit < 21 {
            value = value << 6 | u128::from(index);
        } else if index & 15 != 0 {
            return None;
        } else {
            value = value << 2 | u128::from(index >> 4);
        }
    }
    Some(Uuid::from_u128(value))
}

impl DirIdentity {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        properties::encode(&[
            ("version", "1".to_owned()),
            ("cluster.id", self.cluster_id.clone()),
            ("node.id", self.node_id.to_string()),
            ("directory.id", uuid_to_base64(self.directory_id)),
        ])
    }

    /// Reads the file's bytes.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        Self::from_bytes(bytes, true)
    }

    /// Reads a file that Kafka may have written, which has no checksum.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn decode_foreign(bytes: &[u8]) -> Result<Self, FormatError> {
        Self::from_bytes(bytes, false)
    }

    fn from_bytes(bytes: &[u8], require_checksum: bool) -> Result<Self, FormatError> {
        let pairs = properties::decode(bytes, require_checksum)?;
        let version = required(&pairs, "version")?;
        if version != "1" {
            return Err(FormatError::new(format!("version {version} is not 1")));
        }
        let directory_id = required(&pairs, "directory.id")?;
        let identity = DirIdentity {
            cluster_id: required(&pairs, "cluster.id")?.to_owned(),
            node_id: number("node.id", required(&pairs, "node.id")?)?,
            directory_id: uuid_from_base64(directory_id)
                .ok_or_else(|| FormatError::new(format!("directory.id {directory_id:?} is not a UUID")))?,
        };
        if identity.cluster_id.is_empty() || identity.node_id < 0 {
            return Err(FormatError::new("cluster.id is empty or node.id negative"));
        }
        Ok(identity)
    }

    /// Loads it from a data directory.
    ///
    /// # Errors
    /// The file system's.
    pub fn load(fs: &dyn FileSystem, dir: &Path) -> std::io::Result<Loaded<Self>> {
        load(fs, &dir.join(FILE_NAME), Self::decode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let identity = DirIdentity {
            cluster_id: "MkU3OEVBNTcwNTJENDM2Qg".into(),
            node_id: 3,
            directory_id: Uuid::from_u128(u128::MAX - 9),
        };
        assert_eq!(DirIdentity::decode(&identity.encode()).unwrap(), identity);
    }

    #[test]
    fn uuids_are_spelt_as_kafka_does() {
        // Uuid.ONE_UUID of Kafka's clients: new UUID(0, 1).
        assert_eq!(uuid_to_base64(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        for value in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210] {
            let id = Uuid::from_u128(value);
            assert_eq!(uuid_from_base64(&uuid_to_base64(id)), Some(id));
        }
        for bad in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAA!", "AAAAAAAAAAAAAAAAAAAAAB"] {
            assert_eq!(uuid_from_base64(bad), None, "{bad}");
        }
    }
}
