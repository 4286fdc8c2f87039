//! The way from a follower to one leader: one stream, which carries the fetches of all
//! partitions that this broker follows there.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use millrace_engine::{
    BrokerId,
    partition::{EpochEnd, FetchOutcome, FetchRefusal, FetchReply, FetchRequest, FetchedBatch},
};
use millrace_log::producer::snapshot;
use millrace_proto::{
    batch::batches,
    internal::v1::{
        ReplicaAnswer, ReplicaFetch, ReplicateHello, ReplicateRequest, ReplicateResponse, replica_answer::Outcome,
        replication_client::ReplicationClient,
    },
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Streaming, transport::Endpoint};
use uuid::Uuid;

use super::{Key, limits};
use crate::{partition::Partition, quorum::Quorum};

/// The way to one leader.
pub struct Link {
    own: BrokerId,
    broker_epoch: i64,
    to: BrokerId,
    quorum: Quorum,
    waiting: Mutex<HashMap<Key, Waiting>>,
    wake: Notify,
}

/// What is to be sent for one partition: a later request takes the place of an earlier one, so
/// that the partitions bound it.
struct Waiting {
    partition: Arc<Partition>,
    fetch: Option<FetchRequest>,
    acknowledgement: Option<FetchRequest>,
}

/// Fetches that were sent and are not answered.
type UnderWay = Mutex<HashMap<Key, (Arc<Partition>, FetchRequest)>>;

