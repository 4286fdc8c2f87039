//! How much a group has yet to read: the coordinator's offsets, and what the partitions' leaders say.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use millrace_engine::Topic;
use millrace_proto::{
    batch::{BatchHeader, Codec, DecodeLimits, OwnedBatch, owned_batches},
    v1::{self, Edge, group_offset::Position, start::At},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Origin, convert::duration_out, route::call};
use crate::{
    broker::Broker,
    error::ApiError,
    forward::{Source, find_sources},
    limits, turns,
};

/// Tells where a group goes on to read and, where it is asked for, how much is left.
///
/// # Errors
/// Of the request, or as of the coordinator. Leaders that do not answer are no error.
pub(super) async fn fetch(
    broker: &Arc<Broker>,
    mut request: v1::FetchOffsetsRequest,
    origin: &Origin,
) -> Result<v1::FetchOffsetsResponse, ApiError> {
    let with_lag = std::mem::take(&mut request.with_lag);
    let mut fetched = call(broker, request, origin).await?;
    if with_lag {
        add_lag(broker, &mut fetched.offsets).await;
    }
    Ok(fetched)
}

/// Partitions of one topic: their places in the answer, and their numbers.
type OfTopic = Vec<(usize, i32)>;

async fn add_lag(broker: &Arc<Broker>, offsets: &mut [v1::GroupOffset]) {
    let until = Instant::now() + limits::GROUP_ENDS_WITHIN;
    let mut topics: BTreeMap<Uuid, OfTopic> = BTreeMap::new();
    for (place, offset) in offsets.iter().enumerate() {
        if let Ok(id) = Uuid::from_slice(&offset.topic_id) {
            topics.entry(id).or_default().push((place, offset.partition));
        }
    }
    let cluster = broker.quorum.cluster();
    let mut behind: Vec<(usize, Source, i64)> = Vec::new();
    for topic in cluster.topics.values() {
        let Some(asked) = topics.remove(&topic.id) else {
            continue;
        };
        for (place, source) in ends(broker, topic, asked, until).await {
            let offset = &mut offsets[place];
            let ends = source.offsets();
            offset.high_watermark = Some(ends.high_watermark);
            offset.log_start = Some(ends.log_start);
            let next = match &offset.position {
                Some(Position::Committed(committed)) => committed.offset.max(ends.log_start),
                Some(Position::BeginsAt(_)) => ends.log_start,
                // Where it begins is not known.
                Some(Position::Pending(_)) | None => continue,
            };
            let lag = ends.high_watermark.saturating_sub(next).max(0);
            offset.lag = Some(lag);
            if lag > 0 {
                behind.push((place, source, next));
            } else {
                offset.time_lag = duration_out(Duration::ZERO);
            }
        }
    }
    let now_ms = broker.now_ms();
    let looking = stream::iter(behind).map(|(place, source, next)| async move {
        let looked = tokio::time::timeout_at(until, time_at(source, next)).await;
        (place, looked.ok().flatten())
    });
    let mut looking = looking.buffer_unordered(limits::LAG_READS);
    while let Some((place, time_ms)) = looking.next().await {
        let waited = time_ms.map(|time_ms| now_ms.saturating_sub(time_ms).max(0).unsigned_abs());
        offsets[place].time_lag = waited.and_then(|ms| duration_out(Duration::from_millis(ms)));
    }
}

/// The partitions whose leaders tell in time where they end.
async fn ends(broker: &Arc<Broker>, topic: &Topic, asked: OfTopic, until: Instant) -> Vec<(usize, Source)> {
    let beginning = At::Edge(Edge::Beginning.into());
    let starts: Vec<(i32, At)> = asked.iter().map(|(_, number)| (*number, beginning)).collect();
    let found = tokio::time::timeout_at(until, find_sources(broker, topic, &starts, true)).await;
    let found = found.unwrap_or_default();
    asked
        .into_iter()
        .zip(found)
        .filter_map(|((place, _), found)| Some((place, found.ok()?.0)))
        .collect()
}

/// The time of the first record at `offset` or behind it, in milliseconds since 1970; `None`: it has none, or could not
/// be read.
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
