//! `millrace bench produce`.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use millrace_client::{Delivery, Producer};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    PROGRESS, ProducerArgs, interrupted, latency::Latencies, pace::Pace, progress_every, report::Stopwatch,
    values::Values,
};
use crate::{args::GlobalArgs, connect, interrupt::Interrupts, limits, offsets, output::print_json, progress};

/// How long batches wait for more records where nothing is said.
const DEFAULT_LINGER: Duration = Duration::from_millis(5);

/// Write records as fast as possible, or at a rate.
///
/// Values are random bytes. A latency is the time from a record's sending (at a rate: from when it
/// was due) to its acknowledgement. The time of the whole ends when everything is acknowledged. Ctrl-C
/// ends it earlier; what was sent until then is waited for and told.
#[derive(Debug, clap::Args)]
pub struct BenchProduceArgs {
    /// The topic. It must exist.
    topic: String,
    /// How many records.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 1024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=16 << 20))]
    record_size: u32,
    /// Records per second, evenly spread. Default: as fast as possible.
    #[arg(long, value_name = "RECORDS_PER_S", value_parser = rate)]
    rate: Option<f64>,
    #[command(flatten)]
    producer: ProducerArgs,
}

/// Reads a rate: a positive number.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// Measures it.
pub async fn run(args: BenchProduceArgs, global: &GlobalArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    offsets::partitions(&client, &args.topic, None).await?;
    let producer = args.producer.producer(&client, DEFAULT_LINGER).await?;
    let values = Values::new(args.record_size as usize);
    for number in 0..args.producer.warmup_records {
        let _delivery = producer
            .send_to(&args.topic, None, None, Some(values.get(number)))
            .await?;
    }
    producer.flush().await?;

    let mut interrupts = Interrupts::take()?;
    let watch = Stopwatch::start();
    let mut sent = Sent::default();
    let sending = send(&args, &producer, &values, interrupts.clone(), &mut sent);
    let cut_by = match interrupts.until(sending).await {
        Ok(done) => {
            done?;
            if sent.records < args.records {
                Some(interrupts.next().await)
            } else {
                None
            }
        }
        Err(by) => Some(by),
    };
    // Fails if any record failed, also those whose latency nobody looked at.
    match interrupts.until(producer.flush()).await {
        Ok(flushed) => flushed?,
        Err(by) => {
            return Err(interrupted(
                by,
                sent.records,
                args.records,
                "sent, not all of them acknowledged",
            ));
        }
    }
    let mut report = watch.report(sent.records, sent.records * u64::from(args.record_size), None);
    report.latency_ms = Some(sent.acknowledged.finish().await?.percentiles());
    producer.close().await?;
    print_json(&report)?;
    cut_by.map_or(Ok(()), |by| Err(interrupted(by, sent.records, args.records, "written")))
}

/// What is sent until now.
#[derive(Default)]
struct Sent {
    records: u64,
    acknowledged: Acknowledged,
}

/// Sends all records, or those until an interrupt.
async fn send(
    args: &BenchProduceArgs,
    producer: &Producer,
    values: &Values,
    interrupts: Interrupts,
    sent: &mut Sent,
) -> anyhow::Result<()> {
    let pace = args.rate.map(|rate| Pace::new(Instant::now(), rate));
    let sample_every = args.records.div_ceil(limits::LATENCY_SAMPLES).max(1);
    let (bar, step) = (
        progress::bar(Some(args.records), PROGRESS),
        progress_every(args.records),
    );
    for number in 0..args.records {
        // Where no send has to wait, nobody else can end this loop.
        if interrupts.came() {
            break;
        }
        let due = pace.map(|pace| pace.due(number));
        if let Some(due) = due {
            wait_until(due);
        }
        let value = Some(values.get(number));
        if number % step == 0 {
            bar.set_position(number);
        }
        if number % sample_every == 0 {
            let since = due.unwrap_or_else(Instant::now);
            let delivery = producer.send_to(&args.topic, None, None, value).await?;
            sent.acknowledged.expect(since, delivery)?;
        } else {
            let _delivery = producer.send_to(&args.topic, None, None, value).await?;
        }
        sent.records += 1;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Blocks the calling thread, which must be one that does nothing else: the main thread's. The
/// runtime's own timer has steps of a millisecond, too coarse for a rate of thousands a second.
pub fn wait_until(due: Instant) {
    let wait = due.saturating_duration_since(Instant::now());
    if !wait.is_zero() {
        thread::sleep(wait);
    }
}

/// Measures when records are acknowledged. Those of one partition are acknowledged in order, so
/// one task per partition sees each acknowledgement when it comes.
#[derive(Default)]
struct Acknowledged {
    partitions: HashMap<i32, Queue>,
}

struct Queue {
    /// What waits in it is in the producer's buffer, which has a bound.
    deliveries: mpsc::UnboundedSender<(Instant, Delivery)>,
    task: JoinHandle<anyhow::Result<Vec<Duration>>>,
}

impl Acknowledged {
    fn expect(&mut self, sent: Instant, delivery: Delivery) -> anyhow::Result<()> {
        let queue = self.partitions.entry(delivery.partition()).or_insert_with(|| {
            let (deliveries, queue) = mpsc::unbounded_channel();
            Queue {
                deliveries,
                task: tokio::spawn(measure(queue)),
            }
        });
        // The task has ended only if a record failed, which `finish` tells.
        queue
            .deliveries
            .send((sent, delivery))
            .map_err(|_| anyhow!("a record was not stored; see the brokers' state with millrace cluster describe"))
    }

    /// All latencies.
    async fn finish(self) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::new()?;
        for (_, queue) in self.partitions {
            drop(queue.deliveries);
            for latency in queue.task.await?? {
                latencies.record(latency);
            }
        }
        Ok(latencies)
    }
}

async fn measure(mut queue: mpsc::UnboundedReceiver<(Instant, Delivery)>) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    while let Some((sent, delivery)) = queue.recv().await {
        delivery.await?;
        latencies.push(sent.elapsed());
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_above_zero() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "inf", "NaN", "many"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
