//! What lags are made of, of many partitions at once: where they end, and the times at offsets.
//!
//! A leader is asked page by page, one after the other, and leaders beside each other: one that does not answer holds up
//! none of the others. What does not come in time is left out; nothing is asked for twice.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use millrace_engine::{BrokerId, Topic, partition::OffsetQuery};
use millrace_proto::internal::v1::ForwardDescribePartition;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{
    limits,
    peer::Peer,
    place::{Place, Target},
    times, wire,
};
use crate::{
    broker::Broker,
    error::ApiError,
    partition::{Offsets, Partition},
    replication::Key,
};

/// An offset in a partition.
pub type OffsetAt = (Key, i64);

/// Who leads what is asked for. What nobody leads, or is not known, is in neither.
struct Leaders<Q> {
    here: Vec<(Arc<Partition>, Q)>,
    there: Vec<(Arc<Peer>, Vec<Q>)>,
}

async fn leaders<Q>(broker: &Broker, asked: impl IntoIterator<Item = Q>, key: impl Fn(&Q) -> Key) -> Leaders<Q> {
    let cluster = broker.quorum.cluster();
    let topics: HashMap<Uuid, &Arc<Topic>> = cluster.topics.values().map(|topic| (topic.id, topic)).collect();
    let (mut here, mut there) = (Vec::new(), BTreeMap::<BrokerId, (Arc<Peer>, Vec<Q>)>::new());
    for question in asked {
        // There may be a hundred thousand.
        tokio::task::consume_budget().await;
        let (topic, number) = key(&question);
        let (Some(topic), Ok(number)) = (topics.get(&topic), i32::try_from(number)) else {
            continue;
        };
        match Target::new(topic, number).locate(broker) {
            Ok(Place::Here(partition)) => here.push((partition, question)),
            Ok(Place::There { peer, .. }) => {
                let (_, of_leader) = there.entry(peer.id()).or_insert_with(|| (peer, Vec::new()));
                of_leader.push(question);
            }
            Err(_) => {}
        }
    }
    let there = there.into_values().collect();
    Leaders { here, there }
}

/// Where partitions end, of those whose leaders know it and tell it before `until`.
pub async fn ends_of(broker: &Broker, asked: BTreeSet<Key>, until: Instant) -> HashMap<Key, Offsets> {
    let Leaders { here, there } = leaders(broker, asked, |key| *key).await;
    let mut ends = HashMap::new();
    for (partition, key) in here {
        if let Ok(offsets) = ends_here(&partition) {
            ends.insert(key, offsets);
        }
    }
    let asking = there.into_iter().map(|(peer, keys)| ends_there(peer, keys, until));
    let mut told = stream::iter(asking).buffer_unordered(limits::LEADERS_AT_ONCE);
    while let Some(of_leader) = told.next().await {
        ends.extend(of_leader);
    }
    ends
}

fn ends_here(partition: &Partition) -> Result<Offsets, ApiError> {
    partition.check_offset_query(OffsetQuery::EndOrTime)?;
    Ok(partition.offsets())
}

async fn ends_there(peer: Arc<Peer>, keys: Vec<Key>, until: Instant) -> Vec<(Key, Offsets)> {
    let mut ends = Vec::with_capacity(keys.len());
    for page in keys.chunks(limits::ENDS_AT_ONCE) {
        let Some(within) = for_one_question(until) else {
            break;
        };
        let questions = page.iter().map(|(topic_id, partition)| ForwardDescribePartition {
            topic_id: topic_id.as_bytes().to_vec().into(),
            partition: *partition,
            end_known: true,
            ..ForwardDescribePartition::default()
        });
        let asking = peer.describe(questions.collect(), Duration::ZERO);
        let Ok(Ok(told)) = timeout(within, asking).await else {
            continue;
        };
        let told = page.iter().zip(told);
        ends.extend(told.filter_map(|(key, told)| match told.error {
            Some(_) => None,
            None => Some((*key, wire::offsets_in(&told.offsets?))),
        }));
    }
    ends
}

/// The times at offsets (see [`Partition::batch_time`]), of those whose leaders tell them before `until`; `None`: there is
/// none, as the leader says.
pub async fn times_of(broker: &Broker, asked: BTreeSet<OffsetAt>, until: Instant) -> HashMap<OffsetAt, Option<i64>> {
    let Leaders { here, there } = leaders(broker, asked, |(key, _)| *key).await;
    let asking = there.into_iter().map(|(peer, places)| times_there(peer, places, until));
    let there = stream::iter(asking).buffer_unordered(limits::LEADERS_AT_ONCE);
    let (here, there) = tokio::join!(times_here(here, until), there.collect::<Vec<_>>());
    let mut times = HashMap::with_capacity(here.len());
    for of_leader in there.into_iter().chain([here]) {
        times.extend(of_leader);
    }
    times
}

async fn times_here(asked: Vec<(Arc<Partition>, OffsetAt)>, until: Instant) -> Vec<(OffsetAt, Option<i64>)> {
    let places: Vec<_> = asked
        .iter()
        .map(|(partition, (_, offset))| (partition.clone(), *offset))
        .collect();
    let times = times::look_up(&places, until).await;
    known(asked.into_iter().map(|(_, place)| place), times)
}

