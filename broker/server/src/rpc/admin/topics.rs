//! Creating, deleting, listing and describing topics.

use millrace_engine::{
    Command, Topic,
    cluster::{CreateTopic, MAX_PARTITIONS_PER_TOPIC},
    names::check_new_topic_name,
};
use millrace_placement::{BrokerSpot, PlacementError, place_partitions};
use millrace_proto::v1::{self, ErrorReason};
use uuid::Uuid;

use super::{AdminService, configs};
use crate::{
    broker::Broker,
    error::{ApiError, out_of_range, unknown_topic},
    limits,
};

/// Replicas of a topic that names none, where there are brokers enough.
const USUAL_REPLICATION_FACTOR: usize = 3;

/// Creates a topic; when it answers, the topic can be written to.
///
/// # Errors
/// As of the request's fields, the placement and the metadata quorum.
pub async fn create(
    service: &AdminService,
    request: v1::CreateTopicRequest,
) -> Result<v1::CreateTopicResponse, ApiError> {
    let broker = &service.0;
    check_new_topic_name(&request.name)?;
    let configs = configs::to_map("configs", request.configs)?;
    let spots = spots(broker);
    let partitions = match request.partitions {
        None => broker.config.num_partitions as usize,
        Some(count) => partition_count("partitions", count)?,
    };
    let factor = match request.replication_factor {
        None => broker
            .config
            .default_replication_factor
            .unwrap_or_else(|| spots.len().clamp(1, USUAL_REPLICATION_FACTOR)),
        Some(factor) => usize::try_from(factor)
            .ok()
            .filter(|factor| *factor > 0)
            .ok_or_else(|| ApiError::field("replication_factor", "must be 1 or more"))?,
    };
    let id = Uuid::new_v4();
    let create = CreateTopic {
        name: request.name,
        id,
        assignments: place(&spots, partitions, factor)?,
        configs,
        now_ms: broker.now_ms(),
    };
    service
        .change(Command::CreateTopic(create), request.validate_only)
        .await?;
    Ok(v1::CreateTopicResponse {
        topic_id: id.as_bytes().to_vec().into(),
        partitions: count(partitions),
        replication_factor: count(factor),
    })
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn partition_count(field: &str, count: i32) -> Result<usize, ApiError> {
    usize::try_from(count)
        .ok()
        .filter(|count| (1..=MAX_PARTITIONS_PER_TOPIC).contains(count))
        .ok_or_else(|| ApiError::field(field, format!("must be 1 to {MAX_PARTITIONS_PER_TOPIC}")))
}

/// The brokers that can get replicas, with what they hold.
fn spots(broker: &Broker) -> Vec<BrokerSpot> {
    let cluster = broker.quorum.cluster();
    cluster
        .brokers
        .values()
        .filter(|known| !known.fenced)
        .map(|known| {
            let (replicas, leaders) =
                cluster
                    .replicas_of(known.id)
                    .fold((0, 0), |(replicas, leaders), (topic, number)| {
                        let preferred = topic
                            .partitions
                            .get(number as usize)
                            .and_then(|part| part.replicas.first());
                        (replicas + 1, leaders + usize::from(preferred == Some(&known.id)))
                    });
            BrokerSpot {
                id: known.id,
                rack: known.rack.clone(),
                replicas,
                leaders,
            }
        })
        .collect()
}

fn place(spots: &[BrokerSpot], partitions: usize, factor: usize) -> Result<Vec<Vec<i32>>, ApiError> {
    place_partitions(spots, partitions, factor).map_err(|error| match error {
        PlacementError::NotEnoughBrokers { wanted, brokers } => ApiError::new(
            ErrorReason::NotEnoughBrokers,
            format!(
                "A replication factor of {wanted} needs {wanted} brokers and {brokers} can be used: add brokers or ask for fewer replicas."
            ),
        )
        .with("brokers", brokers),
        PlacementError::NoReplicas => {
            ApiError::field("replication_factor", "must be 1 or more")
        }
    })
}

/// 16 bytes as an id; none if empty.
fn topic_id(bytes: &[u8]) -> Result<Option<Uuid>, ApiError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Uuid::from_slice(bytes)
        .map(Some)
        .map_err(|_| ApiError::field("topic_id", "must have 16 bytes, or be empty"))
}

/// Deletes a topic.
///
/// # Errors
/// Unknown name or id, or as of the metadata quorum.
pub async fn delete(
    service: &AdminService,
    request: v1::DeleteTopicRequest,
) -> Result<v1::DeleteTopicResponse, ApiError> {
    let id = topic_id(&request.topic_id)?;
    service
        .change(Command::DeleteTopic { name: request.name, id }, request.validate_only)
        .await?;
    Ok(v1::DeleteTopicResponse {})
}

fn summary(topic: &Topic) -> v1::TopicSummary {
    v1::TopicSummary {
        name: topic.name.clone(),
        topic_id: topic.id.as_bytes().to_vec().into(),
        partitions: count(topic.partitions.len()),
        replication_factor: count(topic.replication_factor()),
    }
}

