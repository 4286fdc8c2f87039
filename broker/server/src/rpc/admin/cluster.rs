//! Describing the cluster.

use millrace_proto::v1;

use crate::{broker::Broker, rpc::convert::ms_to_timestamp};

/// Brokers, quorum and counts as this broker knows them.
pub fn describe(broker: &Broker) -> v1::DescribeClusterResponse {
    let cluster = broker.quorum.cluster();
    let status = broker.quorum.status();
    let partitions = || cluster.topics.values().flat_map(|topic| &topic.partitions);
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    v1::DescribeClusterResponse {
        cluster_id: cluster.cluster_id.clone(),
        brokers: cluster
            .brokers
            .values()
            .map(|known| v1::BrokerDescription {
                broker_id: known.id,
                address: known.address.clone(),
                rack: known.rack.clone(),
                available: !known.fenced,
                broker_epoch: known.epoch,
                directory_id: known.directory_id.to_string(),
                version: known.version.clone(),
                registered_at: ms_to_timestamp(known.registered_at_ms),
                leader_partitions: count(partitions().filter(|part| part.leader == Some(known.id)).count()),
                partitions: count(partitions().filter(|part| part.replicas.contains(&known.id)).count()),
            })
            .collect(),
        quorum: Some(v1::QuorumDescription {
            leader_id: status.leader.map(signed),
            term: signed(status.term),
            voters: status.voters.into_iter().map(signed).collect(),
            applied_index: status.applied_index.map_or(-1, signed),
        }),
        topics: count(cluster.topics.len()),
        partitions: count(cluster.partition_count()),
        offline_partitions: count(partitions().filter(|part| part.leader.is_none()).count()),
        under_replicated_partitions: count(partitions().filter(|part| part.isr.len() < part.replicas.len()).count()),
    }
}
