//! How a coordinator takes requests and answers them: only while its broker's lease holds, since a member that a replaced
//! coordinator answered would go on although its session has ended.

use std::time::Duration;

use millrace_engine::group::{Answer, Event as Rule, GroupId, GroupRejection, MemberId, MemberState, Request};

use super::{Asked, ClientLife, GroupMessage, convert::error_of, coordinator::Coordinating, oracle::Told};
use crate::{
    message::{Body, Node},
    world::World,
};

/// How long an answer waits for the lease to hold again.
const LEASE_WAIT: Duration = Duration::from_secs(2);

/// Who waits for an answer.
pub(crate) struct Waiting {
    to: ClientLife,
    asked: Asked,
    group: GroupId,
    member: Option<MemberId>,
    /// What is to be looked at when it is answered.
    told: Told,
}

/// An answer that waits for the broker's lease.
pub(crate) struct HeldAnswer {
    until: Duration,
    to: ClientLife,
    asked: Asked,
    answer: Box<Result<Answer, GroupRejection>>,
    told: Told,
}

impl World {
    pub(super) fn on_group_request(&mut self, at: usize, from: ClientLife, asked: Asked, request: Box<Request>) {
        let runs = self.brokers[at].process.as_ref();
        if runs.is_none_or(|process| process.coordinator.is_none()) {
            return self.send_answer(at, from, asked, Box::new(Err(GroupRejection::Loading)));
        }
        let (group, member) = match &*request {
            Request::Heartbeat(beat) => (beat.group.clone(), Some(beat.member.clone())),
            Request::Leave(leave) => (leave.group.clone(), None),
            Request::Commit(commit) => (commit.group.clone(), None),
            Request::FetchOffsets(fetch) => (fetch.group.clone(), None),
            Request::ResetOffsets(reset) => (reset.group.clone(), None),
            _ => return,
        };
        let told = self.groups.oracle.asked(&request);
        self.with_coordinator(at, |world, coordinator| {
            world.look_at_topics(at, coordinator);
            if let (Asked::Heartbeat { stream, .. }, Some(member)) = (asked, &member)
                && !coordinator.ended.contains(&(from, stream))
            {
                let key = (group.clone(), member.clone());
                coordinator.open.entry(key).or_default().insert((from, stream));
            }
            let id = coordinator.next_request;
            coordinator.next_request += 1;
            let waiting = Waiting {
                to: from,
                asked,
                group,
                member,
                told,
            };
            coordinator.waiting.insert(id, waiting);
            world.rule(at, coordinator, Rule::Requested { id, request });
        });
    }

    pub(super) fn answer_group(
        &mut self,
        at: usize,
        coordinator: &mut Coordinating,
        id: u64,
        answer: Box<Result<Answer, GroupRejection>>,
    ) {
        let Some(waiting) = coordinator.waiting.remove(&id) else {
            return;
        };
        if let (Asked::Heartbeat { stream, .. }, Some(member)) = (waiting.asked, waiting.member.clone()) {
            let key = (waiting.group.clone(), member);
            match &*answer {
                Ok(Answer::Heartbeat(_)) => _ = coordinator.streams.insert(key, (waiting.to, stream)),
                // A refused heartbeat takes no member over, and its stream's end says nothing of it.
                _ => {
                    _ = coordinator
                        .open
                        .get_mut(&key)
                        .map(|open| open.remove(&(waiting.to, stream)))
                }
            }
        }
        if let (Asked::Heartbeat { stream, .. }, Err(rejection)) = (waiting.asked, &*answer)
            && !error_of(rejection).is_retriable()
        {
            self.check_fenced(at, coordinator, &waiting, rejection);
            coordinator.ended.insert((waiting.to, stream));
        }
        let held = HeldAnswer {
            until: self.now + LEASE_WAIT,
            to: waiting.to,
            asked: waiting.asked,
            answer,
            told: waiting.told,
        };
        let has_ended = matches!(&*held.answer, Err(GroupRejection::NotCoordinator { .. }));
        if has_ended || self.lease_holds(at) {
            return self.let_go(at, held);
        }
        self.seen("answer waited for the lease");
        if let Some(process) = self.brokers[at].process.as_mut() {
            process.held_answers.push(held);
        }
    }

