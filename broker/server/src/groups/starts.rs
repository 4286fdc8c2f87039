//! Where a group begins to read: asked of the partitions' leaders.

use std::sync::Arc;

use millrace_engine::{
    Cluster,
    group::{GroupId, Start},
};
use millrace_proto::v1::{Edge, start::At};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{broker::Broker, forward::find_sources, limits, rpc::convert::ms_to_timestamp};

/// What was to be looked up, and what was found of it.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) group: GroupId,
    pub(super) topic: Uuid,
    pub(super) offsets: Vec<(u32, i64)>,
}

/// Asks until some are known, the topic is no more, or for long enough; what is not known then is left out, and
/// asked for anew by the next who wants to know: one partition without a leader holds up no other.
pub(super) async fn look_up(
    broker: Arc<Broker>,
    group: GroupId,
    topic: Uuid,
    partitions: Vec<u32>,
    start: Start,
) -> Looked {
    let at = match start {
        Start::Beginning => At::Edge(Edge::Beginning.into()),
        Start::End => At::Edge(Edge::End.into()),
        Start::Time(ms) => At::Time(ms_to_timestamp(ms).unwrap_or_default()),
    };
    let mut missing: Vec<(i32, At)> = partitions
        .into_iter()
        .filter_map(|partition| Some((i32::try_from(partition).ok()?, at)))
        .collect();
    let mut offsets = Vec::with_capacity(missing.len());
    let until = Instant::now() + limits::START_LOOKUP_WITHIN;
    loop {
        let cluster = broker.quorum.cluster();
        let known = cluster.topics.values().find(|known| known.id == topic).cloned();
        let is_gone = known.is_none() && broker.has_all_metadata().await && !has(&broker.quorum.cluster(), topic);
        if let Some(known) = known {
            let found = find_sources(&broker, &known, &missing, true).await;
            let mut again = Vec::new();
            for (asked, found) in missing.iter().zip(found) {
                match found {
                    Ok((_, offset)) => offsets.push((asked.0.unsigned_abs(), offset)),
                    Err(_) => again.push(*asked),
                }
            }
            missing = again;
        }
        let enough = missing.is_empty() || !offsets.is_empty() || is_gone;
        if enough || Instant::now() >= until || broker.stopping.is_cancelled() {
            return Looked { group, topic, offsets };
        }
        tokio::time::sleep(limits::START_LOOKUP_PAUSE).await;
    }
}

fn has(cluster: &Cluster, topic: Uuid) -> bool {
    cluster.topics.values().any(|known| known.id == topic)
}
