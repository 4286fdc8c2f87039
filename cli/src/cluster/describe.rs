//! `millrace cluster describe`.

use jiff::Timestamp;
use millrace_client::{
    Admin,
    v1::{DescribeClusterResponse, PartitionHealth, PartitionList},
};
use serde::Serialize;

use crate::{
    broker::{Broker, Maintenance, table},
    output::{OutputFormat, count, fields, ids, millis, plural, tell},
};

#[derive(Serialize)]
struct Cluster {
    cluster_id: String,
    topics: i32,
    partitions: i32,
    offline_partitions: i32,
    under_replicated_partitions: i32,
    brokers: Vec<Broker>,
    quorum: Option<Quorum>,
    maintenance: Option<Maintenance>,
    health: Health,
}

/// Partitions that are not as they should be.
#[derive(Default, Serialize)]
struct Health {
    offline: Partitions,
    under_min_in_sync: Partitions,
    at_min_in_sync: Partitions,
    under_replicated: Partitions,
    moving: Partitions,
}

/// Partitions, counted and the first of them named.
#[derive(Default, Serialize)]
pub struct Partitions {
    /// How many there are.
    pub count: i64,
    first: Vec<Partition>,
}

#[derive(Serialize)]
struct Partition {
    topic: String,
    partition: i32,
    reason: String,
}

#[derive(Serialize)]
struct Quorum {
    leader: Option<i64>,
    term: i64,
    voters: Vec<i64>,
    applied_index: i64,
    leader_last_heard_ms: Option<i64>,
}

impl From<PartitionList> for Partitions {
    fn from(from: PartitionList) -> Self {
        Self {
            count: from.count,
            first: from
                .first
                .into_iter()
                .map(|one| Partition {
                    topic: one.topic,
                    partition: one.partition,
                    reason: one.reason,
                })
                .collect(),
        }
    }
}

impl Partitions {
    /// A line for each that is named, and how many are not.
    pub fn lines(&self) -> String {
        let mut text: String = self
            .first
            .iter()
            .map(|one| format!("  {}-{}: {}\n", one.topic, one.partition, one.reason))
            .collect();
        let named = i64::try_from(self.first.len()).unwrap_or(i64::MAX);
        if self.count > named {
            text.push_str(&format!("  and {} more\n", count(self.count - named)));
        }
        text
    }
}

impl From<PartitionHealth> for Health {
    fn from(from: PartitionHealth) -> Self {
        let list = |list: Option<PartitionList>| list.unwrap_or_default().into();
        Self {
            offline: list(from.offline),
            under_min_in_sync: list(from.under_min_in_sync),
            at_min_in_sync: list(from.at_min_in_sync),
            under_replicated: list(from.under_replicated),
            moving: list(from.moving),
        }
    }
}

impl From<DescribeClusterResponse> for Cluster {
    fn from(from: DescribeClusterResponse) -> Self {
        Self {
            cluster_id: from.cluster_id,
            topics: from.topics,
            partitions: from.partitions,
            offline_partitions: from.offline_partitions,
            under_replicated_partitions: from.under_replicated_partitions,
            brokers: from.brokers.into_iter().map(Broker::from).collect(),
            quorum: from.quorum.map(|quorum| Quorum {
                leader: quorum.leader_id,
                term: quorum.term,
                voters: quorum.voters,
                applied_index: quorum.applied_index,
                leader_last_heard_ms: quorum.leader_last_heard.and_then(millis),
            }),
            maintenance: from.maintenance.map(Maintenance::from),
            health: from.health.unwrap_or_default().into(),
        }
    }
}

/// Shows it.
pub async fn run(admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let cluster = Cluster::from(admin.describe_cluster().await?);
    tell(format, &text(&cluster, Timestamp::now()), &cluster)
}

