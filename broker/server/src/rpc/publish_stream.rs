//! `Messaging.PublishStream`: publishing with ids, resumable without a double.
//!
//! A stream has a producer id. A request's id is the base sequence of its batches, so the
//! log itself remembers which requests it holds: also over a restart of the broker. Within
//! a partition ids only rise, so an id that is not above the last one was stored before.

mod sessions;

use std::{collections::VecDeque, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use millrace_proto::{
    batch::crc::crc32c,
    v1::{self, ErrorReason, publish_stream_response::Result as Answer},
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

pub use self::sessions::PublishSessions;
use super::{
    acknowledgements::Acknowledgement,
    publish::{self, Publisher},
};
use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome, broker_stopping},
    forward::Flows,
    limits,
    memory::{ConnectionBudget, MemoryPermit, MessagePermits},
};

/// The form of a token: version, producer id, check.
const TOKEN_VERSION: u8 = 1;
const TOKEN_LEN: usize = 1 + 8 + 4;

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

type Pending = BoxFuture<'static, Acknowledged>;

type Acknowledged = Acknowledgement<v1::PublishStreamResponse>;

/// Where a stream's answers go.
type Answers = mpsc::Sender<Result<Acknowledged, Status>>;

/// A request, and the memory of its answer.
struct Admitted {
    request: v1::PublishStreamRequest,
    answer: Result<Option<MemoryPermit>, ApiError>,
    /// It is small and goes without: but only by itself, so that each stream gets on.
    alone: bool,
}

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
    budget: Option<ConnectionBudget>,
    permits: MessagePermits,
    mut requests: Streaming<v1::PublishStreamRequest>,
    answers: Answers,
) {
    permits.claim();
    let ended = run(broker, budget, &permits, &mut requests, &answers).await;
    if let Err(status) = ended {
        let _ = answers.send(Err(status)).await;
    }
}

async fn run(
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    permits: &MessagePermits,
    requests: &mut Streaming<v1::PublishStreamRequest>,
    answers: &Answers,
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
    let owner = broker.sessions.take_over(producer_id, broker.now_ms())?;
    if answers.send(Ok(opened(&broker, producer_id))).await.is_err() {
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
    let mut admitting = Some(admit(budget.clone(), first));
    let mut next: Option<Admitted> = None;
    let mut open = true;
    loop {
        if let Some(admitted) = next.take_if(|next| !next.alone || stream.pending.is_empty()) {
            let permit = permits.take();
            // It may wait for its turn, and then the stream may be another one's.
            tokio::select! {
                biased;
                why = owner.ended() => return Err(why.into()),
                () = stream.handle(admitted, permit) => {}
            }
        }
        let waits = admitting.is_some() || next.is_some();
        if !open && !waits && stream.pending.is_empty() {
            return if stopping.is_cancelled() {
                Err(broker_stopping().into())
            } else {
                Ok(())
            };
        }
        tokio::select! {
            biased;
            () = stopping.cancelled(), if open => open = false,
            why = owner.ended() => return Err(why.into()),
            Some(answer) = stream.pending.next(), if !stream.pending.is_empty() => {
                stream.pending_messages.1 -= stream.pending_messages.0.pop_front().unwrap_or(0);
                // Also one that waits for its reader is taken over.
                let sent = tokio::select! {
                    sent = answers.send(Ok(answer)) => sent,
                    why = owner.ended() => return Err(why.into()),
                };
                if sent.is_err() {
                    return Ok(());
                }
            }
            admitted = admitted(&mut admitting), if admitting.is_some() => {
                admitting = None;
                next = Some(admitted);
            }
            request = requests.message(), if open && !waits && stream.has_room() => {
                match request {
                    Ok(Some(request)) => admitting = Some(admit(budget.clone(), request)),
                    Ok(None) => open = false,
                    Err(status) => return Err(status),
                }
            }
        }
    }
}

/// Takes the memory of a request's answer. Where there is none, large requests wait for it, and small ones
/// for the answers before them.
fn admit(budget: Option<ConnectionBudget>, request: v1::PublishStreamRequest) -> BoxFuture<'static, Admitted> {
    let messages = request.publish.as_ref().map_or(0, |publish| publish.messages.len());
    let bytes = limits::PUBLISHED_REQUEST_BYTES + messages * limits::PUBLISHED_MESSAGE_BYTES;
    let free = budget.as_ref().and_then(|budget| budget.try_for_acknowledgement(bytes));
    let counted = budget.is_none() || free.is_some();
    if counted || bytes <= limits::UNCOUNTED_ANSWER_BYTES {
        let admitted = Admitted {
            request,
            answer: Ok(free),
            alone: !counted,
        };
        return futures::future::ready(admitted).boxed();
    }
    async move {
        Admitted {
            answer: publish::admit(budget.as_ref(), messages).await,
            request,
            alone: false,
        }
    }
    .boxed()
}

