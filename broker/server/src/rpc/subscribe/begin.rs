//! Where a subscriber's partitions are read, and from which offset on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use millrace_member::{PartitionId, by_topic};
use millrace_proto::v1::{self, ErrorReason, group_offset, start::At};
use uuid::Uuid;

use super::epochs::Position;
use crate::{
    broker::Broker,
    error::ApiError,
    forward::{ReadFrom, Source, find_sources},
    groups::Snapshot,
    rpc::groups::fetch_offsets,
};

/// Partitions, each with the position at which it goes on; none: where the group has committed.
pub type Wanted = BTreeMap<PartitionId, Option<Position>>;

/// What became of a partition that was to be read.
#[derive(Debug)]
pub enum Found {
    /// It is read here, from this offset on.
    Reading {
        /// The topic's name.
        topic: Arc<str>,
        /// Where it is.
        source: Source,
        /// Where it begins.
        next: Position,
    },
    /// It can't be read.
    Stopped {
        /// The topic's name.
        topic: Arc<str>,
        /// Where it would have begun.
        next: Position,
        /// Why.
        error: ApiError,
    },
}

/// The members' way of naming a topic.
pub fn name_of(snapshot: &Snapshot, id: &PartitionId) -> Option<Arc<str>> {
    let uuid = Uuid::from_slice(&id.0).ok()?;
    snapshot.names.get(&uuid).map(|name| name.as_str().into())
}

/// Finds partitions, in one attempt. Those that are not in the answer are to be looked for again: they have no leader now,
/// or where they begin is not known yet.
///
/// # Errors
/// The coordinator's.
pub async fn find(
    broker: Arc<Broker>,
    group: String,
    (member_id, member_epoch): (String, i32),
    wanted: Wanted,
) -> Result<Vec<(PartitionId, Found)>, ApiError> {
    let (mut unknown, mut starts) = (BTreeSet::new(), Vec::new());
    for (id, at) in wanted {
        match at {
            Some(position) => starts.push((id, position.into())),
            None => _ = unknown.insert(id),
        }
    }
    if !unknown.is_empty() {
        let request = v1::FetchOffsetsRequest {
            group,
            member_id,
            member_epoch,
            topics: by_topic(&unknown),
            ..v1::FetchOffsetsRequest::default()
        };
        for offset in fetch_offsets(&broker, request).await?.offsets {
            let at = match offset.position {
                Some(group_offset::Position::Committed(committed)) => Position {
                    offset: committed.offset,
                    leader_epoch: committed.leader_epoch,
                }
                .into(),
                Some(group_offset::Position::BeginsAt(edge)) => At::Edge(edge).into(),
                Some(group_offset::Position::Pending(_)) | None => continue,
            };
            starts.push(((offset.topic_id, offset.partition), at));
        }
    }
    let mut found = Vec::with_capacity(starts.len());
    let behind = attempt(&broker, starts, &mut found).await;
    // Retention has deleted what the group was about to read: it goes on with the oldest message that there is.
    attempt(&broker, behind, &mut found).await;
    Ok(found)
}

/// Looks for partitions; answers with those whose start was before the oldest message, to begin with that.
async fn attempt(
    broker: &Arc<Broker>,
    starts: Vec<(PartitionId, ReadFrom)>,
    found: &mut Vec<(PartitionId, Found)>,
) -> Vec<(PartitionId, ReadFrom)> {
    let snapshot = broker.groups.topics(broker);
    let mut by_name: HashMap<Arc<str>, Vec<(PartitionId, ReadFrom)>> = HashMap::new();
    for (id, at) in starts {
        // What metadata does not name yet is looked for again.
        if let Some(name) = name_of(&snapshot, &id) {
            by_name.entry(name).or_default().push((id, at));
        }
    }
    let cluster = broker.quorum.cluster();
    let mut behind = Vec::new();
    for (name, of_topic) in by_name {
        let Some(topic) = cluster.topics.get(&*name) else {
            continue;
        };
        let numbered: Vec<(i32, ReadFrom)> = of_topic.iter().map(|((_, number), at)| (*number, *at)).collect();
        let sources = find_sources(broker, topic, &numbered, false).await;
        for ((id, at), source) in of_topic.into_iter().zip(sources) {
            match source {
                // A topic that was created anew under this name is another one.
                Ok((source, _)) if *source.target().topic_id.as_bytes() != id.0[..] => {}
                Ok((source, next)) => {
                    let topic = name.clone();
                    let next = Position {
                        offset: next,
                        leader_epoch: at.last_epoch,
                    };
                    found.push((id, Found::Reading { topic, source, next }));
                }
                Err(error) => match judge(&error, &at) {
                    Judged::Behind => behind.push((id, At::Edge(v1::Edge::Beginning.into()).into())),
                    Judged::Later => {}
                    Judged::Stopped(next) => {
                        let topic = name.clone();
                        found.push((id, Found::Stopped { topic, next, error }));
                    }
                },
            }
        }
    }
    behind
}

impl From<Position> for ReadFrom {
    fn from(position: Position) -> Self {
        Self {
            at: At::Offset(position.offset),
            last_epoch: position.leader_epoch,
        }
    }
}

enum Judged {
    Behind,
    Later,
    Stopped(Position),
}

fn judge(error: &ApiError, from: &ReadFrom) -> Judged {
    let At::Offset(offset) = from.at else {
        return Judged::Later;
    };
    let next = Position {
        offset,
        leader_epoch: from.last_epoch,
    };
    match error.reason() {
        ErrorReason::OffsetOutOfRange => {
            let log_start = error
                .metadata()
                .get("log_start")
                .and_then(|start| start.parse::<i64>().ok());
            if log_start.is_some_and(|log_start| offset < log_start) {
                Judged::Behind
            } else {
                Judged::Stopped(next)
            }
        }
        // It is for people to say where the group goes on: there may be other messages at these offsets by now.
        ErrorReason::LogTruncated | ErrorReason::DamagedLog => Judged::Stopped(next),
        _ => Judged::Later,
    }
}

/// Whether a reading that has failed is begun anew, where the partition is led by then.
pub fn begins_anew(error: &ApiError) -> bool {
    !matches!(error.reason(), ErrorReason::DamagedLog)
}
