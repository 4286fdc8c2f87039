//! One subscriber's stream while it lasts.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_engine::group::Subscriber;
use millrace_member::{Effect, Event, Member, PartitionId};
use millrace_proto::{
    encoded::EncodedAnswer,
    v1::{self, ErrorReason, subscribe_response::Response},
};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    begin::{self, Found, Wanted},
    commit::Commits,
    feed::{Fed, Feed, Gate},
    flow::{Flow, Ready},
    open::Opening,
    token::encode_token,
};
use crate::{
    broker::Broker,
    connection::{Client, Watched},
    error::ApiError,
    limits,
    memory::{ConnectionBudget, StreamState, no_stream_memory},
    rpc::groups::beat,
};

/// What a broker knows of a subscriber.
pub struct Session {
    pub(super) broker: Arc<Broker>,
    pub(super) group: String,
    client: Client,
    life: Watched,
    session_timeout: Duration,
    memory: StreamState,
    pub(super) member: Member,
    pub(super) flow: Flow,
    pub(super) is_static: bool,
    /// The stream's name at the coordinator.
    stream: Uuid,
    /// The coordinator has answered it.
    is_known: bool,
    /// As which member the subscriber was told to be.
    told: Option<String>,
    beats: Option<mpsc::Sender<v1::HeartbeatRequest>>,
    came: mpsc::Sender<Event<ApiError>>,
    pub(super) feed: Feed,
    gates: HashMap<PartitionId, Gate>,
    /// What is to be read, and is not yet.
    beginning: Wanted,
    begin_at: Instant,
    begin_pause: Duration,
    /// Rises when partitions go: what was looked up before is to be looked up anew.
    losses: u64,
    /// Where a subscriber that resumes goes on in what it still has.
    resumed: BTreeMap<PartitionId, i64>,
    ready: Option<Ready>,
    outgoing: VecDeque<Response>,
    pub(super) commits: Commits,
    /// The subscriber leaves, perhaps to come back.
    pub(super) leaving: Option<bool>,
    /// Under which id the member has left.
    left: Option<String>,
    pub(super) failed: Option<ApiError>,
}

impl Session {
    /// A stream that begins, and what its member is told.
    ///
    /// # Errors
    /// There is no memory for it, or the first credit is wrong.
    pub fn begin(
        broker: Arc<Broker>,
        budget: Option<ConnectionBudget>,
        client: Client,
        opening: Opening,
        now: Instant,
    ) -> Result<(Self, mpsc::Receiver<Event<ApiError>>), ApiError> {
        let mut memory = budget.as_ref().map(ConnectionBudget::stream_state).unwrap_or_default();
        if !memory.hold(limits::SUBSCRIBER_BYTES) {
            return Err(no_stream_memory());
        }
        let flow = Flow::new(opening.manual, opening.processing_timeout, &opening.credit, now)?;
        // A stream has at most one heartbeat that is not answered: an answer and a call for one more.
        let (came, events) = mpsc::channel(8);
        let (group, is_static) = (opening.member.group.clone(), opening.member.instance_id.is_some());
        let session_timeout = opening.member.session_timeout;
        let snapshot = broker.groups.topics(&broker);
        let mut gone = Vec::new();
        let mut resumed = BTreeMap::new();
        for position in &opening.positions {
            match snapshot.topics.named(&position.topic) {
                Some(topic) => {
                    let id = (topic.id.as_bytes().to_vec().into(), position.partition);
                    resumed.insert(id, position.offset);
                }
                None => gone.push(v1::TopicPartition {
                    topic: position.topic.clone(),
                    partition: position.partition,
                }),
            }
        }
        let (member, first) = match opening.resumed {
            Some((id, epoch)) => {
                let owned = resumed.keys().cloned().collect();
                let member = Member::resumed(opening.member, id.to_string(), epoch, owned, now);
                (member, Event::Tick)
            }
            None => (Member::new(opening.member, now), new_member()),
        };
        let mut session = Self {
            life: client.watch(),
            client,
            session_timeout,
            feed: Feed::new(broker.clone(), budget),
            broker,
            group,
            memory,
            member,
            flow,
            is_static,
            stream: Uuid::new_v4(),
            is_known: false,
            told: None,
            beats: None,
            came,
            gates: HashMap::new(),
            beginning: Wanted::new(),
            begin_at: now,
            begin_pause: limits::SUBSCRIBER_LOOK_AGAIN,
            losses: 0,
            resumed,
            ready: None,
            outgoing: VecDeque::new(),
            commits: Commits::new(now),
            leaving: None,
            left: None,
            failed: None,
        };
        session.take(now, first);
        if !gone.is_empty() {
            session.tell_lost(gone, None);
        }
        Ok((session, events))
    }

