//! `millrace produce`.

use std::{
    future::Future,
    io::{IsTerminal, stdin},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::ValueEnum;
use indicatif::ProgressBar;
use millrace_client::{Acks, Client, Codec, Delivery, Header, Producer, Record};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{
    args::GlobalArgs,
    connect,
    error::UsageError,
    limits, offsets,
    output::{OutputFormat, plural, print_json, spinner},
    text::{Lines, Splitter, header},
    waiting::Waiting,
};

/// The setting that bounds a message, in bytes.
const MAX_MESSAGE_KEY: &str = "max.message.bytes";

/// Batches are sent at this size, in bytes, where the topic allows it.
const BATCH_BYTES: usize = 1 << 20;

/// Write lines from standard input to a topic, one message each.
///
/// Lines are bytes: any encoding, any length up to the topic's max.message.bytes. An empty line is
/// a message with an empty value; a last line without newline counts. Ctrl-C ends the input and
/// writes what was read.
#[derive(Debug, clap::Args)]
pub struct ProduceArgs {
    /// The topic. It must exist.
    topic: String,
    /// Split each line at the first occurrence of this: the key stands before it, the value behind it.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// Send lines without the separator without a key, instead of failing.
    #[arg(long, requires = "key_separator")]
    ignore_missing_key: bool,
    /// Write to this partition. Default: by the key's hash, as Kafka's clients do; without a key
    /// to one after the other, batch by batch.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// When a message counts as written.
    #[arg(long, value_enum, default_value_t)]
    acks: AcksArg,
    /// How batches are compressed.
    #[arg(long, value_enum, default_value_t)]
    compression: CompressionArg,
    /// Add a header to each message; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, Bytes)>,
}

/// `--acks`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AcksArg {
    /// When it is sent; it may be lost without a word
    #[value(name = "0")]
    None,
    /// When the partition's leader has it
    #[value(name = "1")]
    Leader,
    /// When it is on the disks of min.insync.replicas brokers
    #[default]
    All,
}

/// `--compression`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Self {
        match acks {
            AcksArg::None => Self::None,
            AcksArg::Leader => Self::Leader,
            AcksArg::All => Self::All,
        }
    }
}

