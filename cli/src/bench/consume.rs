//! `millrace bench consume`.

use std::hint::black_box;

use anyhow::bail;
use millrace_client::Start;
use tokio::time::timeout;

use super::{PROGRESS, report::Stopwatch};
use crate::{
    args::GlobalArgs,
    connect, limits, offsets,
    output::{print_json, spinner},
    text::StartAt,
};

/// Read records as fast as possible.
///
/// Checks every checksum, decompresses, and looks at the key and value of every record. Uses all
/// partitions of the topic.
#[derive(Debug, clap::Args)]
pub struct BenchConsumeArgs {
    /// The topic. It must exist.
    topic: String,
    /// How many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Where to begin in each partition: as in millrace consume.
    #[arg(
        long,
        default_value = "beginning",
        allow_hyphen_values = true,
        value_name = "POSITION"
    )]
    from: StartAt,
    /// Read this many records before the measurement begins.
    #[arg(long, default_value_t = 0, value_name = "N")]
    warmup_records: u64,
}

/// Measures it.
pub async fn run(args: BenchConsumeArgs, global: &GlobalArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let partitions = offsets::partitions(&client, &args.topic, None).await?;
    let ranges = offsets::ranges(&client, &args.topic, &partitions, args.from).await?;
    let mut consumer = client.consumer().build()?;
    let mut watch = Stopwatch::start();
    consumer
        .assign(
            ranges
                .iter()
                .map(|range| (args.topic.as_str(), range.partition, Start::Offset(range.start))),
        )
        .await?;
    let (mut warmup, mut records, mut bytes) = (args.warmup_records, 0, 0);
    let bar = spinner(PROGRESS);
    while records < args.records {
        let Ok(batch) = timeout(limits::BENCH_STALL, consumer.next_batch()).await else {
            bail!(
                "only {records} of {} records came, then none for {} s: the topic may have fewer",
                args.records,
                limits::BENCH_STALL.as_secs()
            );
        };
        bar.set_position(records);
        batch?.for_each(|record| {
            if warmup > 0 {
                warmup -= 1;
                if warmup == 0 {
                    watch = Stopwatch::start();
                }
            } else if records < args.records {
                let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
                black_box((key.first(), value.last()));
                bytes += (key.len() + value.len()) as u64;
                records += 1;
            }
        })?;
    }
    bar.finish_and_clear();
    print_json(&watch.report(records, bytes, None))
}
