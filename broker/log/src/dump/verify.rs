//! Do a partition's files fit each other?

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use millrace_proto::batch::{BatchView, DecodeLimits, NO_TIMESTAMP};

use super::files::{files_of, partitions_in};
use super::{DumpError, dump_transaction_index};
use super::{
    DumpedBatch, dump_batches, dump_leader_epochs, dump_offset_index, dump_producer_snapshot, dump_time_index,
};
use crate::fs::FileSystem;
use crate::segment::names::{self, FileKind};

/// Problems reported for one partition at most; the rest is only counted.
const MAX_PROBLEMS: usize = 1000;

/// What [`verify`] looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerifyOptions {
    /// Also decompress and decode every record.
    pub records: bool,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Where in the file, in bytes, if that is known.
    pub position: Option<u64>,
    /// The offset it concerns, if that is known.
    pub offset: Option<i64>,
    /// What is wrong.
    pub text: String,
}

/// What was found in one partition's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionReport {
    /// The directory.
    pub path: PathBuf,
    /// Segments.
    pub segments: usize,
    /// Batches.
    pub batches: u64,
    /// Records, by the batches' headers.
    pub records: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Base offset of the first segment.
    pub first_offset: Option<i64>,
    /// The offset after the last batch.
    pub next_offset: Option<i64>,
    /// What is wrong; empty if all is well.
    pub problems: Vec<Problem>,
    /// Problems beyond the first thousand.
    pub more_problems: u64,
}

impl PartitionReport {
    fn add(&mut self, file: &Path, position: Option<u64>, offset: Option<i64>, text: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem {
                file: file.to_owned(),
                position,
                offset,
                text: text.into(),
            });
        } else {
            self.more_problems += 1;
        }
    }
}

/// Verifies a partition's directory, or every partition of a data directory: directories with a partition's name and
/// at least one of its files.
///
/// `passed` is told of bytes of segments as they are passed, about [`segment_bytes`](super::segment_bytes) in all.
///
/// # Errors
/// The directory can't be read. What is wrong within is in the reports.
pub fn verify(
    fs: &dyn FileSystem,
    path: &Path,
    options: &VerifyOptions,
    passed: &mut dyn FnMut(u64),
) -> io::Result<Vec<PartitionReport>> {
    partitions_in(fs, path)?
        .iter()
        .map(|partition| verify_watched(fs, partition, options, passed))
        .collect()
}

/// Verifies one partition: CRCs, lengths, rising offsets and epochs, index and time index entries against the
/// batches they point to, producer snapshots, leader epochs.
///
/// # Errors
/// The directory can't be read.
pub fn verify_partition(fs: &dyn FileSystem, path: &Path, options: &VerifyOptions) -> io::Result<PartitionReport> {
    verify_watched(fs, path, options, &mut |_| ())
}

fn verify_watched(
    fs: &dyn FileSystem,
    path: &Path,
    options: &VerifyOptions,
    passed: &mut dyn FnMut(u64),
) -> io::Result<PartitionReport> {
    let mut report = PartitionReport {
        path: path.to_owned(),
        ..PartitionReport::default()
    };
    let files = files_of(fs, path)?;
    let mut walk = Walk {
        next_offset: None,
        epoch: -1,
        epochs: Vec::new(),
    };
    for (base, _) in files.iter().filter(|(_, kind)| *kind == FileKind::Log) {
        verify_segment(fs, path, *base, options, &mut walk, &mut report, passed)?;
    }
    for (offset, kind) in &files {
        let file = names::path(path, *offset, *kind);
        let has_log = files.contains(&(*offset, FileKind::Log));
        match kind {
            FileKind::OffsetIndex | FileKind::TimeIndex if !has_log => {
                report.add(&file, None, None, "no segment belongs to it")
            }
            FileKind::TransactionIndex => note_error(&mut report, &file, dump_transaction_index(fs, &file))?,
            FileKind::Snapshot => note_error(&mut report, &file, dump_producer_snapshot(fs, &file))?,
            _ => {}
        }
    }
    verify_epochs(fs, path, &walk, &mut report)?;
    report.next_offset = walk.next_offset;
    Ok(report)
}

fn note_error<T>(report: &mut PartitionReport, file: &Path, result: Result<T, DumpError>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        // Removed by a running broker since it was listed.
        Err(DumpError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(DumpError::Io(error)) => Err(error),
        Err(error) => {
            report.add(file, None, None, error.to_string());
            Ok(())
        }
    }
}

