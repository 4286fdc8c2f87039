//! What goes wrong with members and coordinators, and that all comes to rest without it.

use std::{sync::Arc, time::Duration};

use millrace_engine::group::{GroupState, Groups as State, Record, Request, ResetOffsets, TopicPartition};
use millrace_log::Log;

use millrace_member::Event as MemberEvent;

use super::{Asked, GroupEvent, GroupMessage, PARTITION, coordinator::records_in, group_id, topic_uuid, topics};
use crate::{
    message::{Body, Node},
    quorum::index_of,
    slots::record_of,
    world::World,
};

/// No run gives a topic more partitions.
const MOST_PARTITIONS: u32 = 8;
/// The operator, as a client: nobody waits for the answers.
const OPERATOR: usize = usize::MAX;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Freeze,
    Kill,
    Restart,
    BreakStream,
    AddPartition,
    Resign,
    Reset,
}

impl World {
    pub(super) fn on_group_fault(&mut self) {
        let Some(settings) = self.settings.groups.clone().filter(|_| !self.groups.calm) else {
            return;
        };
        let delay = self.up_to(settings.fault_every * 2) + Duration::from_millis(1);
        self.schedule_group(delay, GroupEvent::Fault);
        let weights = &settings.faults;
        let table = [
            (weights.freeze, Fault::Freeze),
            (weights.kill, Fault::Kill),
            (weights.restart, Fault::Restart),
            (weights.break_stream, Fault::BreakStream),
            (weights.add_partition, Fault::AddPartition),
            (weights.resign, Fault::Resign),
            (weights.reset, Fault::Reset),
        ];
        let total: u32 = table.iter().map(|entry| entry.0).sum();
        let mut drawn = u32::try_from(self.below(u64::from(total))).unwrap_or(0);
        let who = self.below(self.groups.clients.len() as u64);
        for (weight, fault) in table {
            if drawn < weight {
                self.note([64, who as u64, 0], || format!("fault {fault:?} at client {who}"));
                return self.inject_group_fault(fault, who, &settings);
            }
            drawn -= weight;
        }
    }

    fn inject_group_fault(&mut self, fault: Fault, who: usize, settings: &super::GroupSettings) {
        let runs = self.groups.clients[who].member.is_some();
        match fault {
            Fault::Freeze => {
                self.seen("member froze");
                let time = self.up_to(settings.session * 2);
                self.groups.clients[who].frozen_until = self.now + time;
            }
            Fault::Kill if runs => {
                self.seen("member killed");
                self.end_client(who);
                self.start_client_later(who, settings.session * 2);
            }
            Fault::Restart if runs => {
                self.seen("member left");
                self.member_step(who, MemberEvent::Leave);
                self.end_client(who);
                self.start_client_later(who, settings.session);
            }
            Fault::BreakStream => {
                self.seen("stream broken");
                self.break_connection(who);
            }
            Fault::AddPartition => self.add_partition(settings.views_late),
            Fault::Resign => {
                let at = self.below(self.brokers.len() as u64);
                self.with_coordinator(at, |world, coordinator| {
                    world.seen("append of unknown outcome");
                    coordinator.resigned = true;
                });
            }
            Fault::Reset => self.reset_somewhere(settings.groups),
            Fault::Kill | Fault::Restart => {}
        }
    }

    fn start_client_later(&mut self, who: usize, most: Duration) {
        let delay = self.up_to(most);
        self.schedule_group(delay, GroupEvent::Start { client: who });
    }

    fn add_partition(&mut self, most: Duration) {
        let topic = self.below(2);
        if self.groups.partitions[topic] >= MOST_PARTITIONS {
            return;
        }
        self.seen("partition added");
        let at = TopicPartition {
            topic: topic_uuid(topic),
            partition: self.groups.partitions[topic],
        };
        self.groups.partitions[topic] += 1;
        self.groups.ends.insert(at, 0);
        let view = topics(self.groups.partitions);
        self.groups.views.push(view);
        for at in 0..self.brokers.len() {
            if let Some(life) = self.brokers[at].life() {
                let delay = self.up_to(most);
                self.schedule_group(delay, GroupEvent::Views { at, life });
            }
        }
    }

    /// The newest partitions that a process knows that starts: it hears of later ones before long.
    pub(crate) fn views_at_start(&mut self, at: usize, life: u64) -> usize {
        let Some(settings) = self.settings.groups.as_ref().filter(|_| !self.groups.views.is_empty()) else {
            return 0;
        };
        let most = settings.views_late;
        let delay = self.up_to(most);
        self.schedule_group(delay, GroupEvent::Views { at, life });
        (self.groups.views.len() - 1).saturating_sub(self.below(3))
    }

    /// An operator resets an offset: it is refused while somebody has the partition.
    fn reset_somewhere(&mut self, groups: usize) {
        let group = group_id(self.below(groups as u64));
        let which = self.below(self.groups.ends.len() as u64);
        let Some((at, end)) = self.groups.ends.iter().nth(which).map(|(at, end)| (*at, *end)) else {
            return;
        };
        let to = i64::try_from(self.below(end.unsigned_abs() + 1)).unwrap_or(0);
        let cluster = Arc::clone(self.quorum.cluster());
        let Some(leader) = record_of(&cluster, PARTITION).and_then(|record| record.leader) else {
            return;
        };
        self.groups.resets.insert((group.clone(), at, to));
        let reset = ResetOffsets {
            group,
            validate_only: false,
            expected_version: None,
            offsets: vec![(at, Some(to))],
        };
        let message = GroupMessage::Request {
            from: (OPERATOR, 0),
            asked: Asked::Call(0),
            request: Box::new(Request::ResetOffsets(reset)),
        };
        self.send(Node::Client, Node::Broker(index_of(leader)), Body::Group(message));
    }

