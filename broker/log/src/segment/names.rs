//! File names in a partition's directory: 20 digits of base offset and Kafka's suffixes.

use std::path::{Path, PathBuf};

/// What a file in a partition's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// Batches.
    Log,
    /// Offset index.
    OffsetIndex,
    /// Time index.
    TimeIndex,
    /// Aborted transactions.
    TransactionIndex,
    /// Producer snapshot.
    Snapshot,
}

impl FileKind {
    /// The suffix with its dot.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            FileKind::Log => ".log",
            FileKind::OffsetIndex => ".index",
            FileKind::TimeIndex => ".timeindex",
            FileKind::TransactionIndex => ".txnindex",
            FileKind::Snapshot => ".snapshot",
        }
    }
}

const KINDS: [FileKind; 5] = [
    FileKind::Log,
    FileKind::OffsetIndex,
    FileKind::TimeIndex,
    FileKind::TransactionIndex,
    FileKind::Snapshot,
];

/// The path of a file of a segment (or of a snapshot as of an offset).
#[must_use]
pub fn path(dir: &Path, offset: i64, kind: FileKind) -> PathBuf {
    dir.join(format!("{offset:020}{}", kind.suffix()))
}

/// Reads a name as [`path`] writes it.
#[must_use]
pub fn parse(name: &str) -> Option<(i64, FileKind)> {
    let (digits, suffix) = name.split_at_checked(20)?;
    let kind = KINDS.into_iter().find(|kind| kind.suffix() == suffix)?;
    let offset = digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())
        .flatten()?;
    Some((offset, kind))
}

/// Whether a name is one that only a half-done step leaves behind (`.tmp` of ours; `.deleted`, `.cleaned` and
/// `.swap` of Kafka): such a file is removed when the log is opened.
#[must_use]
pub fn is_leftover(name: &str) -> bool {
    [".tmp", ".deleted", ".cleaned"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

pub(crate) fn log_path(dir: &Path, base_offset: i64) -> PathBuf {
    path(dir, base_offset, FileKind::Log)
}

pub(crate) fn index_path(dir: &Path, base_offset: i64) -> PathBuf {
    path(dir, base_offset, FileKind::OffsetIndex)
}

pub(crate) fn time_index_path(dir: &Path, base_offset: i64) -> PathBuf {
    path(dir, base_offset, FileKind::TimeIndex)
}

pub(crate) fn snapshot_path(dir: &Path, offset: i64) -> PathBuf {
    path(dir, offset, FileKind::Snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for kind in KINDS {
            let path = path(Path::new("/d"), 1234, kind);
            assert_eq!(parse(path.file_name().unwrap().to_str().unwrap()), Some((1234, kind)));
        }
        for bad in [
            "",
            "1.log",
            "0000000000000000000x.log",
            "00000000000000000000.logs",
            "99999999999999999999.log",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
