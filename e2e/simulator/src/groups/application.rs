//! What an application does with its partitions: it asks where to begin, processes, commits, and gives back.

use std::time::Duration;

use millrace_engine::group::{
    Answer, Commit, CommitOffset, FetchOffsets, GroupRejection, Position, Request, TopicPartition,
};
use millrace_member::Event as MemberEvent;

use super::{
    GroupEvent,
    client::{Call, Release},
    convert::error_of,
    group_id, id_of,
    oracle::beside,
};
use crate::world::World;

impl World {
    /// A member's application does something.
    pub(super) fn on_act(&mut self, who: usize) {
        let every = self
            .settings
            .groups
            .as_ref()
            .map_or(Duration::ZERO, |groups| groups.act_every);
        let delay = self.up_to(every * 2) + Duration::from_millis(5);
        self.schedule_group(delay, GroupEvent::Act { client: who });
        let (now, instant) = (self.now, self.instant());
        let client = &self.groups.clients[who];
        let Some(member) = client.member.as_ref().filter(|_| client.frozen_until <= now) else {
            return;
        };
        if member.is_over(instant) {
            self.seen("session over");
            return self.member_step(who, MemberEvent::Tick);
        }
        self.produce_somewhere();
        self.ask_where_to_begin(who);
        self.process(who);
        self.give_back(who);
    }

    /// Under which id and epoch a member may commit now.
    fn identity(&self, who: usize) -> Option<(std::sync::Arc<str>, i32)> {
        let (id, epoch) = self.groups.clients[who].member.as_ref()?.identity()?;
        Some((id.into(), epoch))
    }

    fn produce_somewhere(&mut self) {
        let which = self.below(self.groups.ends.len() as u64);
        let more = i64::try_from(self.below(5)).unwrap_or(0);
        if let Some(end) = self.groups.ends.values_mut().nth(which) {
            *end += more;
        }
    }

    fn ask_where_to_begin(&mut self, who: usize) {
        let client = &self.groups.clients[who];
        let unknown = client.uses.iter().filter(|(_, of)| of.next.is_none());
        let partitions: Vec<TopicPartition> = unknown.map(|(at, _)| *at).collect();
        let Some(member) = self.identity(who).filter(|_| !partitions.is_empty()) else {
            return;
        };
        let fetch = FetchOffsets {
            group: group_id(self.groups.clients[who].group),
            member: Some(member),
            partitions: Some(partitions),
        };
        self.call(who, Request::FetchOffsets(fetch), Some(Call::Fetch));
    }

    /// Processes some of one partition, and commits it or not.
    fn process(&mut self, who: usize) {
        let client = &self.groups.clients[who];
        let begun: Vec<TopicPartition> = client
            .uses
            .iter()
            .filter(|(at, of)| of.next.is_some() && !client.releasing.contains_key(at))
            .map(|(at, _)| *at)
            .collect();
        if begun.is_empty() || self.groups.quiet {
            return;
        }
        let at = begun[self.below(begun.len() as u64)];
        let more = 1 + i64::try_from(self.below(3)).unwrap_or(0);
        let end = self.groups.ends.get(&at).copied().unwrap_or(0);
        if let Some(of) = self.groups.clients[who].uses.get_mut(&at)
            && let Some(next) = of.next
        {
            of.next = Some((next + more).min(end.max(next)));
        }
        if self.below(5) < 3 {
            self.commit_offsets(who, &[at]);
        }
    }

    /// Commits where it is in partitions. The call's number, if it was made.
    fn commit_offsets(&mut self, who: usize, partitions: &[TopicPartition]) -> Option<u64> {
        let (id, epoch) = self.identity(who)?;
        let mut offsets = Vec::new();
        for at in partitions {
            let client = &self.groups.clients[who];
            if let Some(offset) = client.uses.get(at).and_then(|of| of.next) {
                let number = self.groups.number();
                offsets.push(CommitOffset {
                    at: *at,
                    offset,
                    leader_epoch: None,
                    metadata: beside(&id, epoch, number),
                });
            }
        }
        if offsets.is_empty() {
            return None;
        }
        let commit = Commit {
            group: group_id(self.groups.clients[who].group),
            member: Some((id, epoch)),
            rewind: false,
            offsets,
        };
        self.call(who, Request::Commit(commit), Some(Call::Commit))
    }

    /// Gives back what it was told to: commits first, and waits for the answer. Now and then it is slow, or too slow.
    fn give_back(&mut self, who: usize) {
        let releasing: Vec<(TopicPartition, Release)> = {
            let client = &self.groups.clients[who];
            client.releasing.iter().map(|(at, of)| (*at, of.clone())).collect()
        };
        let mut released = Vec::new();
        for (at, release) in releasing {
            if !self.groups.calm && self.below(4) == 0 {
                continue;
            }
            let client = &self.groups.clients[who];
            let begun = client.uses.get(&at).is_some_and(|of| of.next.is_some());
            let answered = release.commit.is_some_and(|number| !client.calls.contains_key(&number));
            if !begun || answered || release.until <= self.now {
                released.push(at);
            } else if release.commit.is_none() {
                let number = self.commit_offsets(who, &[at]);
                if let Some(of) = self.groups.clients[who].releasing.get_mut(&at) {
                    of.commit = number;
                }
            }
        }
        if released.is_empty() {
            return;
        }
        self.seen("partition released");
        let client = &mut self.groups.clients[who];
        for at in &released {
            client.uses.remove(at);
            client.releasing.remove(at);
        }
        let ids = released.iter().map(id_of).collect();
        self.member_step(who, MemberEvent::Released(ids));
    }

    pub(super) fn on_call_answered(&mut self, who: usize, number: u64, answer: Result<Answer, GroupRejection>) {
        let Some(call) = self.groups.clients[who].calls.remove(&number) else {
            return;
        };
        match (call, answer) {
            (Call::Fetch, Ok(Answer::Fetched(positions))) => {
                for (at, position) in positions {
                    let next = match position {
                        Position::Committed { offset, .. } => offset,
                        Position::Beginning => 0,
                        Position::Pending | Position::None => continue,
                    };
                    if let Some(of) = self.groups.clients[who].uses.get_mut(&at) {
                        of.next.get_or_insert(next);
                    }
                }
            }
            (Call::Commit, Ok(Answer::Offsets(results))) => {
                let stored = results.iter().filter(|(_, result)| result.is_ok()).count();
                if stored > 0 {
                    self.seen("offset committed");
                }
                if stored < results.len() {
                    self.seen("commit refused");
                }
            }
            (_, Err(rejection)) => {
                let error = error_of(&rejection);
                if error.is_retriable() {
                    self.groups.clients[who].forget_coordinator();
                } else if let Some(member) = self.groups.clients[who].member.as_mut() {
                    member.want_heartbeat();
                    self.member_step(who, MemberEvent::Tick);
                }
            }
            _ => {}
        }
    }
}
