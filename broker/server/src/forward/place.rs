//! Where a partition is led, and what is asked of its leader, wherever that is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use millrace_engine::{BrokerId, Cluster, Partition as Record, Topic};
use millrace_proto::{
    internal::v1::{ForwardDeleteMessagesRequest, ForwardDescribePartition},
    v1::ErrorReason,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{limits, peer::Peer, wire};
use crate::{
    broker::Broker,
    error::{ApiError, out_of_range},
    partition::{Offsets, Partition},
};

/// A partition, as the metadata names it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The topic's name.
    pub topic: Arc<str>,
    /// Its id.
    pub topic_id: Uuid,
    /// The partition's number.
    pub number: i32,
}

/// Where a partition is led.
#[derive(Debug)]
pub enum Place {
    /// By this broker.
    Here(Arc<Partition>),
    /// By another one.
    There {
        /// The way there.
        peer: Arc<Peer>,
        /// In which epoch.
        leader_epoch: i32,
    },
}

impl Target {
    /// The partition of a topic with this number.
    pub fn new(topic: &Topic, number: i32) -> Self {
        Self {
            topic: topic.name.as_str().into(),
            topic_id: topic.id,
            number,
        }
    }

    /// The number as it is sent.
    pub(super) fn wire_number(&self) -> u32 {
        u32::try_from(self.number).unwrap_or(u32::MAX)
    }

    /// The id as it is sent.
    pub(super) fn wire_id(&self) -> bytes::Bytes {
        self.topic_id.as_bytes().to_vec().into()
    }

    /// What the metadata says of it.
    pub(super) fn record<'a>(&self, cluster: &'a Cluster) -> Option<&'a Record> {
        let topic = cluster.topics.get(&*self.topic)?;
        let number = usize::try_from(self.number).ok()?;
        topic.partitions.get(number).filter(|_| topic.id == self.topic_id)
    }

    /// Where it is led now.
    ///
    /// # Errors
    /// It is not known, or has no leader.
    pub(super) fn locate(&self, broker: &Broker) -> Result<Place, ApiError> {
        let found = broker
            .partitions
            .find_checked(&self.topic, self.topic_id.as_bytes(), self.number);
        if let Ok(partition) = &found
            && partition.leads()
        {
            return Ok(Place::Here(partition.clone()));
        }
        let cluster = broker.quorum.cluster();
        let elsewhere = self.record(&cluster).and_then(|record| {
            let leader = record.leader.filter(|leader| *leader != broker.config.node_id)?;
            Some((leader, record.leader_epoch))
        });
        match (elsewhere, found) {
            (Some((leader, leader_epoch)), _) => Ok(Place::There {
                peer: broker.forward.peer(leader),
                leader_epoch,
            }),
            // One whose disk failed says so itself.
            (None, Ok(partition)) => Ok(Place::Here(partition)),
            (None, Err(error)) => Err(error),
        }
    }

    /// Whether another broker may lead it soon, or knows better, after such an error. Of a partition
    /// that only this broker holds there is nobody else to ask.
    pub(super) fn may_be_elsewhere(&self, broker: &Broker, error: &ApiError) -> bool {
        asks_for_leader(error) && self.has_others(broker)
    }

    /// Whether a batch of a flow is sent again after such an error.
    pub(super) fn repeats_in_flow(&self, broker: &Broker, error: &ApiError) -> bool {
        ends_flow(error) && self.has_others(broker)
    }

    fn has_others(&self, broker: &Broker) -> bool {
        let cluster = broker.quorum.cluster();
        self.record(&cluster)
            .is_some_and(|record| has_others(record, broker.config.node_id))
    }
}

/// Whether an error says that somebody else leads, or may soon, so that the same is to be asked again.
pub fn asks_for_leader(error: &ApiError) -> bool {
    use ErrorReason as R;
    matches!(
        error.reason(),
        R::NotLeader
            | R::LeaderNotAvailable
            | R::FencedLeaderEpoch
            | R::UnknownLeaderEpoch
            | R::OffsetNotAvailable
            | R::BrokerNotReady
            | R::StorageFailed
            // Known to who asks: the metadata of who answers is behind.
            | R::UnknownTopic
            | R::UnknownPartition
    )
}

/// Whether a leader that refuses a batch of a flow with this error takes no later ones of it: the
/// batch is sent again, and must come first. So it is as well with one whose first copy could not be
/// searched for now: its sender could do no more than repeat it.
pub fn ends_flow(error: &ApiError) -> bool {
    asks_for_leader(error) || error.reason() == ErrorReason::Overloaded
}

/// Whether brokers other than `own` hold the partition.
pub fn has_others(record: &Record, own: BrokerId) -> bool {
    record.replicas.iter().any(|id| *id != own)
}

/// Attempts to find a leader that answers, one after the other.
#[derive(Debug)]
pub struct Search {
    until: Instant,
    pause: Duration,
}

impl Search {
    /// For at most `within`.
    pub fn new(within: Duration) -> Self {
        Self::until(Instant::now() + within)
    }

    /// Up to `until`.
    pub fn until(until: Instant) -> Self {
        Self {
            until,
            pause: limits::PAUSE_FIRST,
        }
    }

    /// When it ends.
    pub fn end(&self) -> Instant {
        self.until
    }

