//! `Log.Metadata`: the cluster as this broker knows it, and each change.
//!
//! Hundreds of clients follow the whole of it, so that it is described and encoded once for each
//! change, and what waits for slow readers is the same memory for all.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::Stream;
use millrace_engine::{Cluster, Topic};
use millrace_proto::v1;
use parking_lot::Mutex;
use prost::Message as _;
use tonic::Status;

use crate::{broker::Broker, memory::StreamState};

/// The description of all topics that was encoded last.
#[derive(Debug, Default)]
pub struct SharedMetadata(Mutex<Option<(u64, Bytes)>>);

/// An encoded answer in two parts; a message's parts may stand one behind the other.
#[derive(Clone, Debug)]
pub struct EncodedMetadata {
    /// The cluster's id and the version.
    head: Bytes,
    /// Brokers and topics.
    content: Bytes,
}

impl SharedMetadata {
    /// Brokers and all topics of `cluster`, encoded: the same memory as before if they are the
    /// same as before.
    fn content(&self, cluster: &Cluster) -> Bytes {
        let mut last = self.0.lock();
        if let Some((version, content)) = &*last
            && *version == cluster.version
        {
            return content.clone();
        }
        let mut content = encode(cluster, &BTreeSet::new());
        // A stream may still be at an older version: the newer one stays.
        let newer = last.as_ref().is_none_or(|(version, _)| *version < cluster.version);
        if let Some((_, known)) = last.as_ref().filter(|(_, known)| *known == content) {
            content = known.clone();
        }
        if newer {
            *last = Some((cluster.version, content.clone()));
        }
        content
    }
}

impl EncodedMetadata {
    /// The answer's message in two chunks, the first with the prefix of a gRPC message that is not
    /// compressed: a byte and the length.
    #[must_use]
    pub fn chunks(self) -> [Bytes; 2] {
        let length = self.head.len() + self.content.len();
        let mut first = BytesMut::with_capacity(5 + self.head.len());
        first.put_u8(0);
        // Millions of partitions are below 4 GiB.
        first.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        first.put_slice(&self.head);
        [first.freeze(), self.content]
    }

    /// The answer as a message.
    ///
    /// # Errors
    /// None that is not a fault of the encoding.
    pub fn decode(&self) -> Result<v1::MetadataResponse, Status> {
        let mut response = v1::MetadataResponse::decode(self.head.clone());
        if let Ok(response) = &mut response {
            response
                .merge(self.content.clone())
                .map_err(|error| Status::internal(error.to_string()))?;
        }
        response.map_err(|error| Status::internal(error.to_string()))
    }
}

/// What a caller was told last.
#[derive(Debug, PartialEq, Eq)]
enum Last {
    /// All topics: memory that others share.
    All(Bytes),
    /// Those it named; what they were told is not kept for each caller.
    Named(u64),
}

impl Last {
    fn of(content: &Bytes, named: bool) -> Self {
        if !named {
            return Self::All(content.clone());
        }
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self::Named(hasher.finish())
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All(one), Self::All(other)) if one.as_ptr() == other.as_ptr() && one.len() == other.len() => true,
            _ => self == other,
        }
    }
}

/// The present state and, if asked for, each later one. What it remembers is held by `memory`.
pub fn stream(
    broker: Arc<Broker>,
    shared: Arc<SharedMetadata>,
    request: v1::MetadataRequest,
    memory: StreamState,
) -> impl Stream<Item = EncodedMetadata> {
    struct State {
        broker: Arc<Broker>,
        shared: Arc<SharedMetadata>,
        changes: tokio::sync::watch::Receiver<Arc<Cluster>>,
        topics: BTreeSet<String>,
        follow: bool,
        last: Option<Last>,
        _memory: StreamState,
    }
    let state = State {
        changes: broker.quorum.watch(),
        broker,
        shared,
        topics: request.topics.into_iter().collect(),
        follow: request.follow,
        last: None,
        _memory: memory,
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
            let mut cluster = state.changes.borrow_and_update().clone();
            let is_unknown = |name: &String| !cluster.topics.contains_key(name);
            if state.last.is_none() && state.topics.iter().any(is_unknown) {
                // It may be this broker that has not heard of it yet.
                state.broker.has_all_metadata().await;
                cluster = state.changes.borrow_and_update().clone();
            }
            let content = if state.topics.is_empty() {
                state.shared.content(&cluster)
            } else {
                encode(&cluster, &state.topics)
            };
            // Changes elsewhere in the cluster are not this caller's.
            let now = Last::of(&content, !state.topics.is_empty());
            if !state.last.as_ref().is_some_and(|last| last.is(&now)) {
                state.last = Some(now);
                let answer = EncodedMetadata {
                    head: encode_head(&cluster),
                    content,
                };
                return Some((answer, state));
            }
        }
    })
}

fn encode_head(cluster: &Cluster) -> Bytes {
    v1::MetadataResponse {
        cluster_id: cluster.cluster_id.clone(),
        version: i64::try_from(cluster.version).unwrap_or(i64::MAX),
        ..Default::default()
    }
    .encode_to_vec()
    .into()
}

fn encode(cluster: &Cluster, topics: &BTreeSet<String>) -> Bytes {
    describe(cluster, topics).encode_to_vec().into()
}

/// Brokers, and the named topics or all.
fn describe(cluster: &Cluster, topics: &BTreeSet<String>) -> v1::MetadataResponse {
    v1::MetadataResponse {
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
        ..Default::default()
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

#[cfg(test)]
mod tests {
    use millrace_engine::cluster::RegisterBroker;
    use uuid::Uuid;

    use super::*;

    fn cluster(version: u64) -> Cluster {
        Cluster {
            cluster_id: "c".into(),
            version,
            ..Cluster::default()
        }
    }

    #[test]
    fn all_followers_share_one_encoded_answer() {
        let shared = SharedMetadata::default();
        let mut first = cluster(1);
        first
            .apply(
                2,
                &millrace_engine::Command::RegisterBroker(RegisterBroker {
                    broker_id: 1,
                    incarnation: Uuid::from_u128(1),
                    cluster_id: "c".into(),
                    directory_id: Uuid::from_u128(2),
                    address: "a:1".into(),
                    rack: String::new(),
                    version: "1".into(),
                    now_ms: 1,
                }),
            )
            .unwrap();
        let one = shared.content(&first);
        assert_eq!(one.as_ptr(), shared.content(&first).as_ptr());
        first.version += 1; // as of something that is not described
        assert_eq!(
            one.as_ptr(),
            shared.content(&first).as_ptr(),
            "the same content is kept"
        );
        let answer = EncodedMetadata {
            head: encode_head(&first),
            content: one,
        };
        let decoded = answer.decode().unwrap();
        assert_eq!((decoded.cluster_id.as_str(), decoded.brokers.len()), ("c", 1));
        assert_eq!(decoded.version, i64::try_from(first.version).unwrap());
        let bytes = answer.chunks().concat();
        assert_eq!(
            bytes[..5],
            [&[0][..], &u32::try_from(bytes.len() - 5).unwrap().to_be_bytes()].concat()
        );
        assert_eq!(v1::MetadataResponse::decode(&bytes[5..]).unwrap(), decoded);
    }
}
