//! `millrace bench consume`.

use std::{hint::black_box, time::Instant};

use anyhow::anyhow;
use millrace_client::Start;
use tokio::time::timeout;

use super::{PROGRESS, interrupted, report::Stopwatch};
use crate::{
    args::GlobalArgs,
    connect,
    interrupt::Interrupts,
    limits,
    offsets::{self, Ends},
    output::{count, plural, print_json},
    progress,
    text::StartAt,
};

/// Read records as fast as possible.
///
/// Checks every checksum, decompresses, and looks at the key and value of every record. Uses all
/// partitions of the topic. Fails if the topic has fewer records when it begins; with --from end it
/// waits for records that come, and fails after 60 s without any. What was measured until then, also
/// until Ctrl-C, is printed in any case.
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
    // From the end on there is nothing yet: then what comes is waited for.
    let mut ends = (args.from != StartAt::End).then(|| Ends::new(&ranges));
    let mut interrupts = Interrupts::take()?;
    let (mut warmup, mut records, mut bytes) = (args.warmup_records, 0, 0);
    let bar = progress::bar(Some(args.records), PROGRESS);
    let mut last_batch = Instant::now();
    let cut = loop {
        if records == args.records {
            break None;
        }
        if ends
            .as_mut()
            .is_some_and(|ends| ends.are_reached(&consumer, &args.topic))
        {
            break Some(short(records, &args));
        }
        if last_batch.elapsed() >= limits::BENCH_STALL {
            break Some(stalled(records, &args));
        }
        let batch = match interrupts
            .until(timeout(limits::END_CHECK_INTERVAL, consumer.next_batch()))
            .await
        {
            Ok(Ok(batch)) => batch?,
            // The rest up to the end may be records that are not shown.
            Ok(Err(_)) => continue,
            Err(by) => break Some(interrupted(by, records, args.records, "read")),
        };
        last_batch = Instant::now();
        bar.set_position(records);
        batch.for_each(|record| {
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
    };
    bar.finish_and_clear();
    print_json(&watch.report(records, bytes, None))?;
    cut.map_or(Ok(()), Err)
}

/// The topic had fewer when the measurement began.
fn short(records: u64, args: &BenchConsumeArgs) -> anyhow::Error {
    let warmup = match args.warmup_records {
        0 => String::new(),
        some => format!(" behind {} for the warm-up", plural(some, "record")),
    };
    anyhow!(
        "the topic has only {}{warmup} and {} were asked for: write more, or ask for fewer with --records",
        plural(records, "record"),
        count(args.records)
    )
}

fn stalled(records: u64, args: &BenchConsumeArgs) -> anyhow::Error {
    anyhow!(
        "only {} of {} records came, then none for {} s: see the brokers' state with millrace cluster describe",
        count(records),
        count(args.records),
        limits::BENCH_STALL.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        args::{Cli, Command},
        bench::BenchCommand,
    };

    #[test]
    fn too_few_records_are_told_with_their_number() {
        let told = |warmup: &str| {
            let args = [
                "millrace",
                "bench",
                "consume",
                "t",
                "--records",
                "1000000",
                "--warmup-records",
                warmup,
            ];
            match Cli::try_parse_from(args).unwrap().command {
                Command::Bench(BenchCommand::Consume(args)) => short(5, &args).to_string(),
                _ => unreachable!(),
            }
        };
        assert_eq!(
            told("0"),
            "the topic has only 5 records and 1,000,000 were asked for: write more, or ask for fewer with --records"
        );
        assert!(told("1").starts_with("the topic has only 5 records behind 1 record for the warm-up and"));
    }
}