    /// What follows of an event of the member.
    pub fn take(&mut self, now: Instant, event: Event<ApiError>) {
        let cause = match &event {
            Event::Broken(_, error) => Some(error.clone()),
            _ => None,
        };
        self.is_known |= matches!(event, Event::Answer(..));
        let effects = self.member.step(now, event);
        self.tell_opened();
        let (mut is_drawn, mut released) = (false, Vec::new());
        // Then the end of the stream says that all is lost, and why.
        let fails = effects.iter().any(|effect| matches!(effect, Effect::Fail(_)));
        for effect in effects {
            match effect {
                Effect::DrawMemberId => is_drawn = true,
                Effect::Open(number, first) => self.open(number, *first),
                Effect::Send(request) => {
                    if let Some(beats) = &self.beats {
                        // One that is gone is told of.
                        let _ = beats.try_send(*request);
                    }
                }
                Effect::Close => self.beats = None,
                Effect::Use(ids) => self.use_anew(now, ids),
                Effect::Release(ids, until) => released.extend(self.revoke(now, ids, until)),
                Effect::Lose(_) if fails => {}
                Effect::Lose(ids) => self.lose(&ids, cause.clone()),
                Effect::Leave(id) => self.left = Some(id),
                Effect::Fail(error) => self.failed = Some(error),
            }
        }
        if is_drawn {
            self.take(now, new_member());
        }
        if !released.is_empty() {
            self.take(now, Event::Released(released));
        }
    }

    fn open(&mut self, number: u64, first: v1::HeartbeatRequest) {
        // One request at a time; each is answered before the next.
        let (beats, requests) = mpsc::channel(2);
        let _ = beats.try_send(first);
        self.beats = Some(beats);
        let subscriber = Subscriber {
            stream: self.stream,
            takes_over: !self.is_known,
        };
        let (broker, client, came) = (self.broker.clone(), self.client.clone(), self.came.clone());
        tokio::spawn(beat(broker, client, subscriber, number, requests, came));
    }

    fn tell_opened(&mut self) {
        let Some((member_id, epoch)) = self.member.identity().filter(|_| self.is_known) else {
            return;
        };
        if self.told.as_ref() == Some(&member_id) {
            return;
        }
        let uuid = Uuid::parse_str(&member_id).unwrap_or_default();
        let resume_token = encode_token(&self.broker.cluster_id(), &self.group, uuid, epoch).into();
        self.told = Some(member_id.clone());
        self.outgoing.push_back(Response::Opened(v1::SubscribeOpened {
            member_id,
            resume_token,
        }));
    }

    fn use_anew(&mut self, now: Instant, ids: Vec<PartitionId>) {
        for id in ids {
            let position = self.resumed.get(&id).map(|offset| (*offset).into());
            self.beginning.insert(id, position);
        }
        self.begin_pause = limits::SUBSCRIBER_LOOK_AGAIN;
        self.begin_at = now;
        let partitions = self.flow.count() + self.beginning.len() + self.resumed.len();
        let bytes = limits::SUBSCRIBER_BYTES + partitions * limits::SUBSCRIBED_PARTITION_BYTES;
        if !self.memory.hold(bytes) {
            self.failed = Some(no_stream_memory());
        }
    }

    /// Partitions are to be given back; answers with those that are at once, as nothing of them came.
    fn revoke(&mut self, now: Instant, ids: Vec<PartitionId>, until: Instant) -> Vec<PartitionId> {
        self.losses += 1;
        let (mut told, mut released) = (Vec::new(), Vec::new());
        for id in ids {
            self.beginning.remove(&id);
            self.close(&id);
            let resumed = self.resumed.remove(&id);
            if self.flow.has(&id) {
                self.flow.revoke(&id, until, false);
            } else if let Some(position) = resumed {
                let snapshot = self.broker.groups.topics(&self.broker);
                let topic = begin::name_of(&snapshot, &id).unwrap_or_default();
                self.flow.add(id.clone(), topic, position, now);
                self.flow.revoke(&id, until, true);
            } else {
                released.push(id);
                continue;
            }
            told.extend(self.flow.name(&id));
        }
        if !told.is_empty() {
            self.outgoing.push_back(Response::Revoking(v1::SubscribeRevoking {
                partitions: told,
                within: until.saturating_duration_since(now).try_into().ok(),
            }));
        }
        released
    }

