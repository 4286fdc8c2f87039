//! How far reading is behind: where partitions end, and since when what comes next has been waiting.
//!
//! Whoever wants to know asks the partitions' leaders; an answer that does not come is never taken for nothing.

use std::collections::HashMap;

use millrace_engine::group::TopicPartition;
use tokio::time::Instant;

use crate::{
    broker::Broker,
    forward::{ends_of, times_of},
    partition::Offsets,
    replication::Key,
};

/// An offset in a partition.
pub type Place = (TopicPartition, i64);

/// The offset of the first record that is yet to be read by who goes on at `next` (`None`: at the oldest), and how many
/// there are. Offsets that compaction has emptied are counted as well.
pub fn behind(next: Option<i64>, ends: &Offsets) -> (i64, i64) {
    let next = next.unwrap_or(ends.log_start).max(ends.log_start);
    (next, ends.high_watermark.saturating_sub(next).max(0))
}

/// Where these partitions end, of those whose leaders tell it before `until`.
pub async fn ends(
    broker: &Broker,
    partitions: impl IntoIterator<Item = TopicPartition>,
    until: Instant,
) -> HashMap<TopicPartition, Offsets> {
    let asked = partitions.into_iter().map(|at| (at.topic, at.partition)).collect();
    let told = ends_of(broker, asked, until).await;
    told.into_iter().map(|(key, offsets)| (of_key(key), offsets)).collect()
}

/// The times at these places (see [`Partition::batch_time`](crate::partition::Partition::batch_time)), in milliseconds
/// since 1970, of those whose leaders tell them before `until`; `None`: there is none.
pub async fn times(
    broker: &Broker,
    places: impl IntoIterator<Item = Place>,
    until: Instant,
) -> HashMap<Place, Option<i64>> {
    let asked = places
        .into_iter()
        .map(|(at, offset)| ((at.topic, at.partition), offset));
    let told = times_of(broker, asked.collect(), until).await;
    let told = told.into_iter();
    told.map(|((key, offset), time_ms)| ((of_key(key), offset), time_ms))
        .collect()
}

fn of_key((topic, partition): Key) -> TopicPartition {
    TopicPartition { topic, partition }
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
