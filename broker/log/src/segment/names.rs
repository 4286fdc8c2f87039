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

/// Whether a name is one that only a half-done step leaves behind (`.tmp` of ours, `.deleted` of Kafka, `.cleaned` of
/// either): such a file is removed when the log is opened.
#[must_use]
pub fn is_leftover(name: &str) -> bool {
    [".tmp", ".deleted", ".cleaned"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

/// Where compaction writes the segment that is to begin at `base_offset`: nothing until it has its next name.
#[must_use]
pub fn cleaned_path(dir: &Path, base_offset: i64) -> PathBuf {
    dir.join(format!("{base_offset:020}.log.cleaned"))
}

/// A whole, durable segment that is to take the place of all that begin from `base_offset` up to below `end_offset`.
#[must_use]
pub fn swap_path(dir: &Path, base_offset: i64, end_offset: i64) -> PathBuf {
    dir.join(format!("{base_offset:020}-{end_offset:020}.swap"))
}

/// Reads a name as [`swap_path`] writes it.
#[must_use]
pub fn parse_swap(name: &str) -> Option<(i64, i64)> {
    let (base, end) = name.strip_suffix(".swap")?.split_once('-')?;
    let number = |digits: &str| {
        let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse::<i64>().ok()).flatten()
    };
    let range = (number(base)?, number(end)?);
    (range.0 < range.1).then_some(range)
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
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        let swap = name(swap_path(Path::new("/d"), 12, 345));
        assert_eq!(
            (parse_swap(&swap), parse(&swap), is_leftover(&swap)),
            (Some((12, 345)), None, false)
        );
        let cleaned = name(cleaned_path(Path::new("/d"), 12));
        assert_eq!(
            (parse_swap(&cleaned), parse(&cleaned), is_leftover(&cleaned)),
            (None, None, true)
        );
        for bad in [
            "00000000000000000012.log.swap",
            "00000000000000000012-00000000000000000012.swap",
            "00000000000000000012-0000000000000000001.swap",
            "00000000000000000012-99999999999999999999.swap",
        ] {
            assert_eq!(parse_swap(bad), None, "{bad}");
        }
    }
}
