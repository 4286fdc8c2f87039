//! The lag of the groups that this broker coordinates, for the metrics: looked up now and then in the background, so
//! that a scrape asks nobody.
//!
//! Each question has a deadline, and what it leaves unknown is absent and counted: it keeps nothing of the others away.

mod gather;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use millrace_engine::group::{GroupId, TopicPartition};
use tokio::time::Instant;

use self::gather::{Read, gather};
use super::{
    Coordinator,
    lag::{self, Place},
};
use crate::{
    broker::Broker,
    limits,
    metrics::{GroupLag, GroupLags},
};

/// A partition that a group reads, with what is left of it.
#[derive(Debug)]
struct Behind {
    read: Read,
    /// The first record that is left.
    place: Place,
    /// How many are left.
    records: i64,
}

/// What one look leaves to the next.
#[derive(Debug, Default)]
struct Memory {
    /// The times that are told, and when they were looked up: a group that stands still is not looked up for again.
    times: HashMap<Place, (i64, Instant)>,
    /// Whose lags are told.
    told: HashSet<(GroupId, TopicPartition)>,
}

/// Looks until the broker stops.
pub async fn run(broker: Arc<Broker>) {
    let mut memory = Memory::default();
    let mut pause = limits::GROUP_LAG_FIRST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = broker.stopping.cancelled() => return,
        }
        let lags = look(&broker, &mut memory).await;
        broker.metrics.group_lags.set(lags);
        // Others may have taken some over while it looked.
        super::retain_lags(&broker);
        pause = limits::GROUP_LAG_EVERY;
    }
}

/// Looks once. `None`: others may coordinate them.
async fn look(broker: &Broker, memory: &mut Memory) -> Option<GroupLags> {
    let running: BTreeMap<u32, Arc<Coordinator>> = {
        let running = broker.groups.running.lock();
        running.iter().map(|(number, one)| (*number, one.clone())).collect()
    };
    let gathered = gather(&running, Instant::now() + limits::GROUP_LAG_OFFSETS_WITHIN).await;
    if !broker.lease.wait(limits::GROUP_LEASE_WAIT).await {
        return None;
    }
    let mut lags = GroupLags {
        omitted: gathered.omitted,
        unknown_groups: gathered.unknown_groups,
        ..GroupLags::default()
    };
    let until = Instant::now() + limits::GROUP_LAG_LEADERS_WITHIN;
    let ends = lag::ends(broker, gathered.reads.iter().map(|read| read.at), until).await;
    let mut all: Vec<Behind> = Vec::with_capacity(gathered.reads.len());
    for read in gathered.reads {
        let Some(ends) = ends.get(&read.at) else {
            lags.unknown += 1;
            continue;
        };
        let (next, records) = lag::behind(read.next, ends);
        let place = (read.at, next);
        all.push(Behind { read, place, records });
    }
    lags.omitted += keep_largest(&mut all, &memory.told, limits::GROUP_LAG_SERIES);
    let told = all.iter().map(|behind| (behind.read.group.clone(), behind.read.at));
    memory.told = told.collect();
    let places: HashSet<Place> = all
        .iter()
        .filter(|behind| behind.records > 0)
        .map(|behind| behind.place)
        .collect();
    let until = Instant::now() + limits::GROUP_LAG_LEADERS_WITHIN;
    let not_told = memory.look_up_times(broker, &places, until).await;
    lags.unknown += all.iter().filter(|behind| not_told.contains(&behind.place)).count();
    let now_ms = broker.now_ms();
    let snapshot = broker.groups.topics(broker);
    let partitions = all.into_iter().filter_map(|behind| {
        Some(GroupLag {
            coordinator: behind.read.coordinator,
            topic: snapshot.names.get(&behind.read.at.topic)?.as_str().into(),
            partition: behind.read.at.partition,
            waiting_ms: memory.waiting_ms(&behind, now_ms),
            group: behind.read.group,
            records: behind.records,
        })
    });
    lags.partitions = partitions.collect();
    Some(lags)
}

