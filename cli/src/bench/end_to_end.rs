//! `millrace bench end-to-end`.

use std::{
    process,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use bytes::{Bytes, BytesMut};
use millrace_client::{Client, Consumer, Producer, Start};
use tokio::{sync::oneshot, time::timeout};

use super::{
    PROGRESS, ProducerArgs,
    latency::Latencies,
    pace::Pace,
    produce::{rate, wait_until},
    progress_every,
    report::Stopwatch,
    values::Values,
};
use crate::{args::GlobalArgs, connect, limits, offsets, output::print_json, progress, text::StartAt};

/// Bytes in front of each value: which run, and which record of it.
const STAMP_BYTES: usize = 16;

/// From the start of the run to the first record: time for the consumer's first request.
const LEAD: Duration = Duration::from_millis(100);

/// Write at a rate and read at the same time: from send to receipt.
///
/// Uses all partitions of the topic. A latency counts from when a record was due to be sent, so
/// that a stall shows in all records that it held up. Other records in the topic are passed over.
#[derive(Debug, clap::Args)]
pub struct EndToEndArgs {
    /// The topic. It must exist.
    topic: String,
    /// Records per second, evenly spread.
    #[arg(long, value_name = "RECORDS_PER_S", value_parser = rate)]
    rate: f64,
    /// How many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Bytes of each value, at least 16.
    #[arg(long, default_value_t = 1024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(STAMP_BYTES as i64..=16 << 20))]
    record_size: u32,
    #[command(flatten)]
    producer: ProducerArgs,
}

/// What sender and receiver agree on.
#[derive(Clone, Copy, Debug)]
struct Run {
    id: u64,
    pace: Pace,
    warmup: u64,
    records: u64,
}

/// Measures it.
pub async fn run(args: EndToEndArgs, global: &GlobalArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let producer = args.producer.producer(&client, Duration::ZERO).await?;
    let consumer = consumer(&client, &args.topic).await?;
    let run = Run {
        id: run_id(),
        pace: Pace::new(Instant::now() + LEAD, args.rate),
        warmup: args.producer.warmup_records,
        records: args.records,
    };
    let (failed, mut failure) = oneshot::channel();
    let receiving = tokio::spawn(async move {
        let received = receive(consumer, run).await;
        // The sender looks at this between two records; when it is done nobody does.
        let _ = failed.send(());
        received
    });
    let watch = send(&args, run, &producer, &mut failure).await?;
    let latencies = receiving.await??;
    let report = watch.report(
        run.records,
        run.records * u64::from(args.record_size),
        Some(latencies.percentiles()),
    );
    producer.close().await?;
    print_json(&report)
}

/// A consumer that begins at the end of all partitions.
async fn consumer(client: &Client, topic: &str) -> anyhow::Result<Consumer> {
    let partitions = offsets::partitions(client, topic, None).await?;
    let ranges = offsets::ranges(client, topic, &partitions, StartAt::End).await?;
    let mut consumer = client.consumer().build()?;
    consumer
        .assign(
            ranges
                .iter()
                .map(|range| (topic, range.partition, Start::Offset(range.start))),
        )
        .await?;
    Ok(consumer)
}

/// Tells apart the records of two runs at one topic; not a secret.
fn run_id() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64);
    now ^ (u64::from(process::id()) << 48)
}

/// Sends all records; the time runs from the first that counts.
async fn send(
    args: &EndToEndArgs,
    run: Run,
    producer: &Producer,
    failure: &mut oneshot::Receiver<()>,
) -> anyhow::Result<Stopwatch> {
    let values = Values::new(args.record_size as usize);
    let mut watch = None;
    let all = run.warmup + run.records;
    let (bar, step) = (progress::bar(Some(all), PROGRESS), progress_every(all));
    for number in 0..all {
        wait_until(run.pace.due(number));
        if number == run.warmup {
            watch = Some(Stopwatch::start());
        }
        if number % step == 0 {
            bar.set_position(number);
        }
        let value = stamped(run.id, number, values.get(number));
        let _delivery = producer.send_to(&args.topic, None, None, Some(&value)).await?;
        if failure.try_recv().is_ok() {
            break;
        }
    }
    producer.flush().await?;
    Ok(watch.unwrap_or_else(Stopwatch::start))
}

fn stamped(run: u64, number: u64, value: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(value.len());
    bytes.extend_from_slice(&run.to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(value.get(STAMP_BYTES..).unwrap_or_default());
    bytes.freeze()
}

/// The record's number, if it is one of this run.
fn number(run: u64, value: &[u8]) -> Option<u64> {
    let (id, rest) = value.split_first_chunk::<8>()?;
    let number = rest.first_chunk::<8>()?;
    (u64::from_be_bytes(*id) == run).then(|| u64::from_be_bytes(*number))
}

async fn receive(mut consumer: Consumer, run: Run) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new()?;
    let (mut received, all) = (0, run.warmup + run.records);
    while received < all {
        let Ok(batch) = timeout(LEAD + limits::BENCH_STALL, consumer.next_batch()).await else {
            bail!("{} of {all} records did not arrive", all - received);
        };
        let batch = batch?;
        let now = Instant::now();
        batch.for_each(|record| {
            if let Some(number) = record.value.and_then(|value| number(run.id, value)) {
                received += 1;
                if number >= run.warmup {
                    latencies.record(now.saturating_duration_since(run.pace.due(number)));
                }
            }
        })?;
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_names_run_and_record() {
        let value = stamped(7, 42, &[9; 100]);
        assert_eq!(value.len(), 100);
        assert_eq!(number(7, &value), Some(42));
        assert_eq!(number(8, &value), None, "another run's");
        assert_eq!(number(7, &value[..15]), None, "somebody else's");
        assert_eq!(stamped(7, 42, &[0; STAMP_BYTES]).len(), STAMP_BYTES);
    }
}
