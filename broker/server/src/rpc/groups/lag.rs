//! How much a group has yet to read: the coordinator's offsets, and what the partitions' leaders say.

use std::time::Duration;

use millrace_engine::group::TopicPartition;
use millrace_proto::v1::{self, group_offset::Position};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Origin, convert::duration_out, route::call};
use crate::{
    broker::Broker,
    error::ApiError,
    groups::lag::{self, Place},
    limits,
};

/// Tells where a group goes on to read and, where it is asked for, how much is left.
///
/// # Errors
/// Of the request, or as of the coordinator. Leaders that do not answer are no error.
pub(super) async fn fetch(
    broker: &Broker,
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

async fn add_lag(broker: &Broker, offsets: &mut [v1::GroupOffset]) {
    let partitions: Vec<Option<TopicPartition>> = offsets.iter().map(partition_of).collect();
    let until = Instant::now() + limits::GROUP_ENDS_WITHIN;
    let ends = lag::ends(broker, partitions.iter().copied().flatten(), until).await;
    let mut waiting: Vec<(usize, Place)> = Vec::new();
    for (index, at) in partitions.into_iter().enumerate() {
        let Some((at, ends)) = at.and_then(|at| Some((at, ends.get(&at)?))) else {
            continue;
        };
        let offset = &mut offsets[index];
        offset.high_watermark = Some(ends.high_watermark);
        offset.log_start = Some(ends.log_start);
        let next = match &offset.position {
            Some(Position::Committed(committed)) => Some(committed.offset),
            Some(Position::BeginsAt(_)) => None,
            // Where it begins is not known.
            Some(Position::Pending(_)) | None => continue,
        };
        let (next, count) = lag::behind(next, ends);
        offset.lag = Some(count);
        if count > 0 {
            waiting.push((index, (at, next)));
        } else {
            offset.time_lag = duration_out(Duration::ZERO);
        }
    }
    // Of its own: a leader that does not answer must not take the time of those that do.
    let until = Instant::now() + limits::GROUP_TIMES_WITHIN;
    let times = lag::times(broker, waiting.iter().map(|(_, place)| *place), until).await;
    let now_ms = broker.now_ms();
    for (index, place) in waiting {
        let time_ms = times.get(&place).copied().flatten();
        let waited = time_ms.map(|time_ms| now_ms.saturating_sub(time_ms).max(0));
        offsets[index].time_lag = waited.and_then(|ms| duration_out(Duration::from_millis(ms.unsigned_abs())));
    }
}

fn partition_of(offset: &v1::GroupOffset) -> Option<TopicPartition> {
    Some(TopicPartition {
        topic: Uuid::from_slice(&offset.topic_id).ok()?,
        partition: u32::try_from(offset.partition).ok()?,
    })
}
