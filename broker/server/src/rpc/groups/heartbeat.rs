//! `Groups.Heartbeat`: the stream of one member, to wherever its group is coordinated.
//!
//! ```text
//!  client ==requests==> serve --here--> Local --------------------------> coordinator
//!                         `----there--> Remote ==one stream==> serve_local (of that broker)
//! ```

use std::sync::Arc;

use bytes::Bytes;
use millrace_engine::{
    BrokerId,
    group::{self, Answer, MAX_OWNED_PARTITIONS, Request as Asked, Subscriber},
};
use millrace_proto::{
    internal::v1::{GroupsHeartbeatRequest, GroupsHeartbeatResponse},
    v1::{self, heartbeat_response::Result as Told},
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{
    Origin, convert, named,
    refusals::no_coordinator,
    route::{Place, Search, ask, asks_again, given_up, group_here, moved_from, place},
    unexpected,
};
use crate::{
    broker::Broker,
    connection::Client,
    error::{ApiError, broker_stopping},
    forward::{MemberStreams, Peer, error_in, error_out},
    groups::{Coordinator, MemberStream},
    limits,
    memory::{MemoryPermit, MessagePermits},
};

/// How a member's stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client has gone.
    Lost,
    /// It says nothing of the client.
    Quiet,
}

/// A member whose group this broker coordinates.
struct Local {
    instance: Option<String>,
    host: String,
    stream: Arc<MemberStream>,
    /// Whom its heartbeats went to last.
    coordinator: Option<Arc<Coordinator>>,
}

impl Local {
    fn new(first: &v1::HeartbeatRequest, host: String, of_subscriber: bool) -> Self {
        Self {
            instance: first.instance_id.clone(),
            host,
            stream: Arc::new(MemberStream::new(
                first.group.as_str().into(),
                first.member_id.as_str().into(),
                of_subscriber,
            )),
            coordinator: None,
        }
    }

    async fn answer(
        &mut self,
        broker: &Broker,
        coordinator: Arc<Coordinator>,
        request: v1::HeartbeatRequest,
        subscriber: Option<Subscriber>,
        memory: Option<MemoryPermit>,
    ) -> Result<v1::HeartbeatAnswer, ApiError> {
        let host = &self.host;
        let details = request
            .settings
            .map(|settings| convert::details(settings, self.instance.is_some(), host))
            .transpose()?;
        let owned = match &request.owned {
            Some(owned) => Some(named::owned_in(broker, "owned", &owned.topics, MAX_OWNED_PARTITIONS).await?),
            None => None,
        };
        let beat = Asked::Heartbeat(group::Heartbeat {
            group: self.stream.group().clone(),
            member: self.stream.member().clone(),
            instance: self.instance.clone(),
            epoch: request.member_epoch,
            version: request.assignment_version,
            details,
            owned,
            subscriber,
        });
        let origin = Origin {
            stream: Some(self.stream.clone()),
            memory,
        };
        self.coordinator = Some(coordinator.clone());
        match ask(broker, &coordinator, beat, &origin).await? {
            Answer::Heartbeat(answer) => Ok(answer_out(broker, answer)),
            other => Err(unexpected(&other)),
        }
    }

    fn end(self, end: End) {
        if let Some(coordinator) = &self.coordinator {
            coordinator.stream_ended(&self.stream, end == End::Lost);
        }
    }
}

fn answer_out(broker: &Broker, answer: group::HeartbeatAnswer) -> v1::HeartbeatAnswer {
    let snapshot = broker.groups.topics(broker);
    v1::HeartbeatAnswer {
        member_epoch: answer.epoch,
        assignment_version: answer.version,
        heartbeat_interval: convert::duration_out(answer.heartbeat_interval),
        assignment: answer.assignment.map(|told| v1::MemberAssignment {
            assigned: named::partitions_out(&snapshot, &told.assigned),
            revoking: named::partitions_out(&snapshot, &told.revoking),
            revoke_within: told.revoke_within.and_then(convert::duration_out),
        }),
    }
}

/// A member whose group another broker coordinates: its stream there.
struct Remote {
    broker: BrokerId,
    streams: MemberStreams,
    /// News came while an answer was waited for.
    news: bool,
    /// The last request was refused, and the stream is there for the next.
    refused: bool,
}

impl Remote {
    async fn open(peer: &Peer, host: &str) -> Result<Self, ApiError> {
        Ok(Self {
            broker: peer.id(),
            streams: peer.groups_heartbeat(host.to_owned()).await?,
            news: false,
            refused: false,
        })
    }

