//! `millrace log`: a look into a partition's files on this machine's disk.

mod batches;
mod dump;
mod tables;
mod verify;

use std::path::Path;

use anyhow::anyhow;
use clap::Subcommand;

use crate::output::OutputFormat;

/// What to do with files.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    Dump(dump::DumpArgs),
    Verify(verify::VerifyArgs),
}

/// Does it. Reads only, also while a broker runs.
pub fn run(command: LogCommand, format: OutputFormat) -> anyhow::Result<()> {
    match command {
        LogCommand::Dump(args) => dump::run(&args, format),
        LogCommand::Verify(args) => verify::run(&args, format),
    }
}

fn no_partition(path: &Path) -> anyhow::Error {
    anyhow!(
        "{} holds no partition's files; name a directory such as DATA_DIR/TOPIC-0, or a file in one",
        path.display()
    )
}
