//! `Messaging.PublishStream`: publishing with ids, resumable without a double.
//!
//! A stream has a producer id. A request's id is the base sequence of its batches, so the
//! log itself remembers which requests it holds: also over a restart of the broker. Within
//! a partition ids only rise, so an id that is not above the last one was stored before.

mod sessions;
mod token;

use std::{collections::VecDeque, sync::Arc};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use millrace_proto::v1::{self, publish_stream_response::Result as Answer};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

pub use self::sessions::PublishSessions;
use self::token::{decode_token, encode_token};
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

/// A request whose batches are being made, which may wait for a turn. Those before it are answered meanwhile; none
/// begins, and the flows are here.
struct Beginning {
    id: u64,
    /// The messages' number.
    messages: usize,
    begun: BoxFuture<'static, (Flows, Result<Pending, ApiError>)>,
}

/// One stream being served.
struct Stream {
    broker: Arc<Broker>,
    producer_id: i64,
    last_id: u64,
    /// Whether the request that opened it is still to be looked at.
    opening: bool,
    flows: Flows,
    beginning: Option<Beginning>,
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
    let Some(mut first) = first else { return Ok(()) };
    let producer_id = match first.resume_token.take() {
        Some(token) => decode_token(&broker.cluster_id(), &token)?,
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
        opening: true,
        flows: Flows::default(),
        beginning: None,
        pending: FuturesOrdered::new(),
        pending_messages: (VecDeque::new(), 0),
    };
    let mut admitting = Some(admit(budget.clone(), first));
    let mut next: Option<Admitted> = None;
    let mut open = true;
    loop {
        if let Some(admitted) = next.take_if(|next| !next.alone || stream.pending.is_empty()) {
            stream.handle(admitted, permits.take());
        }
        let waits = admitting.is_some() || next.is_some() || stream.beginning.is_some();
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
            (flows, begun) = begun(&mut stream.beginning), if stream.beginning.is_some() => {
                stream.go_on(flows, begun);
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

/// What became of `beginning`; never, if nothing begins.
async fn begun(beginning: &mut Option<Beginning>) -> (Flows, Result<Pending, ApiError>) {
    match beginning {
        Some(beginning) => (&mut beginning.begun).await,
        None => std::future::pending().await,
    }
}

/// A stream's first answer.
fn opened(broker: &Broker, producer_id: i64) -> Acknowledged {
    let resume_token = encode_token(&broker.cluster_id(), producer_id).into();
    let opened = Answer::Opened(v1::PublishStreamOpened { resume_token });
    acknowledgement(0, opened, None)
}

/// Makes a request's batches and hands them on; answers with the future of its acknowledgement, which has
/// `answer`'s memory.
async fn begin(
    broker: Arc<Broker>,
    publish: v1::PublishRequest,
    publisher: Publisher,
    flows: &mut Flows,
    permit: Option<MemoryPermit>,
    answer: Option<MemoryPermit>,
) -> Result<Pending, ApiError> {
    let (producer_id, id) = (publisher.producer_id, u64::from(publisher.sequence.unsigned_abs()));
    let publishing = publish::begin(&broker, publish, Some(publisher), flows, permit).await?;
    Ok(async move {
        let result = match publishing.finish(&broker).await {
            Ok(published) => {
                let now_ms = broker.now_ms();
                broker.sessions.remember(producer_id, id, &published, now_ms);
                Answer::Published(published)
            }
            Err(error) => Answer::Error(error.to_message()),
        };
        acknowledgement(id, result, answer)
    }
    .boxed())
}

/// A request's answer, which counts `permit`.
fn acknowledgement(id: u64, result: Answer, permit: Option<MemoryPermit>) -> Acknowledged {
    let response = v1::PublishStreamResponse {
        id,
        result: Some(result),
    };
    Acknowledgement { response, permit }
}

impl Stream {
    /// Begins a request. `permit` is its memory: given back once its batches are in the log here, or are
    /// not needed any more.
    fn handle(&mut self, admitted: Admitted, permit: Option<MemoryPermit>) {
        let Admitted { request, answer, .. } = admitted;
        let id = request.id;
        if request.resume_token.is_some() {
            return self.fail(
                id,
                ApiError::field("resume_token", "may be set in the first request only"),
            );
        }
        let opening = std::mem::take(&mut self.opening);
        let Some(publish) = request.publish else {
            // Only to open the stream; later it is a request without content.
            if !opening {
                self.fail(id, ApiError::field("publish", "must be set"));
            }
            return;
        };
        let sequence = match self.check_id(id) {
            Ok(sequence) => sequence,
            Err(error) => return self.fail(id, error),
        };
        let messages = publish.messages.len();
        if let Some(known) = self.broker.sessions.remembered(self.producer_id, id) {
            let known = acknowledgement(id, Answer::Published(known), None);
            return self.push(futures::future::ready(known).boxed(), messages);
        }
        let publisher = Publisher {
            producer_id: self.producer_id,
            sequence,
        };
        let (broker, mut flows) = (self.broker.clone(), std::mem::take(&mut self.flows));
        let begun = async move {
            let begun = match answer {
                Ok(answer) => begin(broker, publish, publisher, &mut flows, permit, answer).await,
                Err(error) => Err(error),
            };
            (flows, begun)
        };
        self.beginning = Some(Beginning {
            id,
            messages,
            begun: begun.boxed(),
        });
    }

    /// An id as the sequence of the request's batches: it is above all before it.
    fn check_id(&mut self, id: u64) -> Result<i32, ApiError> {
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
        Ok(sequence)
    }

    /// The request that was beginning has begun, or can't.
    fn go_on(&mut self, flows: Flows, begun: Result<Pending, ApiError>) {
        self.flows = flows;
        let Some(Beginning { id, messages, .. }) = self.beginning.take() else {
            return;
        };
        match begun {
            Ok(pending) => self.push(pending, messages),
            Err(error) => self.fail(id, error),
        }
    }

    fn fail(&mut self, id: u64, error: ApiError) {
        self.broker.metrics.count_error(&error);
        let error = error.or_outcome(WriteOutcome::NotWritten).to_message();
        let answer = acknowledgement(id, Answer::Error(error), None);
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

    use millrace_engine::partition::FetchRequest;
    use millrace_proto::v1::messaging_client::MessagingClient;
    use tokio::task::JoinHandle;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::{
        memory::MemoryBudget,
        testing::{PHANTOM, TestBroker},
        turns,
    };

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

    /// A request without an answer would look lost to its sender.
    #[tokio::test(flavor = "multi_thread")]
    async fn requests_are_answered_while_a_later_one_waits_for_its_turn() {
        let test = TestBroker::start().await;
        let partition = test.partition("t", &[0, PHANTOM]).await;
        let address = format!("http://{}", test.running.address());
        let mut client = MessagingClient::connect(address).await.unwrap();
        let (send, requests) = mpsc::channel(4);
        let answers = client.publish_stream(ReceiverStream::new(requests)).await.unwrap();
        let mut answers = answers.into_inner();
        let publish = |id, bytes| {
            let message = v1::Message {
                value: Some(vec![7; bytes].into()),
                ..Default::default()
            };
            let publish = v1::PublishRequest {
                topic: "t".into(),
                messages: vec![message],
                compression: v1::Compression::Gzip.into(),
                ..Default::default()
            };
            v1::PublishStreamRequest {
                id,
                publish: Some(publish),
                ..Default::default()
            }
        };
        send.send(publish(1, 10)).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().id, 0);
        while partition.offsets().log_end < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // More than there are, so that all are taken and others wait behind them.
        let (turns, ends): (Vec<_>, Vec<_>) = (0..=limits::CODEC_TURNS).map(|_| keep_a_turn()).unzip();
        tokio::time::sleep(Duration::from_millis(50)).await;
        send.send(publish(2, 1 << 20)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        partition.on_acknowledged(FetchRequest {
            durable_end: 1,
            ..test.phantom_fetch(&partition, 1)
        });
        let answered = tokio::time::timeout(Duration::from_secs(20), answers.message()).await;
        assert_eq!(answered.expect("not before the later one").unwrap().unwrap().id, 1);
        drop(ends);
        for turn in turns {
            turn.await.unwrap();
        }
    }

    /// Keeps a codec's turn until what is returned beside it is dropped.
    fn keep_a_turn() -> (JoinHandle<()>, std::sync::mpsc::Sender<()>) {
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let work = move |_turn| {
            let _ = ends.recv_timeout(Duration::from_secs(60));
        };
        (tokio::spawn(async { turns::CODECS.run(work).await.unwrap() }), end)
    }
}
