//! Offsets that an operator sets: looked up at the partitions' leaders, then stored by the coordinator.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millrace_engine::{
    Topic,
    group::{Answer, MAX_PARTITIONS_PER_REQUEST, Request as Asked, ResetOffsets, TopicPartition, check_group_id},
};
use millrace_proto::{
    internal::v1::{GroupsCall, GroupsReset, GroupsResetOutcome, GroupsResetPartition, GroupsResetResult},
    v1::{self, Edge, ErrorReason, group_offset::Position, reset_offsets_request::Target, start::At},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Origin,
    convert::partition_number,
    named::{self, id_out, name_of, number_out, topic_of},
    route::{Call, ask, call},
    unexpected,
};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome},
    forward::{error_in, error_out, find_sources},
    groups::Coordinator,
    limits,
    rpc::convert::timestamp_to_ms,
};

/// Offsets are asked for in parts of so many: with the longest texts beside them these are a message of the usual size.
const AT_ONCE: usize = 400;

/// What is known of a partition whose offset is to be set.
#[derive(Debug, Default)]
struct Part {
    position: Option<Position>,
    /// Where it is to go, once that is known; `None` within: it is forgotten.
    after: Option<Option<i64>>,
    error: Option<ApiError>,
}

impl Part {
    fn before(&self) -> Option<i64> {
        match &self.position {
            Some(Position::Committed(committed)) => Some(committed.offset),
            _ => None,
        }
    }
}

/// Sets offsets.
///
/// # Errors
/// Of the request as a whole; what becomes of each partition is in the answer.
pub(super) async fn reset(
    broker: &Arc<Broker>,
    request: v1::ResetOffsetsRequest,
    origin: &Origin,
) -> Result<v1::ResetOffsetsResponse, ApiError> {
    check_group_id(&request.group)?;
    let target = check(request.target)?;
    let expected_version = version_in(&request.expected_version)?;
    let mut parts = parts(broker, &request, origin).await?;
    if parts.is_empty() {
        // A group without offsets, or a name that is misspelt.
        let describe = v1::DescribeGroupRequest {
            group: request.group.clone(),
            page_size: 1,
            ..v1::DescribeGroupRequest::default()
        };
        call(broker, describe, origin).await?;
    }
    look_up(broker, &target, &mut parts).await;
    let ready = parts.iter().filter_map(|(at, part)| Some((*at, part.after?)));
    let set = GroupsReset {
        group: request.group,
        partitions: ready
            .map(|(at, offset)| GroupsResetPartition {
                topic_id: id_out(at.topic),
                partition: at.partition,
                offset,
            })
            .collect(),
        validate_only: request.validate_only,
        expected_version,
    };
    // Also with none: the coordinator judges the group.
    let result = call(broker, set, origin).await?;
    let asked = parts.values().filter(|part| part.after.is_some()).count();
    if result.outcomes.len() != asked {
        let told = result.outcomes.len();
        let error = format!("told {told} outcomes for {asked} partitions");
        return Err(ApiError::internal("a group's coordinator", &error).outcome(WriteOutcome::Unknown));
    }
    let asked = parts.values_mut().filter(|part| part.after.is_some());
    for (part, outcome) in asked.zip(result.outcomes) {
        part.error = outcome.error.map(error_in);
    }
    let snapshot = broker.groups.topics(broker);
    let partitions = parts.into_iter().map(|(at, part)| {
        let before = part.before();
        v1::ResetPartition {
            topic: name_of(&snapshot, at.topic),
            topic_id: id_out(at.topic),
            partition: number_out(at.partition),
            before,
            after: match (&part.error, part.after) {
                (None, Some(after)) => after,
                _ => before,
            },
            error: part.error.map(|error| error.to_message()),
        }
    });
    Ok(v1::ResetOffsetsResponse {
        partitions: partitions.collect(),
        is_new: result.is_new,
        version: format!("{:016x}", result.version),
    })
}

fn version_in(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let is_version = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let version = u64::from_str_radix(text, 16).ok().filter(|_| is_version);
    version.map(Some).ok_or_else(|| {
        let problem = "must be the `version` of an earlier answer: 16 hexadecimal digits, or nothing";
        ApiError::field("expected_version", problem)
    })
}