/// A page of topics.
///
/// # Errors
/// A page size that is negative.
pub fn list(broker: &Broker, request: &v1::ListTopicsRequest) -> Result<v1::ListTopicsResponse, ApiError> {
    let size = match request.page_size {
        0 => limits::MAX_PAGE_SIZE,
        size => usize::try_from(size)
            .map_err(|_| ApiError::field("page_size", "must be 0 or more"))?
            .min(limits::MAX_PAGE_SIZE),
    };
    let cluster = broker.quorum.cluster();
    // The token is the last name of the page before: stable while topics come and go.
    let from = request.page_token.as_str().max(request.prefix.as_str());
    let mut found = cluster
        .topics
        .range(from.to_owned()..)
        .map(|(_, topic)| topic)
        .take_while(|topic| topic.name.starts_with(&request.prefix))
        .filter(|topic| request.page_token.is_empty() || topic.name > request.page_token);
    let topics: Vec<v1::TopicSummary> = found.by_ref().take(size).map(|topic| summary(topic)).collect();
    let next_page_token = match (found.next(), topics.last()) {
        (Some(_), Some(last)) => last.name.clone(),
        _ => String::new(),
    };
    Ok(v1::ListTopicsResponse {
        topics,
        next_page_token,
    })
}

/// All about a topic.
///
/// # Errors
/// Unknown name.
pub fn describe(broker: &Broker, request: &v1::DescribeTopicRequest) -> Result<v1::DescribeTopicResponse, ApiError> {
    let cluster = broker.quorum.cluster();
    let topic = cluster
        .topics
        .get(&request.name)
        .ok_or_else(|| unknown_topic(&request.name))?;
    let partitions = (0..)
        .zip(&topic.partitions)
        .map(|(number, partition)| {
            let described = v1::PartitionDescription {
                partition: number,
                leader_id: partition.leader,
                leader_epoch: partition.leader_epoch,
                replicas: partition.replicas.clone(),
                in_sync_replicas: partition.isr.clone(),
                ..Default::default()
            };
            match broker.partitions.find(&topic.name, number) {
                Ok(local) => {
                    let offsets = local.offsets();
                    v1::PartitionDescription {
                        log_start: Some(offsets.log_start),
                        high_watermark: Some(offsets.high_watermark),
                        log_end: Some(offsets.log_end),
                        size_bytes: Some(i64::try_from(local.size_bytes()).unwrap_or(i64::MAX)),
                        problem: local.problem().unwrap_or_default(),
                        ..described
                    }
                }
                Err(error) => v1::PartitionDescription {
                    problem: error.to_string(),
                    ..described
                },
            }
        })
        .collect();
    let configs = topic
        .configs
        .iter()
        .map(|(name, value)| v1::ConfigEntry {
            name: name.clone(),
            value: value.clone(),
        })
        .collect();
    Ok(v1::DescribeTopicResponse {
        topic: Some(summary(topic)),
        partitions,
        configs,
    })
}

/// Adds partitions.
///
/// # Errors
/// Fewer than there are, too many, or as of the metadata quorum.
pub async fn create_partitions(
    service: &AdminService,
    request: v1::CreatePartitionsRequest,
) -> Result<v1::CreatePartitionsResponse, ApiError> {
    let broker = &service.0;
    let wanted = partition_count("partitions", request.partitions)?;
    let cluster = broker.quorum.cluster();
    let topic = cluster
        .topics
        .get(&request.name)
        .ok_or_else(|| unknown_topic(&request.name))?;
    let present = topic.partitions.len();
    let added = wanted.checked_sub(present).ok_or_else(|| {
        ApiError::new(
            ErrorReason::NotSupported,
            format!(
                "The topic has {present} partitions, and partitions can't be taken away: create a new topic for fewer."
            ),
        )
        .with("partitions", present)
    })?;
    let command = Command::CreatePartitions {
        name: request.name,
        present: u32::try_from(present).unwrap_or(u32::MAX),
        added: place(&spots(broker), added, topic.replication_factor())?,
    };
    service.change(command, request.validate_only).await?;
    Ok(v1::CreatePartitionsResponse {
        partitions: count(wanted),
    })
}

/// Deletes a partition's messages before an offset.
///
/// # Errors
/// The offset is above what is readable; or the disk fails.
pub async fn delete_messages(
    service: &AdminService,
    request: v1::DeleteMessagesRequest,
) -> Result<v1::DeleteMessagesResponse, ApiError> {
    let partition = service.0.partitions.find(&request.topic, request.partition)?;
    let offsets = partition.offsets();
    let before = match request.before_offset {
        -1 => offsets.high_watermark,
        offset if offset < 0 => {
            return Err(ApiError::field("before_offset", "must be -1, or 0 or more"));
        }
        offset => offset,
    };
    if before > offsets.high_watermark {
        return Err(out_of_range(
            format!("Only messages below {} can be deleted.", offsets.high_watermark),
            offsets.log_start,
            offsets.high_watermark,
        ));
    }
    if request.validate_only {
        return Ok(v1::DeleteMessagesResponse {
            log_start: before.max(offsets.log_start),
        });
    }
    let log_start = tokio::task::spawn_blocking(move || partition.delete_before(before))
        .await
        .map_err(|error| ApiError::internal("deleting messages", &error))??;
    Ok(v1::DeleteMessagesResponse { log_start })
}
