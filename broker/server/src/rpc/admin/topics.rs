//! Creating, deleting, listing and describing topics.

use millrace_engine::{
    Cluster, Command, Partition, Topic,
    cluster::{CreateTopic, MAX_PARTITIONS_PER_TOPIC},
    names::{check_new_topic_name, check_topic_name},
};
use millrace_proto::v1::{self, ErrorReason};
use uuid::Uuid;

use super::{
    AdminService, configs, count, drain, moves,
    moves::throttle_field,
    owners::{check_as_owner, in_name_of, owner_in, owner_out},
    page_size, placement, preview,
};
use crate::{
    broker::Broker,
    error::ApiError,
    forward::{self, Inventories, Target, take_inventories, unasked},
    groups::check_not_internal,
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
    let cluster = broker.quorum.cluster();
    let partitions = match request.partitions {
        None => broker.config.num_partitions as usize,
        Some(count) => partition_count("partitions", count)?,
    };
    let factor = match request.replication_factor {
        None => broker
            .config
            .default_replication_factor
            .unwrap_or_else(|| placement::targets(&cluster).clamp(1, USUAL_REPLICATION_FACTOR)),
        Some(factor) => usize::try_from(factor)
            .ok()
            .filter(|factor| *factor > 0)
            .ok_or_else(|| ApiError::field("replication_factor", "must be 1 or more"))?,
    };
    let id = Uuid::new_v4();
    let create = CreateTopic {
        name: request.name,
        id,
        assignments: placement::place(&cluster, id, partitions, factor)?,
        configs,
        now_ms: broker.now_ms(),
        owner: request.owner.map(|owner| owner_in("owner", owner)).transpose()?,
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

fn partition_count(field: &str, count: i32) -> Result<usize, ApiError> {
    usize::try_from(count)
        .ok()
        .filter(|count| (1..=MAX_PARTITIONS_PER_TOPIC).contains(count))
        .ok_or_else(|| ApiError::field(field, format!("must be 1 to {MAX_PARTITIONS_PER_TOPIC}")))
}

/// 16 bytes as an id; none if empty.
///
/// # Errors
/// Another number of bytes.
pub fn topic_id(bytes: &[u8]) -> Result<Option<Uuid>, ApiError> {
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
    check_topic_name(&request.name)?;
    check_not_internal(&request.name)?;
    let name = request.name.clone();
    let delete = in_name_of(request.as_owner, &request.name, Command::DeleteTopic { name, id })?;
    service.change(delete, request.validate_only).await?;
    Ok(v1::DeleteTopicResponse {})
}

fn summary(topic: &Topic) -> v1::TopicSummary {
    v1::TopicSummary {
        name: topic.name.clone(),
        topic_id: topic.id.as_bytes().to_vec().into(),
        partitions: count(topic.partitions.len()),
        replication_factor: count(topic.replication_factor()),
        owner: topic.owner.as_ref().map(owner_out),
    }
}

/// A page of topics.
///
/// # Errors
/// A page size that is negative.
pub fn list(broker: &Broker, request: &v1::ListTopicsRequest) -> Result<v1::ListTopicsResponse, ApiError> {
    let size = page_size(request.page_size)?;
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
/// Unknown name, or the metadata quorum can't tell whether there is one.
pub async fn describe(
    broker: &Broker,
    request: &v1::DescribeTopicRequest,
) -> Result<v1::DescribeTopicResponse, ApiError> {
    let (cluster, topic) = broker.topic(&request.name).await?;
    let told = forward::describe(broker, &topic).await;
    let partitions = (0u32..)
        .zip(&topic.partitions)
        .zip(told)
        .map(|((number, partition), told)| {
            let described = describe_record(&cluster, &topic, super::number(number), partition);
            match told {
                // The metadata says why nobody can be asked.
                _ if partition.leader.is_none() => described,
                Ok(told) => v1::PartitionDescription {
                    log_start: Some(told.offsets.log_start),
                    high_watermark: Some(told.offsets.high_watermark),
                    log_end: Some(told.offsets.log_end),
                    size_bytes: Some(i64::try_from(told.size_bytes).unwrap_or(i64::MAX)),
                    problem: told.problem,
                    ..described
                },
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
        topic: Some(summary(&topic)),
        partitions,
        configs,
    })
}

/// What the metadata says of a partition.
fn describe_record(cluster: &Cluster, topic: &Topic, number: i32, partition: &Partition) -> v1::PartitionDescription {
    let min_in_sync = cluster.min_insync_replicas(topic);
    let survival = partition.survival(min_in_sync);
    v1::PartitionDescription {
        partition: number,
        leader_id: partition.leader,
        leader_epoch: partition.leader_epoch,
        replicas: partition.replicas.clone(),
        in_sync_replicas: partition.isr.clone(),
        problem: match partition.leader {
            None => without_leader(partition),
            Some(_) => String::new(),
        },
        eligible_leader_replicas: partition.elr.clone(),
        last_known_eligible_replicas: partition.last_known_elr.clone(),
        last_known_leader_id: partition.last_known_leader,
        adding_replicas: partition.adding.clone(),
        removing_replicas: partition.removing.clone(),
        partition_epoch: partition.partition_epoch,
        required_in_sync_replicas: count(partition.required(min_in_sync)),
        survival: Some(v1::Survival {
            promised_losses: count(survival.promised_losses),
            losses_now: count(survival.losses_now),
            outages_now: count(survival.outages_now),
            text: survival.to_string(),
        }),
        recovering: partition.recovering,
        ..v1::PartitionDescription::default()
    }
}

/// What to do for a partition that nobody leads.
fn without_leader(partition: &Partition) -> String {
    if !partition.elr.is_empty() {
        return format!(
            "it has no leader: start one of the brokers {:?}, which hold all acknowledged messages",
            partition.elr
        );
    }
    let asked = match &partition.last_known_elr[..] {
        [] => &partition.replicas,
        known => known,
    };
    format!(
        "it has no leader, and no replica surely holds all acknowledged messages: bring the brokers {asked:?} back, or give up what is lost by an unclean election among them"
    )
}

/// Changes settings and the replication factor.
///
/// # Errors
/// Nothing to change, an unknown topic or key, a value that is not allowed, a throttle out of bounds, replicas that have no
/// place to go: nothing is changed.
pub async fn alter(service: &AdminService, request: v1::AlterTopicRequest) -> Result<v1::AlterTopicResponse, ApiError> {
    throttle_field(request.throttle_bytes_per_second)?;
    check_as_owner(request.as_owner.as_ref())?;
    let told = match request.replication_factor {
        Some(factor) => {
            let cluster = service.latest().await?;
            let (topic, factor) = drain::check_factor(&cluster, &request.name, factor)?;
            if topic
                .partitions
                .iter()
                .any(|partition| partition.original().len() < factor)
            {
                take_inventories(&service.0, &cluster, &[]).await
            } else {
                // No disk gets anything: that a broker is slow to tell must not cost it its replicas.
                unasked(&cluster)
            }
        }
        None => Inventories::new(),
    };
    alter_told(service, request, &told).await
}

/// The same by what the brokers have told.
pub async fn alter_told(
    service: &AdminService,
    request: v1::AlterTopicRequest,
    told: &Inventories,
) -> Result<v1::AlterTopicResponse, ApiError> {
    let (name, set, unset) = (request.name, request.set_configs, request.unset_configs);
    let owner = request.as_owner;
    let throttle = throttle_field(request.throttle_bytes_per_second)?;
    let Some(factor) = request.replication_factor else {
        if throttle.is_some() {
            return Err(ApiError::field(
                "throttle_bytes_per_second",
                "must be 0 where replication_factor is not to change",
            ));
        }
        let settings = in_name_of(owner, &name, configs::command(&name, set, unset)?)?;
        service.change(settings, request.validate_only).await?;
        return Ok(v1::AlterTopicResponse::default());
    };
    let settings = match set.is_empty() && unset.is_empty() {
        true => None,
        false => Some(in_name_of(owner.clone(), &name, configs::command(&name, set, unset)?)?),
    };
    let in_its_name = |command| in_name_of(owner.clone(), &name, command);
    let cluster = service.latest().await?;
    // Also where no replica has to move: who is not the owner learns it.
    preview(
        &cluster,
        &in_its_name(Command::ReassignPartitions { moves: Vec::new() })?,
    )?;
    let settled = drain::plan_replication_factor(&cluster, &name, factor, throttle, told)?;
    if let Some(settings) = &settings {
        preview(&cluster, settings)?;
    }
    let planned = settled.planned(&cluster);
    if !request.validate_only {
        if let Some(settings) = settings {
            service.submit(settings).await?;
        }
        moves::carry_out(service, settled.moves, in_its_name).await?;
    }
    Ok(v1::AlterTopicResponse { moves: Some(planned) })
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
    check_not_internal(&request.name)?;
    let (cluster, topic) = broker.topic(&request.name).await?;
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
        name: request.name.clone(),
        present: u32::try_from(present).unwrap_or(u32::MAX),
        added: placement::place(&cluster, topic.id, added, topic.replication_factor())?,
    };
    let command = in_name_of(request.as_owner, &request.name, command)?;
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
    let before = match request.before_offset {
        -1 => None,
        offset if offset < 0 => {
            return Err(ApiError::field("before_offset", "must be -1, or 0 or more"));
        }
        offset => Some(offset),
    };
    let broker = &service.0;
    check_not_internal(&request.topic)?;
    let (cluster, topic) = broker.topic(&request.topic).await?;
    // Says if there is no such partition.
    broker.partitions.config_of(&cluster, &topic, request.partition)?;
    let target = Target::new(&topic, request.partition);
    let log_start = forward::delete_messages(broker, &target, before, request.validate_only).await?;
    Ok(v1::DeleteMessagesResponse { log_start })
}
