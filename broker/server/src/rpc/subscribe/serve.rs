//! A subscriber's stream, from its first request to its end.

use std::{sync::Arc, time::Instant};

use futures::{FutureExt as _, future::BoxFuture};
use millrace_member::{Event, PartitionId};
use millrace_proto::{
    encoded::EncodedAnswer,
    v1::{self, ErrorReason, subscribe_request::Request},
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    begin::{self, Found},
    open,
    session::Session,
};
use crate::{
    broker::Broker,
    connection::Client,
    error::{ApiError, broker_stopping},
    limits,
    memory::{ConnectionBudget, MessagePermits},
    rpc::groups::leave_group,
};

type Answers = mpsc::Sender<Result<EncodedAnswer, Status>>;

/// What was looked for, and how often partitions had been lost by then.
type Finding = BoxFuture<'static, (u64, Result<Vec<(PartitionId, Found)>, ApiError>)>;

/// How a stream ends.
enum End {
    /// The subscriber says nothing more, and may come again.
    Gone,
    /// It has sent what is no request, or its connection broke.
    Broken(Status),
    /// It can't go on here; the subscriber may elsewhere.
    Failed(ApiError),
    /// The member is none any more.
    Over(ApiError),
    /// It does not do what is its turn.
    TooSlow,
    /// Nothing is heard of its connection any more.
    Silent,
    /// The subscriber leaves, perhaps to come back.
    Leaves(bool),
}

