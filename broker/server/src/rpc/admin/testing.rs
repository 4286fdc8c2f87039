//! Clusters and quorums for tests of rules.

use std::{collections::BTreeMap, time::Duration};

use millrace_engine::{Broker, Cluster, Command, Outcome, cluster::CreateTopic};
use uuid::Uuid;

use crate::{
    forward::{Inventories, unasked},
    quorum::{MemberStatus, QuorumStatus},
};

/// The disk of a test's broker.
pub fn directory_of(broker: i32) -> Uuid {
    Uuid::from_u128(1_000 + u128::from(broker.unsigned_abs()))
}

/// Brokers in service that hold nothing.
pub fn cluster_of(brokers: &[i32]) -> Cluster {
    let mut cluster = Cluster::default();
    for &id in brokers {
        let broker = Broker {
            id,
            epoch: i64::from(id),
            incarnation: Uuid::from_u128(u128::from(id.unsigned_abs())),
            directory_id: directory_of(id),
            address: format!("broker-{id}:9650"),
            rack: String::new(),
            version: "1".into(),
            registered_at_ms: 0,
            fenced: false,
            fence_reason: None,
            internal_address: String::new(),
            shutting_down_at: None,
            cordoned: false,
            draining: false,
            leased: true,
            proven: true,
            last_served_epoch: Some(i64::from(id)),
            expected_directory: None,
        };
        cluster.brokers.insert(id, broker);
    }
    cluster
}

/// The same with a topic `t` whose partitions have these replicas.
pub fn with_topic(brokers: &[i32], assignments: Vec<Vec<i32>>) -> Cluster {
    let mut cluster = cluster_of(brokers);
    let create = CreateTopic {
        name: "t".into(),
        id: Uuid::from_u128(1),
        assignments,
        configs: BTreeMap::new(),
        now_ms: 0,
        owner: None,
    };
    let done = cluster.apply(100, &Command::CreateTopic(create)).unwrap();
    assert_eq!(done, Outcome::Done);
    cluster
}

/// All brokers have told, and have room.
pub fn roomy(cluster: &Cluster) -> Inventories {
    unasked(cluster)
}

/// A quorum of members (voter id, broker, whether it votes) as its leader sees it, all there.
pub fn status_of(members: &[(u64, i32, bool)], leader: Option<u64>) -> QuorumStatus {
    let ids = |votes: bool| {
        let of = members.iter().filter(move |(_, _, is_voter)| *is_voter == votes);
        of.map(|(id, _, _)| *id).collect()
    };
    QuorumStatus {
        leader,
        leader_heard: Some(Duration::ZERO),
        term: 1,
        voters: ids(true),
        learners: ids(false),
        members: members
            .iter()
            .map(|(voter_id, broker, is_voter)| MemberStatus {
                voter_id: *voter_id,
                directory_id: directory_of(*broker),
                address: format!("broker-{broker}:9651"),
                is_voter: *is_voter,
                lag_entries: Some(0),
                last_heard: Some(Duration::ZERO),
            })
            .collect(),
        committed_index: Some(5),
        applied_index: Some(5),
    }
}
