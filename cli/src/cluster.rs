//! `millrace cluster`.

use jiff::Timestamp;
use millrace_client::v1::{BrokerDescription, DescribeClusterResponse};
use serde::Serialize;

use crate::{
    args::{ClusterCommand, GlobalArgs},
    connect,
    output::{OutputFormat, TextTable, age, fields, ids, plural, print, print_json},
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
}

#[derive(Serialize)]
struct Broker {
    broker_id: i32,
    address: String,
    rack: String,
    available: bool,
    version: String,
    partitions: i32,
    leader_partitions: i32,
    broker_epoch: i64,
    directory_id: String,
    registered_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct Quorum {
    leader: Option<i64>,
    term: i64,
    voters: Vec<i64>,
    applied_index: i64,
}

impl From<BrokerDescription> for Broker {
    fn from(from: BrokerDescription) -> Self {
        let registered_at = from
            .registered_at
            .and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
        Self {
            broker_id: from.broker_id,
            address: from.address,
            rack: from.rack,
            available: from.available,
            version: from.version,
            partitions: from.partitions,
            leader_partitions: from.leader_partitions,
            broker_epoch: from.broker_epoch,
            directory_id: from.directory_id,
            registered_at,
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
            }),
        }
    }
}

/// Shows it.
pub async fn run(command: ClusterCommand, global: &GlobalArgs) -> anyhow::Result<()> {
    let ClusterCommand::Describe = command;
    let client = connect::client(global).await?;
    let cluster = Cluster::from(client.admin().describe_cluster().await?);
    match global.output {
        OutputFormat::Text => Ok(print(&text(&cluster, Timestamp::now()))?),
        OutputFormat::Json => print_json(&cluster),
    }
}

fn text(cluster: &Cluster, now: Timestamp) -> String {
    let mut text = fields(&[
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
    ]);
    let header = [
        "BROKER",
        "ADDRESS",
        "STATE",
        "RACK",
        "PARTITIONS",
        "LEADER OF",
        "VERSION",
        "UP FOR",
    ];
    let mut table = TextTable::new(&header).right(&[0, 4, 5]);
    for broker in &cluster.brokers {
        let rack = if broker.rack.is_empty() { "-" } else { &broker.rack };
        table.row([
            broker.broker_id.to_string(),
            broker.address.clone(),
            if broker.available { "available" } else { "fenced" }.to_owned(),
            rack.to_owned(),
            broker.partitions.to_string(),
            broker.leader_partitions.to_string(),
            broker.version.clone(),
            broker
                .registered_at
                .map_or_else(|| "?".to_owned(), |time| age(time, now)),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

fn state(cluster: &Cluster) -> String {
    let fenced = cluster.brokers.iter().filter(|broker| !broker.available).count();
    let mut faults = Vec::new();
    if cluster.offline_partitions > 0 {
        faults.push(format!("{} partitions have no leader", cluster.offline_partitions));
    }
    if cluster.under_replicated_partitions > 0 {
        faults.push(format!(
            "{} partitions have fewer replicas in sync than they should",
            cluster.under_replicated_partitions
        ));
    }
    if fenced > 0 {
        faults.push(format!(
            "{fenced} of {} brokers are not available",
            cluster.brokers.len()
        ));
    }
    if cluster.quorum.as_ref().is_none_or(|quorum| quorum.leader.is_none()) {
        faults.push("the metadata quorum has no leader".to_owned());
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
        "leader: {leader}, voters: {}, term {}, applied index {}",
        ids(&quorum.voters),
        quorum.term,
        quorum.applied_index
    )
}

#[cfg(test)]
mod tests {
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
                ..BrokerDescription::default()
            })],
            quorum: Some(Quorum {
                leader: Some(0),
                term: 1,
                voters: vec![0],
                applied_index: 5,
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
            "2 partitions have no leader; 1 of 1 brokers are not available"
        );
        let mut headless = cluster();
        headless.quorum = None;
        assert_eq!(state(&headless), "the metadata quorum has no leader");
    }

    #[test]
    fn brokers_of_the_quorum_are_told_from_counts() {
        assert_eq!(
            quorum(cluster().quorum.as_ref()),
            "leader: broker 0, voters: [0], term 1, applied index 5"
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
}
