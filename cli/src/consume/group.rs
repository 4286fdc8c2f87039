//! `millrace consume --group`: what is written is committed, and nothing else.

mod assignments;

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stderr},
    sync::Arc,
};

use millrace_client::{ErrorKind, ErrorReason, GroupConsumer, GroupEvent, OffsetReset, Start};
use tokio::time::{Instant, timeout};

use self::assignments::{Assignments, Change};
use super::{ConsumeArgs, Reading};
use crate::{
    args::GlobalArgs,
    connect,
    error::UsageError,
    interrupt::{InterruptedError, Interrupts},
    limits,
    output::{ids, plural},
    text::{RecordFormat, StartAt},
    waiting::Waiting,
};

/// What is written and not committed.
#[derive(Debug, Default)]
struct Written(BTreeMap<(Arc<str>, i32), i64>);

impl Written {
    fn forget(&mut self, partitions: &[(Arc<str>, i32)]) {
        self.0.retain(|key, _| !partitions.contains(key));
    }

    /// Flushes, then commits: what is committed has been written.
    async fn commit(&mut self, consumer: &mut GroupConsumer, reading: &mut Reading) -> anyhow::Result<()> {
        reading.flush()?;
        if self.0.is_empty() {
            return Ok(());
        }
        let positions = self
            .0
            .iter()
            .map(|((topic, partition), offset)| (&**topic, *partition, *offset));
        let committed = consumer.commit(positions.collect::<Vec<_>>()).await;
        let refused = match committed {
            Ok(refused) => refused,
            // It joins anew by itself; what it had may be another member's by then.
            Err(error)
                if matches!(
                    error.reason(),
                    Some(ErrorReason::UnknownMember | ErrorReason::FencedMember)
                ) =>
            {
                self.0.clear();
                eprintln!("what was written last was not committed, and is read again by whoever gets it: {error}");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.0.clear();
        for (topic, partition, error) in refused {
            eprintln!("{topic}-{partition} was not committed: {error}");
        }
        Ok(())
    }
}

/// Where the group begins where it has no offset.
fn start(from: StartAt) -> Result<Start, UsageError> {
    match from {
        StartAt::Beginning => Ok(Start::Beginning),
        StartAt::End => Ok(Start::End),
        StartAt::Time(ms) => Ok(Start::Time(ms)),
        StartAt::Offset(offset) => Err(UsageError(format!(
            "a group begins at its own offsets; to set one: millrace group reset-offsets GROUP --topic TOPIC:N --to-offset {offset}"
        ))),
    }
}

/// Writes what the group's member gets, until it is enough or interrupted.
pub async fn run(args: &ConsumeArgs, group: &str, format: RecordFormat, global: &GlobalArgs) -> anyhow::Result<()> {
    let start = start(args.from)?;
    let client = connect::client(global).await?;
    if args.max_messages == Some(0) {
        return Ok(());
    }
    let mut builder = client
        .group_consumer(group)
        .topics(&args.topics)
        .topic_pattern(args.topic_pattern.as_deref().unwrap_or(""))
        .client_id(concat!("millrace-cli/", env!("CARGO_PKG_VERSION")))
        .start(start)
        .session_timeout(args.session_timeout)
        .reset(OffsetReset::Error)
        .auto_commit(None);
    if let Some(instance_id) = &args.instance_id {
        builder = builder.instance_id(instance_id);
    }
    let mut consumer = builder.build()?;
    if stderr().is_terminal() {
        eprintln!("Reading as a member of group {group:?}; Ctrl-C ends.");
    }
    let (mut reading, mut written) = (Reading::new(args, format), Written::default());
    let assignments = Assignments::new(args.assignments, format);
    let mut interrupts = Interrupts::take()?;
    let mut waiting = Waiting::new(&client, &args.topics);
    let reading_on = read(
        &mut consumer,
        &mut reading,
        &mut written,
        &mut waiting,
        assignments,
        args.from,
    );
    let ended = interrupts.until(reading_on).await;
    // Between two batches: none is cut in the middle. What is written is committed, however it ended.
    let committed = written.commit(&mut consumer, &mut reading).await;
    let told = assignments.tell(&mut reading.out, Change::Revoked, &consumer.assignment());
    let left = consumer.close().await;
    match ended {
        Ok(result) => {
            result?;
            committed?;
            told?;
            Ok(left?)
        }
        Err(by) => {
            committed?;
            told?;
            left?;
            let done = format!("{} read", plural(reading.read, "message"));
            Err(InterruptedError { by, done }.into())
        }
    }
}

async fn read(
    consumer: &mut GroupConsumer,
    reading: &mut Reading,
    written: &mut Written,
    waiting: &mut Waiting,
    assignments: Assignments,
    from: StartAt,
) -> anyhow::Result<()> {
    let mut commit_at = Instant::now() + limits::COMMIT_INTERVAL;
    let is_watched = stderr().is_terminal();
    while reading.left > 0 {
        let is_written = !written.0.is_empty();
        let polled = if is_written {
            match timeout(limits::OUTPUT_IDLE, consumer.poll()).await {
                Ok(polled) => polled,
                // Nothing more for now.
                Err(_) => {
                    written.commit(consumer, reading).await?;
                    continue;
                }
            }
        } else {
            waiting.during(consumer.poll()).await
        };
        let event = match polled {
            Ok(event) => event,
            Err(error) => {
                go_on(consumer, error, from)?;
                continue;
            }
        };
        if is_watched && let Some(share) = share(&event, consumer.assignment()) {
            eprintln!("{share}");
        }
        match event {
            GroupEvent::Records(batch) => {
                let reached = reading.write(&batch)?;
                written.0.insert((batch.topic().clone(), batch.partition()), reached);
            }
            // The next call gives them back.
            GroupEvent::Revoking(revoked) => {
                written.commit(consumer, reading).await?;
                assignments.tell(&mut reading.out, Change::Revoked, &revoked)?;
            }
            GroupEvent::Lost(lost) => {
                written.forget(&lost);
                assignments.tell(&mut reading.out, Change::Lost, &lost)?;
                eprintln!(
                    "{} lost: other members may have what is not committed",
                    plural(lost.len() as u64, "partition")
                );
            }
            GroupEvent::Assigned(assigned) => assignments.tell(&mut reading.out, Change::Assigned, &assigned)?,
        }
        if Instant::now() >= commit_at {
            written.commit(consumer, reading).await?;
            commit_at = Instant::now() + limits::COMMIT_INTERVAL;
        }
    }
    Ok(())
}

/// Goes on where a partition does not have the group's offset any more, as Kafka's auto.offset.reset, and says so: retention
/// may delete faster than the group reads.
///
/// # Errors
/// Whatever else went wrong.
fn go_on(consumer: &mut GroupConsumer, error: millrace_client::Error, from: StartAt) -> anyhow::Result<()> {
    let ErrorKind::OffsetOutOfRange {
        topic,
        partition,
        position,
        log_start,
        high_watermark,
    } = error.kind()
    else {
        return Err(error.into());
    };
    let (start, place, offset) = match from {
        StartAt::End => (Start::End, "the end, as --from is end", high_watermark),
        _ => (Start::Beginning, "the oldest message that is kept", log_start),
    };
    consumer.seek(topic, *partition, start)?;
    let offset = offset.map(|offset| format!(" ({offset})")).unwrap_or_default();
    eprintln!("millrace: offset {position} of {topic}-{partition} is not there any more: going on at {place}{offset}");
    Ok(())
}

/// What is read from now on, where that changes.
fn share(event: &GroupEvent, mut assigned: Vec<(Arc<str>, i32)>) -> Option<String> {
    match event {
        GroupEvent::Records(_) => return None,
        // The next call gives them back.
        GroupEvent::Revoking(revoking) => assigned.retain(|partition| !revoking.contains(partition)),
        GroupEvent::Assigned(_) | GroupEvent::Lost(_) => {}
    }
    let topics: Vec<String> = assigned
        .chunk_by(|(one, _), (other, _)| one == other)
        .map(|of_topic| {
            let numbers: Vec<i32> = of_topic.iter().map(|(_, number)| *number).collect();
            format!("{}{}", of_topic[0].0, ids(&numbers))
        })
        .collect();
    Some(if topics.is_empty() {
        "Reading no partition now.".to_owned()
    } else {
        format!("Reading {}.", topics.join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_told_where_it_changes() {
        let of = |topic: &str, number| (Arc::<str>::from(topic), number);
        let assigned = vec![of("a", 0), of("a", 2), of("b", 1)];
        let all = share(&GroupEvent::Assigned(vec![of("b", 1)]), assigned.clone());
        assert_eq!(all.as_deref(), Some("Reading a[0,2] b[1]."));
        let less = share(&GroupEvent::Revoking(vec![of("a", 2), of("b", 1)]), assigned);
        assert_eq!(less.as_deref(), Some("Reading a[0]."));
        let none = share(&GroupEvent::Lost(vec![of("a", 0)]), Vec::new());
        assert_eq!(none.as_deref(), Some("Reading no partition now."));
    }

    #[test]
    fn a_group_begins_at_an_end_or_a_time() {
        assert_eq!(start(StartAt::Beginning).unwrap(), Start::Beginning);
        assert_eq!(start(StartAt::End).unwrap(), Start::End);
        assert_eq!(start(StartAt::Time(5)).unwrap(), Start::Time(5));
        assert!(start(StartAt::Offset(5)).unwrap_err().0.contains("--to-offset 5"));
    }

    #[test]
    fn what_is_lost_is_not_committed() {
        let key = |partition| (Arc::<str>::from("t"), partition);
        let mut written = Written([(key(0), 5), (key(1), 7)].into());
        written.forget(&[key(1), key(2)]);
        assert_eq!(written.0, [(key(0), 5)].into());
    }
}
