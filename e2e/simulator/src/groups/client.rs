//! A member's process: the real step of a member, and the streams that it opens.

use std::{collections::BTreeMap, time::Duration};

use millrace_engine::group::{Answer, GroupRejection, Heartbeat, Leave, Request, TopicPartition};
use millrace_member::{Effect, Event as MemberEvent, Member, MemberConfig};
use millrace_proto::v1::{self, ErrorReason};

use super::{
    Asked, ClientLife, GroupEvent, GroupMessage, PARTITION, TOPICS,
    convert::{answer_out, details, error_of},
    group_id, place_of,
};
use crate::{
    error::Error,
    message::{Body, Node},
    slots::record_of,
    world::World,
};

/// For how long a copy of a request may be on its way.
const LATE: Duration = Duration::from_secs(10);

/// How far an application is with a partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Use {
    /// The next offset that it processes; `None`: it does not know yet where to begin.
    pub next: Option<i64>,
}

/// What an application gives back.
#[derive(Clone, Debug)]
pub(super) struct Release {
    /// When the coordinator stops to wait.
    pub until: Duration,
    /// The commit whose answer it waits for.
    pub commit: Option<u64>,
}

/// A call that is not answered yet.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Fetch,
    Commit,
}

/// A client.
pub(super) struct Client {
    pub group: usize,
    pub instance: Option<String>,
    /// Another one has its instance id: it does not live to the end.
    pub is_double: bool,
    /// Counts its processes.
    pub life: u32,
    ids: u32,
    /// `None`: no process runs.
    pub member: Option<Member>,
    pub frozen_until: Duration,
    coordinator: Option<usize>,
    /// The present stream, where it goes, and the request on it that is not answered.
    stream: Option<(u64, usize, u64)>,
    /// Since when its connection is gone, whether it knows or not.
    broken_at: Option<Duration>,
    /// The stream by which nothing comes any more.
    dead_stream: Option<u64>,
    /// What its application uses.
    pub uses: BTreeMap<TopicPartition, Use>,
    pub releasing: BTreeMap<TopicPartition, Release>,
    pub calls: BTreeMap<u64, Call>,
    tick_at: Option<Duration>,
}

impl Client {
    pub(super) fn new(group: usize, instance: Option<String>, is_double: bool) -> Self {
        Self {
            group,
            instance,
            is_double,
            life: 0,
            ids: 0,
            member: None,
            frozen_until: Duration::ZERO,
            coordinator: None,
            stream: None,
            broken_at: None,
            dead_stream: None,
            uses: BTreeMap::new(),
            releasing: BTreeMap::new(),
            calls: BTreeMap::new(),
            tick_at: None,
        }
    }

    /// A call failed: the coordinator may be elsewhere by now.
    pub(super) fn forget_coordinator(&mut self) {
        self.coordinator = None;
    }

    /// Its process is gone, with all that it knew.
    fn end(&mut self) {
        *self = Self {
            life: self.life + 1,
            ids: self.ids,
            ..Self::new(self.group, self.instance.take(), self.is_double)
        };
    }
}

impl World {
    fn life_of(&self, who: usize) -> ClientLife {
        (who, self.groups.clients[who].life)
    }

    fn lives(&self, client: ClientLife) -> bool {
        let known = self.groups.clients.get(client.0);
        known.is_some_and(|known| known.life == client.1 && known.member.is_some())
    }

    /// Until when a member without a connection may use what it has; a static one has its session.
    fn reconnect_of(&self, who: usize) -> Duration {
        let settings = self.settings.groups.as_ref();
        let of = |settings: &super::GroupSettings| match self.groups.clients[who].instance {
            Some(_) => settings.session,
            None => settings.reconnect.min(settings.session),
        };
        settings.map(of).unwrap_or_default()
    }

