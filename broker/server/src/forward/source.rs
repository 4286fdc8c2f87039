//! Partitions that a reader reads from, wherever they are led.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all, select_all};
use millrace_engine::{
    BrokerId, Topic,
    partition::{FetchBound, OffsetQuery},
};
use millrace_proto::{
    internal::v1::{ForwardDescribePartition, ForwardDescription, ForwardReadRequest},
    v1::start::At,
};
use tokio::sync::Notify;

use super::{
    limits,
    peer::Peer,
    place::{Place, Search, Target},
    wire,
};
use crate::{
    broker::Broker,
    error::{ApiError, log_truncated},
    partition::{Offsets, Partition},
    rpc::{check_position, read_within, resolve},
};

/// A partition to read from, at the broker that led it when it was found.
#[derive(Clone, Debug)]
pub struct Source {
    target: Target,
    place: Spot,
}

/// Where it is.
#[derive(Clone, Debug)]
enum Spot {
    Here(Arc<Partition>),
    There {
        peer: Arc<Peer>,
        /// Where the partition stood when the leader last told.
        offsets: Offsets,
    },
}

/// What was read.
#[derive(Debug)]
pub struct Data {
    /// Whole batches; the first one may begin before the offset asked for.
    pub bytes: Bytes,
    /// Nothing was read as the first batch alone is larger than was asked for: its size.
    pub first_batch_too_large: Option<usize>,
    /// Whether the batches' checksums were compared here.
    pub crc_verified: bool,
    /// Up to where was read: without batches there are none below this.
    pub up_to: i64,
}

impl Source {
    /// The partition.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether another broker may lead the partition by now, after such an error.
    pub fn may_have_moved(&self, broker: &Broker, error: &ApiError) -> bool {
        self.target.may_be_elsewhere(broker, error)
    }

    /// Where the partition stands, as far as is known here.
    pub fn offsets(&self) -> Offsets {
        match &self.place {
            Spot::Here(partition) => partition.offsets(),
            Spot::There { offsets, .. } => *offsets,
        }
    }

    /// Up to where a reader at `offset` may see, as far as is known here.
    ///
    /// # Errors
    /// An offset outside of the log, or another leader.
    pub async fn bound(&self, broker: &Broker, offset: i64) -> Result<FetchBound, ApiError> {
        match &self.place {
            Spot::Here(partition) => broker.check_fetch(partition, offset, None).await,
            Spot::There { offsets, .. } if offset < offsets.last_stable => Ok(FetchBound::UpTo(offsets.last_stable)),
            Spot::There { .. } => Ok(FetchBound::Nothing),
        }
    }

    /// Reads whole batches from `offset` on, at most `max_bytes`, below `up_to`.
    ///
    /// # Errors
    /// An offset outside of the log, damage, or another leader.
    pub async fn read(&mut self, offset: i64, max_bytes: usize, up_to: i64) -> Result<Data, ApiError> {
        match &mut self.place {
            Spot::Here(partition) => {
                let data = read_within(partition, offset, max_bytes, up_to).await?;
                Ok(Data {
                    bytes: data.bytes,
                    first_batch_too_large: data.first_batch_too_large,
                    crc_verified: data.crc_verified,
                    up_to,
                })
            }
            Spot::There { peer, offsets } => {
                let request = ForwardReadRequest {
                    hello: None,
                    topic_id: self.target.wire_id(),
                    partition: self.target.wire_number(),
                    offset,
                    max_bytes: u32::try_from(max_bytes).unwrap_or(u32::MAX),
                    up_to: Some(up_to),
                };
                let read = peer.read(request).await?;
                if let Some(told) = &read.offsets {
                    *offsets = wire::offsets_in(told);
                }
                let too_large = read.first_batch_too_large;
                Ok(Data {
                    bytes: read.records,
                    first_batch_too_large: too_large.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
                    crc_verified: false,
                    up_to: read.up_to,
                })
            }
        }
    }

    /// Has `waiter` notified when there is more to read; of a partition that is led elsewhere,
    /// [`Watches`] tell.
    pub fn notify_on_data(&self, waiter: &Arc<Notify>) {
        if let Spot::Here(partition) = &self.place {
            partition.notify_on_data(waiter);
        }
    }

    /// Takes over what its leader has told.
    pub fn learn(&mut self, told: Offsets) {
        if let Spot::There { offsets, .. } = &mut self.place {
            *offsets = told;
        }
    }
}

