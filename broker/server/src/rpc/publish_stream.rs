//! `Messaging.PublishStream`: publishing with ids, resumable without a double.
//!
//! A stream has a producer id. A request's id is the base sequence of its batches, so the
//! log itself remembers which requests it holds: also over a restart of the broker. Within
//! a partition ids only rise, so an id that is not above the last one was stored before.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use millrace_proto::{
    batch::crc::crc32c,
    v1::{self, ErrorReason, publish_stream_response::Result as Answer},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::publish::{self, Publisher};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome, broker_stopping},
    forward::Flows,
    limits,
    memory::{MemoryPermit, MessagePermits},
};

/// The form of a token: version, producer id, check.
const TOKEN_VERSION: u8 = 1;
const TOKEN_LEN: usize = 1 + 8 + 4;

/// The streams that can be resumed with their answers still known.
#[derive(Debug, Default)]
pub struct PublishSessions(Mutex<HashMap<i64, Session>>);

/// What is remembered of a stream.
#[derive(Debug)]
struct Session {
    /// Ends the stream that serves it now.
    owner: CancellationToken,
    /// The latest answers, by rising id.
    answers: VecDeque<(u64, v1::PublishResponse)>,
    used_at_ms: i64,
}

impl PublishSessions {
    /// Makes the caller the one that serves the stream; ends the one before.
    fn take_over(&self, producer_id: i64, now_ms: i64) -> CancellationToken {
        let owner = CancellationToken::new();
        let mut sessions = self.0.lock();
        match sessions.entry(producer_id) {
            Entry::Occupied(mut entry) => {
                let session = entry.get_mut();
                session.used_at_ms = now_ms;
                std::mem::replace(&mut session.owner, owner.clone()).cancel();
            }
            Entry::Vacant(entry) => {
                entry.insert(Session {
                    owner: owner.clone(),
                    answers: VecDeque::new(),
                    used_at_ms: now_ms,
                });
            }
        }
        let life = i64::try_from(limits::PUBLISH_SESSION_LIFE.as_millis()).unwrap_or(i64::MAX);
        sessions.retain(|_, session| now_ms.saturating_sub(session.used_at_ms) < life);
        if sessions.len() > limits::MAX_PUBLISH_SESSIONS
            && let Some(oldest) = sessions
                .iter()
                .min_by_key(|(_, session)| session.used_at_ms)
                .map(|(id, _)| *id)
        {
            sessions.remove(&oldest);
        }
        owner
    }

    fn remember(&self, producer_id: i64, id: u64, answer: &v1::PublishResponse, now_ms: i64) {
        if answer.positions.len() > limits::REMEMBERED_POSITIONS {
            return;
        }
        if let Some(session) = self.0.lock().get_mut(&producer_id) {
            session.used_at_ms = now_ms;
            if session.answers.len() >= limits::REMEMBERED_ANSWERS {
                session.answers.pop_front();
            }
            session.answers.push_back((id, answer.clone()));
        }
    }

    fn remembered(&self, producer_id: i64, id: u64) -> Option<v1::PublishResponse> {
        let sessions = self.0.lock();
        let answers = &sessions.get(&producer_id)?.answers;
        answers
            .iter()
            .find(|(known, _)| *known == id)
            .map(|(_, answer)| answer.clone())
    }
}

/// The token of a stream, bound to the cluster.
fn encode_token(cluster_id: &str, producer_id: i64) -> Vec<u8> {
    let mut token = vec![TOKEN_VERSION];
    token.extend(producer_id.to_be_bytes());
    let check = crc32c(&[cluster_id.as_bytes(), &token].concat());
    token.extend(check.to_be_bytes());
    token
}

fn decode_token(cluster_id: &str, token: &[u8]) -> Result<i64, ApiError> {
    let invalid = || {
        ApiError::new(
            ErrorReason::InvalidResumeToken,
            "The resume token is not one of this cluster's: open a new stream, and treat what was not answered as unknown.",
        )
    };
    let id: [u8; 8] = token
        .get(1..9)
        .and_then(|id| id.try_into().ok())
        .filter(|_| token.len() == TOKEN_LEN)
        .ok_or_else(invalid)?;
    let producer_id = i64::from_be_bytes(id);
    if producer_id < 0 || encode_token(cluster_id, producer_id) != token {
        return Err(invalid());
    }
    Ok(producer_id)
}