    pub(super) fn start_client(&mut self, who: usize) {
        let now = self.instant();
        let Some(settings) = self.settings.groups.clone() else {
            return;
        };
        let client = &self.groups.clients[who];
        if client.member.is_some() || (self.groups.calm && client.is_double) {
            return;
        }
        let reconnect = self.reconnect_of(who);
        let edge = match settings.from_end {
            true => v1::Edge::End,
            false => v1::Edge::Beginning,
        };
        let config = MemberConfig {
            group: group_id(client.group).to_string(),
            instance_id: client.instance.clone(),
            settings: v1::MemberSettings {
                topics: TOPICS.iter().map(|name| (*name).to_owned()).collect(),
                start: Some(v1::Start {
                    at: Some(v1::start::At::Edge(edge.into())),
                }),
                session_timeout: settings.session.try_into().ok(),
                reconnect_timeout: reconnect.try_into().ok(),
                rebalance_timeout: settings.rebalance.try_into().ok(),
                ..v1::MemberSettings::default()
            },
            session_timeout: settings.session,
            rebalance_timeout: settings.rebalance,
        };
        self.groups.clients[who].member = Some(Member::new(config, now));
        self.note([60, who as u64, 0], || format!("client {who} starts"));
        self.draw_member_id(who);
    }

    fn draw_member_id(&mut self, who: usize) {
        let client = &mut self.groups.clients[who];
        client.ids += 1;
        let id = format!("m{who}-{}", client.ids);
        self.member_step(who, MemberEvent::MemberId(id));
    }

    /// Gives a member an event, and does what it asks for.
    pub(super) fn member_step(&mut self, who: usize, event: MemberEvent<Error>) {
        let now = self.instant();
        let Some(member) = self.groups.clients[who].member.as_mut() else {
            return;
        };
        for effect in member.step(now, event) {
            self.member_effect(who, effect);
        }
        self.await_member(who);
    }

    fn member_effect(&mut self, who: usize, effect: Effect<Error>) {
        match effect {
            Effect::DrawMemberId => {
                self.seen("member began anew");
                self.draw_member_id(who);
            }
            Effect::Open(stream, request) => self.open_stream(who, stream, *request),
            Effect::Send(request) => {
                if let Some((stream, at, _)) = self.groups.clients[who].stream {
                    self.send_heartbeat(who, stream, at, *request);
                }
            }
            Effect::Close => self.close_stream(who),
            Effect::Use(partitions) => {
                for id in &partitions {
                    self.groups.clients[who].uses.insert(place_of(id), Use::default());
                    self.seen("partition acquired");
                }
                self.note([61, who as u64, partitions.len() as u64], || {
                    format!(
                        "client {who} uses {:?}",
                        partitions.iter().map(place_of).collect::<Vec<_>>()
                    )
                });
                self.check_owners(who);
            }
            Effect::Release(partitions, until) => {
                let until = until.saturating_duration_since(self.base);
                let client = &mut self.groups.clients[who];
                for id in &partitions {
                    let release = Release { until, commit: None };
                    client.releasing.insert(place_of(id), release);
                }
                self.seen("partition to be released");
            }
            Effect::Lose(partitions) => {
                self.note([62, who as u64, partitions.len() as u64], || {
                    format!(
                        "client {who} loses {:?}",
                        partitions.iter().map(place_of).collect::<Vec<_>>()
                    )
                });
                let client = &mut self.groups.clients[who];
                for id in &partitions {
                    client.uses.remove(&place_of(id));
                    client.releasing.remove(&place_of(id));
                }
                self.seen("partition lost");
            }
            Effect::Leave(id) => {
                let client = &self.groups.clients[who];
                let leave = Leave {
                    group: group_id(client.group),
                    member: id.into(),
                    temporary: client.instance.is_some(),
                };
                self.call(who, Request::Leave(leave), None);
            }
            Effect::Fail(error) => {
                self.seen("member failed");
                self.note([63, who as u64, 0], || format!("client {who} fails: {error}"));
                self.end_client(who);
                let delay = self.up_to(Duration::from_secs(2));
                self.schedule_group(delay, GroupEvent::Start { client: who });
            }
        }
    }

    /// A client's process ends, with its connections.
    pub(super) fn end_client(&mut self, who: usize) {
        self.close_stream(who);
        self.groups.clients[who].end();
    }

    /// Asks some broker who coordinates: it may not know yet.
    fn find_coordinator(&mut self, who: usize) -> Option<usize> {
        if let Some(known) = self.groups.clients[who].coordinator {
            return Some(known);
        }
        let asked = self.below(self.brokers.len() as u64);
        let process = self.brokers[asked].process.as_ref()?;
        let found = crate::quorum::index_of(record_of(&process.image, PARTITION)?.leader?);
        self.groups.clients[who].coordinator = Some(found);
        Some(found)
    }

