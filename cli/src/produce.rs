//! `millrace produce`.

use std::{
    io::{IsTerminal, stdin},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::ValueEnum;
use jiff::SignedDuration;
use millrace_client::{Acks, Client, Codec, Delivery, ErrorKind, ErrorReason, Header, Producer, Record, WriteOutcome};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{
    args::GlobalArgs,
    connect,
    error::UsageError,
    interrupt::{Interrupt, InterruptedError, Interrupts},
    limits, offsets,
    output::{OutputFormat, duration_ms, plural, print_json},
    progress::InputBar,
    text::{Lines, Splitter, header},
    waiting::Waiting,
};

/// The setting that bounds a message, in bytes.
const MAX_MESSAGE_KEY: &str = "max.message.bytes";

/// Batches are sent at this size, in bytes, where the topic allows it.
const BATCH_BYTES: usize = 1 << 20;

/// Write lines from standard input to a topic, one message each.
///
/// Lines are bytes of any encoding. Each with its key and headers must fit the topic's max.message.bytes,
/// with --compression as it is compressed, and may have 16,776,156 bytes in any case. An empty line is
/// a message with an empty value; a last line without newline counts. Ctrl-C ends the input and
/// writes what was read; input that is not typed was cut then, so that the exit code is 130.
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
    /// How long a message may take until it is acknowledged, attempts after failures included.
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = delivery_timeout)]
    timeout: Duration,
    /// Add a header to each message; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, Bytes)>,
}

fn delivery_timeout(text: &str) -> Result<Duration, String> {
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|time| Duration::try_from(time).ok())
        .filter(|time| (Duration::from_secs(1)..=limits::MAX_DELIVERY_TIMEOUT).contains(time))
        .ok_or_else(|| "expected a time such as 30s or 2m, from 1s to 24h".to_owned())
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
    /// Failed, and maybe written all the same.
    unknown: u64,
    /// The first line that was not written, and why.
    failed: Option<(u64, millrace_client::Error)>,
}

/// Writes all lines.
pub async fn run(args: ProduceArgs, global: &GlobalArgs) -> anyhow::Result<()> {
    let deadline = Instant::now() + args.timeout;
    let client = connect::patient_client(global, args.timeout).await?;
    // What has to be asked first has one deadline together: each call has the client's patience for itself.
    let known = timeout_at(deadline, offsets::partitions(&client, &args.topic, args.partition)).await;
    known.unwrap_or_else(|_| Err(unanswered(&client, args.timeout)))?;
    let mut waiting = Waiting::for_answers(&client, &args.topic);
    let begun = timeout_at(deadline, waiting.during(begin(&args, &client))).await;
    let begun = begun.unwrap_or_else(|_| Err(unanswered(&client, args.timeout)));
    let (producer, limit) = begun.with_context(|| format!("failed after {}", what(&args, &Counted::default())))?;
    // Before anything of it is read.
    let progress = InputBar::new();
    let lines = Lines::read(stdin(), limit)?;
    let (deliveries, queue) = mpsc::channel(limits::DELIVERIES_AHEAD);
    let counting = tokio::spawn(count(queue, waiting, progress));
    let mut interrupts = Interrupts::take()?;
    let (sent, cut_by) = match interrupts.until(send_all(&args, &producer, lines, deliveries)).await {
        Ok(sent) => (sent, None),
        // Who types has no other way to end the input but Ctrl-D: nothing is cut.
        Err(Interrupt::CtrlC) if stdin().is_terminal() => (Ok(()), None),
        Err(by) => (Ok(()), Some(by)),
    };
    let finish = async {
        // Closed and not only flushed: with acks=0 nothing else tells that all has left this process.
        let closed = producer.close().await;
        Ok::<_, anyhow::Error>((closed, counting.await?))
    };
    let Ok(finished) = interrupts.until(finish).await else {
        bail!("interrupted a second time: what was sent last may be written or not");
    };
    let (closed, counted) = finished?;
    tell(
        &args,
        global.output,
        &counted,
        sent.and(closed.map_err(Into::into)),
        cut_by,
    )
}

/// What is needed before the first line is read: the producer, and the most bytes that a line may have.
async fn begin(args: &ProduceArgs, client: &Client) -> anyhow::Result<(Producer, usize)> {
    let limit = message_limit(client, &args.topic).await?;
    let producer = client
        .producer()
        .acks(args.acks.into())
        // Without every acknowledgement a producer can't know what to repeat.
        .idempotent(args.acks == AcksArg::All)
        .compression(args.compression.into())
        .batch_bytes(BATCH_BYTES.min(limit))
        .delivery_timeout(args.timeout)
        .build()
        .await?;
    let line_limit = match args.compression {
        CompressionArg::None => limit.min(limits::MAX_LINE_BYTES),
        // The broker judges what is left of it.
        _ => limits::MAX_LINE_BYTES,
    };
    Ok((producer, line_limit))
}

/// Nothing could be begun in time.
fn unanswered(client: &Client, timeout: Duration) -> anyhow::Error {
    let timeout = duration_ms(timeout.as_millis() as i64);
    match client.last_retried() {
        Some((_, error)) => anyhow!("no answer (--timeout {timeout}); the last attempt failed: {error}"),
        None => anyhow!("no answer (--timeout {timeout}); see millrace cluster describe"),
    }
}