    /// No more faults of members: all live but those that another has taken the place of.
    pub(crate) fn calm_groups(&mut self) {
        if !self.has_groups() {
            return;
        }
        self.groups.calm = true;
        for who in 0..self.groups.clients.len() {
            self.groups.clients[who].frozen_until = self.now;
            if self.groups.clients[who].is_double {
                self.end_client(who);
            } else {
                self.schedule_group(Duration::ZERO, GroupEvent::Start { client: who });
            }
        }
    }

    /// Members commit no more.
    pub(crate) fn quiet_groups(&mut self) {
        self.groups.quiet = true;
    }

    /// Each group is stable, and each partition is used by a member that knows where to read on.
    pub(crate) fn groups_are_at_rest(&self) -> bool {
        self.what_keeps_groups().is_none()
    }

    /// Why the groups are not at rest yet.
    pub(crate) fn what_keeps_groups(&self) -> Option<String> {
        let settings = self.settings.groups.as_ref()?;
        let leader = record_of(self.quorum.cluster(), PARTITION).and_then(|record| record.leader);
        let process = leader.and_then(|leader| self.brokers[index_of(leader)].process.as_ref());
        let Some(coordinator) = process.and_then(|process| process.coordinator.as_ref()) else {
            return Some("there is no coordinator".to_owned());
        };
        if !coordinator.is_at_rest() {
            return Some("the coordinator loads or writes".to_owned());
        }
        // What was put off while it was frozen comes when it would have gone on.
        let is_old = |at: &usize| {
            let process = self.brokers[*at].process.as_ref();
            let known = process.and_then(|process| process.coordinator.as_ref());
            known.is_some_and(|known| self.leads_groups(*at) != Some(known.leader_epoch))
        };
        if let Some(at) = (0..self.brokers.len()).find(is_old) {
            return Some(format!("broker {at} has not noticed that it does not coordinate"));
        }
        for number in 0..settings.groups {
            let id = group_id(number);
            let Some(group) = coordinator.rules.groups().get(&id) else {
                return Some(format!("there is no group {id}"));
            };
            if group.state() != GroupState::Stable || group.members.len() != settings.members {
                return Some(format!("{id}: {:?}: {:?}", group.state(), group.members));
            }
            for at in self.groups.ends.keys() {
                let owner = (0..self.groups.clients.len())
                    .filter(|who| self.groups.clients[*who].group == number)
                    .find(|who| self.owns(*who, at));
                let begun = owner.is_some_and(|who| self.groups.clients[who].uses[at].next.is_some());
                if !begun {
                    return Some(format!("{at} of {id} is used by {owner:?}, who knows of no offset"));
                }
            }
        }
        None
    }

    /// Each replica's log makes the state that was committed, which is the coordinator's.
    pub(crate) fn check_groups_at_end(&mut self) {
        let cluster = Arc::clone(self.quorum.cluster());
        let Some(record) = record_of(&cluster, PARTITION).filter(|_| self.has_groups()) else {
            return;
        };
        for id in &record.isr {
            let Some(hosted) = self.brokers[index_of(*id)].hosted(PARTITION) else {
                continue;
            };
            let state = match state_of(&hosted.log) {
                Ok(state) => state,
                Err(problem) => {
                    return self.observer.violate("what is stored of groups can be read", || {
                        format!("broker {id}: {problem}")
                    });
                }
            };
            let process = self.brokers[index_of(*id)].process.as_ref();
            let live = process.and_then(|process| process.coordinator.as_ref());
            let is_the_same = state == *self.groups.oracle.state()
                && live.is_none_or(|live| live.rules.groups() == self.groups.oracle.state());
            if !is_the_same && self.deleted_came_back(index_of(*id), PARTITION) {
                self.seen("deleted records of groups came back");
                continue;
            }
            if !is_the_same {
                let process = self.brokers[index_of(*id)].process.as_ref();
                let live = process.and_then(|process| process.coordinator.as_ref());
                let live = live.map(|live| (live.leader_epoch, live.rules.groups()));
                let known = self.groups.oracle.state();
                return self
                    .observer
                    .violate("each replica's log of groups makes the same state", || {
                        format!("broker {id}: {state:?}, its coordinator knows {live:?}, committed is {known:?}")
                    });
            }
        }
    }
}

/// The state that a whole log makes.
fn state_of(log: &Log) -> Result<State, String> {
    let mut state = State::default();
    let (mut offset, end) = (log.log_start_offset(), log.log_end_offset());
    while offset < end {
        let data = log
            .read(offset, 1 << 20, true, end)
            .map_err(|error| error.to_string())?;
        if data.next_offset <= offset {
            break;
        }
        offset = data.next_offset;
        for (_, stored) in records_in(data.bytes)? {
            let record = Record::decode(&stored.key, stored.value.as_deref());
            state.apply(record.map_err(|error| format!("{error:?}"))?);
        }
    }
    Ok(state)
}
