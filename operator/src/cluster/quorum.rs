//! Who votes on the metadata. The first three voters come by themselves (`quorum.auto.voters`); here the others, the
//! votes of brokers that leave, and fewer when fewer are wanted. A voter that is lost is for a person to take away:
//! nobody can tell a lost one from one that comes back.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::SignedDuration;

use super::{
    decide::{Step, is_serving},
    seen::{Seen, Told},
    wishes::Wishes,
};

/// A broker gets a vote when it was ready for so long: one that comes and goes must not count in a majority.
const READY_FOR: SignedDuration = SignedDuration::from_mins(5);
/// So many entries of the metadata log a voter may lack: it must not hold up the majority that needs it.
const MAX_LAG: i64 = 1000;

/// The next change of the voters, if there is one to make: one at a time, each seen before the next.
#[must_use]
pub fn step(seen: &Seen, told: &Told, wishes: &Wishes) -> Option<Step> {
    told.quorum_leader()?;
    let voters = told.voters();
    let stay = |id: i32| id < wishes.replicas && told.broker(id).is_some_and(|broker| !broker.draining);
    let staying: BTreeSet<i32> = voters.iter().copied().filter(|id| stay(*id)).collect();
    let wanted = usize::try_from(wishes.voters).unwrap_or(1);

    if staying.len() < wanted {
        let next = candidates(seen, told, wishes, &voters, staying.len() < voters.len());
        if let Some(next) = next {
            return Some(Step::AddVoter(next));
        }
    }
    if staying.len() >= wanted && staying.iter().all(|id| told.broker(*id).is_some_and(is_serving)) {
        // Its broker has another disk by somebody's word, and the old one will never be let in again; all who are to
        // vote do.
        if let Some(lost) = told.lost_voter() {
            return Some(Step::RemoveLostVoter(lost.voter_id));
        }
    }
    // Without anybody to take its place a voter that leaves keeps its vote, unless that is not needed.
    let replaced = staying.len() >= wanted || staying.len() >= largest_odd(wishes, told);
    // Only of who has been emptied: a scale-in that is refused changes nothing.
    let empty = |id: i32| {
        told.broker(id)
            .is_some_and(|broker| broker.draining && broker.partitions == 0)
    };
    let leaving = voters
        .iter()
        .rev()
        .copied()
        .filter(|id| !stay(*id) && *id >= wishes.replicas && empty(*id));
    if replaced && !staying.is_empty() {
        let mut leaving: Vec<i32> = leaving.collect();
        leaving.sort_by_key(|id| (Some(*id) == told.quorum_leader(), -id));
        if let Some(first) = leaving.first() {
            return Some(Step::RemoveVoter(*first));
        }
    }
    if staying.len() > wanted && voters.len() == staying.len() {
        return excess(told, &staying).map(Step::RemoveVoter);
    }
    None
}

/// As many voters as the brokers that stay can be, also those that are away at the moment.
fn largest_odd(wishes: &Wishes, told: &Told) -> usize {
    let able = told.cluster.brokers.iter();
    let able = able
        .filter(|broker| broker.broker_id < wishes.replicas && !broker.draining)
        .count();
    if able % 2 == 0 { able.saturating_sub(1) } else { able }
}

/// The broker to give a vote next: in the rack with the fewest voters, then the lowest number.
fn candidates(seen: &Seen, told: &Told, wishes: &Wishes, voters: &BTreeSet<i32>, replaces: bool) -> Option<i32> {
    // The first three come by themselves at once, which is where a broker that is in no hurry may begin.
    let hurries = replaces || voters.len() < usize::try_from(wishes.auto_voters()).unwrap_or_default();
    let racks = by_rack(told, voters);
    let mut able: Vec<i32> = told
        .cluster
        .brokers
        .iter()
        .filter(|broker| broker.broker_id < wishes.replicas && is_serving(broker))
        .map(|broker| broker.broker_id)
        .filter(|id| !voters.contains(id) && follows_closely(told, *id))
        .filter(|id| {
            let since = seen
                .pods
                .get(id)
                .filter(|pod| pod.is_ready())
                .and_then(|pod| pod.ready_since);
            since.is_some_and(|since| hurries || seen.now.duration_since(since) >= READY_FOR)
        })
        .collect();
    able.sort_by_key(|id| (racks.get(rack(told, *id)).copied().unwrap_or_default(), *id));
    // An even number outlives no more failures than one less: the first of two comes only if the second can follow.
    let odd_after = (voters.len() + 1) % 2 == 1;
    (odd_after || replaces || able.len() > 1).then(|| able.first().copied())?
}