fn text(cluster: &Cluster, now: Timestamp) -> String {
    let mut rows = vec![
        ("Cluster id", cluster.cluster_id.clone()),
        ("State", state(cluster)),
        (
            "Topics",
            format!(
                "{} with {}",
                cluster.topics,
                plural(u64::from(cluster.partitions.unsigned_abs()), "partition")
            ),
        ),
        ("Metadata quorum", quorum(cluster.quorum.as_ref())),
    ];
    if let Some(maintenance) = &cluster.maintenance {
        rows.push(("Maintenance", maintenance.text()));
    }
    let mut text = fields(&rows);
    text.push('\n');
    text.push_str(&table(&cluster.brokers, now));
    let health = &cluster.health;
    for (what, partitions) in [
        ("without a leader, neither written nor read", &health.offline),
        ("with too few replicas in sync to be written", &health.under_min_in_sync),
        ("that stop when one more broker is down", &health.at_min_in_sync),
        (
            "with fewer replicas in sync than they should have",
            &health.under_replicated,
        ),
        ("that move", &health.moving),
    ] {
        if partitions.count > 0 {
            let counted = plural(partitions.count.unsigned_abs(), "partition");
            text.push_str(&format!("\n{counted} {what}:\n{}", partitions.lines()));
        }
    }
    text
}

fn state(cluster: &Cluster) -> String {
    let mut faults = Vec::new();
    let mut have = |number: i64, what: &str| {
        if number > 0 {
            let verb = if number == 1 { "has" } else { "have" };
            faults.push(format!("{} {verb} {what}", plural(number.unsigned_abs(), "partition")));
        }
    };
    have(i64::from(cluster.offline_partitions), "no leader");
    have(
        cluster.health.under_min_in_sync.count,
        "too few replicas in sync to be written",
    );
    have(
        i64::from(cluster.under_replicated_partitions),
        "fewer replicas in sync than they should",
    );
    let fenced = cluster.brokers.iter().filter(|broker| !broker.available).count();
    if fenced > 0 {
        let verb = if fenced == 1 { "is" } else { "are" };
        let brokers = plural(cluster.brokers.len() as u64, "broker");
        faults.push(format!("{fenced} of {brokers} {verb} not available"));
    }
    let votes: Vec<i64> = cluster.quorum.iter().flat_map(|quorum| quorum.voters.clone()).collect();
    let casts = |id: &i64| cluster.brokers.iter().any(|broker| broker.casts_vote_of(*id));
    let dead: Vec<i64> = votes.into_iter().filter(|id| !casts(id)).collect();
    if !dead.is_empty() {
        faults.push(format!(
            "nobody casts the votes of {}, whose disks have gone: millrace quorum describe tells them",
            ids(&dead)
        ));
    }
    if cluster.quorum.as_ref().is_none_or(|quorum| quorum.leader.is_none()) {
        let heard = cluster.quorum.as_ref().and_then(|quorum| quorum.leader_last_heard_ms);
        let since = heard.map_or_else(
            || "the broker that was asked has heard of none since it started".to_owned(),
            |ms| format!("the last sign of one was {}s ago", ms / 1_000),
        );
        faults.push(format!(
            "the metadata quorum has no leader: {since}, and all that is shown here may be as old"
        ));
    }
    if faults.is_empty() {
        "healthy".to_owned()
    } else {
        faults.join("; ")
    }
}

