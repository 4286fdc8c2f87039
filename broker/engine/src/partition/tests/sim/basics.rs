//! What the parts of the simulation share: records, randomness, messages.

use std::collections::BTreeMap;

use crate::{
    cluster::{BrokerId, Partition},
    partition::{EpochEnd, FetchRefusal, FetchRequest, Proposal, ProposalError},
};

/// A record: the leader epoch it was appended in, and a number that no other record has.
pub(super) type Record = (i32, u32);

/// How often each rare thing happened: a rule that no run ever reaches is not tested.
#[derive(Debug, Default)]
pub(super) struct Seen(pub BTreeMap<&'static str, u32>);

impl Seen {
    pub(super) fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// xorshift: the same seed gives the same run.
#[derive(Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap() % bound
    }

    pub(super) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

#[derive(Clone, Debug)]
pub(super) enum Payload {
    Records {
        records: Vec<(i64, Record)>,
        high_watermark: i64,
        log_start: i64,
    },
    Diverged(EpochEnd),
    Refused(FetchRefusal),
}

#[derive(Clone, Debug)]
pub(super) enum Message {
    Fetch(BrokerId, FetchRequest),
    Acknowledge(BrokerId, FetchRequest),
    /// To a follower, in that life of it.
    Answer {
        to: BrokerId,
        life: i64,
        from: BrokerId,
        leader_epoch: i32,
        sequence: u64,
        payload: Payload,
    },
    Proposal(Proposal),
    Verdict {
        to: BrokerId,
        life: i64,
        id: u64,
        answer: Result<(Partition, usize), ProposalError>,
    },
}

/// What the log has yet to do.
#[derive(Clone, Debug)]
pub(super) enum Io {
    Append(Vec<(i64, Record)>),
    Truncate(i64),
    TruncateFully(i64),
}
