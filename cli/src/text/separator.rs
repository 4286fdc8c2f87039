//! Splitting input lines into keys and values, and flags into headers.

use bytes::Bytes;
use thiserror::Error;

/// How a line becomes a key and a value.
#[derive(Clone, Debug)]
pub struct Splitter {
    separator: Option<Vec<u8>>,
    ignore_missing: bool,
}

/// A line has no separator.
#[derive(Debug, PartialEq, Eq, Error)]
#[error(
    "line {line} has no key separator {separator:?}; mend it, or add --ignore-missing-key to send such lines without a key"
)]
pub struct SplitError {
    /// From 1.
    pub line: u64,
    /// What was looked for.
    pub separator: String,
}

impl Splitter {
    /// Without a separator whole lines are values.
    pub fn new(separator: Option<&str>, ignore_missing: bool) -> Self {
        Self {
            separator: separator.map(|text| text.as_bytes().to_vec()),
            ignore_missing,
        }
    }

    /// Splits a line at the first separator.
    pub fn split(&self, line: Bytes, number: u64) -> Result<(Option<Bytes>, Bytes), SplitError> {
        let Some(separator) = &self.separator else {
            return Ok((None, line));
        };
        match find(&line, separator) {
            Some(at) => Ok((Some(line.slice(..at)), line.slice(at + separator.len()..))),
            None if self.ignore_missing => Ok((None, line)),
            None => Err(SplitError {
                line: number,
                separator: String::from_utf8_lossy(separator).into_owned(),
            }),
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    match wanted {
        [byte] => bytes.iter().position(|b| b == byte),
        _ => bytes.windows(wanted.len()).position(|window| window == wanted),
    }
}

/// Splits `NAME=VALUE` of `--header`. `NAME=` is a header with an empty value.
pub fn header(text: &str) -> Result<(String, Bytes), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), Bytes::copy_from_slice(value.as_bytes()))),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(separator: &str, line: &'static [u8]) -> Option<(Option<Bytes>, Bytes)> {
        Splitter::new(Some(separator), false)
            .split(Bytes::from_static(line), 7)
            .ok()
    }

    fn pair(key: &'static [u8], value: &'static [u8]) -> Option<(Option<Bytes>, Bytes)> {
        Some((Some(Bytes::from_static(key)), Bytes::from_static(value)))
    }

    #[test]
    fn the_first_separator_splits() {
        assert_eq!(split(":", b"k:v:w"), pair(b"k", b"v:w"));
        assert_eq!(split(":", b":v"), pair(b"", b"v"));
        assert_eq!(split(":", b"k:"), pair(b"k", b""));
        assert_eq!(split("=>", b"a=b=>c"), pair(b"a=b", b"c"));
        assert_eq!(split("aab", b"aaab"), pair(b"a", b""));
        assert_eq!(split(":", b"\xff:\xfe"), pair(b"\xff", b"\xfe"));
    }

    #[test]
    fn a_line_without_separator_is_an_error_that_names_it() {
        let error = Splitter::new(Some("=>"), false)
            .split(Bytes::from_static(b"a=b"), 7)
            .unwrap_err();
        assert_eq!(
            error,
            SplitError {
                line: 7,
                separator: "=>".into()
            }
        );
        assert!(error.to_string().contains("line 7"));
        assert_eq!(split(":", b""), None);
    }

    #[test]
    fn or_it_has_no_key_if_asked_for() {
        let splitter = Splitter::new(Some(":"), true);
        assert_eq!(
            splitter.split(Bytes::from_static(b"ab"), 1),
            Ok((None, Bytes::from_static(b"ab")))
        );
        assert_eq!(
            Splitter::new(None, false).split(Bytes::from_static(b"a:b"), 1),
            Ok((None, Bytes::from_static(b"a:b")))
        );
    }

    #[test]
    fn headers() {
        assert_eq!(header("a=b=c"), Ok(("a".into(), Bytes::from_static(b"b=c"))));
        assert_eq!(header("a="), Ok(("a".into(), Bytes::new())));
        assert!(header("a").is_err());
        assert!(header("=b").is_err());
    }
}