struct Walk {
    next_offset: Option<i64>,
    epoch: i32,
    /// Each epoch with the end of the batch before its first one, and that one's base offset.
    epochs: Vec<(i32, i64, i64)>,
}

fn index_or_problem<T>(
    report: &mut PartitionReport,
    file: &Path,
    result: Result<Vec<T>, DumpError>,
) -> io::Result<Vec<T>> {
    match result {
        Ok(entries) => Ok(entries),
        // An active segment's index may not be written yet.
        Err(DumpError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(DumpError::Io(error)) => Err(error),
        Err(error) => {
            report.add(file, None, None, error.to_string());
            Ok(Vec::new())
        }
    }
}

fn verify_segment(
    fs: &dyn FileSystem,
    dir: &Path,
    base: i64,
    options: &VerifyOptions,
    walk: &mut Walk,
    report: &mut PartitionReport,
    passed: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let log = names::path(dir, base, FileKind::Log);
    let index_path = names::path(dir, base, FileKind::OffsetIndex);
    let time_path = names::path(dir, base, FileKind::TimeIndex);
    let offsets = index_or_problem(report, &index_path, dump_offset_index(fs, &index_path))?;
    let times = index_or_problem(report, &time_path, dump_time_index(fs, &time_path))?;
    report.segments += 1;
    report.first_offset.get_or_insert(base);
    if let Some(next) = walk.next_offset.filter(|next| base < *next) {
        report.add(
            &log,
            None,
            Some(base),
            format!("begins below {next}, where the segment before ends"),
        );
    }
    let mut checks = IndexChecks::new(base, offsets, times, index_path, time_path);
    let mut next_offset = walk.next_offset.unwrap_or(0).min(base);
    let end = dump_batches(fs, &log, 0, |batch| {
        let header = &batch.header;
        let (position, offset) = (Some(batch.position), Some(header.base_offset));
        if !batch.crc_matches {
            report.add(&log, position, offset, "the CRC does not match");
        }
        if header.base_offset < next_offset.max(base) {
            report.add(
                &log,
                position,
                offset,
                format!("the base offset is below {}", next_offset.max(base)),
            );
        }
        if header.partition_leader_epoch < walk.epoch {
            report.add(
                &log,
                position,
                offset,
                format!("leader epoch {} after {}", header.partition_leader_epoch, walk.epoch),
            );
        }
        if header.partition_leader_epoch > walk.epoch {
            walk.epoch = header.partition_leader_epoch;
            walk.epochs.push((walk.epoch, next_offset, header.base_offset));
        }
        if options.records
            && batch.crc_matches
            && let Err(text) = verify_records(&batch)
        {
            report.add(&log, position, offset, text);
        }
        next_offset = next_offset.max(header.next_offset());
        report.batches += 1;
        report.records += u64::try_from(header.record_count).unwrap_or(0);
        checks.batch(&batch, report);
        passed(batch.bytes.len() as u64);
        ControlFlow::Continue(())
    });
    let end = match end {
        Ok(end) => end,
        Err(DumpError::Io(error)) => return Err(error),
        Err(error) => {
            report.add(&log, None, None, error.to_string());
            return Ok(());
        }
    };
    if let Some(reason) = end.reason {
        let text = format!(
            "{} bytes at the end are no batch: {reason}",
            end.file_bytes - end.valid_bytes
        );
        report.add(&log, Some(end.valid_bytes), Some(next_offset), text);
        passed(end.file_bytes.saturating_sub(end.valid_bytes));
    }
    report.bytes += end.file_bytes;
    checks.finish(report);
    walk.next_offset = Some(next_offset.max(base));
    Ok(())
}

fn verify_records(batch: &DumpedBatch) -> Result<(), String> {
    let view = BatchView::parse(&batch.bytes).map_err(|error| error.to_string())?;
    let records = view
        .records(&DecodeLimits::default())
        .map_err(|error| error.to_string())?;
    let header = &batch.header;
    let mut newest = None;
    for record in records.iter() {
        let record = record.map_err(|error| error.to_string())?;
        if record.offset < header.base_offset || record.offset > header.last_offset() {
            return Err(format!("record offset {} is outside its batch", record.offset));
        }
        newest = newest.max(Some(record.timestamp));
    }
    header.verify_max_timestamp(newest).map_err(|error| error.to_string())
}

/// Compares index entries with the batches as they pass by.
struct IndexChecks {
    base: i64,
    offsets: std::iter::Peekable<std::vec::IntoIter<(i64, u64)>>,
    times: std::iter::Peekable<std::vec::IntoIter<(i64, i64)>>,
    last_offset_entry: Option<(i64, u64)>,
    last_time_entry: Option<(i64, i64)>,
    max_timestamp: i64,
    index_path: PathBuf,
    time_path: PathBuf,
}

impl IndexChecks {
    fn new(
        base: i64,
        offsets: Vec<(i64, u64)>,
        times: Vec<(i64, i64)>,
        index_path: PathBuf,
        time_path: PathBuf,
    ) -> Self {
        IndexChecks {
            base,
            offsets: offsets.into_iter().peekable(),
            times: times.into_iter().peekable(),
            last_offset_entry: None,
            last_time_entry: None,
            max_timestamp: NO_TIMESTAMP,
            index_path,
            time_path,
        }
    }

    fn batch(&mut self, batch: &DumpedBatch, report: &mut PartitionReport) {
        let header = &batch.header;
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        while let Some((offset, position)) = self.offsets.next_if(|(_, position)| *position <= batch.position) {
            if position != batch.position {
                report.add(
                    &self.index_path,
                    None,
                    Some(offset),
                    format!("no batch begins at byte {position}"),
                );
            } else if offset != header.last_offset() {
                let text = format!("points to the batch that ends at {}", header.last_offset());
                report.add(&self.index_path, None, Some(offset), text);
            }
            if self
                .last_offset_entry
                .is_some_and(|last| last.0 >= offset || last.1 >= position)
                || offset < self.base
            {
                report.add(&self.index_path, None, Some(offset), "the entries do not rise");
            }
            self.last_offset_entry = Some((offset, position));
        }
        while let Some((timestamp, offset)) = self.times.next_if(|(_, offset)| *offset <= header.last_offset()) {
            if offset != header.last_offset() || timestamp != self.max_timestamp {
                let text = format!(
                    "says {timestamp}, but up to {} the largest timestamp is {}",
                    header.last_offset(),
                    self.max_timestamp
                );
                report.add(&self.time_path, None, Some(offset), text);
            }
            if self
                .last_time_entry
                .is_some_and(|last| last.0 >= timestamp || last.1 >= offset)
            {
                report.add(&self.time_path, None, Some(offset), "the entries do not rise");
            }
            self.last_time_entry = Some((timestamp, offset));
        }
    }

    fn finish(&mut self, report: &mut PartitionReport) {
        for (offset, position) in self.offsets.by_ref() {
            report.add(
                &self.index_path,
                None,
                Some(offset),
                format!("points behind the last batch, to byte {position}"),
            );
        }
        for (timestamp, offset) in self.times.by_ref() {
            report.add(
                &self.time_path,
                None,
                Some(offset),
                format!("time {timestamp} belongs to no batch"),
            );
        }
    }
}

fn verify_epochs(fs: &dyn FileSystem, dir: &Path, walk: &Walk, report: &mut PartitionReport) -> io::Result<()> {
    let file = dir.join(crate::checkpoint::leader_epochs::FILE_NAME);
    let entries = match dump_leader_epochs(fs, dir) {
        Ok(entries) => entries,
        Err(DumpError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            if !walk.epochs.is_empty() {
                report.add(&file, None, None, "the file is missing");
            }
            return Ok(());
        }
        Err(DumpError::Io(error)) => return Err(error),
        Err(error) => {
            report.add(&file, None, None, error.to_string());
            return Ok(());
        }
    };
    // Epochs below the log start are forgotten, and the one that holds it begins there.
    let oldest = entries.first().map_or(i32::MAX, |entry| entry.epoch);
    for (epoch, after, first_offset) in walk
        .epochs
        .iter()
        .filter(|(epoch, ..)| entries.is_empty() || *epoch >= oldest)
    {
        match entries.iter().find(|entry| entry.epoch == *epoch) {
            Some(entry) if *epoch == oldest && entry.start_offset >= *first_offset => {}
            // It may have begun, without a record, within a gap.
            Some(entry) if (*after..=*first_offset).contains(&entry.start_offset) => {}
            Some(entry) => {
                let text = format!(
                    "epoch {epoch} begins at {} here and at {first_offset} in the log",
                    entry.start_offset
                );
                report.add(&file, None, Some(*first_offset), text);
            }
            None => report.add(&file, None, Some(*first_offset), format!("epoch {epoch} is missing")),
        }
    }
    Ok(())
}