fn check(target: Option<Target>) -> Result<Target, ApiError> {
    let target = target.ok_or_else(|| ApiError::field("target", "must say to what"))?;
    match &target {
        Target::Edge(edge) => match Edge::try_from(*edge) {
            Ok(Edge::Beginning | Edge::End) => {}
            Ok(Edge::Unspecified) | Err(_) => {
                return Err(ApiError::field("edge", "must be EDGE_BEGINNING or EDGE_END"));
            }
        },
        Target::Time(time) => {
            timestamp_to_ms("time", time)?;
        }
        Target::Offset(offset) if *offset < 0 => return Err(ApiError::field("offset", "must be 0 or more")),
        Target::Offset(_) | Target::ShiftBy(_) | Target::Forget(_) => {}
    }
    Ok(target)
}

/// The partitions that are meant, and where the group goes on to read in each.
async fn parts(
    broker: &Arc<Broker>,
    request: &v1::ResetOffsetsRequest,
    origin: &Origin,
) -> Result<BTreeMap<TopicPartition, Part>, ApiError> {
    let mut parts = BTreeMap::new();
    if request.topics.is_empty() {
        let mut page_token = String::new();
        loop {
            let fetch = v1::FetchOffsetsRequest {
                group: request.group.clone(),
                page_token,
                ..v1::FetchOffsetsRequest::default()
            };
            let fetched = call(broker, fetch, origin).await?;
            take(&mut parts, fetched.offsets);
            if parts.len() > MAX_PARTITIONS_PER_REQUEST {
                return Err(too_many());
            }
            page_token = fetched.next_page_token;
            if page_token.is_empty() {
                return Ok(parts);
            }
        }
    }
    let all = named(broker, request).await?;
    for chunk in all.chunks(AT_ONCE) {
        let topics = chunk.chunk_by(|one, other| one.topic == other.topic);
        let topics = topics.map(|of_topic| v1::TopicPartitions {
            topic: String::new(),
            topic_id: id_out(of_topic[0].topic),
            partitions: of_topic.iter().map(|at| number_out(at.partition)).collect(),
        });
        let fetch = v1::FetchOffsetsRequest {
            group: request.group.clone(),
            topics: topics.collect(),
            ..v1::FetchOffsetsRequest::default()
        };
        take(&mut parts, call(broker, fetch, origin).await?.offsets);
    }
    Ok(parts)
}

fn take(parts: &mut BTreeMap<TopicPartition, Part>, offsets: Vec<v1::GroupOffset>) {
    for offset in offsets {
        let topic = Uuid::from_slice(&offset.topic_id).unwrap_or_default();
        let partition = offset.partition.unsigned_abs();
        let part = Part {
            position: offset.position,
            ..Part::default()
        };
        parts.insert(TopicPartition { topic, partition }, part);
    }
}

fn too_many() -> ApiError {
    ApiError::field(
        "topics",
        format!("stand for more than {MAX_PARTITIONS_PER_REQUEST} partitions: reset some at a time"),
    )
}

/// The partitions that the request names; a topic without numbers stands for all of its.
async fn named(broker: &Broker, request: &v1::ResetOffsetsRequest) -> Result<Vec<TopicPartition>, ApiError> {
    let topics = &request.topics;
    let names = topics.iter().map(|topic| (topic.topic.as_str(), &topic.topic_id[..]));
    let snapshot = named::topics_with(broker, names).await?;
    let mut all = BTreeSet::new();
    for topic in topics {
        let id = topic_of(&snapshot, &topic.topic, &topic.topic_id)?;
        let numbers: Vec<u32> = match (topic.partitions.is_empty(), snapshot.topics.partitions(id)) {
            (true, Some(count)) => (0..count).collect(),
            (true, None) => {
                return Err(ApiError::new(
                    ErrorReason::UnknownTopic,
                    "There is no topic of that id: name its partitions to forget their offsets.",
                ));
            }
            (false, _) => {
                let numbers = topic.partitions.iter();
                let numbers = numbers.map(|number| partition_number("topics.partitions", *number));
                numbers.collect::<Result<_, _>>()?
            }
        };
        for partition in numbers {
            if !all.insert(TopicPartition { topic: id, partition }) {
                return Err(ApiError::field("topics", "name a partition for the second time"));
            }
        }
        if all.len() > MAX_PARTITIONS_PER_REQUEST {
            return Err(too_many());
        }
    }
    Ok(all.into_iter().collect())
}