    /// Nobody is fenced for an epoch that it was told, and may still believe to have as its last answer was lost.
    fn check_fenced(&mut self, at: usize, coordinator: &Coordinating, waiting: &Waiting, rejection: &GroupRejection) {
        let (Asked::Heartbeat { stream, request }, Some(id)) = (waiting.asked, &waiting.member) else {
            return;
        };
        let GroupRejection::FencedMemberEpoch { given, current, .. } = rejection else {
            return;
        };
        let group = coordinator.rules.groups().get(&waiting.group);
        let member = group.and_then(|group| group.members.get(id));
        let is_active = member.is_some_and(|member| member.current.state == MemberState::Active);
        let is_another = self.groups.oracle.joined_since(&waiting.group, id, *given);
        if is_active && !is_another && given <= current && self.waits_for(waiting.to, stream, request) {
            self.observer
                .violate("a member whose answer was lost is not fenced", || {
                    format!("broker {at}: {rejection}: {member:?}")
                });
        }
    }

    fn lease_holds(&self, at: usize) -> bool {
        let process = self.brokers[at].process.as_ref();
        process.is_some_and(|process| process.lease_until > self.now)
    }

    /// The controller has counted a sign of life that was sent at this time.
    pub(crate) fn lease_renewed(&mut self, at: usize, life: u64, sent_at: Duration) {
        let (now, lease) = (self.now, self.settings.lease);
        let Some(process) = self.brokers[at].process.as_mut().filter(|process| process.life == life) else {
            return;
        };
        process.lease_until = process.lease_until.max(sent_at + lease);
        if process.lease_until <= now {
            return;
        }
        for mut held in std::mem::take(&mut process.held_answers) {
            if held.until <= now {
                held.answer = Box::new(Err(GroupRejection::NotCoordinator { outcome_unknown: true }));
            }
            self.let_go(at, held);
        }
    }

    fn let_go(&mut self, at: usize, held: HeldAnswer) {
        if let Some(problem) = self.groups.oracle.judge_answer(&held.told, &held.answer) {
            self.observer.violate("what was committed is what is told", || {
                format!("broker {at} to client {:?}: {problem}", held.to)
            });
        }
        self.send_answer(at, held.to, held.asked, held.answer);
    }

    fn send_answer(&mut self, at: usize, to: ClientLife, asked: Asked, answer: Box<Result<Answer, GroupRejection>>) {
        if let (Asked::Heartbeat { stream, .. }, Err(_)) = (asked, &*answer) {
            self.connection_broke(to, stream);
        }
        self.groups.answers += 1;
        let every = self.settings.groups.as_ref().map_or(0, |groups| groups.lost_every);
        if !self.groups.calm && every > 0 && self.groups.answers.is_multiple_of(every) {
            self.seen("answer of a coordinator lost");
            return;
        }
        let message = GroupMessage::Answer { to, asked, answer };
        self.send(Node::Broker(at), Node::Client, Body::Group(message));
    }

    pub(super) fn on_stream_ended(
        &mut self,
        at: usize,
        from: ClientLife,
        stream: u64,
        group: &GroupId,
        member: &MemberId,
    ) {
        self.with_coordinator(at, |world, coordinator| {
            world.stream_is_lost(at, coordinator, (from, stream), group, member);
        });
    }

    /// A stream has ended. The rules are told if it was the member's last: of one that came before another, by which a
    /// heartbeat has come since, they would take the end for that of a connection that is there.
    fn stream_is_lost(
        &mut self,
        at: usize,
        coordinator: &mut Coordinating,
        stream: (ClientLife, u64),
        group: &GroupId,
        member: &MemberId,
    ) {
        coordinator.ended.insert(stream);
        let key = (group.clone(), member.clone());
        if coordinator.streams.get(&key) == Some(&stream) {
            coordinator.streams.remove(&key);
        }
        let open = coordinator.open.get_mut(&key);
        if open.is_some_and(|open| open.remove(&stream) && open.is_empty()) {
            self.seen("connection of a member lost");
            self.rule(at, coordinator, Rule::ConnectionLost { group, member });
        }
    }

    pub(super) fn wake_members(
        &mut self,
        at: usize,
        coordinator: &Coordinating,
        group: &GroupId,
        members: &[MemberId],
    ) {
        for member in members {
            if let Some((to, stream)) = coordinator.streams.get(&(group.clone(), member.clone())).copied() {
                let news = GroupMessage::News { to, stream };
                self.send(Node::Broker(at), Node::Client, Body::Group(news));
            }
        }
    }
}