/// The most bytes that a message of the topic may have, in the form in which the broker judges it.
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
    deliveries: mpsc::Sender<Sent>,
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
            // With its newline.
            let bytes = line.len() as u64 + 1;
            let (key, value) = splitter.split(line, number)?;
            // First, so that nothing is sent without being counted when this is interrupted.
            let Ok(counted) = deliveries.reserve().await else {
                return Ok(());
            };
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
            counted.send(Sent {
                line: number,
                bytes,
                delivery,
            });
        }
    }
}

/// Counts what is written. At the first failure it takes nothing more, and waits for the rest.
async fn count(mut queue: mpsc::Receiver<Sent>, mut waiting: Waiting, progress: InputBar) -> Counted {
    let mut counted = Counted::default();
    while let Some(sent) = queue.recv().await {
        match waiting.during(sent.delivery).await {
            Ok(_) => {
                counted.written += 1;
                progress.written(sent.bytes);
            }
            Err(error) => {
                queue.close();
                counted.unknown += u64::from(error.outcome() != Some(WriteOutcome::NotWritten));
                counted.failed.get_or_insert((sent.line, error));
            }
        }
    }
    counted
}

/// A line whose message is on its way.
struct Sent {
    /// From 1.
    line: u64,
    /// Of the input.
    bytes: u64,
    delivery: Delivery,
}

/// How many messages are written, and of how many more that is not known.
fn what(args: &ProduceArgs, counted: &Counted) -> String {
    let how = if args.acks == AcksArg::None {
        "sent, unacknowledged, to"
    } else {
        "written to"
    };
    let unknown = match counted.unknown {
        0 => String::new(),
        1 => "; of 1 more message it is not known whether it is written".to_owned(),
        some => format!(
            "; of {} it is not known whether they are written",
            plural(some, "more message")
        ),
    };
    format!("{} {how} {:?}{unknown}", plural(counted.written, "message"), args.topic)
}

fn tell(
    args: &ProduceArgs,
    format: OutputFormat,
    counted: &Counted,
    sent: anyhow::Result<()>,
    cut_by: Option<Interrupt>,
) -> anyhow::Result<()> {
    let what = what(args, counted);
    if let Some((line, error)) = &counted.failed {
        let hint = match error.kind() {
            ErrorKind::TimedOut => format!(" (--timeout {})", duration_ms(args.timeout.as_millis() as i64)),
            ErrorKind::Server(ErrorReason::InvalidRecord) if args.key_separator.is_none() => {
                " (--key-separator tells where in a line its key ends)".to_owned()
            }
            _ => String::new(),
        };
        return Err(anyhow::Error::new(error.clone()).context(format!("failed after {what}: line {line}{hint}")));
    }
    if let Err(error) = sent {
        return Err(if error.is::<UsageError>() {
            error
        } else {
            error.context(format!("failed after {what}"))
        });
    }
    match format {
        OutputFormat::Text if cut_by.is_none() => eprintln!("{what}"),
        OutputFormat::Text => {}
        OutputFormat::Json => print_json(&Written {
            topic: &args.topic,
            written: counted.written,
        })?,
    }
    match cut_by {
        Some(by) => Err(InterruptedError {
            by,
            done: format!("{what}; the rest of the input was not read"),
        }
        .into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(more: &[&str]) -> ProduceArgs {
        let all = ["millrace", "produce", "t"].iter().chain(more);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Produce(args) => args,
            _ => unreachable!(),
        }
    }

    #[test]
    fn what_is_not_known_to_be_written_is_counted() {
        let told = |written, unknown| {
            let failed = None;
            what(
                &args(&[]),
                &Counted {
                    written,
                    unknown,
                    failed,
                },
            )
        };
        assert_eq!(told(1, 0), "1 message written to \"t\"");
        assert_eq!(
            told(0, 1),
            "0 messages written to \"t\"; of 1 more message it is not known whether it is written"
        );
        assert_eq!(
            told(2_000, 3),
            "2,000 messages written to \"t\"; of 3 more messages it is not known whether they are written"
        );
    }

    #[test]
    fn an_interrupt_of_the_input_is_told_with_the_count() {
        let counted = Counted {
            written: 2,
            ..Counted::default()
        };
        let cut = tell(
            &args(&[]),
            OutputFormat::Text,
            &counted,
            Ok(()),
            Some(Interrupt::Terminated),
        )
        .unwrap_err();
        assert_eq!(
            cut.to_string(),
            "interrupted: 2 messages written to \"t\"; the rest of the input was not read"
        );
        assert_eq!(
            cut.downcast_ref::<InterruptedError>().unwrap().by,
            Interrupt::Terminated
        );
    }

    #[test]
    fn the_timeout_is_that_of_the_client_unless_it_is_said() {
        assert_eq!(args(&[]).timeout, Duration::from_secs(120));
        assert_eq!(args(&["--timeout", "1m30s"]).timeout, Duration::from_secs(90));
        for wrong in ["0s", "500ms", "25h", "-1s", "soon"] {
            assert!(delivery_timeout(wrong).is_err(), "{wrong}");
        }
    }
}