/// The result of `admitting`; never, if nothing waits.
async fn admitted(admitting: &mut Option<BoxFuture<'static, Admitted>>) -> Admitted {
    match admitting {
        Some(admitting) => admitting.await,
        None => std::future::pending().await,
    }
}

/// A stream's first answer.
fn opened(broker: &Broker, producer_id: i64) -> Acknowledged {
    let resume_token = encode_token(&broker.cluster_id(), producer_id).into();
    let opened = Answer::Opened(v1::PublishStreamOpened { resume_token });
    Acknowledgement {
        response: v1::PublishStreamResponse {
            id: 0,
            result: Some(opened),
        },
        permit: None,
    }
}

impl Stream {
    /// Begins a request. `permit` is its memory: given back once its batches are in the log here, or are
    /// not needed any more.
    async fn handle(&mut self, admitted: Admitted, permit: Option<MemoryPermit>) {
        let Admitted { request, answer, .. } = admitted;
        let id = request.id;
        let Some(publish) = request.publish else {
            // Only to open the stream; later it would be a request without content.
            if self.last_id > 0 || id > 0 {
                self.fail(id, ApiError::field("publish", "must be set"));
            }
            return;
        };
        let messages = publish.messages.len();
        match self.begin(id, publish, permit, answer).await {
            Ok(pending) => self.push(pending, messages),
            Err(error) => self.fail(id, error),
        }
    }

    async fn begin(
        &mut self,
        id: u64,
        publish: v1::PublishRequest,
        permit: Option<MemoryPermit>,
        answer: Result<Option<MemoryPermit>, ApiError>,
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
        let acknowledge = move |permit, result| Acknowledgement {
            response: v1::PublishStreamResponse {
                id,
                result: Some(result),
            },
            permit,
        };
        if let Some(known) = self.broker.sessions.remembered(self.producer_id, id) {
            return Ok(futures::future::ready(acknowledge(None, Answer::Published(known))).boxed());
        }
        let answer = answer?;
        let publisher = Publisher {
            producer_id: self.producer_id,
            sequence,
        };
        let publishing =
            publish::begin(&self.broker, publish, Some(publisher), &mut self.flows, permit.clone()).await?;
        let mut permit = permit.filter(|_| publishing.keeps_batches());
        permit.iter_mut().for_each(MemoryPermit::release_decoded);
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
            acknowledge(answer, result)
        }
        .boxed())
    }

    fn fail(&mut self, id: u64, error: ApiError) {
        self.broker.metrics.count_error(&error);
        let error = error.or_outcome(WriteOutcome::NotWritten).to_message();
        let response = v1::PublishStreamResponse {
            id,
            result: Some(Answer::Error(error)),
        };
        let answer = Acknowledgement { response, permit: None };
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
    use std::time::Duration;

    use super::*;
    use crate::memory::MemoryBudget;

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

    fn request(messages: usize) -> v1::PublishStreamRequest {
        v1::PublishStreamRequest {
            publish: Some(v1::PublishRequest {
                messages: vec![v1::Message::default(); messages],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn requests_have_the_memory_of_their_answers_or_go_alone() {
        let memory = MemoryBudget::new(64 << 20, 8 << 20);
        let budget = Some(memory.connection());
        let first = admit(budget.clone(), request(10_000)).await;
        let held = memory.acknowledgements_used();
        assert!(held >= 10_000 * size_of::<v1::Position>() && !first.alone);
        let second = admit(budget.clone(), request(20_000));
        let small = admit(budget.clone(), request(1)).await;
        assert!(!small.alone && memory.acknowledgements_used() > held, "it is counted");
        let mut second = std::pin::pin!(second);
        let waited = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
        assert!(waited.is_err(), "a large one waits");
        drop((first, small));
        drop(second.await);
        let _others = budget.as_ref().unwrap().try_for_acknowledgement(usize::MAX).unwrap();
        let alone = admit(budget, request(1)).await;
        assert!(alone.alone);
        assert!(matches!(alone.answer, Ok(None)));
    }
}