type Pending = BoxFuture<'static, v1::PublishStreamResponse>;

/// One stream being served.
struct Stream {
    broker: Arc<Broker>,
    producer_id: i64,
    last_id: u64,
    flows: Flows,
    pending: FuturesOrdered<Pending>,
    /// How many messages each pending answer is about, and all together.
    pending_messages: (VecDeque<usize>, usize),
}

/// Serves one stream until it ends, is taken over, or its reader goes away.
pub async fn serve(
    broker: Arc<Broker>,
    permits: MessagePermits,
    mut requests: Streaming<v1::PublishStreamRequest>,
    answers: mpsc::Sender<Result<v1::PublishStreamResponse, Status>>,
) {
    permits.claim();
    let ended = run(broker, &permits, &mut requests, &answers).await;
    if let Err(status) = ended {
        let _ = answers.send(Err(status)).await;
    }
}

async fn run(
    broker: Arc<Broker>,
    permits: &MessagePermits,
    requests: &mut Streaming<v1::PublishStreamRequest>,
    answers: &mpsc::Sender<Result<v1::PublishStreamResponse, Status>>,
) -> Result<(), Status> {
    let stopping = broker.stopping.clone();
    let first = tokio::select! {
        first = requests.message() => first?,
        () = stopping.cancelled() => return Err(broker_stopping().into()),
    };
    let Some(first) = first else { return Ok(()) };
    let producer_id = match &first.resume_token {
        Some(token) => decode_token(&broker.cluster_id(), token)?,
        None => broker.next_producer_id().await?,
    };
    let owner = broker.sessions.take_over(producer_id, broker.now_ms());
    let resume_token = encode_token(&broker.cluster_id(), producer_id).into();
    let opened = Answer::Opened(v1::PublishStreamOpened { resume_token });
    let opened = v1::PublishStreamResponse {
        id: 0,
        result: Some(opened),
    };
    if answers.send(Ok(opened)).await.is_err() {
        return Ok(());
    }
    let mut stream = Stream {
        broker,
        producer_id,
        last_id: 0,
        flows: Flows::default(),
        pending: FuturesOrdered::new(),
        pending_messages: (VecDeque::new(), 0),
    };
    let mut next = Some(first);
    let mut open = true;
    loop {
        if let Some(request) = next.take() {
            let permit = permits.take();
            stream.handle(request, permit);
        }
        if !open && stream.pending.is_empty() {
            return if stopping.is_cancelled() {
                Err(broker_stopping().into())
            } else {
                Ok(())
            };
        }
        tokio::select! {
            biased;
            () = stopping.cancelled(), if open => open = false,
            () = owner.cancelled() => return Err(taken_over().into()),
            Some(answer) = stream.pending.next(), if !stream.pending.is_empty() => {
                stream.pending_messages.1 -= stream.pending_messages.0.pop_front().unwrap_or(0);
                if answers.send(Ok(answer)).await.is_err() {
                    return Ok(());
                }
            }
            request = requests.message(),
                if open && stream.has_room() =>
            {
                match request {
                    Ok(Some(request)) => next = Some(request),
                    Ok(None) => open = false,
                    Err(status) => return Err(status),
                }
            }
        }
    }
}

fn taken_over() -> ApiError {
    ApiError::new(
        ErrorReason::StreamTakenOver,
        "Another stream resumed with this one's token: go on there.",
    )
}

impl Stream {
    /// Begins a request. `permit` is its memory: given back once its batches are in the log here, or are
    /// not needed any more.
    fn handle(&mut self, request: v1::PublishStreamRequest, permit: Option<MemoryPermit>) {
        let id = request.id;
        let Some(publish) = request.publish else {
            // Only to open the stream; later it would be a request without content.
            if self.last_id > 0 || id > 0 {
                self.fail(id, ApiError::field("publish", "must be set"));
            }
            return;
        };
        match self.begin(id, &publish, permit) {
            Ok(pending) => self.push(pending, publish.messages.len()),
            Err(error) => self.fail(id, error),
        }
    }

