//! `Log.Metadata`: the cluster as this broker knows it, and each change.

use std::{collections::BTreeSet, sync::Arc};

use futures::Stream;
use millrace_engine::{Cluster, Topic};
use millrace_proto::v1;
use tonic::Status;

use crate::broker::Broker;

/// The present state and, if asked for, each later one.
pub fn stream(
    broker: Arc<Broker>,
    request: v1::MetadataRequest,
) -> impl Stream<Item = Result<v1::MetadataResponse, Status>> {
    struct State {
        broker: Arc<Broker>,
        changes: tokio::sync::watch::Receiver<Arc<Cluster>>,
        topics: BTreeSet<String>,
        follow: bool,
        last: Option<v1::MetadataResponse>,
    }
    let state = State {
        changes: broker.quorum.watch(),
        broker,
        topics: request.topics.into_iter().collect(),
        follow: request.follow,
        last: None,
    };
    futures::stream::unfold(state, |mut state| async move {
        loop {
            if state.last.is_some() {
                if !state.follow {
                    return None;
                }
                tokio::select! {
                    changed = state.changes.changed() => changed.ok()?,
                    () = state.broker.stopping.cancelled() => return None,
                }
            }
            let cluster = state.changes.borrow_and_update().clone();
            let answer = describe(&cluster, &state.topics);
            // Changes elsewhere in the cluster are not this caller's.
            let same = state
                .last
                .as_ref()
                .is_some_and(|last| (&last.brokers, &last.topics) == (&answer.brokers, &answer.topics));
            if !same {
                state.last = Some(answer.clone());
                return Some((Ok(answer), state));
            }
        }
    })
}

fn describe(cluster: &Cluster, topics: &BTreeSet<String>) -> v1::MetadataResponse {
    v1::MetadataResponse {
        cluster_id: cluster.cluster_id.clone(),
        version: i64::try_from(cluster.version).unwrap_or(i64::MAX),
        brokers: cluster
            .brokers
            .values()
            .map(|broker| v1::BrokerMetadata {
                broker_id: broker.id,
                address: broker.address.clone(),
                rack: broker.rack.clone(),
                available: !broker.fenced,
            })
            .collect(),
        topics: if topics.is_empty() {
            cluster.topics.values().map(|topic| describe_topic(topic)).collect()
        } else {
            topics
                .iter()
                .filter_map(|name| Some(describe_topic(cluster.topics.get(name)?)))
                .collect()
        },
    }
}

fn describe_topic(topic: &Topic) -> v1::TopicMetadata {
    v1::TopicMetadata {
        name: topic.name.clone(),
        topic_id: topic.id.as_bytes().to_vec().into(),
        partitions: (0..)
            .zip(&topic.partitions)
            .map(|(number, partition)| v1::PartitionMetadata {
                partition: number,
                leader_id: partition.leader,
                leader_epoch: partition.leader_epoch,
                replicas: partition.replicas.clone(),
                in_sync_replicas: partition.isr.clone(),
            })
            .collect(),
    }
}