    /// Waits until another attempt makes sense: a moment, longer with each, or until the metadata
    /// changes. False if there is no more time.
    pub async fn again(&mut self, broker: &Broker) -> bool {
        if Instant::now() + limits::PAUSE_FIRST >= self.until {
            return false;
        }
        let mut changes = broker.quorum.watch();
        changes.mark_unchanged();
        let by = (Instant::now() + self.pause).min(self.until);
        self.pause = (self.pause * 2).min(limits::PAUSE_LONGEST);
        // Also after a change: this broker, or the other, needs a moment to carry it out.
        tokio::time::sleep(limits::PAUSE_FIRST).await;
        tokio::select! {
            () = tokio::time::sleep_until(by) => {}
            changed = changes.changed() => if changed.is_err() { return false },
            () = broker.stopping.cancelled() => return false,
        }
        true
    }
}

/// A partition as its leader describes it.
#[derive(Clone, Debug)]
pub struct Described {
    /// Where it stands.
    pub offsets: Offsets,
    /// Bytes in its segments.
    pub size_bytes: u64,
    /// Why it can't be used; empty if it can.
    pub problem: String,
}

impl Described {
    /// Of a partition that this broker leads.
    pub fn of(partition: &Partition) -> Self {
        Self {
            offsets: partition.offsets(),
            size_bytes: partition.size_bytes(),
            problem: partition.problem().unwrap_or_default(),
        }
    }
}

/// All partitions of a topic, each as its leader describes it.
pub async fn describe(broker: &Broker, topic: &Topic) -> Vec<Result<Described, ApiError>> {
    let mut described = Vec::with_capacity(topic.partitions.len());
    let mut asked: BTreeMap<BrokerId, (Arc<Peer>, Vec<usize>)> = BTreeMap::new();
    for (at, number) in (0..topic.partitions.len()).zip(0i32..) {
        described.push(match Target::new(topic, number).locate(broker) {
            Ok(Place::Here(partition)) => Ok(Described::of(&partition)),
            Ok(Place::There { peer, .. }) => {
                asked.entry(peer.id()).or_insert_with(|| (peer, Vec::new())).1.push(at);
                // Until it has answered.
                Err(ApiError::new(
                    ErrorReason::LeaderNotAvailable,
                    "The partition's leader does not answer: try again.",
                ))
            }
            Err(error) => Err(error),
        });
    }
    let calls = asked.into_values().flat_map(|(peer, places)| {
        let chunks: Vec<Vec<usize>> = places.chunks(limits::DESCRIBED_AT_ONCE).map(<[_]>::to_vec).collect();
        chunks.into_iter().map(move |places| {
            let peer = peer.clone();
            async move {
                let partitions = places.iter().map(|at| ForwardDescribePartition {
                    topic_id: topic.id.as_bytes().to_vec().into(),
                    partition: u32::try_from(*at).unwrap_or(u32::MAX),
                    beyond: None,
                    start: None,
                    end_known: false,
                    last_epoch: None,
                });
                let call = peer.describe(partitions.collect(), Duration::ZERO);
                let answered = tokio::time::timeout(limits::DESCRIBE_WITHIN, call).await;
                (places, answered)
            }
        })
    });
    for (places, answered) in join_all(calls).await {
        match answered {
            Ok(Ok(descriptions)) => {
                for (at, answer) in places.into_iter().zip(descriptions) {
                    described[at] = match answer.error {
                        Some(error) => Err(wire::error_in(error)),
                        None => Ok(Described {
                            offsets: wire::offsets_in(&answer.offsets.unwrap_or_default()),
                            size_bytes: answer.size_bytes,
                            problem: answer.problem,
                        }),
                    };
                }
            }
            Ok(Err(error)) => {
                for at in places {
                    described[at] = Err(error.clone());
                }
            }
            Err(_) => {}
        }
    }
    described
}

/// Deletes messages below `before`, or all that are readable; answers with the log start.
///
/// # Errors
/// Above what is readable, a failed disk, or no leader in time. Repeating it is safe.
pub async fn delete_messages(
    broker: &Broker,
    target: &Target,
    before: Option<i64>,
    validate_only: bool,
) -> Result<i64, ApiError> {
    let mut search = Search::new(limits::LEADER_WAIT);
    loop {
        let deleted = match target.locate(broker) {
            Ok(Place::Here(partition)) => delete_here(partition, before, validate_only).await,
            Ok(Place::There { peer, .. }) => {
                let request = ForwardDeleteMessagesRequest {
                    hello: None,
                    topic_id: target.wire_id(),
                    partition: target.wire_number(),
                    before_offset: before,
                    validate_only,
                };
                peer.delete_messages(request).await.map(|deleted| deleted.log_start)
            }
            Err(error) => Err(error),
        };
        match deleted {
            Err(error) if target.may_be_elsewhere(broker, &error) => {
                if !search.again(broker).await {
                    return Err(error);
                }
            }
            done => return done,
        }
    }
}

/// Deletes messages of a partition that this broker leads, here and at all in-sync replicas.
///
/// # Errors
/// Above what is readable, a failed disk, or another replica that does not do it in time.
pub async fn delete_here(partition: Arc<Partition>, before: Option<i64>, validate_only: bool) -> Result<i64, ApiError> {
    partition.check_epoch(None)?;
    let offsets = partition.offsets();
    let before = before.unwrap_or(offsets.high_watermark);
    if before > offsets.high_watermark {
        return Err(out_of_range(
            format!("Only messages below {} can be deleted.", offsets.high_watermark),
            offsets.log_start,
            offsets.high_watermark,
        ));
    }
    if validate_only {
        return Ok(before.max(offsets.log_start));
    }
    let deleting = partition.clone();
    let log_start = tokio::task::spawn_blocking(move || deleting.delete_before(before))
        .await
        .map_err(|error| ApiError::internal("deleting messages", &error))??;
    partition.deleted_by_all(before).await?;
    Ok(log_start)
}
