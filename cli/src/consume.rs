//! `millrace consume`.

mod group;

use std::{
    io::{BufWriter, IsTerminal, StdoutLock, Write, stderr, stdout},
    pin::pin,
    time::Duration,
};

use indicatif::ProgressBar;
use jiff::SignedDuration;
use millrace_client::{Client, Consumer, FetchedRecords, OffsetReset, Start};
use tokio::time::{sleep, timeout};

use crate::{
    args::GlobalArgs,
    connect,
    error::{OutputError, UsageError},
    interrupt::{InterruptedError, Interrupts},
    limits,
    offsets::{self, Ends, PartitionRange},
    output::{OutputFormat, plural},
    progress::{self, Unit},
    text::{RecordFormat, RecordView, RecordWriter, StartAt},
    waiting::Waiting,
};

/// Write a topic's messages to standard output.
///
/// With --group as a member of a consumer group, which shares the partitions out among its members and remembers how far
/// each was written: the next one goes on there.
///
/// Follows the topic until Ctrl-C, unless --exit-at-end or --max-messages ends it. Messages of one
/// partition come in order; those of several come as they arrive.
#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    /// The topic. It must exist. With --group there may be several, also such as do not exist yet.
    #[arg(value_name = "TOPIC", required_unless_present = "topic_pattern")]
    topics: Vec<String>,
    /// Where to begin: beginning, end, an offset (needs --partition if there are several), a time
    /// such as 2026-01-31T12:00:00Z, a date such as 2026-01-31 (from its begin in UTC), a time ago such as
    /// -30m, -1h or -2d, or @ and milliseconds since 1970. Default: end, so that only new messages are
    /// shown, as Kafka's console consumer does. With --group it counts where the group has no offset yet, and where its
    /// offset is not there any more: then all but end go on at the oldest message that is kept.
    #[arg(
        long,
        default_value = "end",
        hide_default_value = true,
        allow_hyphen_values = true,
        value_name = "POSITION"
    )]
    from: StartAt,
    /// Read only this partition.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// End after this many messages.
    #[arg(long, value_name = "N")]
    max_messages: Option<u64>,
    /// End when all is read that was there at the start.
    #[arg(long)]
    exit_at_end: bool,
    /// How messages are written. Default: value; with --output json: json.
    #[arg(long, value_enum)]
    format: Option<RecordFormat>,
    /// What stands between key and value. Means --format key-value, whose default is a tab.
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
    /// Read as a member of this consumer group.
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["partition", "exit_at_end"])]
    group: Option<String>,
    /// With --group: names this process over restarts, so that its partitions are kept for it meanwhile.
    #[arg(long, value_name = "ID", requires = "group")]
    instance_id: Option<String>,
    /// With --group: without a sign of life for this long others get this process's partitions; with --instance-id also
    /// while it is restarted.
    #[arg(
        long,
        default_value = "5s",
        value_name = "DURATION",
        value_parser = session_timeout,
        requires = "group"
    )]
    session_timeout: Duration,
    /// With --group: all topics whose whole name matches this regular expression, now and later.
    #[arg(long, value_name = "REGEX", requires = "group")]
    topic_pattern: Option<String>,
    /// With --group: tell which partitions come and go: among the messages with --format json, otherwise on standard
    /// error.
    #[arg(long, requires = "group")]
    assignments: bool,
}

fn session_timeout(text: &str) -> Result<Duration, String> {
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|time| Duration::try_from(time).ok())
        .filter(|time| limits::SESSION_TIMEOUTS.contains(time))
        .ok_or_else(|| "expected a time such as 5s or 2m, from 1s to 30m".to_owned())
}

impl ConsumeArgs {
    /// The one topic that is read without a group.
    ///
    /// # Errors
    /// There are several.
    fn only_topic(&self) -> Result<&str, UsageError> {
        match &self.topics[..] {
            [topic] => Ok(topic),
            _ => Err(UsageError(
                "several topics are read by a consumer group: add --group, or name one topic".to_owned(),
            )),
        }
    }

    /// How messages are written.
    ///
    /// # Errors
    /// A key separator for a format that has no place for it.
    fn format(&self, output: OutputFormat) -> Result<RecordFormat, UsageError> {
        let default = match output {
            OutputFormat::Text if self.key_separator.is_some() => RecordFormat::KeyValue,
            OutputFormat::Text => RecordFormat::Value,
            OutputFormat::Json => RecordFormat::Json,
        };
        let format = self.format.unwrap_or(default);
        if self.key_separator.is_some() && format != RecordFormat::KeyValue {
            return Err(UsageError(
                "--key-separator is for --format key-value; leave it out, or ask for that format".to_owned(),
            ));
        }
        Ok(format)
    }
}

