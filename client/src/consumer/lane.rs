//! One Fetch stream to one leader: one request at a time, and the one that follows it while the
//! rest of its answer is under way.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use millrace_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Shared,
    answers::{Answers, Part},
    records::{Scanned, scan},
    state::{Answered, Asked, PartitionState, Plan},
};
use crate::{
    error::{Error, ErrorKind, Result},
    limits,
};

/// An open stream.
struct Stream {
    requests: mpsc::Sender<v1::FetchRequest>,
    answers: Answers,
    next_correlation: u64,
}

/// A request that is being made. Dropped in whatever way, its partitions are free again.
struct Pending {
    shared: Arc<Shared>,
    leader: Arc<str>,
    asked: Box<Asked>,
    /// Its number, once it is sent.
    sent: Option<u64>,
}

impl Pending {
    fn new(shared: &Arc<Shared>, leader: &Arc<str>, asked: Box<Asked>) -> Self {
        Self {
            shared: shared.clone(),
            leader: leader.clone(),
            asked,
            sent: None,
        }
    }

    fn ended(&self) -> Error {
        Error::connection(&self.leader, "the broker ended the stream")
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.state.lock().ended(&self.leader, &self.asked);
        self.shared.work.notify_waiters();
    }
}

/// Fetches from `leader` until the consumer is gone.
pub async fn run(shared: Weak<Shared>, leader: Arc<str>) {
    let mut stream = None;
    let mut backoff = limits::MIN_BACKOFF;
    let mut following = None;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let mut pending = match following.take() {
            Some(sent) => sent,
            None => Pending::new(&shared, &leader, next(&shared, &leader).await),
        };
        let fetched = tokio::select! {
            fetched = fetch(&mut stream, &mut pending, &mut following) => Some(fetched),
            // A seek or a new partition: it must not wait for what is waited for now.
            () = shared.interrupt.notified() => None,
        };
        if !matches!(fetched, Some(Ok(()))) {
            following = None;
        }
        match fetched {
            Some(Ok(())) => {
                backoff = limits::MIN_BACKOFF;
                shared.client.inner.connections.reach.reached(&leader);
            }
            Some(Err(error)) if !error.is_retriable() => {
                stream = None;
                shared.state.lock().failed(&pending.asked, &error);
                shared.news.notify_one();
            }
            Some(Err(error)) => {
                tracing::debug!(%leader, %error, "a fetch stream broke");
                shared.client.inner.connections.reach.failed(&leader, &error);
                stream = None;
                drop(pending);
                shared.client.inner.refresh.notify_one();
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(limits::MAX_BACKOFF);
            }
            None => stream = None,
        }
    }
}

/// Waits until there is something to fetch.
async fn next(shared: &Arc<Shared>, leader: &Arc<str>) -> Box<Asked> {
    loop {
        let work = shared.work.notified();
        tokio::pin!(work);
        // Registered before looking, so that no change in between is missed.
        work.as_mut().enable();
        let plan = shared.state.lock().plan(leader, Instant::now(), &shared.config);
        match plan {
            Plan::Fetch(asked) => return asked,
            Plan::Wait(Some(until)) => {
                let _ = tokio::time::timeout_at(until.into(), work).await;
            }
            Plan::Wait(None) => work.await,
        }
    }
}

/// Makes a request, unless it is made already, and hands on what comes of its answer, part by part.
/// Where it can be told already what will be asked for next, that is sent meanwhile.
async fn fetch(stream: &mut Option<Stream>, pending: &mut Pending, following: &mut Option<Pending>) -> Result<()> {
    let (shared, leader) = (pending.shared.clone(), pending.leader.clone());
    let patience: Duration = pending.asked.max_wait + limits::FETCH_GRACE;
    let answer = async {
        let open = match stream {
            Some(open) => open,
            None => stream.insert(open(&shared, &leader).await?),
        };
        let correlation_id = match pending.sent {
            Some(sent) => sent,
            None => open.send(pending).await?,
        };
        let mut answered = AnsweredParts::default();
        loop {
            let (of, part) = open.answers.next().await?.ok_or_else(|| pending.ended())?;
            if of != correlation_id {
                return Err(Error::connection(&leader, "it answered another request than was made"));
            }
            let Part::Partition(partition) = part else { break };
            if following.is_none() && partition.error.is_none() {
                let asked = shared
                    .state
                    .lock()
                    .follow_on(&leader, &pending.asked, &partition, &shared.config);
                if let Some(asked) = asked {
                    let next = following.insert(Pending::new(&shared, &leader, asked));
                    open.send(next).await?;
                }
            }
            answered.apply(pending, *partition);
        }
        answered.end(&shared);
        Ok(())
    };
    tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::TimedOut,
            format!("Broker {leader} did not answer a fetch in time."),
        ))
    })
}

impl Stream {
    /// Sends a request and answers with its number.
    async fn send(&mut self, pending: &mut Pending) -> Result<u64> {
        let correlation_id = self.next_correlation;
        self.next_correlation += 1;
        let request = v1::FetchRequest {
            correlation_id,
            ..std::mem::take(&mut pending.asked.request)
        };
        self.requests.send(request).await.map_err(|_| pending.ended())?;
        pending.sent = Some(correlation_id);
        Ok(correlation_id)
    }
}

async fn open(shared: &Shared, leader: &str) -> Result<Stream> {
    // One, and the one that follows it.
    let (requests, queue) = mpsc::channel(2);
    let channel = shared.client.inner.connections.channel(leader)?;
    let answers = Answers::open(channel, ReceiverStream::new(queue)).await?;
    Ok(Stream {
        requests,
        answers,
        next_correlation: 1,
    })
}

/// What the parts of an answer told besides records.
#[derive(Default)]
struct AnsweredParts {
    failed: bool,
}

impl AnsweredParts {
    /// Walks over the batches that came and hands them on. Their checksums are looked at when they are
    /// taken: the next request need not wait for that.
    fn apply(&mut self, pending: &mut Pending, partition: v1::FetchedPartition) {
        let Pending { shared, asked, .. } = pending;
        self.failed |= partition.error.is_some();
        let scanned = match asked.offset(&partition.topic, partition.partition) {
            Some(offset) if partition.error.is_none() => scan(&partition.records, offset),
            _ => Scanned {
                bytes: bytes::Bytes::new(),
                next_offset: i64::MIN,
                leader_epoch: None,
                error: None,
            },
        };
        let answered = Answered { partition, scanned };
        shared
            .state
            .lock()
            .answered(asked, answered, Instant::now(), &shared.config);
        shared.news.notify_one();
    }

    fn end(self, shared: &Shared) {
        if self.failed {
            shared.client.inner.refresh.notify_one();
        }
        let resolve = |state: &PartitionState| state.start.is_some();
        if shared.state.lock().partitions.values().any(resolve) {
            shared.manage.notify_one();
        }
    }
}