    fn begin(
        &mut self,
        id: u64,
        publish: &v1::PublishRequest,
        permit: Option<MemoryPermit>,
    ) -> Result<Pending, ApiError> {
        let sequence = i32::try_from(id)
            .ok()
            .filter(|_| id > 0)
            .ok_or_else(|| ApiError::field("id", "must be 1 to 2,147,483,647"))?;
        if id <= self.last_id {
            return Err(ApiError::field(
                "id",
                format!("must rise: {} came before", self.last_id),
            ));
        }
        self.last_id = id;
        if let Some(known) = self.broker.sessions.remembered(self.producer_id, id) {
            let result = Some(Answer::Published(known));
            return Ok(futures::future::ready(v1::PublishStreamResponse { id, result }).boxed());
        }
        let publisher = Publisher {
            producer_id: self.producer_id,
            sequence,
        };
        let publishing = publish::begin(&self.broker, publish, Some(publisher), &mut self.flows)?;
        let permit = permit.filter(|_| publishing.keeps_batches());
        let (broker, producer_id) = (self.broker.clone(), self.producer_id);
        Ok(async move {
            let _permit = permit;
            let result = match publishing.finish(&broker).await {
                Ok(published) => {
                    let now_ms = broker.now_ms();
                    broker.sessions.remember(producer_id, id, &published, now_ms);
                    Answer::Published(published)
                }
                Err(error) => Answer::Error(error.to_message()),
            };
            v1::PublishStreamResponse {
                id,
                result: Some(result),
            }
        }
        .boxed())
    }

    fn fail(&mut self, id: u64, error: ApiError) {
        self.broker.metrics.count_error(&error);
        let error = error.or_outcome(WriteOutcome::NotWritten).to_message();
        let answer = v1::PublishStreamResponse {
            id,
            result: Some(Answer::Error(error)),
        };
        self.push(futures::future::ready(answer).boxed(), 0);
    }

    fn push(&mut self, pending: Pending, messages: usize) {
        self.pending.push_back(pending);
        self.pending_messages.0.push_back(messages);
        self.pending_messages.1 += messages;
    }

    fn has_room(&self) -> bool {
        self.pending.len() < limits::MAX_PUBLISH_IN_FLIGHT
            && self.pending_messages.1 < limits::MAX_PUBLISH_MESSAGES_IN_FLIGHT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_bound_to_their_cluster_and_checked() {
        let token = encode_token("c1", 77);
        assert_eq!(decode_token("c1", &token), Ok(77));
        assert!(decode_token("c2", &token).is_err());
        for at in 0..token.len() {
            let mut bad = token.clone();
            bad[at] ^= 1;
            assert!(decode_token("c1", &bad).is_err(), "byte {at}");
            assert!(decode_token("c1", &token[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_resumed_stream_ends_the_one_before_and_keeps_its_answers() {
        let sessions = PublishSessions::default();
        let first = sessions.take_over(1, 10);
        assert!(!first.is_cancelled());
        sessions.remember(1, 5, &v1::PublishResponse::default(), 11);
        let second = sessions.take_over(1, 12);
        assert!(first.is_cancelled() && !second.is_cancelled());
        assert!(sessions.remembered(1, 5).is_some());
        assert!(sessions.remembered(1, 6).is_none());
        assert!(sessions.remembered(2, 5).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let sessions = PublishSessions::default();
        sessions.take_over(0, 0);
        for id in 0..=limits::REMEMBERED_ANSWERS as u64 {
            sessions.remember(0, id, &v1::PublishResponse::default(), 1);
        }
        assert!(sessions.remembered(0, 0).is_none());
        assert!(sessions.remembered(0, 1).is_some());
        for id in 0..=limits::MAX_PUBLISH_SESSIONS as i64 {
            sessions.take_over(id, 2 + id);
        }
        assert_eq!(sessions.0.lock().len(), limits::MAX_PUBLISH_SESSIONS);
        let day = limits::PUBLISH_SESSION_LIFE.as_millis() as i64;
        sessions.take_over(-1, 100_000 + day);
        assert_eq!(sessions.0.lock().len(), 1);
    }
}