    fn lose(&mut self, ids: &[PartitionId], cause: Option<ApiError>) {
        self.losses += 1;
        let snapshot = self.broker.groups.topics(&self.broker);
        let mut told = Vec::new();
        for id in ids {
            let resumed = self.resumed.remove(id).map(|_| v1::TopicPartition {
                topic: begin::name_of(&snapshot, id).unwrap_or_default().to_string(),
                partition: id.1,
            });
            told.extend(self.flow.name(id).or(resumed));
            self.forget(id);
        }
        if !told.is_empty() {
            self.tell_lost(told, cause);
        }
    }

    fn tell_lost(&mut self, partitions: Vec<v1::TopicPartition>, cause: Option<ApiError>) {
        let cause = cause.unwrap_or_else(|| {
            ApiError::new(
                ErrorReason::PartitionNotAssigned,
                "The partitions are not this member's any more, or were not given back in time: stop to process them.",
            )
        });
        self.outgoing.push_back(Response::Lost(v1::SubscribeLost {
            partitions,
            reason: Some(cause.to_message()),
        }));
    }

    fn forget(&mut self, id: &PartitionId) {
        self.beginning.remove(id);
        self.close(id);
        self.flow.remove(id);
    }

    /// Nothing more is read of a partition.
    pub(super) fn close(&mut self, id: &PartitionId) {
        if let Some(gate) = self.gates.remove(id) {
            gate.close();
        }
    }

    /// A partition is read again from where it was.
    pub(super) fn read_again(&mut self, id: PartitionId) {
        if let Some(next) = self.flow.position(&id) {
            self.beginning.insert(id, Some(next));
        }
    }

    /// Gives back what the subscriber is done with, or did not give back in time.
    pub fn give_back(&mut self, now: Instant) {
        let given = self.flow.given(now);
        let late: Vec<v1::TopicPartition> = given.late.iter().filter_map(|id| self.flow.name(id)).collect();
        if !late.is_empty() {
            self.tell_lost(late, None);
        }
        let all: Vec<PartitionId> = given.back.into_iter().chain(given.late).collect();
        if !all.is_empty() {
            all.iter().for_each(|id| self.forget(id));
            self.take(now, Event::Released(all));
        }
    }

    /// What is to be found now, and what was lost by then.
    pub fn to_begin(&self, now: Instant) -> Option<(u64, (String, i32), Wanted)> {
        if self.beginning.is_empty() || now < self.begin_at {
            return None;
        }
        let identity = self.member.identity()?;
        let first = self.beginning.iter().take(limits::MAX_PARTITIONS_PER_REQUEST);
        let wanted = first.map(|(id, at)| (id.clone(), *at)).collect();
        Some((self.losses, identity, wanted))
    }

    /// What was found of what was to begin.
    pub fn begun(&mut self, now: Instant, losses: u64, found: Result<Vec<(PartitionId, Found)>, ApiError>) {
        self.begin_at = now + self.begin_pause;
        self.begin_pause = (self.begin_pause * 2).min(limits::SUBSCRIBER_LOOK_AGAIN_LONGEST);
        let found = match found {
            // What went and came back meanwhile may begin elsewhere.
            Ok(_) if losses != self.losses => {
                self.begin_at = now;
                return;
            }
            Ok(found) => found,
            Err(error) => {
                let is_known_soon = matches!(
                    error.reason(),
                    ErrorReason::StaleMemberEpoch | ErrorReason::FencedMember | ErrorReason::UnknownMember
                );
                if is_known_soon {
                    self.member.want_heartbeat();
                } else if !error.reason().is_retriable() {
                    self.failed = Some(error);
                }
                return;
            }
        };
        let mut assigned = Vec::new();
        let mut stopped = Vec::new();
        for (id, found) in found {
            if self.beginning.remove(&id).is_none() {
                continue;
            }
            self.begin_pause = limits::SUBSCRIBER_LOOK_AGAIN;
            self.resumed.remove(&id);
            let (topic, next, source) = match found {
                Found::Reading { topic, source, next } => (topic, next, Ok(source)),
                Found::Stopped { topic, next, error } => (topic, next, Err(error)),
            };
            if self.flow.has(&id) {
                self.flow.skip(&id, next.offset);
            } else {
                assigned.push(v1::TopicOffset {
                    topic: topic.to_string(),
                    partition: id.1,
                    offset: next.offset,
                });
                self.flow.add(id.clone(), topic, next, now);
            }
            match source {
                Ok(source) => {
                    if let Some((lane, next)) = self.flow.begin(&id) {
                        let gate = self.feed.add(lane, source, next);
                        self.gates.insert(id, gate);
                    }
                }
                Err(error) => stopped.push((id, error)),
            }
        }
        if !assigned.is_empty() {
            let assigned = v1::SubscribeAssigned { partitions: assigned };
            self.outgoing.push_back(Response::Assigned(assigned));
        }
        for (id, error) in stopped {
            self.tell_stopped(&id, &error);
        }
    }