/// Finds out where each partition is to go.
async fn look_up(broker: &Arc<Broker>, target: &Target, parts: &mut BTreeMap<TopicPartition, Part>) {
    if let Target::Forget(_) = target {
        for part in parts.values_mut() {
            part.after = Some(None);
        }
        return;
    }
    let until = Instant::now() + limits::GROUP_ENDS_WITHIN;
    let at = match target {
        Target::Time(time) => At::Time(*time),
        Target::Edge(edge) => At::Edge(*edge),
        _ => At::Edge(Edge::Beginning.into()),
    };
    let cluster = broker.quorum.cluster();
    let topics: BTreeMap<Uuid, &Arc<Topic>> = cluster.topics.values().map(|topic| (topic.id, topic)).collect();
    let ids: BTreeSet<Uuid> = parts.keys().map(|at| at.topic).collect();
    for id in ids {
        let range = TopicPartition {
            topic: id,
            partition: 0,
        }..=TopicPartition {
            topic: id,
            partition: u32::MAX,
        };
        let of_topic: Vec<(&TopicPartition, &mut Part)> = parts.range_mut(range).collect();
        let Some(topic) = topics.get(&id) else {
            for (_, part) in of_topic {
                part.error = Some(ApiError::new(
                    ErrorReason::UnknownTopic,
                    "The topic was deleted: its offsets can only be forgotten.",
                ));
            }
            continue;
        };
        let starts: Vec<(i32, At)> = of_topic
            .iter()
            .map(|(place, _)| (number_out(place.partition), at))
            .collect();
        let found = tokio::time::timeout_at(until, find_sources(broker, topic, &starts, true)).await;
        let mut found = found.unwrap_or_default().into_iter();
        for (_, part) in of_topic {
            match found.next() {
                Some(Ok((source, offset))) => {
                    let ends = source.offsets();
                    match destination(target, part, offset, ends.log_start) {
                        Ok(to) => {
                            part.after = Some(Some(to.clamp(ends.log_start, ends.high_watermark.max(ends.log_start))))
                        }
                        Err(error) => part.error = Some(error),
                    }
                }
                Some(Err(error)) => part.error = Some(error),
                None => {
                    part.error = Some(ApiError::new(
                        ErrorReason::LeaderNotAvailable,
                        "The partition's leader does not answer: try again.",
                    ));
                }
            }
        }
    }
}

/// Where a partition is to go; `found`: the offset of an edge or a time.
fn destination(target: &Target, part: &Part, found: i64, log_start: i64) -> Result<i64, ApiError> {
    match target {
        Target::Edge(_) | Target::Time(_) | Target::Forget(_) => Ok(found),
        Target::Offset(offset) => Ok(*offset),
        Target::ShiftBy(by) => match &part.position {
            Some(Position::Committed(committed)) => Ok(committed.offset.saturating_add(*by)),
            Some(Position::BeginsAt(_)) => Ok(log_start.saturating_add(*by)),
            Some(Position::Pending(_)) | None => Err(ApiError::field(
                "shift_by",
                "the group has no offset there: set one by `offset`, `edge` or `time`",
            )),
        },
    }
}

impl Call for GroupsReset {
    const CALL: GroupsCall = GroupsCall::Reset;
    const READS: bool = false;
    type Answer = GroupsResetResult;

    fn reads(&self) -> bool {
        self.validate_only
    }

    fn group(&self) -> &str {
        &self.group
    }

    async fn here(self, broker: &Broker, coordinator: &Coordinator, origin: &Origin) -> Result<Self::Answer, ApiError> {
        let offsets = self.partitions.iter().map(|part| {
            let topic = Uuid::from_slice(&part.topic_id);
            let topic = topic.map_err(|_| ApiError::field("topic_id", "must have 16 bytes"))?;
            let partition = part.partition;
            Ok((TopicPartition { topic, partition }, part.offset))
        });
        let asked = Asked::ResetOffsets(ResetOffsets {
            group: self.group.as_str().into(),
            validate_only: self.validate_only,
            expected_version: self.expected_version,
            offsets: offsets.collect::<Result<_, ApiError>>()?,
        });
        let (is_new, version, results) = match ask(broker, coordinator, asked, origin).await? {
            Answer::Reset {
                is_new,
                version,
                results,
            } => (is_new, version, results),
            other => return Err(unexpected(&other)),
        };
        let outcomes = results.into_iter().map(|(_, result)| GroupsResetOutcome {
            error: result.err().map(|rejection| error_out(&rejection.into())),
        });
        Ok(GroupsResetResult {
            outcomes: outcomes.collect(),
            is_new,
            version,
        })
    }
}