    fn open_stream(&mut self, who: usize, stream: u64, request: v1::HeartbeatRequest) {
        let client = self.life_of(who);
        match self.find_coordinator(who) {
            Some(at) => {
                self.groups.clients[who].stream = Some((stream, at, 0));
                self.send_heartbeat(who, stream, at, request);
            }
            None => {
                self.groups.clients[who].stream = None;
                let delay = self.up_to(Duration::from_millis(100)) + Duration::from_millis(5);
                self.schedule_group(delay, GroupEvent::NotOpened { client, stream });
            }
        }
    }

    pub(super) fn on_not_opened(&mut self, client: ClientLife, stream: u64) {
        if self.lives(client) {
            let error = Error::server(ErrorReason::CoordinatorNotAvailable, "there is none");
            self.member_step(client.0, MemberEvent::Broken(stream, error));
        }
    }

    fn close_stream(&mut self, who: usize) {
        let now = self.now;
        let from = self.life_of(who);
        let client = &mut self.groups.clients[who];
        client.coordinator = None;
        let Some((stream, at, _)) = client.stream.take() else {
            return;
        };
        client.broken_at.get_or_insert(now);
        client.dead_stream = Some(stream);
        self.tell_of_end(from, stream, at);
    }

    /// A coordinator hears that a stream has ended.
    fn tell_of_end(&mut self, from: ClientLife, stream: u64, at: usize) {
        let client = &self.groups.clients[from.0];
        let message = GroupMessage::StreamEnded {
            from,
            stream,
            group: group_id(client.group),
            member: format!("m{}-{}", from.0, client.ids).into(),
        };
        self.send(Node::Client, Node::Broker(at), Body::Group(message));
    }

    /// A member's connection breaks. The coordinator sees it; the member when it next waits for an answer in vain.
    pub(super) fn break_connection(&mut self, who: usize) {
        if let Some((stream, at, _)) = self.groups.clients[who].stream {
            let from = self.life_of(who);
            self.connection_broke(from, stream);
            self.tell_of_end(from, stream, at);
        }
    }

    /// Nothing comes by a stream any more.
    pub(super) fn connection_broke(&mut self, client: ClientLife, stream: u64) {
        let now = self.now;
        let Some(known) = self.groups.clients.get_mut(client.0) else {
            return;
        };
        if known.life == client.1 && known.stream.is_some_and(|(present, ..)| present == stream) {
            known.broken_at.get_or_insert(now);
            known.dead_stream = Some(stream);
        }
    }

    fn send_heartbeat(&mut self, who: usize, stream: u64, at: usize, request: v1::HeartbeatRequest) {
        let number = self.groups.number();
        self.groups.clients[who].stream = Some((stream, at, number));
        let asked = Asked::Heartbeat {
            stream,
            request: number,
        };
        let owned = request.owned.map(|owned| {
            let of = |topic: v1::TopicPartitions| {
                let id = topic.topic_id;
                topic
                    .partitions
                    .into_iter()
                    .map(move |number| place_of(&(id.clone(), number)))
            };
            owned.topics.into_iter().flat_map(of).collect()
        });
        let beat = Heartbeat {
            subscriber: None,
            group: request.group.into(),
            member: request.member_id.into(),
            instance: request.instance_id,
            epoch: request.member_epoch,
            version: request.assignment_version,
            details: request.settings.map(details),
            owned,
        };
        self.send_request(who, at, asked, Request::Heartbeat(beat));
    }

    /// Sends a request that is no heartbeat. Its number, if it could be sent.
    pub(super) fn call(&mut self, who: usize, request: Request, call: Option<Call>) -> Option<u64> {
        let at = self.find_coordinator(who)?;
        let number = self.groups.number();
        if let Some(call) = call {
            self.groups.clients[who].calls.insert(number, call);
        }
        self.send_request(who, at, Asked::Call(number), request);
        Some(number)
    }

    fn send_request(&mut self, who: usize, at: usize, asked: Asked, request: Request) {
        let from = self.life_of(who);
        let message = GroupMessage::Request {
            from,
            asked,
            request: Box::new(request),
        };
        let late = self
            .settings
            .groups
            .as_ref()
            .map_or(0, |groups| groups.late_per_million);
        if !self.groups.calm && self.rng.chance(late) {
            self.seen("late copy of a request");
            let delay = self.up_to(LATE);
            let to = self.below(self.brokers.len() as u64);
            let envelope = crate::message::Envelope {
                from: Node::Client,
                to: Node::Broker(if self.below(2) == 0 { at } else { to }),
                body: Body::Group(message.clone()),
            };
            self.schedule(delay, crate::world::Event::Deliver(Box::new(envelope)));
        }
        self.send(Node::Client, Node::Broker(at), Body::Group(message));
    }