    async fn answer(
        &mut self,
        request: &v1::HeartbeatRequest,
        subscriber: Option<Subscriber>,
    ) -> Result<v1::HeartbeatAnswer, ApiError> {
        let request = GroupsHeartbeatRequest {
            request: request.encode_to_vec().into(),
            subscriber: subscriber.map_or_else(Bytes::new, |subscriber| named::id_out(subscriber.stream)),
            takes_over: subscriber.is_some_and(|subscriber| subscriber.takes_over),
            ..GroupsHeartbeatRequest::default()
        };
        let broken = || no_coordinator("the connection to it broke");
        let answered = async {
            self.streams.requests.send(request).await.map_err(|_| broken())?;
            loop {
                match self.next().await? {
                    Some(Told::Answer(answer)) => return Ok(answer),
                    Some(Told::HeartbeatNow(_)) => self.news = true,
                    None => return Err(broken()),
                }
            }
        };
        let answered = tokio::time::timeout(limits::HEARTBEAT_ANSWER_WITHIN, answered).await;
        answered.unwrap_or_else(|_| Err(no_coordinator("it does not answer")))
    }

    /// What the other broker says next; `None`: the stream has ended.
    async fn next(&mut self) -> Result<Option<Told>, ApiError> {
        let Ok(Some(message)) = self.streams.answers.message().await else {
            return Ok(None);
        };
        if let Some(error) = message.error {
            let error = error_in(error);
            self.refused = error.reason().is_retriable();
            return Err(error);
        }
        let response = v1::HeartbeatResponse::decode(message.response);
        let response = response.map_err(|error| ApiError::internal("a coordinator's answer", &error))?;
        Ok(response.result)
    }

    /// A stream that just ends tells nothing of the client. One that says that it has gone must be there until that has
    /// arrived.
    fn end(self, end: End) {
        if end == End::Quiet {
            return;
        }
        let mut streams = self.streams;
        let gone = GroupsHeartbeatRequest {
            client_gone: true,
            ..GroupsHeartbeatRequest::default()
        };
        // One that finds no room has an unanswered request before it: then the member's session ends.
        let _ = streams.requests.try_send(gone);
        // The requests' end.
        streams.requests = mpsc::channel(1).0;
        tokio::spawn(async move {
            let ended = async { while let Ok(Some(_)) = streams.answers.message().await {} };
            let _ = tokio::time::timeout(limits::HEARTBEAT_ANSWER_WITHIN, ended).await;
        });
    }
}

/// The way of a member's heartbeats.
enum Way {
    Nowhere,
    Here(Local),
    There(Remote),
}

impl Way {
    /// Waits until there is news for the member. False: the way has ended.
    async fn news(&mut self) -> bool {
        match self {
            Self::Nowhere => std::future::pending().await,
            Self::Here(local) => {
                local.stream.news().await;
                true
            }
            Self::There(remote) => {
                if std::mem::take(&mut remote.news) {
                    return true;
                }
                loop {
                    match remote.next().await {
                        Ok(Some(Told::HeartbeatNow(_))) => return true,
                        // An answer that came too late.
                        Ok(Some(Told::Answer(_))) => {}
                        Ok(None) | Err(_) => return false,
                    }
                }
            }
        }
    }

    fn end(self, end: End) {
        match self {
            Self::Nowhere => {}
            Self::Here(local) => local.end(end),
            Self::There(remote) => remote.end(end),
        }
    }
}

/// One stream of a client, or of a member that this broker is for a subscriber.
pub(super) struct Session {
    broker: Arc<Broker>,
    host: String,
    /// What stays the same in all requests: group, member and instance.
    identity: Option<(String, String, Option<String>)>,
    subscriber: Option<Subscriber>,
    way: Way,
}