/// The voter that is one too many: in the rack with the most, the highest number, and the leader last.
fn excess(told: &Told, voters: &BTreeSet<i32>) -> Option<i32> {
    let racks = by_rack(told, voters);
    voters.iter().copied().max_by_key(|id| {
        (
            Some(*id) != told.quorum_leader(),
            racks.get(rack(told, *id)).copied().unwrap_or_default(),
            *id,
        )
    })
}

fn by_rack<'a>(told: &'a Told, voters: &BTreeSet<i32>) -> BTreeMap<&'a str, usize> {
    let mut racks = BTreeMap::new();
    for id in voters {
        *racks.entry(rack(told, *id)).or_default() += 1;
    }
    racks
}

fn rack(told: &Told, id: i32) -> &str {
    told.broker(id).map_or("", |broker| broker.rack.as_str())
}

fn follows_closely(told: &Told, id: i32) -> bool {
    told.member(id)
        .is_some_and(|member| member.lag_entries.is_none_or(|lag| lag <= MAX_LAG))
}

/// The brokers that do not vote, each with the reason, in words.
#[must_use]
pub fn without_vote(told: &Told, wishes: &Wishes) -> BTreeMap<i32, String> {
    let voters = told.voters();
    let others = (0..wishes.replicas).filter(|id| !voters.contains(id));
    others.map(|id| (id, why_no_vote(told, id))).collect()
}

