//! Committed offsets.

use std::collections::HashSet;

use millrace_engine::group::{
    Answer, Commit, CommitOffset, FetchOffsets, GroupId, MAX_PARTITIONS_PER_REQUEST, MemberId, Position,
    Request as Asked, TopicPartition,
};
use millrace_proto::{
    internal::v1::GroupsCall,
    v1::{self, ErrorReason, group_offset},
};
use uuid::Uuid;

use super::{
    Origin,
    convert::partition_number,
    named::{self, id_out, name_of, number_out, partitions_in},
    route::{Call, ask},
    unexpected,
    views::{invalid_token, page_size},
};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome},
    groups::Coordinator,
    rpc::convert::ms_to_timestamp,
};

impl Call for v1::CommitOffsetsRequest {
    const CALL: GroupsCall = GroupsCall::Commit;
    const READS: bool = false;
    type Answer = v1::CommitOffsetsResponse;

    fn group(&self) -> &str {
        &self.group
    }

    async fn here(self, broker: &Broker, coordinator: &Coordinator, origin: &Origin) -> Result<Self::Answer, ApiError> {
        commit(broker, coordinator, self, origin).await
    }
}

impl Call for v1::FetchOffsetsRequest {
    const CALL: GroupsCall = GroupsCall::Fetch;
    const READS: bool = true;
    type Answer = v1::FetchOffsetsResponse;

    fn group(&self) -> &str {
        &self.group
    }

    async fn here(self, broker: &Broker, coordinator: &Coordinator, origin: &Origin) -> Result<Self::Answer, ApiError> {
        fetch(broker, coordinator, self, origin).await
    }
}

/// Stores offsets; what becomes of each partition is in the answer.
async fn commit(
    broker: &Broker,
    coordinator: &Coordinator,
    request: v1::CommitOffsetsRequest,
    origin: &Origin,
) -> Result<v1::CommitOffsetsResponse, ApiError> {
    let count: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    if !(1..=MAX_PARTITIONS_PER_REQUEST).contains(&count) {
        let problem = format!("must name 1 to {MAX_PARTITIONS_PER_REQUEST} partitions in all");
        return Err(ApiError::field("topics", problem));
    }
    let member = member(&request.member_id, request.member_epoch)?;
    let named = request
        .topics
        .iter()
        .map(|topic| (topic.topic.as_str(), &topic.topic_id[..]));
    let (snapshot, confirmed) = named::latest_with(broker, named).await;
    let mut outcomes = Vec::with_capacity(count);
    let mut offsets = Vec::with_capacity(count);
    let mut seen = HashSet::with_capacity(count);
    for topic in request.topics {
        // What can't be told of one topic does not keep the others from being stored.
        let id = match confirmed || named::is_known(&snapshot, &topic.topic, &topic.topic_id) {
            true => named::topic_of(&snapshot, &topic.topic, &topic.topic_id),
            false => Err(named::unconfirmed().outcome(WriteOutcome::NotWritten)),
        };
        for part in topic.partitions {
            let partition = partition_number("topics.partitions.partition", part.partition)?;
            if part.leader_epoch.is_some_and(|epoch| epoch < 0) {
                let problem = "must be 0 or more, or left out";
                return Err(ApiError::field("topics.partitions.leader_epoch", problem));
            }
            let mut outcome = v1::PartitionOutcome {
                topic: topic.topic.clone(),
                topic_id: topic.topic_id.clone(),
                partition: part.partition,
                error: None,
            };
            match &id {
                Ok(id) => {
                    let at = TopicPartition { topic: *id, partition };
                    if !seen.insert(at) {
                        return Err(ApiError::field("topics", "names a partition for the second time"));
                    }
                    outcome.topic = name_of(&snapshot, *id);
                    outcome.topic_id = id_out(*id);
                    offsets.push(CommitOffset {
                        at,
                        offset: part.offset,
                        leader_epoch: part.leader_epoch,
                        metadata: part.metadata,
                    });
                }
                Err(error) => outcome.error = Some(error.clone().outcome(WriteOutcome::NotWritten).to_message()),
            }
            outcomes.push(outcome);
        }
    }
    let commit = Asked::Commit(Commit {
        group: request.group.as_str().into(),
        member,
        rewind: request.rewind,
        offsets,
    });
    let results = match ask(broker, coordinator, commit, origin).await? {
        Answer::Offsets(results) => results,
        other => return Err(unexpected(&other)),
    };
    let asked = outcomes.iter().filter(|outcome| outcome.error.is_none()).count();
    if results.len() != asked {
        let error = format!("told {} results for {asked} partitions", results.len());
        return Err(ApiError::internal("a group's coordinator", &error).outcome(WriteOutcome::Unknown));
    }
    let asked = outcomes.iter_mut().filter(|outcome| outcome.error.is_none());
    for (outcome, (_, result)) in asked.zip(results) {
        match result {
            Ok(()) => {
                broker.metrics.group_commits.inc();
            }
            Err(rejection) => {
                let error = ApiError::from(rejection);
                broker.metrics.count_error(&error);
                outcome.error = Some(error.to_message());
            }
        }
    }
    Ok(v1::CommitOffsetsResponse { partitions: outcomes })
}

