//! One Fetch stream to one leader: one request at a time.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use millrace_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Shared,
    answers::Answers,
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
    loop {
        let Some(shared) = shared.upgrade() else { return };
        let asked = next(&shared, &leader).await;
        let pending = Pending {
            shared: shared.clone(),
            leader: leader.clone(),
            asked,
        };
        let fetched = tokio::select! {
            fetched = fetch(&shared, &leader, &mut stream, &pending.asked) => Some(fetched),
            // A seek or a new partition: it must not wait for what is waited for now.
            () = shared.interrupt.notified() => None,
        };
        match fetched {
            Some(Ok(response)) => {
                backoff = limits::MIN_BACKOFF;
                shared.client.inner.connections.reach.reached(&leader);
                apply(pending, response);
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

async fn fetch(shared: &Shared, leader: &str, stream: &mut Option<Stream>, asked: &Asked) -> Result<v1::FetchResponse> {
    let patience: Duration = asked.max_wait + limits::FETCH_GRACE;
    let answer = async {
        let open = match stream {
            Some(open) => open,
            None => stream.insert(open(shared, leader).await?),
        };
        let correlation_id = open.next_correlation;
        open.next_correlation += 1;
        let request = v1::FetchRequest {
            correlation_id,
            ..asked.request.clone()
        };
        let ended = || Error::connection(leader, "the broker ended the stream");
        open.requests.send(request).await.map_err(|_| ended())?;
        let answer = open.answers.next().await?.ok_or_else(ended)?;
        if answer.correlation_id != correlation_id {
            return Err(Error::connection(leader, "it answered another request than was made"));
        }
        Ok(answer)
    };
    tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::TimedOut,
            format!("Broker {leader} did not answer a fetch in time."),
        ))
    })
}

async fn open(shared: &Shared, leader: &str) -> Result<Stream> {
    let (requests, queue) = mpsc::channel(1);
    let channel = shared.client.inner.connections.channel(leader)?;
    let answers = Answers::open(channel, ReceiverStream::new(queue)).await?;
    Ok(Stream {
        requests,
        answers,
        next_correlation: 1,
    })
}

/// Walks over the batches that came and hands them on, part by part. Their checksums are looked at
/// when they are taken: the next request need not wait for that.
fn apply(mut pending: Pending, response: v1::FetchResponse) {
    let Pending { shared, asked, .. } = &mut pending;
    let refresh = response.partitions.iter().any(|partition| partition.error.is_some());
    let now = Instant::now();
    for partition in response.partitions {
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
        shared.state.lock().answered(asked, answered, now, &shared.config);
        shared.news.notify_one();
    }
    if refresh {
        shared.client.inner.refresh.notify_one();
    }
    let resolve = |state: &PartitionState| state.start.is_some();
    if shared.state.lock().partitions.values().any(resolve) {
        shared.manage.notify_one();
    }
}
