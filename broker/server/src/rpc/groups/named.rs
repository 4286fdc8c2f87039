//! Topics and partitions as requests name them, and as answers do.

use std::{collections::HashSet, sync::Arc};

use millrace_engine::group::TopicPartition;
use millrace_proto::v1::{self, ErrorReason};
use uuid::Uuid;

use super::convert::partition_number;
use crate::{
    broker::Broker,
    error::{ApiError, unknown_topic},
    groups::Snapshot,
};

/// A topic by its id or, where there is none, its name.
///
/// # Errors
/// It is not known, or the id does not have 16 bytes.
pub fn topic_of(snapshot: &Snapshot, name: &str, id: &[u8]) -> Result<Uuid, ApiError> {
    if !id.is_empty() {
        return Uuid::from_slice(id).map_err(|_| ApiError::field("topic_id", "must have 16 bytes, or be empty"));
    }
    let known = snapshot.topics.named(name).map(|topic| topic.id);
    known.ok_or_else(|| unknown_topic(name))
}

/// The topics, with all that these names or ids stand for: where one is not known, a majority of the quorum has
/// confirmed that this broker knows all metadata.
///
/// # Errors
/// The quorum can't tell.
pub async fn topics_with<'a>(
    broker: &Broker,
    named: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<Arc<Snapshot>, ApiError> {
    let (snapshot, confirmed) = latest_with(broker, named).await;
    match confirmed {
        true => Ok(snapshot),
        false => Err(unconfirmed()),
    }
}

/// The same; false: one is not known, and the quorum can't tell now whether there is one.
pub async fn latest_with<'a>(
    broker: &Broker,
    mut named: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> (Arc<Snapshot>, bool) {
    let snapshot = broker.groups.topics(broker);
    if named.all(|(name, id)| is_known(&snapshot, name, id)) {
        return (snapshot, true);
    }
    let confirmed = broker.has_all_metadata().await;
    (broker.groups.topics(broker), confirmed)
}

/// Whether there is such a topic, as far as is known here; or no such id can be.
pub fn is_known(snapshot: &Snapshot, name: &str, id: &[u8]) -> bool {
    match Uuid::from_slice(id) {
        Ok(id) => snapshot.names.contains_key(&id),
        Err(_) => !id.is_empty() || snapshot.topics.named(name).is_some(),
    }
}

/// It can't be told whether there is a topic.
pub fn unconfirmed() -> ApiError {
    ApiError::new(
        ErrorReason::QuorumUnavailable,
        "This broker does not know a topic, and can't ask the metadata quorum now whether there is one: try again.",
    )
}

/// All partitions of a request, in its order, each once.
///
/// # Errors
/// One that is named twice, is no number, or of a topic that is not known.
pub async fn partitions_in(
    broker: &Broker,
    field: &str,
    topics: &[v1::TopicPartitions],
    most: usize,
) -> Result<Vec<TopicPartition>, ApiError> {
    check_count(field, topics, most)?;
    let named = topics.iter().map(|topic| (topic.topic.as_str(), &topic.topic_id[..]));
    let snapshot = topics_with(broker, named).await?;
    partitions_of(&snapshot, field, topics)
}

/// The same of what a member uses: an id that is not known is no less in use, and the quorum is not asked about it.
///
/// # Errors
/// As of [`partitions_in`].
pub async fn owned_in(
    broker: &Broker,
    field: &str,
    topics: &[v1::TopicPartitions],
    most: usize,
) -> Result<Vec<TopicPartition>, ApiError> {
    if topics.iter().any(|topic| topic.topic_id.is_empty()) {
        return partitions_in(broker, field, topics, most).await;
    }
    check_count(field, topics, most)?;
    partitions_of(&broker.groups.topics(broker), field, topics)
}

fn check_count(field: &str, topics: &[v1::TopicPartitions], most: usize) -> Result<(), ApiError> {
    let count: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
    if count > most {
        return Err(ApiError::field(
            field,
            format!("must name at most {most} partitions in all"),
        ));
    }
    Ok(())
}

fn partitions_of(
    snapshot: &Snapshot,
    field: &str,
    topics: &[v1::TopicPartitions],
) -> Result<Vec<TopicPartition>, ApiError> {
    let count: usize = topics.iter().map(|topic| topic.partitions.len()).sum();
    let mut partitions = Vec::with_capacity(count);
    let mut seen = HashSet::with_capacity(count);
    for topic in topics {
        let id = topic_of(snapshot, &topic.topic, &topic.topic_id)?;
        for number in &topic.partitions {
            let partition = partition_number(field, *number)?;
            let at = TopicPartition { topic: id, partition };
            if !seen.insert(at) {
                return Err(ApiError::field(field, "names a partition for the second time"));
            }
            partitions.push(at);
        }
    }
    Ok(partitions)
}

/// Partitions as an answer names them.
pub fn partitions_out(snapshot: &Snapshot, partitions: &[TopicPartition]) -> Vec<v1::TopicPartitions> {
    let mut sorted = partitions.to_vec();
    sorted.sort_unstable();
    sorted
        .chunk_by(|one, other| one.topic == other.topic)
        .map(|of_topic| v1::TopicPartitions {
            topic: name_of(snapshot, of_topic[0].topic),
            topic_id: id_out(of_topic[0].topic),
            partitions: of_topic.iter().map(|at| number_out(at.partition)).collect(),
        })
        .collect()
}

/// The topic's name; empty if it is not known (any more).
pub fn name_of(snapshot: &Snapshot, topic: Uuid) -> String {
    snapshot.names.get(&topic).cloned().unwrap_or_default()
}

/// An id as it is sent.
pub fn id_out(topic: Uuid) -> bytes::Bytes {
    topic.as_bytes().to_vec().into()
}

/// A partition's number as it is sent.
pub fn number_out(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}