impl Memory {
    /// Looks up the times at these places that are not known or have been for long, and forgets all others. Answers with
    /// those that nobody has told.
    async fn look_up_times(&mut self, broker: &Broker, places: &HashSet<Place>, until: Instant) -> HashSet<Place> {
        let now = Instant::now();
        self.times.retain(|place, (_, since)| {
            places.contains(place) && now.duration_since(*since) < limits::GROUP_LAG_TIME_KEPT
        });
        let asked = places.iter().filter(|place| !self.times.contains_key(*place));
        let mut asked: HashSet<Place> = asked.copied().collect();
        for (place, time_ms) in lag::times(broker, asked.iter().copied(), until).await {
            asked.remove(&place);
            if let Some(time_ms) = time_ms {
                self.times.insert(place, (time_ms, now));
            }
        }
        asked
    }

    /// For how long the first record that is left has been waiting; `None`: not known, or it has no time.
    fn waiting_ms(&self, behind: &Behind, now_ms: i64) -> Option<i64> {
        if behind.records == 0 {
            return Some(0);
        }
        let (time_ms, _) = self.times.get(&behind.place)?;
        Some(now_ms.saturating_sub(*time_ms).max(0))
    }
}

/// Puts the largest first and takes away those beyond `most`; answers how many. Those that were `told` last count as
/// larger than they are, so that the same ones are told as long as there is no great difference. Ties: by group and
/// partition, so that it is the same ones each time, too.
fn keep_largest(all: &mut Vec<Behind>, told: &HashSet<(GroupId, TopicPartition)>, most: usize) -> usize {
    let omitted = all.len().saturating_sub(most);
    let weight = |behind: &Behind| {
        let key = (behind.read.group.clone(), behind.read.at);
        let weight = match omitted > 0 && told.contains(&key) {
            true => behind.records.max(limits::GROUP_LAG_ALIKE).saturating_mul(2),
            false => behind.records,
        };
        (Reverse(weight), key)
    };
    all.sort_by_cached_key(weight);
    all.truncate(most);
    omitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(group: &str, partition: u32, records: i64) -> Behind {
        let at = TopicPartition {
            topic: uuid::Uuid::nil(),
            partition,
        };
        Behind {
            read: Read {
                coordinator: 0,
                group: group.into(),
                at,
                next: Some(7),
            },
            place: (at, 7),
            records,
        }
    }

    fn kept(all: &[Behind]) -> HashSet<(GroupId, TopicPartition)> {
        all.iter().map(|of| (of.read.group.clone(), of.read.at)).collect()
    }

    #[test]
    fn the_largest_are_kept_and_of_equal_ones_always_the_same() {
        let none = HashSet::new();
        let mut all = vec![
            behind("b", 0, 1),
            behind("a", 1, 1),
            behind("a", 0, 1),
            behind("c", 0, 0),
            behind("z", 9, 500),
        ];
        assert_eq!(keep_largest(&mut all, &none, 3), 2);
        let names: Vec<_> = all.iter().map(|of| (&*of.read.group, of.read.at.partition)).collect();
        assert_eq!(names, [("z", 9), ("a", 0), ("a", 1)]);
        assert_eq!(keep_largest(&mut all, &none, 3), 0);
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn who_is_told_goes_on_to_be_told_until_another_is_far_more_behind() {
        let look = |told: &HashSet<_>, lags: [(&str, i64); 4]| {
            let mut all = lags.map(|(group, records)| behind(group, 0, records)).into();
            assert_eq!(keep_largest(&mut all, told, 2), 2);
            kept(&all)
        };
        let groups = |told: &HashSet<(GroupId, TopicPartition)>| {
            let mut names: Vec<String> = told.iter().map(|(group, _)| group.to_string()).collect();
            names.sort();
            names.concat()
        };
        let first = look(&HashSet::new(), [("a", 1_000), ("b", 3), ("c", 2), ("d", 1)]);
        assert_eq!(groups(&first), "ab");
        // What comes and goes between two commits.
        let second = look(&first, [("a", 900), ("b", 0), ("c", 90), ("d", 200)]);
        assert_eq!(groups(&second), "ab");
        let third = look(&second, [("a", 900), ("b", 0), ("c", 1_700), ("d", 201)]);
        assert_eq!(groups(&third), "ac", "more than twice as far behind");
        let fourth = look(&third, [("a", 900), ("b", 0), ("c", 1_700), ("d", 1_801)]);
        assert_eq!(groups(&fourth), "cd");
    }
}