/// What is read and how far.
struct Reading {
    topic: String,
    writer: RecordWriter,
    out: BufWriter<StdoutLock<'static>>,
    /// Messages that may still be written.
    left: u64,
    /// How many were written.
    read: u64,
    /// With --exit-at-end: the partitions not read to their end yet, with that end.
    ends: Option<Ends>,
    bar: ProgressBar,
}

/// Writes them.
pub async fn run(args: ConsumeArgs, global: &GlobalArgs) -> anyhow::Result<()> {
    let format = args.format(global.output)?;
    if let Some(group) = &args.group {
        return group::run(&args, group, format, global).await;
    }
    let topic = args.only_topic()?;
    let client = connect::client(global).await?;
    let partitions = offsets::partitions(&client, topic, args.partition).await?;
    let mut waiting = Waiting::new(&client, &[topic]);
    let looking_up = offsets::ranges(&client, topic, &partitions, args.from);
    let mut ranges = waiting.during(looking_up).await?;
    if args.exit_at_end {
        ranges.retain(|range| range.start < range.end);
    }
    if stderr().is_terminal() {
        hint(&args, &ranges);
    }
    if ranges.is_empty() || args.max_messages == Some(0) {
        return Ok(());
    }
    let mut reading = Reading {
        topic: topic.to_owned(),
        ends: args.exit_at_end.then(|| Ends::new(&ranges)),
        bar: bar(&args, &ranges),
        ..Reading::new(&args, format)
    };
    let mut consumer = consumer(&client, topic, &args, &ranges).await?;
    let mut interrupts = Interrupts::take()?;
    while !reading.is_done(&consumer) {
        let event = interrupts.until(next(&mut consumer, &mut reading, &mut waiting)).await;
        match event {
            Ok(event) => {
                if let Event::Batch(batch) = event? {
                    reading.write(&batch)?;
                }
            }
            Err(by) => {
                // Between two batches: none is cut in the middle.
                reading.flush()?;
                let done = format!("{} read", plural(reading.read, "message"));
                return Err(InterruptedError { by, done }.into());
            }
        }
    }
    reading.flush()?;
    Ok(())
}

async fn consumer(
    client: &Client,
    topic: &str,
    args: &ConsumeArgs,
    ranges: &[PartitionRange],
) -> anyhow::Result<Consumer> {
    // Retention may delete what was the beginning a moment ago; who asked for the beginning wants
    // what is there then. Who asked for a place is told that it is gone.
    let reset = if args.from == StartAt::Beginning {
        OffsetReset::Beginning
    } else {
        OffsetReset::Error
    };
    let mut consumer = client.consumer().reset(reset).build()?;
    consumer
        .assign(
            ranges
                .iter()
                .map(|range| (topic, range.partition, Start::Offset(range.start))),
        )
        .await?;
    Ok(consumer)
}

enum Event {
    Batch(FetchedRecords),
    /// Nothing came for a while.
    Idle,
}

/// The next batch. What was written before is shown as soon as there is nothing more to read.
async fn next(consumer: &mut Consumer, reading: &mut Reading, waiting: &mut Waiting) -> anyhow::Result<Event> {
    let mut batch = pin!(consumer.next_batch());
    if let Ok(batch) = timeout(limits::OUTPUT_IDLE, batch.as_mut()).await {
        return Ok(Event::Batch(batch?));
    }
    reading.flush()?;
    tokio::select! {
        batch = waiting.during(batch) => Ok(Event::Batch(batch?)),
        () = sleep(limits::END_CHECK_INTERVAL), if reading.ends.is_some() => Ok(Event::Idle),
    }
}

impl Reading {
    /// Nothing read; without an end but --max-messages.
    fn new(args: &ConsumeArgs, format: RecordFormat) -> Self {
        Self {
            topic: String::new(),
            writer: RecordWriter::new(format, args.key_separator.as_deref().unwrap_or("\t")),
            out: BufWriter::with_capacity(limits::OUTPUT_BUFFER_BYTES, stdout().lock()),
            left: args.max_messages.unwrap_or(u64::MAX),
            read: 0,
            ends: None,
            bar: ProgressBar::hidden(),
        }
    }

