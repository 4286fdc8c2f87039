//! Parsing flags, starting the runtime, and going to the command.

use std::{future::Future, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Cli, Command},
    bench, broker, cluster, completion, consume, dev,
    error::{report, report_usage},
    group, kafka_flags, log,
    output::OutputFormat,
    partition, produce, quorum, topic, version,
};

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    millrace_server::process::tune_allocator();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Also what was asked for and is no error, as help.
        Err(error) => {
            return report_usage(
                &kafka_flags::advise(error),
                OutputFormat::of_unparsed(std::env::args_os()),
            );
        }
    };
    let format = cli.global.output;
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, format),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let global = cli.global;
    match cli.command {
        Command::Dev(args) => return block_on(millrace_server::process::worker_threads(), dev::run(args)),
        Command::Completion(args) => return Ok(completion::run(&args)?),
        Command::Version => return version::run(global.output),
        Command::Log(command) => return log::run(command, global.output),
        _ => init_logging(),
    }
    let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    block_on(threads, async move {
        match cli.command {
            Command::Topic(command) => topic::run(command, &global).await,
            Command::Cluster(command) => cluster::run(command, &global).await,
            Command::Broker(command) => broker::run(command, &global).await,
            Command::Partition(command) => partition::run(command, &global).await,
            Command::Quorum(command) => quorum::run(command, &global).await,
            Command::Group(command) => group::run(command, &global).await,
            Command::Produce(args) => produce::run(args, &global).await,
            Command::Consume(args) => consume::run(args, &global).await,
            Command::Bench(command) => bench::run(command, &global).await,
            Command::Dev(_) | Command::Completion(_) | Command::Version | Command::Log(_) => Ok(()),
        }
    })
}

fn block_on(threads: usize, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    // What still runs (a connection, a read of standard input) is not worth waiting for.
    runtime.shutdown_background();
    result
}

/// Errors are one line, so little is logged unless `RUST_LOG` asks for it: why the command waits.
fn init_logging() {
    let fmt = tracing_subscriber::fmt().with_writer(std::io::stderr);
    match EnvFilter::try_from_default_env() {
        Ok(filter) => fmt.with_env_filter(filter).init(),
        Err(_) => fmt
            .with_env_filter(EnvFilter::new("millrace_client=warn"))
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .init(),
    }
}