/// Serves one stream until it ends.
pub(super) async fn serve(
    broker: Arc<Broker>,
    client: Client,
    permits: MessagePermits,
    mut requests: Streaming<v1::HeartbeatRequest>,
    answers: mpsc::Sender<Result<v1::HeartbeatResponse, Status>>,
) {
    permits.claim();
    let stopping = broker.stopping.clone();
    let mut session = Session::new(broker, client.host().to_owned(), None);
    let mut is_member = false;
    let failed = loop {
        let told = tokio::select! {
            // What a client has left is not to arrive after what it says elsewhere.
            biased;
            () = answers.closed() => break None,
            () = stopping.cancelled() => break Some(broker_stopping()),
            () = session.news() => Told::HeartbeatNow(v1::HeartbeatNow {}),
            request = requests.message() => match request {
                Ok(Some(request)) => {
                    let memory = permits.take();
                    let answered = tokio::select! {
                        biased;
                        () = answers.closed() => break None,
                        answered = session.answer(request, memory) => answered,
                    };
                    match answered {
                        Ok(answer) => {
                            is_member = true;
                            Told::Answer(answer)
                        }
                        Err(error) => break Some(error),
                    }
                }
                // It has said all that it had to say.
                Ok(None) => break None,
                // It has sent what is no request, or more than there is room for now; or nobody hears it any more.
                Err(status) => {
                    let _ = answers.send(Err(status)).await;
                    break None;
                }
            },
        };
        let response = v1::HeartbeatResponse { result: Some(told) };
        if answers.send(Ok(response)).await.is_err() {
            break None;
        }
    };
    if let Some(error) = failed {
        session.broker.metrics.count_error(&error);
        let _ = answers.send(Err(error.into())).await;
    }
    drop((requests, answers));
    match is_member {
        true => session.end_with(&client, &stopping).await,
        false => session.end_quietly(),
    }
}

/// What the end of a stream says of its client: a process that ends, by itself or killed, closes its connection, and not
/// only the stream. A broker that stops closes it, too.
async fn end_of(client: &Client, stopping: &CancellationToken) -> End {
    tokio::select! {
        biased;
        () = stopping.cancelled() => End::Quiet,
        () = client.gone() => End::Lost,
        () = tokio::time::sleep(limits::CLIENT_GONE_WITHIN) => End::Quiet,
    }
}

impl Session {
    /// A stream without a way yet.
    pub(super) fn new(broker: Arc<Broker>, host: String, subscriber: Option<Subscriber>) -> Self {
        Self {
            broker,
            host,
            identity: None,
            subscriber,
            way: Way::Nowhere,
        }
    }

    /// Waits until there is news for the member. Dropping the future loses nothing.
    pub(super) async fn news(&mut self) {
        while !self.way.news().await {
            // The next heartbeat finds another.
            self.go(Way::Nowhere);
        }
    }

    /// Ends without a word about the client.
    pub(super) fn end_quietly(self) {
        self.way.end(End::Quiet);
    }

    /// Ends, and says of the client whether its connection ends, too.
    pub(super) async fn end_with(self, client: &Client, stopping: &CancellationToken) {
        let end = end_of(client, stopping).await;
        self.way.end(end);
    }

    /// Has the coordinator answer a heartbeat, wherever it is.
    ///
    /// # Errors
    /// Of the request, or the coordinator's; there is none in time.
    pub(super) async fn answer(
        &mut self,
        request: v1::HeartbeatRequest,
        memory: Option<MemoryPermit>,
    ) -> Result<v1::HeartbeatAnswer, ApiError> {
        self.check(&request)?;
        let mut search = Search::within(limits::HEARTBEAT_COORDINATOR_WAIT);
        loop {
            match self.try_answer(&request, memory.clone()).await {
                // Repeating a heartbeat does no harm.
                Err(error) if asks_again(&error, true) => {
                    if !search.again(&self.broker).await {
                        return Err(given_up(error));
                    }
                }
                answered => {
                    // Once it is the member, another one that resumes takes over from it, and not the other way round.
                    if let (Ok(_), Some(subscriber)) = (&answered, &mut self.subscriber) {
                        subscriber.takes_over = false;
                    }
                    return answered;
                }
            }
        }
    }

    fn check(&mut self, request: &v1::HeartbeatRequest) -> Result<(), ApiError> {
        group::check_group_id(&request.group)?;
        convert::check_id("member_id", &request.member_id)?;
        if let Some(instance) = &request.instance_id {
            convert::check_id("instance_id", instance)?;
        }
        let (group, member, instance) = self.identity.get_or_insert_with(|| {
            let instance = request.instance_id.clone();
            (request.group.clone(), request.member_id.clone(), instance)
        });
        for (field, same) in [
            ("group", *group == request.group),
            ("member_id", *member == request.member_id),
            ("instance_id", *instance == request.instance_id),
        ] {
            if !same {
                return Err(ApiError::field(field, "must be the same in all requests of a stream"));
            }
        }
        Ok(())
    }