    fn is_done(&mut self, consumer: &Consumer) -> bool {
        let ended = |ends: &mut Ends| ends.are_reached(consumer, &self.topic);
        self.ends.as_mut().is_some_and(ended) || self.left == 0
    }

    /// Writes what is wanted of a batch, and answers with the offset up to which it is written.
    fn write(&mut self, batch: &FetchedRecords) -> anyhow::Result<i64> {
        let partition = batch.partition();
        let end = self.ends.as_ref().map_or(i64::MAX, |ends| ends.end(partition));
        let (mut written, before) = (Ok(()), self.left);
        let mut reached = batch.start_offset();
        batch.for_each(|record| {
            if self.left == 0 || record.offset >= end || written.is_err() {
                return;
            }
            let view = RecordView {
                topic: batch.topic(),
                partition,
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers.map(|header| (header.key, header.value)).collect(),
            };
            written = self.writer.write(&mut self.out, &view);
            self.left -= 1;
            reached = record.offset + 1;
        })?;
        self.read += before - self.left;
        self.bar.inc(before - self.left);
        written.map_err(OutputError)?;
        // All of it, unless the last one that was wanted is in it.
        Ok(if self.left > 0 { batch.next_offset() } else { reached })
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        Ok(self.out.flush()?)
    }
}

/// A bar where the messages go into a file: anywhere else, in a pipe to `grep` as well, a person may see them.
fn bar(args: &ConsumeArgs, ranges: &[PartitionRange]) -> ProgressBar {
    if progress::is_file(&stdout()) {
        progress::bar(total(args, ranges), Unit::Things("messages"))
    } else {
        ProgressBar::hidden()
    }
}

/// How many messages will be written, by the offsets that there are; `None` if only an interrupt ends it.
fn total(args: &ConsumeArgs, ranges: &[PartitionRange]) -> Option<u64> {
    let there = ranges.iter().map(|range| range.end.abs_diff(range.start)).sum();
    let there = args.exit_at_end.then_some(there);
    there.into_iter().chain(args.max_messages).min()
}

/// Tells a person why nothing comes.
fn hint(args: &ConsumeArgs, ranges: &[PartitionRange]) {
    let old: u64 = ranges.iter().map(|range| range.end.abs_diff(range.start)).sum();
    if args.exit_at_end && ranges.is_empty() {
        let advice = if args.from == StartAt::End {
            "; --from beginning shows what is there"
        } else {
            ""
        };
        eprintln!("There is nothing to read from there on{advice}.");
    } else if !args.exit_at_end && old == 0 {
        let advice = if args.from == StartAt::End {
            " (--from beginning shows the old ones)"
        } else {
            ""
        };
        eprintln!("Waiting for new messages{advice}; Ctrl-C ends.");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(more: &[&str]) -> ConsumeArgs {
        let all = ["millrace", "consume", "t"].iter().chain(more);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Consume(args) => args,
            _ => unreachable!(),
        }
    }

    #[test]
    fn how_much_there_is_to_read_is_known_if_it_has_an_end() {
        let ranges = [(0, 5, 105), (1, 0, 7)].map(|(partition, start, end)| PartitionRange { partition, start, end });
        for (more, known) in [
            (&[][..], None),
            (&["--exit-at-end"], Some(107)),
            (&["--max-messages", "20"], Some(20)),
            (&["--max-messages", "20", "--exit-at-end"], Some(20)),
            (&["--max-messages", "200", "--exit-at-end"], Some(107)),
        ] {
            assert_eq!(total(&args(more), &ranges), known, "{more:?}");
        }
    }

    #[test]
    fn a_key_separator_means_the_format_that_has_one() {
        let format = |more: &[&str]| {
            let all = ["millrace", "consume", "t"].iter().chain(more);
            let cli = Cli::try_parse_from(all).unwrap();
            match cli.command {
                Command::Consume(args) => args.format(cli.global.output).ok(),
                _ => unreachable!(),
            }
        };
        assert_eq!(format(&[]), Some(RecordFormat::Value));
        assert_eq!(format(&["--key-separator", ":"]), Some(RecordFormat::KeyValue));
        assert_eq!(
            format(&["--key-separator", ":", "--format", "key-value", "--output", "json"]),
            Some(RecordFormat::KeyValue)
        );
        for other in [&["--format", "value"][..], &["--format", "json"], &["--output", "json"]] {
            assert_eq!(format(&[&["--key-separator", ":"], other].concat()), None, "{other:?}");
        }
    }
}
