//! Consumer groups: the real rules of coordinators, whose records are in the simulated topic's partition, and the real
//! step of a member. What lies between is modelled: the server's runtime of a coordinator, streams, and the
//! application.
//!
//! ```text
//!  members (millrace-member)           --heartbeats, commits--> coordinator at the partition's leader
//!                                                                  engine::group::Coordinator
//!      oracle <--what is committed-- replicated partition <--append, acks=all--'
//! ```
//!
//! | file | what |
//! |---|---|
//! | `coordinator`, `serving` | the server's runtime: loads, writes, answers while the broker's lease holds |
//! | `client`, `convert`, `application` | members, and what they do with their partitions |
//! | `oracle` | what the log says, and what it must never say; who owns what |
//! | `faults` | what goes wrong with members and coordinators; how it ends |

mod application;
mod client;
mod convert;
mod coordinator;
mod faults;
mod oracle;
mod serving;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millrace_engine::group::{
    Answer, GroupId, GroupRejection, MemberId, Request, StoredRecord, TopicPartition, TopicView, Topics,
};
use millrace_member::PartitionId;
use uuid::Uuid;

pub use self::settings::{GroupFaultWeights, GroupSettings};
use self::{client::Client, oracle::Oracle};
pub(crate) use self::{coordinator::Coordinating, serving::HeldAnswer};
use crate::{
    compaction::{Keyed, number_of_key},
    world::{Event, World},
};

/// The slot of the partition that holds the records of groups.
pub(crate) const PARTITION: u32 = 0;
/// The header by which the simulator knows a record.
pub(crate) const TAG: &[u8] = b"simulator";

/// What a client waits for an answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A heartbeat on a stream of this number: its own number, as a stream has one answer for each.
    Heartbeat { stream: u64, request: u64 },
    /// Another call.
    Call(u64),
}

/// A client's process: its index, and which of its lives.
pub(crate) type ClientLife = (usize, u32);

/// Between clients and coordinators.
#[derive(Clone, Debug)]
pub(crate) enum GroupMessage {
    Request {
        from: ClientLife,
        asked: Asked,
        request: Box<Request>,
    },
    Answer {
        to: ClientLife,
        asked: Asked,
        answer: Box<Result<Answer, GroupRejection>>,
    },
    /// There is news for the member.
    News { to: ClientLife, stream: u64 },
    /// A stream has ended, and its client with it, perhaps.
    StreamEnded {
        from: ClientLife,
        stream: u64,
        group: GroupId,
        member: MemberId,
    },
}

impl GroupMessage {
    /// The client that it is for, if it is for one.
    pub(crate) fn client(&self) -> Option<usize> {
        match self {
            Self::Answer { to, .. } | Self::News { to, .. } => Some(to.0),
            Self::Request { .. } | Self::StreamEnded { .. } => None,
        }
    }
}

/// Something of groups that is due.
#[derive(Clone, Debug)]
pub(crate) enum GroupEvent {
    /// A broker's coordinator is looked at.
    Coordinate { at: usize, life: u64 },
    /// It was found out where topics end.
    StartResolved {
        at: usize,
        life: u64,
        leader_epoch: i32,
        group: GroupId,
        topic: Uuid,
        offsets: Vec<(u32, i64)>,
    },
    /// A broker hears of the newest partitions.
    Views { at: usize, life: u64 },
    /// Time has passed for a member.
    Tick { client: ClientLife },
    /// A member's application does something.
    Act { client: usize },
    /// A member hears that a stream could not be opened.
    NotOpened { client: ClientLife, stream: u64 },
    /// A client's process starts.
    Start { client: usize },
    /// Something goes wrong.
    Fault,
}

impl GroupEvent {
    /// The broker that it happens at.
    pub(crate) fn target(&self) -> Option<usize> {
        match self {
            Self::Coordinate { at, .. } | Self::StartResolved { at, .. } | Self::Views { at, .. } => Some(*at),
            _ => None,
        }
    }
}

/// All that a run has of groups.
#[derive(Default)]
pub(crate) struct Groups {
    clients: Vec<Client>,
    /// The topics that members subscribe to, in the order in which they changed.
    views: Vec<Arc<Topics>>,
    partitions: [u32; 2],
    /// Where each partition of those ends now.
    ends: BTreeMap<TopicPartition, i64>,
    pub(crate) oracle: Oracle,
    /// What each tag of a record of the log stands for.
    records: BTreeMap<u64, StoredRecord>,
    /// Resets that were asked for: nothing else takes an offset back.
    resets: BTreeSet<(GroupId, TopicPartition, i64)>,
    next_number: u64,
    answers: u64,
    /// No more faults: all must come to rest.
    calm: bool,
    /// Members commit no more.
    quiet: bool,
}