    async fn try_answer(
        &mut self,
        request: &v1::HeartbeatRequest,
        memory: Option<MemoryPermit>,
    ) -> Result<v1::HeartbeatAnswer, ApiError> {
        match place(&self.broker, &request.group).await? {
            Place::Here(coordinator) => {
                if !matches!(self.way, Way::Here(_)) {
                    let local = Local::new(request, self.host.clone(), self.subscriber.is_some());
                    self.go(Way::Here(local));
                }
                let Way::Here(local) = &mut self.way else {
                    return Err(no_coordinator("it is just changing"));
                };
                let (request, subscriber) = (request.clone(), self.subscriber);
                local
                    .answer(&self.broker, coordinator, request, subscriber, memory)
                    .await
            }
            Place::There(peer) => {
                if !matches!(&self.way, Way::There(remote) if remote.broker == peer.id()) {
                    self.go(Way::There(Remote::open(&peer, &self.host).await?));
                }
                let Way::There(remote) = &mut self.way else {
                    return Err(no_coordinator("it is just changing"));
                };
                let answered = tokio::select! {
                    answered = remote.answer(request, self.subscriber) => answered,
                    () = moved_from(&self.broker, &request.group, peer.id()) => {
                        Err(no_coordinator("another broker took over before it answered"))
                    }
                };
                if answered.is_err() && !std::mem::take(&mut remote.refused) {
                    // It ends with an error; that broker has judged what it says of the client.
                    self.go(Way::Nowhere);
                }
                answered
            }
        }
    }

    fn go(&mut self, way: Way) {
        std::mem::replace(&mut self.way, way).end(End::Quiet);
    }
}

/// Serves the stream of a client of another broker, as the coordinator.
pub(super) async fn serve_local(
    broker: Arc<Broker>,
    first: GroupsHeartbeatRequest,
    permits: MessagePermits,
    mut requests: Streaming<GroupsHeartbeatRequest>,
    answers: mpsc::Sender<Result<GroupsHeartbeatResponse, Status>>,
) {
    let host = first.client_host;
    let mut member: Option<Local> = None;
    let end = loop {
        let news = async {
            match &member {
                Some(member) => member.stream.news().await,
                None => std::future::pending().await,
            }
        };
        let told = tokio::select! {
            biased;
            () = answers.closed() => break End::Quiet,
            () = broker.stopping.cancelled() => break End::Quiet,
            () = news => Ok(Told::HeartbeatNow(v1::HeartbeatNow {})),
            request = requests.message() => match request {
                Ok(Some(request)) if request.client_gone => break End::Lost,
                Ok(Some(request)) => {
                    let memory = permits.take();
                    answer_local(&broker, &mut member, &host, request, memory).await.map(Told::Answer)
                }
                Ok(None) | Err(_) => break End::Quiet,
            },
        };
        // One that asks again has the same stream for it.
        let is_over = told.as_ref().is_err_and(|error| !error.reason().is_retriable());
        let message = match told {
            Ok(told) => GroupsHeartbeatResponse {
                error: None,
                response: v1::HeartbeatResponse { result: Some(told) }.encode_to_vec().into(),
            },
            Err(error) => GroupsHeartbeatResponse {
                error: Some(error_out(&error)),
                ..GroupsHeartbeatResponse::default()
            },
        };
        let sent = answers.send(Ok(message)).await;
        if is_over || sent.is_err() {
            break End::Quiet;
        }
    };
    if let Some(member) = member {
        member.end(end);
    }
}

async fn answer_local(
    broker: &Broker,
    member: &mut Option<Local>,
    host: &str,
    request: GroupsHeartbeatRequest,
    memory: Option<MemoryPermit>,
) -> Result<v1::HeartbeatAnswer, ApiError> {
    let subscriber = match &request.subscriber[..] {
        [] => None,
        stream => Some(Subscriber {
            stream: Uuid::from_slice(stream).map_err(|_| ApiError::field("subscriber", "must have 16 bytes"))?,
            takes_over: request.takes_over,
        }),
    };
    let request = v1::HeartbeatRequest::decode(request.request)
        .map_err(|error| ApiError::field("request", format!("can't be read: {error}")))?;
    let coordinator = group_here(broker, &request.group)?;
    let member = member.get_or_insert_with(|| Local::new(&request, host.to_owned(), subscriber.is_some()));
    member.answer(broker, coordinator, request, subscriber, memory).await
}