/// Where reading is to begin.
#[derive(Clone, Copy, Debug)]
pub struct ReadFrom {
    /// There.
    pub at: At,
    /// If that is an offset: the leader epoch of the record before it, if known. Then the log must still have that record.
    pub last_epoch: Option<i32>,
}

impl From<At> for ReadFrom {
    fn from(at: At) -> Self {
        Self { at, last_epoch: None }
    }
}

impl ReadFrom {
    /// The offset that is meant, in a partition that is led here.
    ///
    /// # Errors
    /// An offset that is outside of the log, or before which the log was cut; or it can't be told yet.
    pub(super) async fn offset_in(&self, broker: &Broker, partition: &Arc<Partition>) -> Result<i64, ApiError> {
        if let (At::Offset(offset), Some(_)) = (self.at, self.last_epoch) {
            let (_, parted) = check_position(broker, partition, offset, None, self.last_epoch).await?;
            return match parted {
                Some(parted) => Err(log_truncated(offset, parted.end_offset)),
                None => Ok(offset),
            };
        }
        Ok(resolve(broker, partition, &self.at).await?.0)
    }
}

/// A source, and the offset at which reading begins.
pub type Found = Result<(Source, i64), ApiError>;

/// Finds partitions of a topic, and where to begin in each: one attempt, with one call to each leader
/// at most for some thousand partitions. Answers are in the order of `starts`. With `ends`, it is made
/// sure that it is known how far each is committed.
pub async fn find_sources(
    broker: &Arc<Broker>,
    topic: &Topic,
    starts: &[(i32, impl Into<ReadFrom> + Copy + Sync)],
    ends: bool,
) -> Vec<Found> {
    let starts: Vec<(i32, ReadFrom)> = starts.iter().map(|(number, from)| (*number, (*from).into())).collect();
    let mut found: Vec<Option<Found>> = Vec::with_capacity(starts.len());
    let mut asked: BTreeMap<BrokerId, (Arc<Peer>, Vec<usize>)> = BTreeMap::new();
    for (at, (number, start)) in starts.iter().enumerate() {
        let target = Target::new(topic, *number);
        found.push(match target.locate(broker) {
            Ok(Place::Here(partition)) => Some(find_here(broker, target, partition, start, ends).await),
            Ok(Place::There { peer, .. }) => {
                let of_leader = asked.entry(peer.id()).or_insert_with(|| (peer, Vec::new()));
                of_leader.1.push(at);
                None
            }
            Err(error) => Some(Err(error)),
        });
    }
    let calls = asked.into_values().flat_map(|(peer, places)| {
        let chunks: Vec<Vec<usize>> = places.chunks(limits::DESCRIBED_AT_ONCE).map(<[_]>::to_vec).collect();
        chunks
            .into_iter()
            .map(|places| find_there(peer.clone(), topic, &starts, places, ends))
            .collect::<Vec<_>>()
    });
    for (at, source) in join_all(calls).await.into_iter().flatten() {
        found[at] = Some(source);
    }
    found.into_iter().flatten().collect()
}

async fn find_here(broker: &Broker, target: Target, partition: Arc<Partition>, start: &ReadFrom, ends: bool) -> Found {
    let offset = start.offset_in(broker, &partition).await?;
    if ends {
        partition.check_offset_query(OffsetQuery::EndOrTime)?;
    }
    let place = Spot::Here(partition);
    Ok((Source { target, place }, offset))
}

async fn find_there(
    peer: Arc<Peer>,
    topic: &Topic,
    starts: &[(i32, ReadFrom)],
    places: Vec<usize>,
    ends: bool,
) -> Vec<(usize, Found)> {
    let mut found = Vec::with_capacity(places.len());
    let (mut questions, mut asked) = (Vec::new(), Vec::new());
    for at in places {
        let (number, start) = &starts[at];
        let target = Target::new(topic, *number);
        match wire::start_out(&start.at) {
            Ok(start_at) => {
                questions.push(ForwardDescribePartition {
                    topic_id: target.wire_id(),
                    partition: target.wire_number(),
                    beyond: None,
                    start: Some(start_at),
                    end_known: ends,
                    last_epoch: start.last_epoch,
                });
                asked.push((at, target));
            }
            Err(error) => found.push((at, Err(error))),
        }
    }
    if asked.is_empty() {
        return found;
    }
    match peer.describe(questions, Duration::ZERO).await {
        Ok(descriptions) => {
            for ((at, target), description) in asked.into_iter().zip(descriptions) {
                let source = described(description).map(|(offsets, start)| {
                    let peer = peer.clone();
                    let place = Spot::There { peer, offsets };
                    (Source { target, place }, start)
                });
                found.push((at, source));
            }
        }
        Err(error) => found.extend(asked.into_iter().map(|(at, _)| (at, Err(error.clone())))),
    }
    found
}