/// Serves one stream until it ends.
pub async fn serve(
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    client: Client,
    permits: MessagePermits,
    mut requests: Streaming<v1::SubscribeRequest>,
    answers: Answers,
) {
    permits.claim();
    let served = tokio::select! {
        first = requests.message() => match first {
            Ok(Some(first)) => begin(broker.clone(), budget, client, &permits, first),
            Ok(None) => return,
            Err(status) => Err(status),
        },
        () = answers.closed() => return,
        () = broker.stopping.cancelled() => Err(broker_stopping().into()),
    };
    let ended = match served {
        Ok((mut session, events)) => {
            let end = run(&mut session, events, &permits, &mut requests, &answers).await;
            let ended = finish(&mut session, end).await;
            let told = async {
                while let Some(response) = session.last_response() {
                    if answers.send(Ok(response)).await.is_err() {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(limits::SUBSCRIBE_END_WITHIN, told).await;
            ended
        }
        Err(status) => Err(status),
    };
    if let Err(status) = ended {
        // Who does not take what came before does not take this.
        let _ = tokio::time::timeout(limits::SUBSCRIBE_END_WITHIN, answers.send(Err(status))).await;
    }
}

type Begun = (Session, mpsc::Receiver<Event<ApiError>>);

fn begin(
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    client: Client,
    permits: &MessagePermits,
    first: v1::SubscribeRequest,
) -> Result<Begun, Status> {
    let _memory = permits.take();
    let begun = match first.request {
        Some(Request::Open(opened)) => open::check(&broker, opened)
            .and_then(|opening| Session::begin(broker.clone(), budget, client, opening, Instant::now())),
        _ => Err(ApiError::field("request", "the first one must be `open`")),
    };
    Ok(begun.inspect_err(|error| broker.metrics.count_error(error))?)
}

async fn run(
    session: &mut Session,
    mut events: mpsc::Receiver<Event<ApiError>>,
    permits: &MessagePermits,
    requests: &mut Streaming<v1::SubscribeRequest>,
    answers: &Answers,
) -> End {
    let stopping = session.broker.stopping.clone();
    let mut finding: Option<Finding> = None;
    let mut open = true;
    loop {
        let now = Instant::now();
        session.give_back(now);
        session.begin_commit(now, false);
        if let Some(error) = session.failed.take() {
            return if error.reason().is_retriable() {
                End::Failed(error)
            } else {
                End::Over(error)
            };
        }
        if let Some(temporary) = session.leaving {
            return End::Leaves(temporary);
        }
        if session.is_too_slow(now) {
            return End::TooSlow;
        }
        if session.is_silent(now) {
            return End::Silent;
        }
        if !open && session.has_sent_all() {
            return End::Gone;
        }
        if finding.is_none() {
            finding = session.to_begin(now).map(|(losses, identity, wanted)| {
                let found = begin::find(session.broker.clone(), session.group.clone(), identity, wanted);
                found.map(move |found| (losses, found)).boxed()
            });
        }
        let has_response = session.has_response();
        session.flow.set_blocked(has_response && answers.capacity() == 0, now);
        let (takes_commands, wants_fed) = (open && session.takes_commands(), session.wants_fed());
        let wake_at = session.wake_at(finding.is_some());
        // Also while there is always something to send: heartbeats are due.
        if wake_at.is_some_and(|at| at <= now) {
            session.take(now, Event::Tick);
        }
        tokio::select! {
            biased;
            () = stopping.cancelled() => return End::Failed(broker_stopping()),
            () = answers.closed() => return End::Gone,
            Some(event) = events.recv() => session.take(Instant::now(), event),
            request = requests.message(), if takes_commands => match request {
                Ok(Some(request)) => {
                    let _memory = permits.take();
                    session.command(Instant::now(), request);
                }
                Ok(None) => open = false,
                Err(status) => return End::Broken(status),
            },
            (losses, found) = found(&mut finding), if finding.is_some() => {
                finding = None;
                session.begun(Instant::now(), losses, found);
            }
            answer = session.commits.answered() => session.committed(Instant::now(), answer),
            place = answers.reserve(), if has_response => {
                let now = Instant::now();
                session.flow.set_blocked(false, now);
                if let (Ok(place), Some(response)) = (place, session.next_response(now)) {
                    place.send(Ok(response));
                }
            }
            Some(fed) = session.feed.next(), if wants_fed => session.take_fed(fed),
            () = sleep_until(wake_at) => session.take(Instant::now(), Event::Tick),
        }
    }
}

async fn found(finding: &mut Option<Finding>) -> (u64, Result<Vec<(PartitionId, Found)>, ApiError>) {
    match finding {
        Some(finding) => finding.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Ends a stream: what is known to be processed is committed, and the member leaves where it is to.
async fn finish(session: &mut Session, end: End) -> Result<(), Status> {
    if !matches!(end, End::Over(_)) {
        session.commit_last(limits::LAST_COMMIT_WITHIN).await;
    }
    let broker = session.broker.clone();
    let told = |error: ApiError| -> Result<(), Status> {
        broker.metrics.count_error(&error);
        Err(error.into())
    };
    match end {
        End::Gone => Ok(()),
        End::Broken(status) => Err(status),
        End::Failed(error) | End::Over(error) => told(error),
        End::TooSlow => {
            // Whether or not the coordinator hears of it, nothing more comes here.
            let _ = leave(session, false).await;
            told(ApiError::new(
                ErrorReason::SubscriberTooSlow,
                "The subscriber did not take or process what it was sent within its processing_timeout, and has lost its partitions: open another stream without the token.",
            ))
        }
        End::Silent => {
            // Its session is over: it is not to wait for another one.
            let _ = leave(session, false).await;
            told(ApiError::new(
                ErrorReason::UnknownMember,
                "Nothing was heard of the subscriber's connection for its session_timeout, not even an answer to a ping: it has lost its partitions. Open another stream without the token.",
            ))
        }
        End::Leaves(temporary) => leave(session, temporary).await.or_else(told),
    }
}

async fn leave(session: &mut Session, temporary: bool) -> Result<(), ApiError> {
    let Some(member_id) = session.leave(Instant::now()) else {
        return Ok(());
    };
    let request = v1::LeaveGroupRequest {
        group: session.group.clone(),
        member_id,
        temporary,
    };
    match leave_group(&session.broker, request).await {
        // It is gone already.
        Err(error)
            if matches!(
                error.reason(),
                ErrorReason::UnknownMember | ErrorReason::FencedMember | ErrorReason::UnknownGroup
            ) =>
        {
            Ok(())
        }
        left => left.map(drop),
    }
}
