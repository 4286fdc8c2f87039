//! The times at offsets of partitions that this broker leads.
//!
//! Indexes and headers are read, some dozens of places in a turn, on a thread that may wait for the disk.

use std::{sync::Arc, time::Duration};

use millrace_proto::{
    internal::v1::{ForwardPlace, ForwardTime, ForwardTimesResponse},
    v1::ErrorReason,
};
use tokio::time::{Instant, timeout_at};

use super::{limits, service::find, wire};
use crate::{broker::Broker, error::ApiError, partition::Partition, turns};

/// The time at an offset; `None`: there is none.
pub(super) type Time = Result<Option<i64>, ApiError>;

/// What another broker asked for.
pub(super) async fn tell(broker: &Broker, asked: &[ForwardPlace], within: Duration) -> ForwardTimesResponse {
    let until = Instant::now() + within;
    let found: Vec<Result<(Arc<Partition>, i64), ApiError>> = asked
        .iter()
        .map(|place| Ok((find(broker, &place.topic_id, place.partition)?, place.offset)))
        .collect();
    let places: Vec<_> = found.iter().flatten().cloned().collect();
    let mut looked = look_up(&places, until).await.into_iter();
    let times = found.into_iter().map(|found| {
        let time = found.and_then(|_| looked.next().unwrap_or_else(late));
        let (time_ms, error) = match time {
            Ok(time_ms) => (time_ms, None),
            Err(error) => (None, Some(wire::error_out(&error))),
        };
        ForwardTime { error, time_ms }
    });
    ForwardTimesResponse { times: times.collect() }
}

/// The times at these places, in their order; what was not looked up before `until` is an error.
pub(super) async fn look_up(places: &[(Arc<Partition>, i64)], until: Instant) -> Vec<Time> {
    let mut times = Vec::with_capacity(places.len());
    for chunk in places.chunks(limits::TIMES_IN_A_TURN) {
        let asked = chunk.to_vec();
        let looking = turns::BATCH_TIMES.run(move |_turn| {
            let look = |(partition, offset): &(Arc<Partition>, i64)| match Instant::now() < until {
                true => partition.batch_time(*offset),
                false => late(),
            };
            asked.iter().map(look).collect::<Vec<Time>>()
        });
        match timeout_at(until, looking).await {
            Ok(Ok(looked)) => times.extend(looked),
            Ok(Err(error)) => times.extend(chunk.iter().map(|_| Err(error.clone()))),
            Err(_) => times.extend(chunk.iter().map(|_| late())),
        }
    }
    times
}

fn late() -> Time {
    Err(ApiError::new(
        ErrorReason::Overloaded,
        "The time of these records was not looked up in time: ask again.",
    ))
}