impl Link {
    /// No stream yet.
    pub fn new(own: BrokerId, broker_epoch: i64, to: BrokerId, quorum: Quorum) -> Self {
        Self {
            own,
            broker_epoch,
            to,
            quorum,
            waiting: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Adds a request. Waits for a stream if there is none.
    pub fn push(&self, partition: &Arc<Partition>, request: FetchRequest, wants_records: bool) {
        let mut waiting = self.waiting.lock();
        let slot = waiting.entry(partition.key()).or_insert_with(|| Waiting {
            partition: partition.clone(),
            fetch: None,
            acknowledgement: None,
        });
        // The partition may have gone and come back since.
        slot.partition = partition.clone();
        if wants_records {
            slot.fetch = Some(request);
            // It says the same, and more.
            slot.acknowledgement = None;
        } else {
            slot.acknowledgement = Some(request);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Keeps a stream while there is something to fetch, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = self.keep() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn keep(self: &Arc<Self>) {
        let mut pause = limits::PAUSE_FIRST;
        let mut failures = 0_u32;
        loop {
            while self.waiting.lock().is_empty() {
                self.wake.notified().await;
            }
            match self.converse().await {
                Ok(()) => {
                    (pause, failures) = (limits::PAUSE_FIRST, 0);
                }
                Err(problem) => {
                    failures += 1;
                    if failures.is_power_of_two() {
                        tracing::warn!(leader = self.to, %problem, failures, "can't fetch from a leader");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(limits::PAUSE_LONGEST);
        }
    }

    /// Opens a stream and uses it until it breaks.
    async fn converse(self: &Arc<Self>) -> Result<(), String> {
        let cluster = self.quorum.cluster();
        let Some(leader) = cluster.brokers.get(&self.to) else {
            // Removed for good: a partition that still follows it asks again, after a while.
            self.give_up_waiting();
            return Err(format!("broker {} is not registered", self.to));
        };
        let address = leader.internal_address.clone();
        if address.is_empty() {
            return Err(format!("broker {} is not registered with an internal address", self.to));
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("{address:?} is no address: {error}"))?
            .connect_timeout(limits::CONNECT_WITHIN)
            .tcp_nodelay(true)
            .initial_stream_window_size(limits::WINDOW_BYTES)
            .initial_connection_window_size(limits::WINDOW_BYTES)
            .http2_keep_alive_interval(limits::PING_INTERVAL)
            .keep_alive_timeout(limits::PING_WAIT)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
        let mut client = ReplicationClient::new(channel)
            .max_decoding_message_size(limits::MAX_RESPONSE_BYTES)
            .max_encoding_message_size(limits::MAX_REQUEST_BYTES);
        let (requests, sent) = mpsc::channel(2);
        let hello = ReplicateRequest {
            hello: Some(ReplicateHello {
                cluster_id: cluster.cluster_id.clone(),
                from_broker_id: self.own,
                from_broker_epoch: self.broker_epoch,
                to_broker_id: self.to,
            }),
            fetches: Vec::new(),
        };
        if requests.send(hello).await.is_err() {
            return Err("the stream has ended".into());
        }
        let opened = tokio::time::timeout(limits::CONNECT_WITHIN, client.replicate(ReceiverStream::new(sent)));
        let answers = match opened.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(status.message().to_owned()),
            Err(_) => return Err(format!("{address} does not answer")),
        };
        tracing::debug!(leader = self.to, address, "following");
        let under_way = Arc::new(UnderWay::default());
        let sending = tokio::spawn(self.clone().send(requests, under_way.clone()));
        let sending = AbortOnDropHandle::new(sending);
        let ended = self.receive(answers, &under_way).await;
        // Its end is waited for: what it takes while it is being stopped must be among the lost.
        sending.abort();
        let _ = sending.await;
        let lost: Vec<_> = under_way.lock().drain().map(|(_, lost)| lost).collect();
        for (partition, request) in lost {
            self.tell_failed(&partition, &request);
        }
        if let Some(problem) = ended {
            tracing::info!(leader = self.to, problem, "the stream from a leader broke");
        }
        Ok(())
    }

    fn give_up_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for slot in waiting.into_values() {
            if let Some(request) = slot.fetch {
                self.tell_failed(&slot.partition, &request);
            }
        }
    }

    fn tell_failed(&self, partition: &Arc<Partition>, request: &FetchRequest) {
        let (epoch, sequence) = (request.leader_epoch, request.sequence);
        self.tell(partition, epoch, sequence, FetchOutcome::Failed, &Bytes::new());
    }

    async fn send(self: Arc<Self>, requests: mpsc::Sender<ReplicateRequest>, under_way: Arc<UnderWay>) {
        loop {
            let mut fetches = self.take_waiting(&under_way).into_iter().peekable();
            if fetches.peek().is_none() {
                self.wake.notified().await;
                continue;
            }
            while fetches.peek().is_some() {
                let message = ReplicateRequest {
                    hello: None,
                    fetches: fetches.by_ref().take(limits::REQUEST_FETCHES).collect(),
                };
                if requests.send(message).await.is_err() {
                    return;
                }
            }
        }
    }

    /// All that waits, as it is to be sent. Each fetch is under way from here on, before the first
    /// message goes: one that was taken, and that a broken stream never carried, must be told to
    /// its replica as well, which else waits for an answer until its patience ends.
    fn take_waiting(&self, under_way: &UnderWay) -> Vec<ReplicaFetch> {
        let taken = std::mem::take(&mut *self.waiting.lock());
        let mut fetches = Vec::with_capacity(taken.len());
        let mut under_way = under_way.lock();
        for (key, waiting) in taken {
            if let Some(request) = waiting.fetch {
                fetches.push(fetch_out(key, &request, false));
                under_way.insert(key, (waiting.partition, request));
            }
            if let Some(request) = waiting.acknowledgement {
                fetches.push(fetch_out(key, &request, true));
            }
        }
        fetches
    }

    /// Takes answers until the stream ends; says why it did.
    async fn receive(&self, mut answers: Streaming<ReplicateResponse>, under_way: &UnderWay) -> Option<String> {
        loop {
            match answers.message().await {
                Ok(Some(response)) => {
                    for answer in response.answers {
                        self.take(answer, under_way);
                    }
                }
                Ok(None) => return None,
                Err(status) => return Some(status.message().to_owned()),
            }
        }
    }

    fn take(&self, answer: ReplicaAnswer, under_way: &UnderWay) {
        let Ok(topic_id) = Uuid::from_slice(&answer.topic_id) else {
            return;
        };
        let key = (topic_id, answer.partition);
        let partition = {
            let mut under_way = under_way.lock();
            match under_way.get(&key) {
                Some((_, request)) if request.sequence == answer.sequence => {}
                // Of a request that another one has taken the place of.
                _ => return,
            }
            match under_way.remove(&key) {
                Some((partition, _)) => partition,
                None => return,
            }
        };
        let (epoch, sequence) = (answer.leader_epoch, answer.sequence);
        let none = Bytes::new();
        match answer.outcome {
            Some(Outcome::Records(records)) => match headers(&records.records) {
                Ok(fetched) => {
                    let outcome = FetchOutcome::Records {
                        batches: &fetched,
                        high_watermark: records.high_watermark,
                        log_start: records.log_start,
                    };
                    self.tell(&partition, epoch, sequence, outcome, &records.records);
                }
                Err(problem) => {
                    tracing::warn!(
                        leader = self.to,
                        topic = partition.topic(),
                        partition = partition.number(),
                        problem,
                        "a leader sent what is no record batch"
                    );
                    self.tell(&partition, epoch, sequence, FetchOutcome::Failed, &none);
                }
            },
            Some(Outcome::Diverged(end)) => {
                let end = EpochEnd {
                    epoch: end.epoch,
                    end_offset: end.end_offset,
                };
                self.tell(&partition, epoch, sequence, FetchOutcome::Diverged(end), &none);
            }
            Some(Outcome::OutOfRange(range)) => match snapshot::decode(&range.producers) {
                Ok(producers) => {
                    let refusal = FetchRefusal::OffsetOutOfRange {
                        offset: range.log_start,
                        log_start: range.log_start,
                        log_end: range.log_end,
                    };
                    let reply = self.reply(epoch, sequence, FetchOutcome::Refused(refusal));
                    partition.on_out_of_range(&reply, producers);
                }
                Err(problem) => {
                    tracing::warn!(
                        leader = self.to,
                        topic = partition.topic(),
                        partition = partition.number(),
                        %problem,
                        "a leader sent what is no producer snapshot"
                    );
                    self.tell(&partition, epoch, sequence, FetchOutcome::Failed, &none);
                }
            },
            Some(Outcome::Refused(why)) => {
                tracing::debug!(
                    leader = self.to,
                    topic = partition.topic(),
                    partition = partition.number(),
                    why,
                    "a leader refuses a fetch"
                );
                self.tell(&partition, epoch, sequence, FetchOutcome::Failed, &none);
            }
            None => self.tell(&partition, epoch, sequence, FetchOutcome::Failed, &none),
        }
    }

    fn tell(
        &self,
        partition: &Arc<Partition>,
        leader_epoch: i32,
        sequence: u64,
        outcome: FetchOutcome<'_>,
        bytes: &Bytes,
    ) {
        partition.on_fetch_answer(&self.reply(leader_epoch, sequence, outcome), bytes);
    }

    fn reply<'a>(&self, leader_epoch: i32, sequence: u64, outcome: FetchOutcome<'a>) -> FetchReply<'a> {
        FetchReply {
            from: self.to,
            leader_epoch,
            sequence,
            outcome,
        }
    }
}

/// An error with its causes: transport errors say little by themselves.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What the rules need to know of fetched batches; their checksums are the log's to look at.
fn headers(bytes: &Bytes) -> Result<Vec<FetchedBatch>, String> {
    let mut fetched = Vec::new();
    for batch in batches(bytes) {
        let batch = batch.map_err(|error| error.to_string())?;
        let header = batch.header();
        fetched.push(FetchedBatch {
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            leader_epoch: header.partition_leader_epoch,
        });
    }
    Ok(fetched)
}

fn fetch_out(key: Key, request: &FetchRequest, acknowledge_only: bool) -> ReplicaFetch {
    ReplicaFetch {
        topic_id: key.0.as_bytes().to_vec().into(),
        partition: key.1,
        leader_epoch: request.leader_epoch,
        sequence: request.sequence,
        offset: request.offset,
        last_fetched_epoch: request.last_fetched_epoch,
        durable_end: request.durable_end,
        log_start: request.log_start,
        high_watermark: request.high_watermark,
        acknowledge_only,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PHANTOM, TestBroker};

    fn request(sequence: u64) -> FetchRequest {
        FetchRequest {
            replica: 0,
            broker_epoch: 1,
            leader_epoch: 2,
            sequence,
            offset: 3,
            last_fetched_epoch: None,
            durable_end: 3,
            log_start: 0,
            high_watermark: 0,
        }
    }

    /// A partition that still follows a broker that was removed asks again after a while; the link
    /// does not try for ever.
    #[tokio::test]
    async fn a_removed_broker_is_not_tried_for_ever() {
        let test = TestBroker::start().await;
        let one = test.partition("one", &[0, PHANTOM]).await;
        let link = Arc::new(Link::new(0, 1, 77, test.broker().quorum.clone()));
        link.push(&one, request(1), true);
        assert!(link.converse().await.unwrap_err().contains("77 is not registered"));
        assert!(link.waiting.lock().is_empty());
    }

    /// Each fetch that was taken is answered or lost, whatever of it a broken stream has carried.
    #[tokio::test]
    async fn what_is_taken_is_under_way_before_anything_is_sent() {
        let test = TestBroker::start().await;
        let one = test.partition("one", &[0, PHANTOM]).await;
        let other = test.partition("other", &[0, PHANTOM]).await;
        let link = Arc::new(Link::new(0, 1, PHANTOM, test.broker().quorum.clone()));
        link.push(&one, request(1), true);
        link.push(&one, request(2), true);
        link.push(&other, request(1), true);
        link.push(&other, request(2), false);
        let under_way = Arc::new(UnderWay::default());
        let mut sent = link.take_waiting(&under_way);
        sent.sort_by_key(|fetch| (fetch.topic_id[..] != one.key().0.as_bytes()[..], fetch.sequence));
        let sent: Vec<_> = sent
            .iter()
            .map(|fetch| (fetch.sequence, fetch.acknowledge_only))
            .collect();
        assert_eq!(sent, [(2, false), (1, false), (2, true)]);
        let known = |partition: &Partition| under_way.lock().get(&partition.key()).map(|known| known.1.sequence);
        assert_eq!((known(&one), known(&other)), (Some(2), Some(1)));
        assert!(link.take_waiting(&under_way).is_empty());

        // The stream takes nothing more, and the sending task is ended while it waits.
        let (requests, _not_taken) = mpsc::channel(1);
        requests.send(ReplicateRequest::default()).await.unwrap();
        let sending = AbortOnDropHandle::new(tokio::spawn(link.clone().send(requests, under_way.clone())));
        link.push(&one, request(3), true);
        while !link.waiting.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        sending.abort();
        assert!(sending.await.unwrap_err().is_cancelled());
        assert_eq!(known(&one), Some(3));
    }
}
