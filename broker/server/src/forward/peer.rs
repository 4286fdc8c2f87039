//! The way to one other broker: one connection, and one stream of batches on it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_engine::BrokerId;
use millrace_proto::{
    internal::v1::{
        ForwardDeleteMessagesRequest, ForwardDeleteMessagesResponse, ForwardDescribePartition, ForwardDescribeRequest,
        ForwardDescription, ForwardHello, ForwardInventoryRequest, ForwardPlace, ForwardReadRequest,
        ForwardReadResponse, ForwardReplica, ForwardTimesRequest, GroupsCallRequest, GroupsCallResponse,
        GroupsHeartbeatRequest, GroupsHeartbeatResponse, forward_client::ForwardClient, groups_client::GroupsClient,
    },
    v1::ErrorReason,
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Response, Status, Streaming,
    transport::{Channel, Endpoint},
};
use uuid::Uuid;

use super::{conversation::Conversation, inventory::Inventory, lag::OffsetAt, limits};
use crate::{
    error::{ApiError, WriteOutcome, is_connect_error},
    quorum::Quorum,
    replication::Key,
};

/// The way to one broker.
pub struct Peer {
    own: BrokerId,
    to: BrokerId,
    quorum: Quorum,
    state: Mutex<State>,
    /// Room for streams of members.
    members: Arc<Semaphore>,
    end: CancellationToken,
}

/// The stream of a member of a group that another broker coordinates.
#[derive(Debug)]
pub struct MemberStreams {
    /// What the member says.
    pub requests: mpsc::Sender<GroupsHeartbeatRequest>,
    /// What it is told.
    pub answers: Streaming<GroupsHeartbeatResponse>,
    /// Its room on the connection.
    _room: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("to", &self.to).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Where to, and the connection: it is made when it is needed, and again when it broke.
    channel: Option<(String, Channel)>,
    /// The same for members of groups, whose streams are there as long as they are: beside them on one connection
    /// nothing else would find room.
    members: Option<(String, Channel)>,
    conversation: Option<Arc<Conversation>>,
    /// Conversations one after the other that did not come about.
    failures: u32,
}

impl Peer {
    /// No connection yet. All ends with `end`.
    pub fn new(own: BrokerId, to: BrokerId, quorum: Quorum, end: CancellationToken) -> Self {
        Self {
            own,
            to,
            quorum,
            state: Mutex::default(),
            members: Arc::new(Semaphore::new(limits::MEMBERS_PER_PEER)),
            end,
        }
    }

    /// Whose way it is.
    pub fn id(&self) -> BrokerId {
        self.to
    }

    /// The stream for batches; a new one if the last has ended. It opens by itself, after a pause
    /// if the last ones did not come about.
    pub fn conversation(self: &Arc<Self>) -> Arc<Conversation> {
        let mut state = self.state.lock();
        if let Some(conversation) = state.conversation.as_ref().filter(|last| !last.has_ended()) {
            return conversation.clone();
        }
        let (conversation, queue) = Conversation::new(self.to);
        state.conversation = Some(conversation.clone());
        let pause = match state.failures {
            0 => Duration::ZERO,
            failures => (limits::PAUSE_FIRST * 2_u32.pow(failures.min(10))).min(limits::PAUSE_LONGEST),
        };
        let channel = self.channel_in(&mut state.channel);
        drop(state);
        let running = conversation.clone().run(queue, channel, self.hello(), pause);
        let peer = self.clone();
        tokio::spawn(async move {
            let opened = tokio::select! {
                opened = running => opened,
                () = peer.end.cancelled() => return,
            };
            let mut state = peer.state.lock();
            state.failures = if opened { 0 } else { state.failures.saturating_add(1) };
            if !opened && state.failures.is_power_of_two() {
                tracing::info!(
                    broker = peer.to,
                    failures = state.failures,
                    "a partition's leader can't be reached"
                );
            }
        });
        conversation
    }

    /// Reads committed batches. A request names everything but who asks.
    ///
    /// # Errors
    /// The leader can't be reached, or what it answers.
    pub async fn read(&self, mut request: ForwardReadRequest) -> Result<ForwardReadResponse, ApiError> {
        request.hello = Some(self.hello());
        let mut client = self.client()?;
        let mut response = self.answer(client.read(request), limits::ANSWER_WITHIN).await?;
        match response.error.take() {
            Some(error) => Err(super::wire::error_in(error)),
            None => Ok(response),
        }
    }

