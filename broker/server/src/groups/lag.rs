//! How far reading is behind: where partitions end, and since when what comes next has been waiting.
//!
//! Whoever wants to know asks the partitions' leaders; an answer that does not come is never taken for nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use millrace_engine::{Topic, group::TopicPartition};
use millrace_proto::{
    batch::{BatchHeader, Codec, DecodeLimits, OwnedBatch, owned_batches},
    v1::{Edge, start::At},
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    broker::Broker,
    forward::{Source, find_sources},
    limits,
    partition::Offsets,
    turns,
};

/// An offset in a partition.
pub type Place = (TopicPartition, i64);

/// The offset of the first record that is yet to be read by who goes on at `next` (`None`: at the oldest), and how many
/// there are. Offsets that compaction has emptied are counted as well.
pub fn behind(next: Option<i64>, ends: &Offsets) -> (i64, i64) {
    let next = next.unwrap_or(ends.log_start).max(ends.log_start);
    (next, ends.high_watermark.saturating_sub(next).max(0))
}

/// The partitions whose leaders tell before `until` where they end; each leader is asked once for a topic.
pub async fn ends(
    broker: &Arc<Broker>,
    partitions: impl IntoIterator<Item = TopicPartition>,
    until: Instant,
) -> HashMap<TopicPartition, Source> {
    let mut asked: HashMap<Uuid, BTreeSet<u32>> = HashMap::new();
    for at in partitions {
        asked.entry(at.topic).or_default().insert(at.partition);
    }
    let cluster = broker.quorum.cluster();
    let topics = cluster.topics.values();
    let looking = topics.filter_map(|topic| Some(ends_of_topic(broker, topic, asked.remove(&topic.id)?, until)));
    let looking: Vec<_> = looking.collect();
    let found = stream::iter(looking).buffer_unordered(limits::LAG_READS);
    found.flat_map(stream::iter).collect().await
}

async fn ends_of_topic(
    broker: &Arc<Broker>,
    topic: &Topic,
    asked: BTreeSet<u32>,
    until: Instant,
) -> Vec<(TopicPartition, Source)> {
    let beginning = At::Edge(Edge::Beginning.into());
    let asked = asked.into_iter();
    let starts: Vec<(i32, At)> = asked
        .filter_map(|number| Some((i32::try_from(number).ok()?, beginning)))
        .collect();
    let found = tokio::time::timeout_at(until, find_sources(broker, topic, &starts, true)).await;
    let found = starts.into_iter().zip(found.unwrap_or_default());
    found
        .filter_map(|((number, _), found)| {
            let at = TopicPartition {
                topic: topic.id,
                partition: number.unsigned_abs(),
            };
            Some((at, found.ok()?.0))
        })
        .collect()
}

/// The times of the first records at these places or behind them, in milliseconds since 1970, as far as they are known
/// before `until`. Each reads a batch.
pub async fn times(places: BTreeMap<Place, Source>, until: Instant) -> HashMap<Place, i64> {
    let looking = stream::iter(places).map(|(place, source)| async move {
        let looked = tokio::time::timeout_at(until, time_at(source, place.1)).await;
        Some((place, looked.ok().flatten()?))
    });
    let found = looking.buffer_unordered(limits::LAG_READS);
    found.filter_map(std::future::ready).collect().await
}

/// `None`: it has no time, or could not be read.
async fn time_at(mut source: Source, offset: i64) -> Option<i64> {
    let up_to = source.offsets().high_watermark;
    let mut read = source.read(offset, limits::SMALL_ANSWER_BYTES, up_to).await.ok()?;
    if let Some(bytes) = read.first_batch_too_large {
        read = source.read(offset, bytes, up_to).await.ok()?;
    }
    for batch in owned_batches(read.bytes) {
        let batch = batch.ok()?;
        if batch.header().last_offset() < offset || batch.header().is_control() {
            continue;
        }
        return time_in(batch, offset).await.filter(|time_ms| *time_ms >= 0);
    }
    None
}

/// The same within its batch. Where that is large, the time of the batch's first record stands for it.
async fn time_in(batch: OwnedBatch, offset: i64) -> Option<i64> {
    let first = |header: &BatchHeader| Some(header.base_timestamp);
    let decode = DecodeLimits {
        max_decompressed_bytes: limits::LAG_READ_BYTES,
        ..DecodeLimits::DEFAULT
    };
    let looked = move |batch: &OwnedBatch| {
        let Ok(records) = batch.records(&decode) else {
            return first(batch.header());
        };
        let mut behind = records.filter_map(Result::ok).filter(|record| record.offset >= offset);
        behind.next().map(|record| record.timestamp)
    };
    if batch.bytes().len() > limits::LAG_READ_BYTES {
        return first(batch.header());
    }
    match batch.header().codec() {
        Codec::None => looked(&batch),
        _ => turns::CODECS.run(move |_turn| looked(&batch)).await.ok().flatten(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_retention_has_deleted_is_not_behind() {
        let ends = Offsets {
            log_start: 10,
            last_stable: 30,
            high_watermark: 30,
            log_end: 40,
            leader_epoch: 1,
        };
        assert_eq!(behind(Some(12), &ends), (12, 18));
        assert_eq!(behind(Some(3), &ends), (10, 20));
        assert_eq!(behind(None, &ends), (10, 20));
        assert_eq!(behind(Some(30), &ends), (30, 0));
        assert_eq!(
            behind(Some(35), &ends),
            (35, 0),
            "a leader that lost its newest records"
        );
    }
}
