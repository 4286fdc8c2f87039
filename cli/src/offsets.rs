//! Where reading begins and ends in a topic's partitions.

use std::collections::HashMap;

use anyhow::bail;
use millrace_client::{Client, Consumer, ErrorKind, Isolation, Start};

use crate::{
    error::{AdvisedError, UsageError},
    text::StartAt,
};

/// What to read of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionRange {
    pub partition: i32,
    pub start: i64,
    /// The readable end when it was asked for.
    pub end: i64,
}

/// The numbers of the partitions to read: the one asked for, or all.
///
/// # Errors
/// There is no such topic or partition.
pub async fn partitions(client: &Client, topic: &str, asked: Option<i32>) -> anyhow::Result<Vec<i32>> {
    let known = client.topic(topic).await?;
    let count = i32::try_from(known.partitions.len()).unwrap_or(i32::MAX);
    match asked {
        Some(partition) if partition >= count => {
            bail!("topic {topic:?} has no partition {partition}: {}", choice(count))
        }
        Some(partition) => Ok(vec![partition]),
        None => Ok((0..count).collect()),
    }
}

fn choice(partitions: i32) -> String {
    match partitions {
        1 => "its only one is 0".to_owned(),
        some => format!("choose one from 0 to {}", some - 1),
    }
}

/// Looks up where reading begins and where the readable end is now.
///
/// # Errors
/// An offset that is not there, an offset for several partitions, or no answer.
pub async fn ranges(
    client: &Client,
    topic: &str,
    partitions: &[i32],
    from: StartAt,
) -> anyhow::Result<Vec<PartitionRange>> {
    if matches!(from, StartAt::Offset(_)) && partitions.len() > 1 {
        return Err(UsageError(format!(
            "an offset is one partition's, and {topic:?} has {}: name one with --partition",
            partitions.len()
        ))
        .into());
    }
    let admin = client.admin();
    let list = async |start: Start| {
        let starts = partitions.iter().map(|partition| (*partition, start));
        admin.list_offsets(topic, starts, Isolation::ReadCommitted).await
    };
    // The end first: what comes in between is then after the end and not before the start.
    let ends = list(Start::End).await?;
    let starts = match from {
        StartAt::End => ends.clone(),
        StartAt::Beginning => list(Start::Beginning).await?,
        StartAt::Offset(offset) => list(Start::Offset(offset)).await.map_err(hint)?,
        StartAt::Time(ms) => list(Start::Time(ms)).await?,
    };
    let ranges = partitions.iter().zip(starts.iter().zip(&ends));
    Ok(ranges
        .map(|(partition, (start, end))| PartitionRange {
            partition: *partition,
            start: start.offset,
            end: end.offset,
        })
        .collect())
}

/// The partitions not read to their end yet, with that end.
pub struct Ends(HashMap<i32, i64>);

impl Ends {
    /// The ends that the ranges had when they were asked for.
    pub fn new(ranges: &[PartitionRange]) -> Self {
        Self(ranges.iter().map(|range| (range.partition, range.end)).collect())
    }

    /// Where the partition ends; the beginning if it is read to its end.
    pub fn end(&self, partition: i32) -> i64 {
        self.0.get(&partition).copied().unwrap_or(0)
    }

    /// Whether all is read. Not judged by the records: the last ones may be transaction markers, which are
    /// not shown.
    pub fn are_reached(&mut self, consumer: &Consumer, topic: &str) -> bool {
        self.0.retain(|partition, end| {
            !consumer
                .position(topic, *partition)
                .is_ok_and(|position| position >= *end)
        });
        self.0.is_empty()
    }
}

/// What a person at the command can do about an offset that is not there.
fn hint(error: millrace_client::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::OffsetOutOfRange {
            position,
            log_start: Some(start),
            high_watermark: Some(end),
            partition,
            ..
        } => {
            let message = format!(
                "offset {position} is not there: partition {partition} has {start} to {end}; use one of these, beginning or end"
            );
            AdvisedError { message, cause: error }.into()
        }
        _ => error.into(),
    }
}
