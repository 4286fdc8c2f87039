//! Where a subscriber's partitions are read, and from which offset on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use millrace_member::{PartitionId, by_topic};
use millrace_proto::v1::{self, ErrorReason, group_offset, start::At};
use uuid::Uuid;

use crate::{
    broker::Broker,
    error::ApiError,
    forward::{Source, find_sources},
    groups::Snapshot,
    rpc::groups::fetch_offsets,
};

/// Partitions, each with the offset at which it goes on; none: where the group has committed.
pub type Wanted = BTreeMap<PartitionId, Option<i64>>;

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
        next: i64,
    },
    /// It can't be read.
    Stopped {
        /// The topic's name.
        topic: Arc<str>,
        /// Where it would have begun.
        next: i64,
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
            Some(offset) => starts.push((id, At::Offset(offset))),
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
                Some(group_offset::Position::Committed(committed)) => At::Offset(committed.offset),
                Some(group_offset::Position::BeginsAt(edge)) => At::Edge(edge),
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
    starts: Vec<(PartitionId, At)>,
    found: &mut Vec<(PartitionId, Found)>,
) -> Vec<(PartitionId, At)> {
    let snapshot = broker.groups.topics(broker);
    let mut by_name: HashMap<Arc<str>, Vec<(PartitionId, At)>> = HashMap::new();
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
        let numbered: Vec<(i32, At)> = of_topic.iter().map(|((_, number), at)| (*number, *at)).collect();
        let sources = find_sources(broker, topic, &numbered, false).await;
        for ((id, at), source) in of_topic.into_iter().zip(sources) {
            match source {
                // A topic that was created anew under this name is another one.
                Ok((source, _)) if *source.target().topic_id.as_bytes() != id.0[..] => {}
                Ok((source, next)) => {
                    let topic = name.clone();
                    found.push((id, Found::Reading { topic, source, next }));
                }
                Err(error) => match judge(&error, &at) {
                    Judged::Behind => behind.push((id, At::Edge(v1::Edge::Beginning.into()))),
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

enum Judged {
    Behind,
    Later,
    Stopped(i64),
}

fn judge(error: &ApiError, at: &At) -> Judged {
    let At::Offset(next) = at else { return Judged::Later };
    match error.reason() {
        ErrorReason::OffsetOutOfRange => {
            let log_start = error
                .metadata()
                .get("log_start")
                .and_then(|start| start.parse::<i64>().ok());
            if log_start.is_some_and(|log_start| *next < log_start) {
                Judged::Behind
            } else {
                Judged::Stopped(*next)
            }
        }
        ErrorReason::DamagedLog => Judged::Stopped(*next),
        _ => Judged::Later,
    }
}

/// Whether a reading that has failed is begun anew, where the partition is led by then.
pub fn begins_anew(error: &ApiError) -> bool {
    !matches!(error.reason(), ErrorReason::DamagedLog)
}
