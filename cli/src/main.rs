//! The `millrace` command: an embedded broker, topics, producing, consuming, benchmarks and
//! a look into log directories.
//!
//! One file per command. What the broker or the client decides does not belong here: this
//! crate reads flags, calls, and writes for people or programs.

mod app;
mod args;
mod bench;
mod broker;
mod cluster;
mod completion;
mod connect;
mod consume;
mod deletion;
mod dev;
mod error;
mod group;
mod interrupt;
mod kafka_flags;
mod limits;
mod log;
mod moves;
mod offsets;
mod output;
mod partition;
mod produce;
mod progress;
mod quorum;
mod text;
mod topic;
mod version;
mod waiting;

use std::process::ExitCode;

fn main() -> ExitCode {
    app::main()
}
