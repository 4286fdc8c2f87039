//! One partition's record in the metadata.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::state::BrokerId;

/// A partition.
///
/// ```text
///  replicas ─┬─ isr: the leader and who holds all that it committed
///            ├─ elr: left the isr while the high watermark stood still
///            ├─ last_known_elr: were eligible, and may have lost data since
///            └─ the others: catching up, or down
/// ```
/// `isr`, `elr` and `last_known_elr` have no common members; all are among `replicas`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The brokers that hold it, preferred leader first; no repeats. While a move is under way
    /// its target first, then what it takes away.
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas: `isr ⊆ replicas`, and the leader is one of them. Empty only while
    /// there is no leader (KIP-966).
    pub isr: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): left the in-sync set while it was below
    /// `min.insync.replicas`, so that each still holds all that was ever committed.
    /// `elr ⊆ replicas`, without common members with `isr`.
    #[serde(default)]
    pub elr: Vec<BrokerId>,
    /// Were eligible until they lost, or may have lost, data (KIP-966): whom an unclean
    /// recovery asks.
    #[serde(default)]
    pub last_known_elr: Vec<BrokerId>,
    /// The last leader, while there is none: where an unclean recovery looks first.
    #[serde(default)]
    pub last_known_leader: Option<BrokerId>,
    /// Replicas that a move adds: they become full members when they have caught up (KIP-455).
    #[serde(default)]
    pub adding: Vec<BrokerId>,
    /// Replicas that a move takes away when those that it adds have caught up (KIP-455).
    #[serde(default)]
    pub removing: Vec<BrokerId>,
    /// At most so many bytes a second go to each replica that the move adds, until it is in
    /// sync.
    #[serde(default)]
    pub throttle: Option<NonZeroU64>,
    /// Who leads it.
    pub leader: Option<BrokerId>,
    /// Rises whenever the leader changes, also to none and also back to the same broker, and
    /// whenever a replica is taken away.
    pub leader_epoch: i32,
    /// Rises by one with each change to this record.
    pub partition_epoch: i32,
    /// Whether its leader was chosen uncleanly and the in-sync set must stay alone until it has
    /// recovered (KIP-704).
    #[serde(default)]
    pub recovering: bool,
    /// What is known to be committed: who restarts with less has lost data.
    #[serde(default)]
    pub floor: CommittedFloor,
}

/// A lower bound of what is committed, as the leader told it with its last change of the in-sync
/// set. A volume that was restored from an older image of the same process life is recognised by
/// nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedFloor {
    /// All below this offset is committed.
    pub offset: i64,
    /// The leader epoch in which that was told.
    pub leader_epoch: i32,
}

impl Partition {
    /// A new partition: led by the first of `replicas` that is usable, in sync on all
    /// usable ones.
    #[must_use]
    pub fn new(replicas: Vec<BrokerId>, usable: impl Fn(BrokerId) -> bool) -> Self {
        let isr: Vec<BrokerId> = replicas.iter().copied().filter(|id| usable(*id)).collect();
        Self {
            leader: isr.first().copied(),
            replicas,
            isr,
            elr: Vec::new(),
            last_known_elr: Vec::new(),
            last_known_leader: None,
            adding: Vec::new(),
            removing: Vec::new(),
            throttle: None,
            leader_epoch: 0,
            partition_epoch: 0,
            recovering: false,
            floor: CommittedFloor::default(),
        }
    }

    /// How many replicas must be in sync for the high watermark to move, where the topic asks
    /// for `min_insync`: at most the replication factor, at least one (KIP-966).
    ///
    /// What a move adds does not count before the move is complete: a partition that grows
    /// from one replica to three would else stop at once, its new replicas still empty.
    #[must_use]
    pub fn required(&self, min_insync: usize) -> usize {
        min_insync.min(self.replicas.len() - self.adding.len()).max(1)
    }

    /// Whether more than one replica should hold all records, so that what one of them lacks the
    /// others have. What a move adds does not count before the move is complete.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.replicas.len() > self.adding.len() + 1
    }

    /// Whether nobody has ever led it: nothing was ever written.
    #[must_use]
    pub fn was_never_led(&self) -> bool {
        self.leader.is_none() && self.leader_epoch == 0
    }

    /// Whether a move is under way.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas that it has once the move under way is complete, preferred leader first.
    #[must_use]
    pub fn target(&self) -> Vec<BrokerId> {
        without(&self.replicas, &self.removing)
    }

    /// The replicas that it has if the move under way is cancelled.
    #[must_use]
    pub fn original(&self) -> Vec<BrokerId> {
        without(&self.replicas, &self.adding)
    }

    /// The replica that should lead when all are well (Kafka's preferred leader).
    #[must_use]
    pub fn preferred_leader(&self) -> Option<BrokerId> {
        self.replicas.iter().copied().find(|id| !self.removing.contains(id))
    }
}

/// `all` without the members of `out`, in its order.
pub(super) fn without(all: &[BrokerId], out: &[BrokerId]) -> Vec<BrokerId> {
    all.iter().copied().filter(|id| !out.contains(id)).collect()
}

/// Whether two sets, given as lists without repeats, are equal.
pub(super) fn same_members(a: &[BrokerId], b: &[BrokerId]) -> bool {
    a.len() == b.len() && a.iter().all(|id| b.contains(id))
}

/// The first member that occurs twice.
pub(super) fn first_repeat(all: &[BrokerId]) -> Option<BrokerId> {
    let mut seen = std::collections::BTreeSet::new();
    all.iter().copied().find(|id| !seen.insert(*id))
}