async fn times_there(peer: Arc<Peer>, places: Vec<OffsetAt>, until: Instant) -> Vec<(OffsetAt, Option<i64>)> {
    let mut times = Vec::with_capacity(places.len());
    for page in places.chunks(limits::TIMES_AT_ONCE) {
        let Some(within) = for_one_question(until) else {
            break;
        };
        if let Ok(told) = peer.times(page, within).await {
            times.extend(known(page.iter().copied(), told));
        }
    }
    times
}

fn known(places: impl Iterator<Item = OffsetAt>, times: Vec<times::Time>) -> Vec<(OffsetAt, Option<i64>)> {
    let told = places.zip(times);
    told.filter_map(|(place, time)| Some((place, time.ok()?))).collect()
}

/// How long the next question may take; `None`: there is no time left.
fn for_one_question(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    Some(left.min(limits::QUESTION_WITHIN)).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use millrace_engine::cluster::ElectionKind;
    use millrace_proto::{internal::v1::ForwardPlace, v1::ErrorReason};

    use super::*;
    use crate::testing::{PHANTOM, TestBroker, append, committed};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// Checks what is told in the end: each question has a deadline that passes on a machine that is busy with other
    /// things, although nothing is wrong.
    async fn check<T: PartialEq + std::fmt::Debug>(expected: T, ask: impl AsyncFn() -> T) {
        let until = soon();
        loop {
            let told = ask().await;
            if told == expected {
                return;
            }
            assert!(Instant::now() < until, "{told:?}, and not {expected:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn times_are_told_of_what_is_committed_here_and_elsewhere() {
        let test = TestBroker::start().await;
        let partition = test.partition("t", &[0]).await;
        for _ in 0..3 {
            append(&partition);
        }
        committed(&partition, 3).await;
        let (key, gone) = (partition.key(), (Uuid::from_u128(1), 0));
        let asked = BTreeSet::from([(key, 0), (key, 2), (key, 3), (gone, 0)]);
        // The batches of tests are of the first millisecond.
        let expected = HashMap::from([((key, 0), Some(1)), ((key, 2), Some(1)), ((key, 3), None)]);
        check(expected.clone(), async || {
            times_of(test.broker(), asked.clone(), soon()).await
        })
        .await;
        // The way on which another broker asks this one.
        let peer = test.broker().forward.peer(test.broker().config.node_id);
        let there = async |places: Vec<OffsetAt>| -> HashMap<OffsetAt, Option<i64>> {
            times_there(peer.clone(), places, soon()).await.into_iter().collect()
        };
        check(expected, async || there(asked.iter().copied().collect()).await).await;
        // More than one question holds, each of which has a bound.
        let many: Vec<OffsetAt> = (0..)
            .map(|offset| (key, offset))
            .take(limits::TIMES_AT_ONCE + 1)
            .collect();
        assert!(peer.times(&many, Duration::from_secs(60)).await.is_err());
        check(many.len(), async || there(many.clone()).await.len()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_looked_up_in_time_is_no_time() {
        let test = TestBroker::start().await;
        let partition = test.partition("t", &[0]).await;
        append(&partition);
        committed(&partition, 1).await;
        let place = (partition.key(), 0);
        let asked = ForwardPlace {
            topic_id: partition.key().0.as_bytes().to_vec().into(),
            ..ForwardPlace::default()
        };
        let told = times::tell(test.broker(), &[asked], Duration::ZERO)
            .await
            .times
            .remove(0);
        assert_eq!(
            told.error.map(|error| wire::error_in(error).reason()),
            Some(ErrorReason::Overloaded)
        );
        let now = Instant::now();
        assert!(times_of(test.broker(), [place].into(), now).await.is_empty());
        let peer = test.broker().forward.peer(test.broker().config.node_id);
        assert!(times_there(peer.clone(), vec![place], now).await.is_empty());
        assert!(ends_there(peer, vec![place.0], now).await.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_is_told_once_it_is_known_and_one_that_is_not_keeps_away_no_other() {
        let test = TestBroker::start().await;
        let sound = test.partition("sound", &[0]).await;
        let partition = test.partition("t", &[0, PHANTOM]).await;
        append(&partition);
        // The other replica is in sync and is not heard of under the new leader epoch.
        for replica in [PHANTOM, 0] {
            test.elect("t", ElectionKind::InSync { replica }).await;
        }
        let keys = BTreeSet::from([sound.key(), partition.key()]);
        let peer = test.broker().forward.peer(test.broker().config.node_id);
        let mut expected = BTreeMap::from([(sound.key(), 0)]);
        for known in [false, true] {
            if known {
                test.commit_by_phantom(&partition).await;
                expected.insert(partition.key(), 1);
            }
            let here = ends_of(test.broker(), keys.clone(), soon()).await;
            let here: BTreeMap<Key, i64> = here.iter().map(|(key, ends)| (*key, ends.high_watermark)).collect();
            assert_eq!(here, expected);
            let there = async || -> BTreeMap<Key, i64> {
                let told = ends_there(peer.clone(), keys.iter().copied().collect(), soon()).await;
                told.into_iter().map(|(key, ends)| (key, ends.high_watermark)).collect()
            };
            check(expected.clone(), there).await;
        }
    }
}
