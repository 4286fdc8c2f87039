//! Small files of one line of JSON and its checksum.
//!
//! ```text
//!   {"version":1,...}\n
//!   crc32c 0a1b2c3d\n        CRC-32C, hex, of the first line without its line feed
//! ```

use std::io;

use millrace_proto::batch::crc::crc32c;
use serde::{Serialize, de::DeserializeOwned};

/// The file's bytes.
pub(crate) fn encode(contents: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(contents)?;
    let checksum = crc32c(&bytes);
    bytes.extend_from_slice(format!("\ncrc32c {checksum:08x}\n").as_bytes());
    Ok(bytes)
}

/// Reads the file's bytes.
///
/// # Errors
/// In words: no text, a missing or wrong checksum, or JSON of another form.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text")?;
    let (json, rest) = text.split_once('\n').ok_or("the checksum line is missing")?;
    if rest != format!("crc32c {:08x}\n", crc32c(json.as_bytes())) {
        return Err("the checksum does not match".into());
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}

/// Fails unless each flipped bit and each cut of `bytes` is noticed.
#[cfg(test)]
pub(crate) fn assert_notices_damage<T: DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) {
    for at in 0..bytes.len() * 8 {
        let mut damaged = bytes.to_vec();
        damaged[at / 8] ^= 1 << (at % 8);
        assert!(decode::<T>(&damaged).is_err(), "bit {at}");
    }
    for end in 0..bytes.len() {
        assert!(decode::<T>(&bytes[..end]).is_err(), "cut at {end}");
    }
}