fn quorum(quorum: Option<&Quorum>) -> String {
    let Some(quorum) = quorum else {
        return "unknown".to_owned();
    };
    let leader = quorum
        .leader
        .map_or_else(|| "none".to_owned(), |id| format!("broker {id}"));
    format!(
        "leader: {leader}, voting brokers: {}, term {}, applied index {}",
        ids(&quorum.voters),
        quorum.term,
        quorum.applied_index
    )
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::{BrokerDescription, ListedPartition};

    use super::*;

    fn cluster() -> Cluster {
        Cluster {
            cluster_id: "c".into(),
            topics: 1,
            partitions: 3,
            offline_partitions: 0,
            under_replicated_partitions: 0,
            brokers: vec![Broker::from(BrokerDescription {
                address: "h:9650".into(),
                available: true,
                is_voter: true,
                ..BrokerDescription::default()
            })],
            maintenance: None,
            health: Health::default(),
            quorum: Some(Quorum {
                leader: Some(0),
                term: 1,
                voters: vec![0],
                applied_index: 5,
                leader_last_heard_ms: Some(40),
            }),
        }
    }

    #[test]
    fn a_cluster_is_healthy_only_if_nothing_is_wrong() {
        assert_eq!(state(&cluster()), "healthy");
        let mut offline = cluster();
        offline.offline_partitions = 2;
        offline.brokers[0].available = false;
        assert_eq!(
            state(&offline),
            "2 partitions have no leader; 1 of 1 broker is not available"
        );
        let mut unwritable = cluster();
        unwritable.health.under_min_in_sync.count = 1;
        unwritable.under_replicated_partitions = 1;
        assert_eq!(
            state(&unwritable),
            "1 partition has too few replicas in sync to be written; 1 partition has fewer replicas in sync than they \
             should"
        );
    }

    /// Its broker came back with another disk, whose vote is another one.
    #[test]
    fn a_vote_that_nobody_casts_is_told() {
        let mut replaced = cluster();
        replaced.quorum.as_mut().unwrap().voters = vec![0, 2];
        assert!(state(&replaced).starts_with("nobody casts the votes of [2], whose disks have gone"));
    }

    #[test]
    fn without_a_leader_of_the_quorum_nothing_is_taken_for_healthy() {
        let mut headless = cluster();
        let quorum = headless.quorum.as_mut().unwrap();
        (quorum.leader, quorum.leader_last_heard_ms) = (None, Some(20_400));
        assert_eq!(
            state(&headless),
            "the metadata quorum has no leader: the last sign of one was 20s ago, and all that is shown here may be as \
             old"
        );
        headless.quorum = None;
        let state = state(&headless);
        assert!(
            state.contains("no leader: the broker that was asked has heard of none since"),
            "{state}"
        );
    }

    #[test]
    fn brokers_of_the_quorum_are_told_from_counts() {
        assert_eq!(
            quorum(cluster().quorum.as_ref()),
            "leader: broker 0, voting brokers: [0], term 1, applied index 5"
        );
        assert_eq!(quorum(None), "unknown");
    }

    #[test]
    fn brokers_are_a_table() {
        let text = text(&cluster(), Timestamp::UNIX_EPOCH);
        assert!(
            text.lines()
                .any(|line| line.contains("h:9650") && line.contains("available")),
            "{text}"
        );
    }

    #[test]
    fn partitions_that_need_attention_are_named() {
        let mut cluster = cluster();
        assert!(!text(&cluster, Timestamp::UNIX_EPOCH).contains("\n\n1 partition"));
        cluster.health.under_replicated = PartitionList {
            count: 22,
            first: vec![ListedPartition {
                topic: "orders".into(),
                partition: 3,
                reason: "not in sync: [2]".into(),
            }],
        }
        .into();
        let text = text(&cluster, Timestamp::UNIX_EPOCH);
        assert!(
            text.ends_with(
                "\n22 partitions with fewer replicas in sync than they should have:\n  orders-3: not in sync: [2]\n  and \
                 21 more\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn who_maintains_a_broker_is_told() {
        let mut cluster = cluster();
        cluster.maintenance = Some(Maintenance::from(millrace_client::v1::MaintenanceSlot {
            holder: "pod-2".into(),
            broker_id: 2,
            ..Default::default()
        }));
        let text = text(&cluster, Timestamp::UNIX_EPOCH);
        assert!(
            text.contains("Maintenance:      broker 2, by \"pod-2\" until ?\n"),
            "{text}"
        );
    }
}
