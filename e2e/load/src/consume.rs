//! Consumers that read all partitions from offset 0.

use std::{sync::Arc, time::Duration};

use millrace_client::{Consumer, Error, ErrorKind, Start};

use crate::{partition::Partition, reading::Reading, values::decode, work::Work};

const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Follows all partitions until the process ends.
pub async fn follow(work: Arc<Work>) {
    read(&work, |partition| &mut partition.following, |_| false).await;
}

/// Reads all partitions from offset 0 into what `into` gives, until `done`.
pub async fn read(work: &Work, into: impl Fn(&mut Partition) -> &mut Reading, done: impl Fn(&Work) -> bool) {
    let client = work.connect("millrace-load-consumer").await;
    let mut consumer = loop {
        let consumer = client.consumer().build();
        match consumer {
            Ok(consumer) => break consumer,
            Err(error) => tracing::error!(%error, "no consumer"),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    };
    let starts: Vec<(Arc<str>, i32, Start)> = work
        .partitions()
        .iter()
        .map(|partition| partition.lock())
        .map(|partition| (partition.topic.clone(), partition.number, Start::Offset(0)))
        .collect();
    while let Err(error) = consumer.assign(starts.clone()).await {
        tracing::warn!(%error, "can't read yet");
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    while !done(work) {
        match consumer.next_batch().await {
            Ok(fetched) => {
                let (topic, number) = (fetched.topic().clone(), fetched.partition());
                with(work, &topic, number, |partition| {
                    let reading = into(partition);
                    let each = |record: millrace_client::RecordRef<'_>| {
                        let value = decode(&topic, number, record.value.unwrap_or_default());
                        reading.read(work.run, record.offset, value);
                    };
                    if let Err(error) = fetched.for_each(each) {
                        reading.jump(fetched.next_offset(), &error.to_string());
                    }
                });
            }
            Err(error) => recover(work, &mut consumer, &into, &error).await,
        }
    }
}

/// What a reader is told is noted, and reading goes on behind it.
async fn recover(work: &Work, consumer: &mut Consumer, into: &impl Fn(&mut Partition) -> &mut Reading, error: &Error) {
    tracing::error!(%error, "reading");
    let (topic, number, to) = match error.kind() {
        ErrorKind::Truncated {
            topic,
            partition,
            end_offset,
            ..
        } => {
            with(work, topic, *partition, |partition| into(partition).cut(*end_offset));
            (topic, *partition, *end_offset)
        }
        ErrorKind::OffsetOutOfRange {
            topic,
            partition,
            position,
            log_start,
            high_watermark,
        } => {
            let start = log_start.unwrap_or(0);
            let to = if *position < start {
                start
            } else {
                high_watermark.unwrap_or(start)
            };
            with(work, topic, *partition, |partition| {
                let reading = into(partition);
                if to < reading.next {
                    reading.cut(to);
                } else {
                    reading.jump(to, &error.to_string());
                }
            });
            (topic, *partition, to)
        }
        ErrorKind::CorruptRecords {
            topic,
            partition,
            offset,
        } => {
            with(work, topic, *partition, |partition| {
                into(partition).jump(offset + 1, &error.to_string())
            });
            (topic, *partition, offset + 1)
        }
        _ => {
            work.note_failure(format!("reading: {error}"));
            tokio::time::sleep(AGAIN_AFTER).await;
            return;
        }
    };
    if let Err(error) = consumer.seek(topic, number, Start::Offset(to)).await {
        work.note_failure(format!("going on in {topic}-{number} at {to}: {error}"));
    }
}

fn with(work: &Work, topic: &str, number: i32, act: impl FnOnce(&mut Partition)) {
    for partition in work.partitions() {
        let mut partition = partition.lock();
        if &*partition.topic == topic && partition.number == number {
            return act(&mut partition);
        }
    }
}
