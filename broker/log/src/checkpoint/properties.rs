//! Java property files as Kafka writes them: `key=value` lines, `#` comments; ours end with a checksum line.
//!
//! ```text
//! version=1
//! cluster.id=...
//! checksum=1c2d3e4f      CRC-32C, hex, of all bytes before this line
//! ```

use std::collections::BTreeMap;

use millrace_proto::batch::crc::crc32c;

use super::{FormatError, text};

const CHECKSUM: &str = "checksum=";

/// Writes the pairs in order and the checksum line.
#[must_use]
pub fn encode(pairs: &[(&str, String)]) -> Vec<u8> {
    let mut out = String::new();
    for (key, value) in pairs {
        out.push_str(key);
        out.push('=');
        out.push_str(value);
        out.push('\n');
    }
    let checksum = crc32c(out.as_bytes());
    out.push_str(&format!("{CHECKSUM}{checksum:08x}\n"));
    out.into_bytes()
}

/// Reads pairs. With `require_checksum` a file without a valid checksum line is refused; without, a checksum line is
/// optional (a file that Kafka wrote has none) but must be right if present.
///
/// # Errors
/// No text, a wrong or missing checksum, a line without `=`, a key given twice.
pub fn decode(bytes: &[u8], require_checksum: bool) -> Result<BTreeMap<String, String>, FormatError> {
    let contents = text(bytes)?;
    let body = match contents
        .rfind(CHECKSUM)
        .filter(|at| *at == 0 || contents.as_bytes()[at - 1] == b'\n')
    {
        Some(at) => {
            let stored = contents[at + CHECKSUM.len()..].trim_end_matches(['\r', '\n']);
            let computed = crc32c(&bytes[..at]);
            if stored.len() != 8 || u32::from_str_radix(stored, 16) != Ok(computed) {
                return Err(FormatError::new(format!(
                    "checksum {stored} does not match the contents ({computed:08x})"
                )));
            }
            &contents[..at]
        }
        None if require_checksum => return Err(FormatError::new("the checksum line is missing")),
        None => contents,
    };
    let mut pairs = BTreeMap::new();
    for line in body
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', '!']))
    {
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| FormatError::new(format!("line {line:?} has no '='")))?;
        if pairs.insert(key.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(FormatError::new(format!("key {key:?} is given twice")));
        }
    }
    Ok(pairs)
}

/// A value that must be there.
pub(super) fn required<'a>(pairs: &'a BTreeMap<String, String>, key: &str) -> Result<&'a str, FormatError> {
    pairs
        .get(key)
        .map(String::as_str)
        .ok_or_else(|| FormatError::new(format!("{key} is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_changed_byte_is_noticed() {
        let good = encode(&[("version", "1".into()), ("a.b", "c=d".into())]);
        assert_eq!(decode(&good, true).unwrap()["a.b"], "c=d");
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode(&bad, true).is_err(), "byte {at}");
            assert!(decode(&good[..at], true).is_err(), "cut at {at}");
        }
        assert!(decode(b"#Mon Jan 01\nversion=1\n", false).is_ok());
        assert!(decode(b"version=1\n", true).is_err());
        assert!(decode(b"version=1\nversion=2\n", false).is_err());
    }
}
