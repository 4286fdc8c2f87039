//! `millrace log verify`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use millrace_log::{
    OsFileSystem,
    dump::{PartitionReport, VerifyOptions, segment_bytes, verify},
};
use serde::Serialize;

use super::no_partition;
use crate::{
    output::{OutputFormat, bytes, count, plural, print, print_json},
    progress::{self, Unit},
};

/// Check all checksums, offsets, epochs, records and indexes of a partition or a data directory.
///
/// Reads what Millrace and Apache Kafka write. Exit code 1 if anything is wrong.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A partition's directory, such as DATA_DIR/TOPIC-0, a data directory with several, or one that
    /// holds the data directories of several brokers.
    path: PathBuf,
    /// Do not decompress and decode records; checksums are checked in any case.
    #[arg(long)]
    batches_only: bool,
}

/// The log of the cluster's metadata, which each broker's data directory has.
const METADATA_LOG: &str = "__metadata-0";

#[derive(Serialize)]
struct Report {
    sound: bool,
    segments: usize,
    batches: u64,
    records: u64,
    bytes: u64,
    problem_count: u64,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct Partition {
    path: String,
    segments: usize,
    batches: u64,
    records: u64,
    bytes: u64,
    first_offset: Option<i64>,
    next_offset: Option<i64>,
    problem_count: u64,
    /// The first thousand.
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    file: String,
    position: Option<u64>,
    offset: Option<i64>,
    text: String,
}

impl From<PartitionReport> for Partition {
    fn from(from: PartitionReport) -> Self {
        Self {
            path: from.path.display().to_string(),
            segments: from.segments,
            batches: from.batches,
            records: from.records,
            bytes: from.bytes,
            first_offset: from.first_offset,
            next_offset: from.next_offset,
            problem_count: from.more_problems + from.problems.len() as u64,
            problems: from
                .problems
                .into_iter()
                .map(|problem| Problem {
                    file: problem.file.display().to_string(),
                    position: problem.position,
                    offset: problem.offset,
                    text: problem.text,
                })
                .collect(),
        }
    }
}

impl From<Vec<PartitionReport>> for Report {
    fn from(from: Vec<PartitionReport>) -> Self {
        let partitions: Vec<Partition> = from.into_iter().map(Partition::from).collect();
        let problem_count = partitions.iter().map(|p| p.problem_count).sum();
        Self {
            sound: problem_count == 0,
            segments: partitions.iter().map(|p| p.segments).sum(),
            batches: partitions.iter().map(|p| p.batches).sum(),
            records: partitions.iter().map(|p| p.records).sum(),
            bytes: partitions.iter().map(|p| p.bytes).sum(),
            problem_count,
            partitions,
        }
    }
}

/// What to look through: the brokers' data directories within `path`, as `millrace dev` makes them,
/// or `path` itself. By their names alone they could be taken for partitions.
fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut of_brokers: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|entry| entry.join(METADATA_LOG).is_dir())
        .collect();
    of_brokers.sort_unstable();
    if of_brokers.is_empty() {
        vec![path.to_owned()]
    } else {
        of_brokers
    }
}

/// Checks, and fails if anything is wrong.
pub fn run(args: &VerifyArgs, format: OutputFormat) -> anyhow::Result<()> {
    let fs = OsFileSystem::shared();
    let options = VerifyOptions {
        records: !args.batches_only,
    };
    let paths = directories(&args.path);
    // What can't be read is told below.
    let total = paths.iter().flat_map(|path| segment_bytes(&*fs, path)).sum();
    let bar = progress::bar(Some(total), Unit::Bytes);
    let mut reports = Vec::new();
    for path in paths {
        let checked = verify(&*fs, &path, &options, &mut |bytes| bar.inc(bytes));
        reports.extend(checked.with_context(|| format!("can't read {}", path.display()))?);
    }
    bar.finish_and_clear();
    if reports.is_empty() {
        return Err(no_partition(&args.path));
    }
    let report = Report::from(reports);
    match format {
        OutputFormat::Text => print(&text(&report))?,
        OutputFormat::Json => print_json(&report)?,
    }
    if !report.sound {
        bail!(
            "{} in {}; let the broker fetch the partition anew from another replica, or restore it",
            plural(report.problem_count, "problem"),
            args.path.display()
        );
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for partition in &report.partitions {
        let verdict = match partition.problem_count {
            0 => "sound".to_owned(),
            problems => plural(problems, "problem"),
        };
        let contents = match (partition.first_offset, partition.next_offset) {
            (Some(first), Some(next)) if first < next => format!(
                "offsets {first} to {}, {} in {}, {}",
                next - 1,
                plural(partition.records, "record"),
                batches(partition.batches),
                plural(partition.segments as u64, "segment"),
            ),
            _ => "no records".to_owned(),
        };
        text.push_str(&format!(
            "{}: {verdict}; {contents}, {}\n",
            partition.path,
            bytes(partition.bytes)
        ));
        for problem in &partition.problems {
            let position = problem.position.map_or_else(String::new, |at| format!(", byte {at}"));
            let offset = problem.offset.map_or_else(String::new, |at| format!(", offset {at}"));
            text.push_str(&format!("  {}{position}{offset}: {}\n", problem.file, problem.text));
        }
        let more = partition.problem_count - partition.problems.len() as u64;
        if more > 0 {
            text.push_str(&format!("  and {more} more\n"));
        }
    }
    text
}

fn batches(number: u64) -> String {
    if number == 1 {
        "1 batch".to_owned()
    } else {
        format!("{} batches", count(number))
    }
}