    pub(super) fn on_group_answer(&mut self, to: ClientLife, asked: Asked, answer: Result<Answer, GroupRejection>) {
        if !self.lives(to) {
            return;
        }
        let who = to.0;
        match asked {
            Asked::Call(number) => self.on_call_answered(who, number, answer),
            Asked::Heartbeat { stream, request } => {
                let is_waited_for = self.waits_for(to, stream, request);
                let client = &self.groups.clients[who];
                match answer {
                    Ok(Answer::Heartbeat(answer)) => {
                        if is_waited_for && client.dead_stream != Some(stream) {
                            self.groups.clients[who].broken_at = None;
                            self.member_step(who, MemberEvent::Answer(stream, Box::new(answer_out(answer))));
                            self.check_owners(who);
                        }
                    }
                    Ok(_) => {}
                    Err(rejection) if is_waited_for => {
                        let error = error_of(&rejection);
                        let client = &mut self.groups.clients[who];
                        client.coordinator = None;
                        client.stream = None;
                        self.member_step(who, MemberEvent::Broken(stream, error));
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Whether a client waits for the answer to this very heartbeat.
    pub(super) fn waits_for(&self, client: ClientLife, stream: u64, request: u64) -> bool {
        let present = self.groups.clients.get(client.0).and_then(|known| known.stream);
        self.lives(client) && present.is_some_and(|(known, _, sent)| (known, sent) == (stream, request))
    }

    pub(super) fn on_news(&mut self, to: ClientLife, stream: u64) {
        if self.lives(to) {
            self.member_step(to.0, MemberEvent::HeartbeatNow(stream));
        }
    }

    fn await_member(&mut self, who: usize) {
        let base = self.base;
        let client = &mut self.groups.clients[who];
        let due = client.member.as_ref().and_then(Member::wake_at);
        let Some(due) = due else { return };
        let due = due.saturating_duration_since(base);
        if client.tick_at.is_none_or(|known| due < known || known < self.now) {
            client.tick_at = Some(due);
            let delay = due.saturating_sub(self.now).max(Duration::from_micros(10));
            let client = self.life_of(who);
            self.schedule_group(delay, GroupEvent::Tick { client });
        }
    }

    pub(super) fn on_member_tick(&mut self, client: ClientLife) {
        if !self.lives(client) {
            return;
        }
        let frozen_until = self.groups.clients[client.0].frozen_until;
        if frozen_until > self.now {
            let delay = frozen_until - self.now;
            return self.schedule_group(delay, GroupEvent::Tick { client });
        }
        self.groups.clients[client.0].tick_at = None;
        self.member_step(client.0, MemberEvent::Tick);
    }

    /// Whether a client may use a partition: also while it stands still, as it does not know. Once its connection is
    /// gone, for its reconnect time at most.
    pub(super) fn owns(&self, who: usize, at: &TopicPartition) -> bool {
        let client = &self.groups.clients[who];
        let is_over = client
            .member
            .as_ref()
            .is_none_or(|member| member.is_over(self.instant()));
        let is_cut_off = client
            .broken_at
            .is_some_and(|since| since + self.reconnect_of(who) <= self.now);
        client.uses.contains_key(at) && !is_over && !is_cut_off
    }

    /// A client begins, or goes on, to use what it has: nobody else may.
    fn check_owners(&mut self, who: usize) {
        let group = self.groups.clients[who].group;
        let used: Vec<TopicPartition> = self.groups.clients[who].uses.keys().copied().collect();
        for at in used.iter().filter(|at| self.owns(who, at)) {
            let others = (0..self.groups.clients.len()).filter(|other| *other != who);
            let other = others
                .filter(|other| self.groups.clients[*other].group == group)
                .find(|other| self.owns(*other, at));
            if let Some(other) = other {
                return self.observer.violate("a partition has one owner at most", || {
                    format!("clients {who} and {other} both own {at}")
                });
            }
        }
    }
}
