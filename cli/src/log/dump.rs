//! `millrace log dump`.

use std::{
    ffi::OsStr,
    io::{BufWriter, Write, stdout},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use millrace_log::{FileSystem, OsFileSystem, dump};

use super::{
    batches::{self, BatchPrinter},
    no_partition, tables,
};
use crate::{
    error::OutputError,
    output::{OutputFormat, plural},
};

/// The name of the file with a partition's leader epochs.
const LEADER_EPOCHS: &str = "leader-epoch-checkpoint";

/// Print the batches and records of a partition, or the entries of one of its files.
///
/// Reads what Millrace and Apache Kafka write. With --output json each batch and each record is
/// one JSON object a line, keys and values as base64.
#[derive(Debug, clap::Args)]
pub struct DumpArgs {
    /// A partition's directory, such as DATA_DIR/TOPIC-0, or one of its files (.log, .index,
    /// .timeindex, .txnindex, .snapshot, leader-epoch-checkpoint).
    path: PathBuf,
    /// Print the records, not only the batches (in JSON they always are).
    #[arg(long)]
    records: bool,
    /// Decode the records even if they are not printed, and tell what is wrong with them.
    #[arg(long)]
    deep: bool,
}

/// Prints; fails behind the last line if anything was damaged.
pub fn run(args: &DumpArgs, format: OutputFormat) -> anyhow::Result<()> {
    let fs = OsFileSystem::shared();
    let metadata = fs
        .metadata(&args.path)
        .with_context(|| format!("can't read {}", args.path.display()))?;
    let mut out = BufWriter::with_capacity(crate::limits::OUTPUT_BUFFER_BYTES, stdout().lock());
    let damages = if metadata.is_dir {
        dump_partition(&*fs, args, format, &mut out)?
    } else {
        dump_file(&*fs, &args.path, args, format, &mut out)?
    };
    out.flush().map_err(OutputError)?;
    if damages > 0 {
        bail!(
            "{} in {}; millrace log verify tells more",
            plural(damages, "damaged place"),
            args.path.display()
        );
    }
    Ok(())
}

fn dump_partition(
    fs: &dyn FileSystem,
    args: &DumpArgs,
    format: OutputFormat,
    out: &mut impl Write,
) -> anyhow::Result<u64> {
    let entries = fs
        .read_dir(&args.path)
        .with_context(|| format!("can't read {}", args.path.display()))?;
    // Names are 20 digits, so their order is that of the offsets.
    let mut segments: Vec<PathBuf> = entries
        .iter()
        .map(|entry| args.path.join(&entry.name))
        .filter(|path| is_segment(path))
        .collect();
    segments.sort();
    if segments.is_empty() {
        return Err(no_partition(&args.path));
    }
    let mut damages = 0;
    for segment in &segments {
        damages += dump_file(fs, segment, args, format, out)?;
    }
    Ok(damages)
}

fn is_segment(path: &Path) -> bool {
    let digits = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    path.extension().is_some_and(|extension| extension == "log")
        && digits.len() == 20
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Prints one file; how many damages it has.
fn dump_file(
    fs: &dyn FileSystem,
    path: &Path,
    args: &DumpArgs,
    format: OutputFormat,
    out: &mut impl Write,
) -> anyhow::Result<u64> {
    let context = || format!("can't show {}", path.display());
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let text = match path.extension().and_then(OsStr::to_str) {
        Some("log") => {
            let printer = BatchPrinter {
                path,
                json: format == OutputFormat::Json,
                print_records: args.records || format == OutputFormat::Json,
                decode_records: args.records || args.deep || format == OutputFormat::Json,
            };
            return batches::dump(fs, &printer, out).with_context(context);
        }
        Some("index") => tables::offset_index(&dump::dump_offset_index(fs, path).with_context(context)?, format)?,
        Some("timeindex") => tables::time_index(&dump::dump_time_index(fs, path).with_context(context)?, format)?,
        Some("txnindex") => {
            tables::transactions(&dump::dump_transaction_index(fs, path).with_context(context)?, format)?
        }
        Some("snapshot") => tables::producers(&dump::dump_producer_snapshot(fs, path).with_context(context)?, format)?,
        _ if name == LEADER_EPOCHS => {
            let dir = path.parent().unwrap_or(Path::new("."));
            tables::leader_epochs(&dump::dump_leader_epochs(fs, dir).with_context(context)?, format)?
        }
        _ => return Err(no_partition(path)),
    };
    out.write_all(text.as_bytes()).map_err(OutputError)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_are_segments() {
        assert!(is_segment(Path::new("/d/t-0/00000000000000000042.log")));
        for name in [
            "00000000000000000042.index",
            "42.log",
            "0000000000000000004x.log",
            "00000000000000000042.log.deleted",
        ] {
            assert!(!is_segment(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn what_is_no_partition_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("missing")] {
            let args = DumpArgs {
                path,
                records: false,
                deep: false,
            };
            assert!(run(&args, OutputFormat::Text).is_err());
        }
    }
}
