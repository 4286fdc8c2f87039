//! Describing the cluster.

use millrace_engine::{
    Cluster,
    cluster::{Broker as Registered, FenceReason, Health, MaintenanceSlot, PartitionList},
};
use millrace_proto::v1;

use super::{
    count, number,
    quorum::{broker_of, member_of},
    signed,
};
use crate::{broker::Broker, quorum::QuorumStatus, rpc::convert::ms_to_timestamp};

/// Brokers, quorum and what needs attention, as this broker knows it: it answers without a
/// quorum too, when that is what is wrong.
pub fn describe(broker: &Broker) -> v1::DescribeClusterResponse {
    let cluster = broker.quorum.cluster();
    let status = broker.quorum.status();
    let loads = cluster.loads();
    let health = cluster.health();
    let brokers = cluster.brokers.values().map(|known| {
        let load = loads.get(&known.id).copied().unwrap_or_default();
        v1::BrokerDescription {
            leader_partitions: count(load.leaders),
            partitions: count(load.replicas),
            preferred_leader_partitions: count(load.preferred),
            ..describe_broker(&cluster, &status, known)
        }
    });
    v1::DescribeClusterResponse {
        cluster_id: cluster.cluster_id.clone(),
        brokers: brokers.collect(),
        quorum: Some(describe_quorum(&cluster, &status)),
        topics: count(cluster.topics.len()),
        partitions: count(cluster.partition_count()),
        offline_partitions: count(usize::try_from(health.offline.count).unwrap_or(usize::MAX)),
        under_replicated_partitions: count(usize::try_from(health.under_replicated.count).unwrap_or(usize::MAX)),
        health: Some(describe_health(&health)),
        maintenance: current_slot(&cluster, broker.now_ms()),
    }
}

fn describe_broker(cluster: &Cluster, status: &QuorumStatus, known: &Registered) -> v1::BrokerDescription {
    let member = member_of(cluster, status, known.id);
    let fenced = known.fenced.then_some(known.fence_reason).flatten();
    v1::BrokerDescription {
        broker_id: known.id,
        address: known.address.clone(),
        rack: known.rack.clone(),
        available: !known.fenced,
        broker_epoch: known.epoch,
        directory_id: known.directory_id.to_string(),
        version: known.version.clone(),
        registered_at: ms_to_timestamp(known.registered_at_ms),
        fence_reason: fenced.map_or(v1::FenceReason::Unspecified, fence_reason).into(),
        shutting_down: known.shutting_down_at.is_some(),
        cordoned: known.cordoned,
        draining: known.draining,
        internal_address: known.internal_address.clone(),
        voter_id: member.map(|member| signed(member.voter_id)),
        is_voter: member.is_some_and(|member| member.is_voter),
        ..v1::BrokerDescription::default()
    }
}

fn fence_reason(reason: FenceReason) -> v1::FenceReason {
    match reason {
        FenceReason::Starting => v1::FenceReason::Starting,
        FenceReason::LeaseExpired => v1::FenceReason::LeaseExpired,
        FenceReason::DirectoryFailed => v1::FenceReason::DirectoryFailed,
        FenceReason::Requested => v1::FenceReason::Requested,
    }
}

fn describe_quorum(cluster: &Cluster, status: &QuorumStatus) -> v1::QuorumDescription {
    let broker = |voter_id: u64| {
        let member = status.members.iter().find(|member| member.voter_id == voter_id)?;
        broker_of(cluster, member).map(i64::from)
    };
    v1::QuorumDescription {
        leader_id: status.leader.and_then(broker),
        term: signed(status.term),
        voters: status.voters.iter().filter_map(|voter| broker(*voter)).collect(),
        applied_index: status.applied_index.map_or(-1, signed),
        leader_last_heard: status.leader_heard.and_then(|ago| ago.try_into().ok()),
    }
}

fn describe_health(health: &Health) -> v1::PartitionHealth {
    v1::PartitionHealth {
        offline: Some(listed(&health.offline)),
        under_min_in_sync: Some(listed(&health.under_min_isr)),
        at_min_in_sync: Some(listed(&health.at_min_isr)),
        under_replicated: Some(listed(&health.under_replicated)),
        moving: Some(listed(&health.moving)),
    }
}

/// Partitions as an answer lists them.
pub fn listed(list: &PartitionList) -> v1::PartitionList {
    v1::PartitionList {
        count: signed(list.count),
        first: list
            .first
            .iter()
            .map(|entry| v1::ListedPartition {
                topic: entry.partition.topic.clone(),
                partition: number(entry.partition.partition),
                reason: entry.reason.clone(),
            })
            .collect(),
    }
}

/// Who has the permission to take a broker down at this time.
pub fn current_slot(cluster: &Cluster, now_ms: i64) -> Option<v1::MaintenanceSlot> {
    cluster.maintenance_at(now_ms).map(describe_slot)
}

/// A permission as an answer shows it.
pub fn describe_slot(slot: &MaintenanceSlot) -> v1::MaintenanceSlot {
    v1::MaintenanceSlot {
        holder: slot.holder.clone(),
        broker_id: slot.broker_id,
        broker_epoch: slot.broker_epoch,
        until: ms_to_timestamp(slot.until_ms),
    }
}
