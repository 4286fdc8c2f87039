//! The lag of the groups that this broker coordinates, for the metrics: looked up now and then in the background, so
//! that a scrape asks nobody.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use millrace_engine::group::{
    Answer, GroupId, GroupRejection, MAX_LISTED_GROUPS, MAX_PARTITIONS_PER_REQUEST, Position, Request, TopicPartition,
};
use tokio::time::Instant;

use super::{
    Coordinator,
    lag::{self, Place},
};
use crate::{
    broker::Broker,
    limits,
    metrics::{GroupLag, GroupLags},
};

/// A partition that a group reads, and where it goes on there.
#[derive(Debug)]
struct Read {
    /// Which coordinator has it.
    coordinator: u32,
    group: GroupId,
    at: TopicPartition,
    /// `None`: at the oldest record.
    next: Option<i64>,
}

/// The same with what is left.
#[derive(Debug)]
struct Behind {
    read: Read,
    /// The first record that is left.
    place: Place,
    /// How many are left.
    records: i64,
}

/// Looks until the broker stops.
pub async fn run(broker: Arc<Broker>) {
    let mut times = HashMap::new();
    let mut pause = limits::GROUP_LAG_FIRST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = broker.stopping.cancelled() => return,
        }
        let lags = look(&broker, &mut times).await;
        broker.metrics.group_lags.set(lags);
        // Others may have taken some over while it looked.
        super::retain_lags(&broker);
        pause = limits::GROUP_LAG_EVERY;
    }
}

/// Looks once. `times`: of the places that were looked at last; a record's time does not change, so that a group that
/// stands still is not read for again. `None`: others may coordinate them.
async fn look(broker: &Arc<Broker>, times: &mut HashMap<Place, i64>) -> Option<GroupLags> {
    let running: Vec<(u32, Arc<Coordinator>)> = {
        let running = broker.groups.running.lock();
        running.iter().map(|(number, one)| (*number, one.clone())).collect()
    };
    let mut lags = GroupLags::default();
    let mut reads = Vec::new();
    for (number, coordinator) in running {
        let before = reads.len();
        // What one that can't tell now has told before it failed would pass for all that it has.
        match gather(number, &coordinator, &mut reads).await {
            Ok(omitted) => lags.omitted += omitted,
            Err(_) => reads.truncate(before),
        }
    }
    if !broker.lease.wait(limits::GROUP_LEASE_WAIT).await {
        return None;
    }
    let until = Instant::now() + limits::GROUP_LAG_WITHIN;
    let sources = lag::ends(broker, reads.iter().map(|read| read.at).collect::<Vec<_>>(), until).await;
    let mut all: Vec<Behind> = Vec::with_capacity(reads.len());
    for read in reads {
        let Some(source) = sources.get(&read.at) else {
            lags.unknown += 1;
            continue;
        };
        let (next, records) = lag::behind(read.next, &source.offsets());
        let place = (read.at, next);
        all.push(Behind { read, place, records });
    }
    lags.omitted += keep_largest(&mut all, limits::GROUP_LAG_SERIES);
    let now_ms = broker.now_ms();
    let left = all.iter().filter(|behind| behind.records > 0);
    let mut known: HashMap<Place, i64> = HashMap::new();
    let mut places = BTreeMap::new();
    for Behind { place, .. } in left {
        if let Some(time_ms) = times.get(place) {
            known.insert(*place, *time_ms);
        } else if let Some(source) = sources.get(&place.0) {
            places.insert(*place, source.clone());
        }
    }
    known.extend(lag::times(places, until).await);
    let snapshot = broker.groups.topics(broker);
    lags.partitions = all
        .into_iter()
        .filter_map(|behind| {
            let waiting_ms = match behind.records {
                0 => Some(0),
                _ => known
                    .get(&behind.place)
                    .map(|time_ms| now_ms.saturating_sub(*time_ms).max(0)),
            };
            Some(GroupLag {
                coordinator: behind.read.coordinator,
                group: behind.read.group,
                topic: snapshot.names.get(&behind.read.at.topic)?.as_str().into(),
                partition: behind.read.at.partition,
                records: behind.records,
                waiting_ms,
            })
        })
        .collect();
    *times = known;
    Some(lags)
}

/// Puts the largest first and takes away those beyond `most`; answers how many. Ties: by group and partition, so that
/// the same ones are told each time.
fn keep_largest(all: &mut Vec<Behind>, most: usize) -> usize {
    all.sort_unstable_by(|one, other| {
        let (one_is, other_is) = ((&one.read.group, one.read.at), (&other.read.group, other.read.at));
        other.records.cmp(&one.records).then_with(|| one_is.cmp(&other_is))
    });
    let omitted = all.len().saturating_sub(most);
    all.truncate(most);
    omitted
}

/// All that a coordinator's groups read, up to the bound for all; answers how many partitions are beyond that.
async fn gather(number: u32, coordinator: &Coordinator, reads: &mut Vec<Read>) -> Result<usize, GroupRejection> {
    let mut omitted = 0;
    let mut after = String::new();
    loop {
        let asked = Request::List {
            after: after.clone(),
            limit: MAX_LISTED_GROUPS,
        };
        let Answer::Groups { groups, more } = coordinator.ask(asked, None, None).await? else {
            return Ok(omitted);
        };
        if let Some(last) = groups.last() {
            after = last.group.to_string();
        }
        // What can't be read has no offsets that could be told.
        for listed in groups.into_iter().filter(|listed| listed.state.is_some()) {
            omitted += gather_group(number, coordinator, &listed.group, reads).await?;
        }
        if !more {
            return Ok(omitted);
        }
    }
}

async fn gather_group(
    coordinator_number: u32,
    coordinator: &Coordinator,
    group: &GroupId,
    reads: &mut Vec<Read>,
) -> Result<usize, GroupRejection> {
    let (mut omitted, mut after) = (0, None);
    loop {
        let asked = Request::OffsetPage {
            group: group.clone(),
            after,
            limit: MAX_PARTITIONS_PER_REQUEST,
        };
        let (positions, more) = match coordinator.ask(asked, None, None).await {
            Ok(Answer::OffsetPage { positions, more }) => (positions, more),
            // It was deleted meanwhile.
            Ok(_) | Err(GroupRejection::GroupNotFound { .. }) => return Ok(omitted),
            Err(error) => return Err(error),
        };
        after = positions.last().map(|(at, _)| *at);
        for (at, position) in positions {
            let next = match position {
                Position::Committed { offset, .. } => Some(offset),
                Position::Beginning => None,
                // Where it begins is not known.
                Position::Pending | Position::None => continue,
            };
            if reads.len() >= limits::GROUP_LAG_LOOKED_AT {
                omitted += 1;
                continue;
            }
            reads.push(Read {
                coordinator: coordinator_number,
                group: group.clone(),
                at,
                next,
            });
        }
        if !more {
            return Ok(omitted);
        }
    }
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

    #[test]
    fn the_largest_are_kept_and_of_equal_ones_always_the_same() {
        let mut all = vec![
            behind("b", 0, 1),
            behind("a", 1, 1),
            behind("a", 0, 1),
            behind("c", 0, 0),
            behind("z", 9, 500),
        ];
        assert_eq!(keep_largest(&mut all, 3), 2);
        let kept: Vec<_> = all.iter().map(|of| (&*of.read.group, of.read.at.partition)).collect();
        assert_eq!(kept, [("z", 9), ("a", 0), ("a", 1)]);
        assert_eq!(keep_largest(&mut all, 3), 0);
        assert_eq!(all.len(), 3);
    }
}