    fn tell_stopped(&mut self, id: &PartitionId, error: &ApiError) {
        self.broker.metrics.count_error(error);
        self.outgoing.push_back(Response::Error(v1::SubscribeError {
            id: 0,
            partition: self.flow.name(id),
            error: Some(error.to_message()),
        }));
    }

    /// Whether it can take what is read next.
    pub fn wants_fed(&self) -> bool {
        self.ready.is_none() && self.flow.wants_messages()
    }

    /// Takes what was read.
    pub fn take_fed(&mut self, fed: Fed) {
        match fed {
            Fed::Ready(ready) => self.ready = Some(ready),
            Fed::Failed(lane, error) => {
                let Some(id) = self.flow.of_lane(lane).cloned() else {
                    return;
                };
                self.flow.stop(&id);
                self.close(&id);
                if begin::begins_anew(&error) {
                    self.read_again(id);
                } else {
                    self.tell_stopped(&id, &error);
                }
            }
        }
    }

    /// Refuses a command.
    pub(super) fn refuse(&mut self, id: u64, error: &ApiError) {
        self.broker.metrics.count_error(error);
        self.tell(Response::Error(v1::SubscribeError {
            id,
            partition: None,
            error: Some(error.to_message()),
        }));
    }

    pub(super) fn tell(&mut self, response: Response) {
        self.outgoing.push_back(response);
    }

    /// Whether another command may come.
    pub fn takes_commands(&self) -> bool {
        self.outgoing.len() < limits::SUBSCRIBE_ANSWERS_WAITING && self.leaving.is_none() && !self.commits.has_command()
    }

    /// Whether the subscriber lets too much wait of what it is told, or of what is its turn.
    pub fn is_too_slow(&self, now: Instant) -> bool {
        self.outgoing.len() > limits::SUBSCRIBE_NEWS_WAITING || self.flow.too_slow_at().is_some_and(|at| now >= at)
    }

    fn silent_at(&self) -> Instant {
        self.life.heard() + self.session_timeout
    }

    /// Whether its session is over, as nothing is heard of its connection any more: a process that is frozen keeps that.
    pub fn is_silent(&self, now: Instant) -> bool {
        now >= self.silent_at()
    }

    /// Whether there is something to send.
    pub fn has_response(&self) -> bool {
        !self.outgoing.is_empty() || (self.ready.is_some() && self.flow.wants_messages())
    }

    /// Whether a subscriber that says nothing more has got all that it will.
    pub fn has_sent_all(&self) -> bool {
        self.outgoing.is_empty() && !self.flow.wants_messages()
    }

    /// What it is told before its stream ends, in place of more messages.
    pub fn last_response(&mut self) -> Option<EncodedAnswer> {
        self.outgoing.pop_front().map(encoded)
    }

    /// What is sent next; none if it is not to be sent any more.
    pub fn next_response(&mut self, now: Instant) -> Option<EncodedAnswer> {
        if let Some(response) = self.last_response() {
            return Some(response);
        }
        let ready = self.ready.as_mut()?;
        let cut = self.flow.cut(ready, now);
        self.ready.take_if(|ready| ready.messages.is_empty());
        cut.map(|cut| EncodedAnswer::subscribe(cut.delivery_id, cut.messages, cut.progress))
    }

    /// When time alone changes something next.
    pub fn wake_at(&self, is_finding: bool) -> Option<Instant> {
        let begin =
            (!is_finding && !self.beginning.is_empty() && self.member.identity().is_some()).then_some(self.begin_at);
        let all = [
            self.member.wake_at(),
            self.flow.wake_at(),
            self.commits.wake_at(&self.flow),
            Some(self.silent_at()),
            begin,
        ];
        all.into_iter().flatten().min()
    }

    /// The member leaves; under this id, if the coordinator may know of it.
    pub fn leave(&mut self, now: Instant) -> Option<String> {
        self.take(now, Event::Leave);
        self.left.take()
    }
}

fn encoded(response: Response) -> EncodedAnswer {
    EncodedAnswer::new(&v1::SubscribeResponse {
        response: Some(response),
    })
}

/// The beginning of a member that nobody knows yet.
fn new_member() -> Event<ApiError> {
    Event::MemberId(Uuid::new_v4().to_string())
}