impl Groups {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

fn group_id(group: usize) -> GroupId {
    format!("g{group}").into()
}

const TOPICS: [&str; 2] = ["t1", "t2"];

fn topic_uuid(topic: usize) -> Uuid {
    Uuid::from_u128(0xA001 + topic as u128)
}

fn topics(partitions: [u32; 2]) -> Arc<Topics> {
    let view = |at: usize| TopicView {
        id: topic_uuid(at),
        partitions: partitions[at],
        racks: Vec::new(),
    };
    let all = TOPICS
        .iter()
        .enumerate()
        .map(|(at, name)| ((*name).to_owned(), view(at)));
    Arc::new(Topics::new(all.collect()))
}

fn id_of(at: &TopicPartition) -> PartitionId {
    (
        Bytes::copy_from_slice(at.topic.as_bytes()),
        i32::try_from(at.partition).unwrap_or(0),
    )
}

fn place_of(id: &PartitionId) -> TopicPartition {
    TopicPartition {
        topic: Uuid::from_slice(&id.0).unwrap_or_default(),
        partition: u32::try_from(id.1).unwrap_or(0),
    }
}

impl World {
    /// Makes the members of all groups, which start before long.
    pub(crate) fn begin_groups(&mut self) {
        let Some(settings) = self.settings.groups.clone() else {
            return;
        };
        self.groups.partitions = settings.partitions;
        self.groups.views.push(topics(settings.partitions));
        for (topic, count) in settings.partitions.into_iter().enumerate() {
            for partition in 0..count {
                let at = TopicPartition {
                    topic: topic_uuid(topic),
                    partition,
                };
                let end = i64::try_from(self.below(50)).unwrap_or(0);
                self.groups.ends.insert(at, end);
            }
        }
        for group in 0..settings.groups {
            for number in 0..settings.members + usize::from(settings.double) {
                let shown = number.min(settings.members - 1);
                let is_static = shown + settings.statics >= settings.members;
                let instance = is_static.then(|| format!("pod-{group}-{shown}"));
                let is_double = number >= settings.members;
                self.groups.clients.push(Client::new(group, instance, is_double));
            }
        }
        for client in 0..self.groups.clients.len() {
            let delay = self.up_to(Duration::from_secs(2));
            self.schedule_group(delay, GroupEvent::Start { client });
            self.schedule_group(delay, GroupEvent::Act { client });
        }
        self.schedule_group(Duration::ZERO, GroupEvent::Fault);
    }

    /// What the key of a record of groups is, and whether it is a tombstone, by its tag.
    pub(crate) fn keyed_of_groups(&self, tag: u64) -> Keyed {
        let stored = self.groups.records.get(&tag);
        Keyed {
            key: number_of_key(stored.map_or(&[], |stored| &stored.key[..])),
            is_tombstone: stored.is_none_or(|stored| stored.value.is_none()),
        }
    }

    pub(crate) fn has_groups(&self) -> bool {
        self.settings.groups.is_some()
    }

    fn schedule_group(&mut self, delay: Duration, event: GroupEvent) {
        self.schedule(delay, Event::Group(event));
    }

    pub(crate) fn on_group_event(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Coordinate { at, life } => self.on_coordinate(at, life),
            GroupEvent::StartResolved {
                at,
                life,
                leader_epoch,
                group,
                topic,
                offsets,
            } => self.on_start_resolved(at, life, leader_epoch, &group, topic, &offsets),
            GroupEvent::Views { at, life } => self.on_views(at, life),
            GroupEvent::Tick { client } => self.on_member_tick(client),
            GroupEvent::Act { client } => self.on_act(client),
            GroupEvent::NotOpened { client, stream } => self.on_not_opened(client, stream),
            GroupEvent::Start { client } => self.start_client(client),
            GroupEvent::Fault => self.on_group_fault(),
        }
    }

    pub(crate) fn on_group_message(&mut self, to: usize, message: GroupMessage) {
        match message {
            GroupMessage::Request { from, asked, request } => self.on_group_request(to, from, asked, request),
            GroupMessage::Answer { to, asked, answer } => self.on_group_answer(to, asked, *answer),
            GroupMessage::News { to, stream } => self.on_news(to, stream),
            GroupMessage::StreamEnded {
                from,
                stream,
                group,
                member,
            } => self.on_stream_ended(to, from, stream, &group, &member),
        }
    }

    /// Whether a client that a message is for stands still, and until when.
    pub(crate) fn client_stands_still(&self, message: &GroupMessage) -> Option<Duration> {
        let until = self.groups.clients.get(message.client()?)?.frozen_until;
        (until > self.now).then_some(until)
    }
}
