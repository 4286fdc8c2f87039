//! What travels between brokers, clients and the controller.

use std::time::Duration;

use bytes::Bytes;
use millrace_engine::{
    Command, Outcome, Rejection,
    partition::{EpochEnd, FetchRefusal, FetchRequest},
};
use millrace_log::producer::ProducerState;

use crate::{error::Error, groups::GroupMessage, sequencer::BatchId};

/// Who sends or receives: a broker by its index, or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Broker(usize),
    Client,
}

/// What kind of message it is, for scenarios that hold some back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A follower asks for records, or tells what its disk holds.
    Fetch,
    /// The answer to a follower.
    FetchAnswer,
    /// A leader proposes an in-sync set.
    Proposal,
    /// What became of a proposal.
    ProposalAnswer,
    /// Any other command to the controller, or its answer.
    Control,
    /// A broker is alive.
    Heartbeat,
    /// A producer's batch.
    Produce,
    /// What became of a batch.
    ProduceAnswer,
    /// A consumer's read or its answer.
    Read,
    /// Between a member of a group and a coordinator.
    Group,
}

/// A message under way.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub(crate) from: Node,
    pub(crate) to: Node,
    pub(crate) body: Body,
}

impl Envelope {
    /// What kind of message it is.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        match &self.body {
            Body::Fetch { .. } => MessageKind::Fetch,
            Body::FetchAnswer { .. } => MessageKind::FetchAnswer,
            Body::Command {
                command: Command::AlterPartitions(_),
                ..
            } => MessageKind::Proposal,
            Body::CommandAnswer {
                call: Call::Proposal { .. },
                ..
            } => MessageKind::ProposalAnswer,
            Body::Command { .. } | Body::CommandAnswer { .. } => MessageKind::Control,
            Body::Heartbeat { .. } | Body::HeartbeatCounted { .. } => MessageKind::Heartbeat,
            Body::Produce(_) => MessageKind::Produce,
            Body::ProduceAnswer { .. } => MessageKind::ProduceAnswer,
            Body::Read(_) | Body::ReadAnswer { .. } => MessageKind::Read,
            Body::Group(_) => MessageKind::Group,
        }
    }

    /// The index of the broker that sent it, if it was one.
    #[must_use]
    pub fn from(&self) -> Option<usize> {
        broker(self.from)
    }

    /// From where on a follower asks; `None` if it is no fetch.
    #[must_use]
    pub fn fetch_offset(&self) -> Option<i64> {
        match &self.body {
            Body::Fetch { request, .. } => Some(request.offset),
            _ => None,
        }
    }

    /// The index of the broker that it is for, if it is one.
    #[must_use]
    pub fn to(&self) -> Option<usize> {
        broker(self.to)
    }
}

fn broker(node: Node) -> Option<usize> {
    match node {
        Node::Broker(at) => Some(at),
        Node::Client => None,
    }
}

/// What a command's answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Register,
    Unfence,
    Shutdown,
    Proposal { partition: u32, id: u64 },
    Unanswered,
}

#[derive(Clone, Debug)]
pub(crate) enum FetchPayload {
    Records {
        bytes: Bytes,
        high_watermark: i64,
        log_start: i64,
    },
    Diverged(EpochEnd),
    /// Begin anew there, with these producers.
    OutOfRange {
        log_start: i64,
        log_end: i64,
        producers: ProducerState,
    },
    Refused(FetchRefusal),
    Failed,
}

/// A batch on its way to a leader.
#[derive(Clone, Debug)]
pub(crate) struct ProduceRequest {
    pub producer: usize,
    pub partition: u32,
    pub batch: BatchId,
    /// Tells the answers to several attempts of one batch apart.
    pub attempt: u64,
    pub bytes: Bytes,
    pub values: Vec<u64>,
    pub leader_epoch: Option<i32>,
    pub acks_all: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct ReadRequest {
    pub consumer: usize,
    pub partition: u32,
    pub attempt: u64,
    pub offset: i64,
    pub leader_epoch: Option<i32>,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// `wants_records` is false for a mere acknowledgement.
    Fetch {
        partition: u32,
        life: u64,
        request: FetchRequest,
        wants_records: bool,
    },
    FetchAnswer {
        partition: u32,
        life: u64,
        leader: i32,
        leader_epoch: i32,
        sequence: u64,
        payload: FetchPayload,
    },
    Command {
        life: u64,
        call: Call,
        command: Command,
    },
    CommandAnswer {
        life: u64,
        call: Call,
        result: Result<Outcome, Rejection>,
    },
    Heartbeat {
        broker_id: i32,
        broker_epoch: i64,
        /// Of which process, and when: the answer renews its own lease.
        life: u64,
        sent_at: Duration,
    },
    /// The controller has counted a sign of life.
    HeartbeatCounted {
        life: u64,
        sent_at: Duration,
    },
    Group(GroupMessage),
    Produce(ProduceRequest),
    ProduceAnswer {
        producer: usize,
        partition: u32,
        batch: BatchId,
        attempt: u64,
        answer: Result<i64, Error>,
    },
    Read(ReadRequest),
    ReadAnswer {
        consumer: usize,
        partition: u32,
        attempt: u64,
        records: Vec<(i64, u64)>,
        next: i64,
        epoch: i32,
    },
}