fn member(id: &str, epoch: i32) -> Result<Option<(MemberId, i32)>, ApiError> {
    match (id.is_empty(), epoch) {
        (true, 0) => Ok(None),
        (true, _) => Err(ApiError::field("member_epoch", "must be 0 where there is no member_id")),
        (false, epoch) if epoch <= 0 => Err(ApiError::field("member_epoch", "must be that of the last answer")),
        (false, _) => {
            super::convert::check_id("member_id", id)?;
            Ok(Some((id.into(), epoch)))
        }
    }
}

/// Tells where a group goes on to read; not how much is left, for which others have to be asked.
async fn fetch(
    broker: &Broker,
    coordinator: &Coordinator,
    request: v1::FetchOffsetsRequest,
    origin: &Origin,
) -> Result<v1::FetchOffsetsResponse, ApiError> {
    let size = page_size(request.page_size, MAX_PARTITIONS_PER_REQUEST)?;
    let group: GroupId = request.group.as_str().into();
    let member = member(&request.member_id, request.member_epoch)?;
    let of = |partitions| {
        Asked::FetchOffsets(FetchOffsets {
            group: group.clone(),
            member: member.clone(),
            partitions: Some(partitions),
        })
    };
    let (page, next_page_token) = if request.topics.is_empty() {
        if member.is_some() {
            // Only whether it is one.
            ask(broker, coordinator, of(Vec::new()), origin).await?;
        }
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(key_in(token).ok_or_else(invalid_token)?),
        };
        let asked = Asked::OffsetPage {
            group: group.clone(),
            after,
            limit: size,
        };
        let (page, more) = match ask(broker, coordinator, asked, origin).await {
            Ok(Answer::OffsetPage { positions, more }) => (positions, more),
            // One that has no offsets need not have been there.
            Err(error) if error.reason() == ErrorReason::UnknownGroup => (Vec::new(), false),
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => return Err(error),
        };
        let last = page.last().filter(|_| more);
        let token = last.map(|(last, _)| key_out(*last)).unwrap_or_default();
        (page, token)
    } else {
        let skipped: usize = match request.page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| invalid_token())?,
        };
        let all = partitions_in(broker, "topics", &request.topics, MAX_PARTITIONS_PER_REQUEST).await?;
        let asked: Vec<TopicPartition> = all.iter().skip(skipped).take(size).copied().collect();
        let end = skipped.saturating_add(asked.len());
        let token = if end < all.len() {
            end.to_string()
        } else {
            String::new()
        };
        match ask(broker, coordinator, of(asked), origin).await? {
            Answer::Fetched(positions) => (positions, token),
            other => return Err(unexpected(&other)),
        }
    };
    let snapshot = broker.groups.topics(broker);
    let offsets = page
        .into_iter()
        .map(|(at, position)| v1::GroupOffset {
            topic: name_of(&snapshot, at.topic),
            topic_id: id_out(at.topic),
            partition: number_out(at.partition),
            position: position_out(position),
            ..v1::GroupOffset::default()
        })
        .collect();
    Ok(v1::FetchOffsetsResponse {
        offsets,
        next_page_token,
    })
}

fn position_out(position: Position) -> Option<group_offset::Position> {
    use group_offset::Position as P;
    match position {
        Position::Committed {
            offset,
            leader_epoch,
            metadata,
            committed_at_ms,
        } => Some(P::Committed(v1::CommittedOffset {
            offset,
            leader_epoch,
            metadata,
            committed_at: ms_to_timestamp(committed_at_ms),
        })),
        Position::Beginning => Some(P::BeginsAt(v1::Edge::Beginning.into())),
        Position::Pending => Some(P::Pending(v1::OffsetPending {})),
        Position::None => None,
    }
}

fn key_out(at: TopicPartition) -> String {
    format!("{}:{}", at.topic.simple(), at.partition)
}

fn key_in(token: &str) -> Option<TopicPartition> {
    let (topic, partition) = token.split_once(':')?;
    Some(TopicPartition {
        topic: Uuid::parse_str(topic).ok()?,
        partition: partition.parse().ok()?,
    })
}