impl From<CompressionArg> for Codec {
    fn from(compression: CompressionArg) -> Self {
        match compression {
            CompressionArg::None => Self::None,
            CompressionArg::Gzip => Self::Gzip,
            CompressionArg::Snappy => Self::Snappy,
            CompressionArg::Lz4 => Self::Lz4,
            CompressionArg::Zstd => Self::Zstd,
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    topic: &'a str,
    written: u64,
}

/// What became of what was sent.
#[derive(Default)]
struct Counted {
    written: u64,
    /// The first line that was not written, and why.
    failed: Option<(u64, millrace_client::Error)>,
}

/// Writes all lines.
pub async fn run(args: ProduceArgs, global: &GlobalArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    offsets::partitions(&client, &args.topic, args.partition).await?;
    let limit = message_limit(&client, &args.topic).await?;
    let producer = client
        .producer()
        .acks(args.acks.into())
        // Without every acknowledgement a producer can't know what to repeat.
        .idempotent(args.acks == AcksArg::All)
        .compression(args.compression.into())
        .batch_bytes(BATCH_BYTES.min(limit))
        .build()
        .await?;
    let lines = Lines::read(stdin(), limit)?;
    let (deliveries, queue) = mpsc::channel(limits::DELIVERIES_AHEAD);
    let counting = tokio::spawn(count(queue, Waiting::new(&client, &args.topic), progress()));
    let sent = until_interrupted(send_all(&args, &producer, lines, deliveries))
        .await
        .unwrap_or(Ok(()));
    let finish = async {
        // Closed and not only flushed: with acks=0 nothing else tells that all has left this process.
        let closed = producer.close().await;
        Ok::<_, anyhow::Error>((closed, counting.await?))
    };
    let Some(finished) = until_interrupted(finish).await else {
        bail!("interrupted a second time: what was sent last may be written or not");
    };
    let (closed, counted) = finished?;
    tell(&args, global.output, counted, sent.and(closed.map_err(Into::into)))
}

/// The most bytes that a message of the topic may have.
async fn message_limit(client: &Client, topic: &str) -> anyhow::Result<usize> {
    let configs = client.admin().describe_configs(topic).await?;
    let limit = configs.iter().find(|config| config.name == MAX_MESSAGE_KEY);
    Ok(limit
        .and_then(|config| config.value.parse().ok())
        .unwrap_or(limits::MAX_LINE_BYTES))
}

async fn send_all(
    args: &ProduceArgs,
    producer: &Producer,
    mut lines: Lines,
    deliveries: mpsc::Sender<(u64, Delivery)>,
) -> anyhow::Result<()> {
    let splitter = Splitter::new(args.key_separator.as_deref(), args.ignore_missing_key);
    let headers: Vec<Header> = args
        .headers
        .iter()
        .map(|(name, value)| Header {
            name: name.clone().into(),
            value: Some(value.clone()),
        })
        .collect();
    let mut number = 0;
    loop {
        let chunk = tokio::select! {
            biased;
            // A message failed: what comes behind it shall not be written.
            () = deliveries.closed() => return Ok(()),
            chunk = lines.next_chunk() => chunk?,
        };
        let Some(chunk) = chunk else { return Ok(()) };
        for line in chunk {
            number += 1;
            let (key, value) = splitter.split(line, number)?;
            let sent = if headers.is_empty() {
                producer
                    .send_to(&args.topic, args.partition, key.as_deref(), Some(&value))
                    .await
            } else {
                let (topic, headers) = (args.topic.clone(), headers.clone());
                let (partition, value, timestamp) = (args.partition, Some(value), None);
                producer
                    .send(Record {
                        topic,
                        partition,
                        key,
                        value,
                        headers,
                        timestamp,
                    })
                    .await
            };
            let delivery = sent.with_context(|| format!("line {number}"))?;
            if deliveries.send((number, delivery)).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Counts what is written. At the first failure it takes nothing more, and waits for the rest.
async fn count(mut queue: mpsc::Receiver<(u64, Delivery)>, mut waiting: Waiting, progress: ProgressBar) -> Counted {
    let mut counted = Counted::default();
    while let Some((line, delivery)) = queue.recv().await {
        match waiting.during(delivery).await {
            Ok(_) => {
                counted.written += 1;
                progress.inc(1);
            }
            Err(error) => {
                queue.close();
                counted.failed.get_or_insert((line, error));
            }
        }
    }
    progress.finish_and_clear();
    counted
}

/// A bar where a person watches, unless that person is typing the lines.
fn progress() -> ProgressBar {
    if stdin().is_terminal() {
        return ProgressBar::hidden();
    }
    spinner("{spinner} {human_pos} messages written, {per_sec}")
}

/// The work's result, or `None` if Ctrl-C came first.
async fn until_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        Ok(()) = tokio::signal::ctrl_c() => None,
    }
}

fn tell(args: &ProduceArgs, format: OutputFormat, counted: Counted, sent: anyhow::Result<()>) -> anyhow::Result<()> {
    let what = format!(
        "{} {} {:?}",
        plural(counted.written, "message"),
        if args.acks == AcksArg::None {
            "sent, unacknowledged, to"
        } else {
            "written to"
        },
        args.topic
    );
    if let Some((line, error)) = counted.failed {
        return Err(anyhow::Error::new(error).context(format!("failed after {what}: line {line}")));
    }
    if let Err(error) = sent {
        return Err(if error.is::<UsageError>() {
            error
        } else {
            error.context(format!("failed after {what}"))
        });
    }
    match format {
        OutputFormat::Text => eprintln!("{what}"),
        OutputFormat::Json => print_json(&Written {
            topic: &args.topic,
            written: counted.written,
        })?,
    }
    Ok(())
}