fn why_no_vote(told: &Told, id: i32) -> String {
    let why = match (told.broker(id), told.member(id)) {
        (None, _) => "is not registered",
        (Some(broker), _) if broker.draining || broker.shutting_down => "is about to leave",
        (Some(broker), _) if !broker.available => "does not serve",
        (_, None) => "does not follow the metadata",
        (_, Some(member)) => match member.lag_entries {
            Some(lag) if lag > MAX_LAG => return format!("lacks {lag} entries of the metadata's log"),
            _ => "could, and its turn is next",
        },
    };
    why.to_owned()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use millrace_client::v1;
    use serde_json::json;

    use super::*;
    use crate::cluster::seen::Pod;

    /// Brokers 0 to `brokers`, three racks in turn; those in `voters` vote, and all have been ready for an hour.
    fn seen(replicas: i32, brokers: i32, voters: &[i32], leaving: &[i32]) -> (Seen, Told) {
        let now = Timestamp::from_second(100_000).unwrap();
        let ready = Pod {
            running: true,
            ready_since: Some(Timestamp::from_second(96_400).unwrap()),
            ..Pod::default()
        };
        let spec = json!({ "replicas": replicas, "storage": { "size": "1Gi" } });
        let seen = Seen {
            pods: (0..brokers).map(|id| (id, ready.clone())).collect(),
            ..Seen::bare(now, &spec)
        };
        let broker = |id: i32| v1::BrokerDescription {
            broker_id: id,
            available: true,
            draining: leaving.contains(&id),
            rack: format!("zone-{}", id % 3),
            ..v1::BrokerDescription::default()
        };
        let told = Told {
            cluster: v1::DescribeClusterResponse {
                brokers: (0..brokers).map(broker).collect(),
                quorum: Some(v1::QuorumDescription {
                    leader_id: Some(voters[0].into()),
                    ..v1::QuorumDescription::default()
                }),
                ..v1::DescribeClusterResponse::default()
            },
            members: (0..brokers)
                .map(|id| v1::QuorumMember {
                    broker_id: Some(id),
                    is_voter: voters.contains(&id),
                    ..v1::QuorumMember::default()
                })
                .collect(),
            ..Told::default()
        };
        (seen, told)
    }

    fn next(replicas: i32, brokers: i32, voters: &[i32], leaving: &[i32]) -> Option<Step> {
        let (seen, told) = seen(replicas, brokers, voters, leaving);
        step(&seen, &told, &Wishes::of(&seen.cluster))
    }

    #[test]
    fn five_brokers_get_five_voters_one_after_another() {
        assert_eq!(next(5, 5, &[0, 1, 2], &[]), Some(Step::AddVoter(3)));
        assert_eq!(next(5, 5, &[0, 1, 2, 3], &[]), Some(Step::AddVoter(4)));
        assert_eq!(next(5, 5, &[0, 1, 2, 3, 4], &[]), None);
        assert_eq!(
            next(5, 4, &[0, 1, 2], &[]),
            None,
            "four would outlive no more than three"
        );
    }

    #[test]
    fn a_broker_that_has_just_come_waits() {
        let (mut seen, told) = seen(5, 5, &[0, 1, 2], &[]);
        for id in [3, 4] {
            seen.pods.get_mut(&id).unwrap().ready_since = Some(seen.now);
        }
        assert_eq!(step(&seen, &told, &Wishes::of(&seen.cluster)), None);
    }

    #[test]
    fn who_leaves_is_replaced_before_its_vote_goes() {
        assert_eq!(
            next(3, 5, &[0, 3, 4], &[3, 4]),
            Some(Step::AddVoter(2)),
            "in the rack without a voter"
        );
        assert_eq!(next(3, 5, &[0, 2, 3, 4], &[3, 4]), Some(Step::AddVoter(1)));
        assert_eq!(next(3, 5, &[0, 1, 2, 3, 4], &[3, 4]), Some(Step::RemoveVoter(4)));
        assert_eq!(next(3, 5, &[0, 1, 2, 3], &[3, 4]), Some(Step::RemoveVoter(3)));
        assert_eq!(next(3, 5, &[0, 1, 2], &[3, 4]), None);
        assert_eq!(
            next(3, 5, &[4, 0, 1, 2, 3], &[3, 4]),
            Some(Step::RemoveVoter(3)),
            "the leader last"
        );
    }

    #[test]
    fn fewer_voters_leave_the_fullest_rack_first_and_never_the_leader() {
        assert_eq!(next(1, 3, &[2, 0, 1], &[1, 2]), Some(Step::RemoveVoter(1)));
        assert_eq!(next(4, 4, &[0, 1, 2, 3], &[]), Some(Step::RemoveVoter(3)));
    }

    #[test]
    fn the_vote_of_a_disk_that_was_replaced_goes_last() {
        // As the brokers tell it: the broker's number stays with the vote of its former disk.
        let lost = v1::QuorumMember {
            voter_id: 3,
            broker_id: Some(2),
            directory_id: "former".into(),
            is_voter: true,
            ..v1::QuorumMember::default()
        };
        let step_with = |voters: &[i32], away: Option<usize>| {
            let (seen, mut told) = seen(3, 3, voters, &[]);
            told.members.push(lost.clone());
            if let Some(away) = away {
                told.cluster.brokers[away].available = false;
            }
            step(&seen, &told, &Wishes::of(&seen.cluster))
        };
        assert_eq!(step_with(&[0, 1], None), Some(Step::AddVoter(2)));
        assert_eq!(step_with(&[0, 1, 2], Some(1)), None, "with one away it may be needed");
        assert_eq!(step_with(&[0, 1, 2], None), Some(Step::RemoveLostVoter(3)));
    }

    #[test]
    fn nothing_is_changed_without_a_leader() {
        let (seen, mut told) = seen(5, 5, &[0, 1, 2], &[]);
        told.cluster.quorum = None;
        assert_eq!(step(&seen, &told, &Wishes::of(&seen.cluster)), None);
    }
}