    /// Asks where partitions stand, or has the leader wait up to `wait` for news. Answers are in the
    /// order of the request.
    ///
    /// # Errors
    /// The leader can't be reached, or refuses as a whole.
    pub async fn describe(
        &self,
        partitions: Vec<ForwardDescribePartition>,
        wait: Duration,
    ) -> Result<Vec<ForwardDescription>, ApiError> {
        let count = partitions.len();
        let request = ForwardDescribeRequest {
            hello: Some(self.hello()),
            partitions,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let mut client = self.client()?;
        let within = wait + limits::ANSWER_WITHIN;
        let response = self.answer(client.describe(request), within).await?;
        if response.descriptions.len() != count {
            return Err(self.unreachable("it answered with something else than was asked"));
        }
        Ok(response.descriptions)
    }

    /// Asks for the times at offsets, of which the leader looks up as many as it can `within` this time. Answers are in
    /// the order of the request; `None`: there is no time.
    ///
    /// # Errors
    /// The leader can't be reached, or refuses as a whole.
    pub async fn times(
        &self,
        places: &[OffsetAt],
        within: Duration,
    ) -> Result<Vec<Result<Option<i64>, ApiError>>, ApiError> {
        let out = |((topic_id, partition), offset): &OffsetAt| ForwardPlace {
            topic_id: topic_id.as_bytes().to_vec().into(),
            partition: *partition,
            offset: *offset,
        };
        let request = ForwardTimesRequest {
            hello: Some(self.hello()),
            places: places.iter().map(out).collect(),
            within_ms: u32::try_from(within.as_millis()).unwrap_or(u32::MAX),
        };
        let mut client = self.client()?;
        let response = self
            .answer(client.times(request), within + limits::QUESTION_GRACE)
            .await?;
        if response.times.len() != places.len() {
            return Err(self.unreachable("it answered with something else than was asked"));
        }
        let told = response.times.into_iter().map(|told| match told.error {
            Some(error) => Err(super::wire::error_in(error)),
            None => Ok(told.time_ms),
        });
        Ok(told.collect())
    }

    /// Deletes messages.
    ///
    /// # Errors
    /// The leader can't be reached, or what it answers.
    pub async fn delete_messages(
        &self,
        mut request: ForwardDeleteMessagesRequest,
    ) -> Result<ForwardDeleteMessagesResponse, ApiError> {
        request.hello = Some(self.hello());
        let mut client = self.client()?;
        let answered = self.answer(
            client.delete_messages(request),
            limits::ANSWER_WITHIN + crate::limits::DELETED_BY_ALL_WAIT,
        );
        let mut response = answered.await?;
        match response.error.take() {
            Some(error) => Err(super::wire::error_in(error)),
            None => Ok(response),
        }
    }

    /// Asks what its disk holds of some topics, or of all where none is named.
    ///
    /// # Errors
    /// The broker can't be reached, or answers nonsense.
    pub async fn inventory(&self, topics: &[Uuid]) -> Result<Inventory, ApiError> {
        let topic_ids: Vec<Bytes> = topics.iter().map(|id| id.as_bytes().to_vec().into()).collect();
        let (mut told, mut after) = (Inventory::default(), None);
        loop {
            let request = ForwardInventoryRequest {
                hello: Some(self.hello()),
                topic_ids: topic_ids.clone(),
                after: after.map(|(topic_id, partition): Key| ForwardReplica {
                    topic_id: topic_id.as_bytes().to_vec().into(),
                    partition,
                    ..ForwardReplica::default()
                }),
            };
            let mut client = self.client()?;
            let answer = self.answer(client.inventory(request), limits::ANSWER_WITHIN).await?;
            after = told.take(answer)?;
            if after.is_none() {
                return Ok(told);
            }
        }
    }

    /// Has the coordinator of groups there answer a call. A request names everything but who asks.
    ///
    /// # Errors
    /// The broker can't be reached; whether nothing was sent is said.
    pub async fn groups_call(&self, mut request: GroupsCallRequest) -> Result<GroupsCallResponse, ApiError> {
        request.hello = Some(self.hello());
        let not_sent = |error: ApiError| error.outcome(WriteOutcome::NotWritten);
        let mut client = self.groups_client().map_err(not_sent)?;
        let mut connected = true;
        let call = async {
            let answered = client.call(request).await;
            connected = !matches!(&answered, Err(status) if is_connect_error(status));
            answered
        };
        let answered = self.answer(call, limits::GROUPS_ANSWER_WITHIN).await;
        answered.map_err(|error| if connected { error } else { not_sent(error) })
    }

    /// Opens the stream of one member, whose client is connected from `host`.
    ///
    /// # Errors
    /// The broker can't be reached, or there are too many.
    pub async fn groups_heartbeat(&self, host: String) -> Result<MemberStreams, ApiError> {
        let room = self.members.clone().try_acquire_owned().map_err(|_| {
            let max = limits::MEMBERS_PER_PEER;
            let message = format!(
                "{max} members of groups that broker {} coordinates are connected here: connect to that broker, or try again.",
                self.to
            );
            ApiError::new(ErrorReason::Overloaded, message)
        })?;
        let channel = self.channel_in(&mut self.state.lock().members);
        let channel = channel.map_err(|problem| not_available(self.unreachable(&problem)))?;
        let max = crate::limits::MAX_RPC_MESSAGE_BYTES;
        let mut client = GroupsClient::new(channel).max_decoding_message_size(max);
        let (requests, stream) = mpsc::channel(limits::HEARTBEATS_AHEAD);
        let first = GroupsHeartbeatRequest {
            hello: Some(self.hello()),
            client_host: host,
            ..GroupsHeartbeatRequest::default()
        };
        // There is room: nothing was sent yet.
        let _ = requests.try_send(first);
        let opening = client.heartbeat(ReceiverStream::new(stream));
        let answers = self.answer(opening, limits::CONNECT_WITHIN).await;
        Ok(MemberStreams {
            requests,
            answers: answers.map_err(not_available)?,
            _room: room,
        })
    }

    fn groups_client(&self) -> Result<GroupsClient<Channel>, ApiError> {
        let channel = self.channel_in(&mut self.state.lock().channel);
        let channel = channel.map_err(|problem| self.unreachable(&problem))?;
        let max = crate::limits::MAX_RPC_MESSAGE_BYTES;
        Ok(GroupsClient::new(channel).max_decoding_message_size(max))
    }

    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
        within: Duration,
    ) -> Result<T, ApiError> {
        match tokio::time::timeout(within, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.unreachable(status.message())),
            Err(_) => Err(self.unreachable("it does not answer")),
        }
    }

    fn unreachable(&self, problem: &str) -> ApiError {
        ApiError::new(
            ErrorReason::LeaderNotAvailable,
            format!("Broker {} can't be reached ({problem}): try again.", self.to),
        )
        .with("leader_id", self.to)
    }

    fn hello(&self) -> ForwardHello {
        ForwardHello {
            cluster_id: self.quorum.cluster().cluster_id.clone(),
            from_broker_id: self.own,
            to_broker_id: self.to,
        }
    }

    fn client(&self) -> Result<ForwardClient<Channel>, ApiError> {
        let channel = self.channel_in(&mut self.state.lock().channel);
        let channel = channel.map_err(|problem| self.unreachable(&problem))?;
        Ok(ForwardClient::new(channel).max_decoding_message_size(limits::MAX_ANSWER_BYTES))
    }

    /// The connection to where the metadata says that the broker is now.
    fn channel_in(&self, channel: &mut Option<(String, Channel)>) -> Result<Channel, String> {
        let cluster = self.quorum.cluster();
        let broker = cluster.brokers.get(&self.to);
        let address = broker.map_or("", |broker| broker.internal_address.as_str());
        if address.is_empty() {
            return Err("it is not registered with an internal address".into());
        }
        if let Some((_, known)) = channel.as_ref().filter(|(known, _)| known == address) {
            return Ok(known.clone());
        }
        let made = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| format!("{address:?} is no address: {error}"))?
            .connect_timeout(limits::CONNECT_WITHIN)
            .tcp_nodelay(true)
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(limits::PING_INTERVAL)
            .keep_alive_timeout(limits::PING_WAIT)
            .keep_alive_while_idle(true)
            .connect_lazy();
        *channel = Some((address.to_owned(), made.clone()));
        Ok(made)
    }
}

/// As who looks for a group's coordinator is told of a broker that can't be reached.
fn not_available(error: ApiError) -> ApiError {
    ApiError::new(ErrorReason::CoordinatorNotAvailable, error.message())
}