fn described(description: ForwardDescription) -> Result<(Offsets, i64), ApiError> {
    if let Some(error) = description.error {
        return Err(wire::error_in(error));
    }
    let offsets = wire::offsets_in(&description.offsets.unwrap_or_default());
    Ok((offsets, description.start_offset.unwrap_or(offsets.log_start)))
}

/// The same until all are found, for as long as an election takes.
///
/// # Errors
/// The first that can't be found, or not in time; the fact "partition" says which.
pub async fn open_sources(
    broker: &Arc<Broker>,
    topic: &Topic,
    starts: &[(i32, At)],
    ends: bool,
) -> Result<Vec<(Source, i64)>, ApiError> {
    let mut search = Search::new(limits::LEADER_WAIT);
    let mut sources: Vec<Option<(Source, i64)>> = starts.iter().map(|_| None).collect();
    loop {
        let missing: Vec<usize> = (0..starts.len()).filter(|at| sources[*at].is_none()).collect();
        let wanted: Vec<(i32, At)> = missing.iter().map(|at| starts[*at]).collect();
        let mut failed = None;
        for (at, found) in missing
            .into_iter()
            .zip(find_sources(broker, topic, &wanted, ends).await)
        {
            match found {
                Ok(source) => sources[at] = Some(source),
                Err(error) => {
                    let number = starts[at].0;
                    let error = error.with("partition", number);
                    if !Target::new(topic, number).may_be_elsewhere(broker, &error) {
                        return Err(error);
                    }
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            None => return Ok(sources.into_iter().flatten().collect()),
            Some(error) => {
                if !search.again(broker).await {
                    return Err(error);
                }
            }
        }
    }
}

/// News of partitions that are led elsewhere: for each place in the reader's list, what was told.
pub type News = Vec<(usize, Result<Offsets, ApiError>)>;

/// A reader's calls that wait for news, one to each leader.
#[derive(Default)]
pub struct Watches(BTreeMap<BrokerId, Watch>);

struct Watch {
    /// Which places of the reader's list, and up to where each was read.
    asked: Vec<(usize, i64)>,
    call: BoxFuture<'static, News>,
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Watches {
    /// Asks of the sources that are led elsewhere, each with its place in the reader's list and up to
    /// where it was read. Calls that ask for just this already go on.
    pub fn ask<'a>(&mut self, sources: impl Iterator<Item = (usize, &'a Source, i64)>) {
        type Wanted<'a> = BTreeMap<BrokerId, (&'a Arc<Peer>, Vec<(usize, i64)>, Vec<&'a Target>)>;
        let mut wanted: Wanted<'a> = BTreeMap::new();
        for (at, source, next) in sources {
            if let Spot::There { peer, .. } = &source.place {
                let (_, asked, targets) = wanted
                    .entry(peer.id())
                    .or_insert_with(|| (peer, Vec::new(), Vec::new()));
                // What is more is asked for when these have been read.
                if asked.len() < limits::DESCRIBED_AT_ONCE {
                    asked.push((at, next));
                    targets.push(&source.target);
                }
            }
        }
        self.0
            .retain(|id, watch| wanted.get(id).is_some_and(|(_, asked, _)| *asked == watch.asked));
        for (id, (peer, asked, targets)) in wanted {
            self.0.entry(id).or_insert_with(|| Watch {
                call: Box::pin(watch(peer.clone(), questions(&asked, &targets), asked.clone())),
                asked,
            });
        }
    }

    /// The next news; never, if there is nothing to wait for.
    pub async fn news(&mut self) -> News {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let ids: Vec<BrokerId> = self.0.keys().copied().collect();
        let (news, at, _) = select_all(self.0.values_mut().map(|watch| &mut watch.call)).await;
        self.0.remove(&ids[at]);
        news
    }
}

fn questions(asked: &[(usize, i64)], targets: &[&Target]) -> Vec<ForwardDescribePartition> {
    let both = asked.iter().zip(targets);
    both.map(|((_, next), target)| ForwardDescribePartition {
        topic_id: target.wire_id(),
        partition: target.wire_number(),
        beyond: Some(*next),
        start: None,
        end_known: false,
        last_epoch: None,
    })
    .collect()
}

async fn watch(peer: Arc<Peer>, questions: Vec<ForwardDescribePartition>, asked: Vec<(usize, i64)>) -> News {
    let answered = peer.describe(questions, limits::NEWS_WAIT).await;
    match answered {
        Ok(descriptions) => asked
            .into_iter()
            .zip(descriptions)
            .map(|((at, _), description)| (at, described(description).map(|(offsets, _)| offsets)))
            .collect(),
        Err(error) => asked.into_iter().map(|(at, _)| (at, Err(error.clone()))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use millrace_engine::cluster::ElectionKind;
    use millrace_proto::v1::{Edge, ErrorReason};

    use super::*;
    use crate::testing::{PHANTOM, TestBroker, append, committed};

    /// A reader that stops at the end must not stop before what was acknowledged.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_end_that_a_leader_does_not_know_yet_is_told_to_no_reader_here_or_elsewhere() {
        let test = TestBroker::start().await;
        let partition = test.partition("t", &[0, PHANTOM]).await;
        append(&partition);
        // The other replica is in sync and is not heard of under the new leader epoch.
        for replica in [PHANTOM, 0] {
            test.elect("t", ElectionKind::InSync { replica }).await;
        }
        let cluster = test.broker().quorum.cluster();
        let topic = &cluster.topics["t"];
        let starts = [(0, ReadFrom::from(At::Edge(Edge::Beginning.into())))];
        // The way on which another broker asks this one.
        let peer = test.broker().forward.peer(test.broker().config.node_id);
        for ends in [false, true] {
            let here = find_sources(test.broker(), topic, &starts, ends).await.remove(0);
            let there = find_there(peer.clone(), topic, &starts, vec![0], ends)
                .await
                .remove(0)
                .1;
            for found in [here, there] {
                let refused = found.err().map(|error| error.reason());
                assert_eq!(refused, ends.then_some(ErrorReason::OffsetNotAvailable));
            }
        }
        test.commit_by_phantom(&partition).await;
        let (source, _) = find_there(peer, topic, &starts, vec![0], true)
            .await
            .remove(0)
            .1
            .unwrap();
        assert_eq!(source.offsets().last_stable, 1);
    }

    /// Behind an unclean election other records may come to stand at the offsets that were read.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_whose_last_record_was_cut_off_does_not_begin_here_or_elsewhere() {
        let test = TestBroker::start().await;
        let partition = test.cut_partition("t").await;
        let peer = test.broker().forward.peer(test.broker().config.node_id);
        let cluster = test.broker().quorum.cluster();
        let find = async |offset, last_epoch| {
            let starts = [(
                0,
                ReadFrom {
                    at: At::Offset(offset),
                    last_epoch,
                },
            )];
            let topic = &cluster.topics["t"];
            let here = find_sources(test.broker(), topic, &starts, false).await.remove(0);
            let there = find_there(peer.clone(), topic, &starts, vec![0], false)
                .await
                .remove(0)
                .1;
            [here, there].map(|found| found.map(|(_, next)| next))
        };
        let reasons = |found: [Result<i64, ApiError>; 2]| found.map(|found| found.unwrap_err().reason());
        assert_eq!(reasons(find(5, Some(0)).await), [ErrorReason::LogTruncated; 2]);
        assert_eq!(
            reasons(find(5, None).await),
            [ErrorReason::OffsetOutOfRange; 2],
            "where it was cut is not known then"
        );
        for _ in 0..6 {
            append(&partition);
        }
        committed(&partition, 6).await;
        for error in find(5, Some(0)).await.map(Result::unwrap_err) {
            assert_eq!(error.reason(), ErrorReason::LogTruncated);
            let fact = |name: &str| error.metadata()[name].clone();
            assert_eq!((fact("offset"), fact("end_offset")), ("5".to_owned(), "0".to_owned()));
        }
        let present = partition.offsets().leader_epoch;
        for last_epoch in [None, Some(present)] {
            assert_eq!(find(5, last_epoch).await, [Ok(5), Ok(5)]);
        }
    }
}
