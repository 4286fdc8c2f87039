//! `millrace bench`: how fast a cluster is, seen from a client. Results are one JSON object.

mod consume;
mod end_to_end;
mod latency;
mod pace;
mod produce;
mod report;
mod values;

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use millrace_client::{Client, Codec, Partitioner, Producer};

use crate::{
    args::GlobalArgs,
    interrupt::{Interrupt, InterruptedError},
    output::{count, plural},
    produce::{AcksArg, CompressionArg},
    progress::Unit,
};

/// What a measurement counts while it runs.
const PROGRESS: Unit = Unit::Things("records");

/// Records between two steps of the progress bar, at most.
const MOST_PROGRESS_EVERY: u64 = 8_192;

/// Records between two steps of the progress bar, of so many: few enough that a slow rate shows steps.
fn progress_every(records: u64) -> u64 {
    (records / 100).clamp(1, MOST_PROGRESS_EVERY)
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    Produce(produce::BenchProduceArgs),
    Consume(consume::BenchConsumeArgs),
    EndToEnd(end_to_end::EndToEndArgs),
}

/// Measures it.
pub async fn run(command: BenchCommand, global: &GlobalArgs) -> anyhow::Result<()> {
    match command {
        BenchCommand::Produce(args) => produce::run(args, global).await,
        BenchCommand::Consume(args) => consume::run(args, global).await,
        BenchCommand::EndToEnd(args) => end_to_end::run(args, global).await,
    }
}

/// The measurement was ended from outside.
fn interrupted(by: Interrupt, done: u64, of: u64, verb: &str) -> anyhow::Error {
    let done = format!("{} of {} {verb}", count(done), plural(of, "record"));
    InterruptedError { by, done }.into()
}

/// How the producers of benchmarks are set.
#[derive(Debug, clap::Args)]
pub struct ProducerArgs {
    /// A batch is sent when it has this many bytes.
    #[arg(long, default_value_t = 1 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=16 << 20))]
    batch_bytes: u32,
    /// A batch that is not full is sent after this time. Default: 5 for produce, 0 for end-to-end.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=60_000))]
    linger_ms: Option<u64>,
    /// When a write counts as done.
    #[arg(long, value_enum, default_value_t)]
    acks: AcksArg,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value_t)]
    compression: CompressionArg,
    /// How records are spread over partitions.
    #[arg(long, value_enum, default_value_t)]
    partitioner: PartitionerArg,
    /// Send this many records before the measurement begins.
    #[arg(long, default_value_t = 0, value_name = "N")]
    warmup_records: u64,
}

/// How records without a key are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PartitionerArg {
    /// As producers do: a partition at a time, another one with each batch
    #[default]
    Default,
    /// Record by record over all partitions
    RoundRobin,
}

impl ProducerArgs {
    async fn producer(&self, client: &Client, default_linger: Duration) -> anyhow::Result<Producer> {
        let linger = self.linger_ms.map_or(default_linger, Duration::from_millis);
        let partitioner = match self.partitioner {
            PartitionerArg::Default => Partitioner::Default,
            PartitionerArg::RoundRobin => Partitioner::RoundRobin,
        };
        let builder = client
            .producer()
            .acks(self.acks.into())
            // The client would need an answer for idempotence.
            .idempotent(self.acks == AcksArg::All)
            .compression(Codec::from(self.compression))
            .batch_bytes(self.batch_bytes as usize)
            .linger(linger)
            .partitioner(partitioner);
        Ok(builder.build().await?)
    }
}
