//! What a replica takes of the cluster's metadata.
//!
//! Each epoch fences one thing: the broker epoch a process life, the leader epoch the right to
//! append, the partition epoch the version of the partition's record. A record is taken if
//! neither of its two epochs is older than what is known; a follower's state and its fetches
//! are begun anew only when the leader epoch has risen (KAFKA-13790).

use std::time::Duration;

use super::{leader::Leader, progress::Progress};
use crate::cluster::{BrokerId, Cluster, Partition};

/// A broker as a partition's rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BrokerView {
    /// Its number.
    pub id: BrokerId,
    /// Its present life.
    pub broker_epoch: i64,
    /// It has no lease.
    pub fenced: bool,
    /// It has asked to stop and must not get into an in-sync set any more (KIP-841).
    pub shutting_down: bool,
}

/// A partition as one version of the metadata shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Of which version of the metadata: older ones that arrive late are not taken.
    pub version: u64,
    /// The controller's record.
    pub partition: Partition,
    /// The brokers that hold replicas, as far as registered.
    pub brokers: Vec<BrokerView>,
    /// How many replicas must be in sync. Must be the number that the controller itself goes by
    /// when it decides who stays eligible outside of the in-sync set (KIP-966).
    pub required: usize,
}

impl PartitionView {
    /// The view of a partition in `cluster`; `None` if there is no such partition.
    /// `shutting_down` says it of a broker.
    #[must_use]
    pub fn of(
        cluster: &Cluster,
        topic: &str,
        number: u32,
        required: usize,
        shutting_down: impl Fn(BrokerId) -> bool,
    ) -> Option<Self> {
        let topic = cluster.topics.get(topic)?;
        let partition = topic.partitions.get(usize::try_from(number).ok()?)?;
        let brokers = partition.replicas.iter().filter_map(|id| cluster.brokers.get(id));
        Some(Self {
            version: cluster.version,
            partition: partition.clone(),
            brokers: brokers
                .map(|broker| BrokerView {
                    id: broker.id,
                    broker_epoch: broker.epoch,
                    fenced: broker.fenced,
                    shutting_down: shutting_down(broker.id),
                })
                .collect(),
            required,
        })
    }

    /// A replica's broker, if it is registered.
    #[must_use]
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerView> {
        self.brokers.iter().find(|broker| broker.id == id)
    }
}

/// What is known of the partition's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Known {
    pub version: u64,
    pub leader: Option<BrokerId>,
    pub leader_epoch: i32,
    pub partition_epoch: i32,
    /// Whether this replica is in sync or eligible: it may be chosen to lead.
    pub may_be_chosen: bool,
    /// `Partition::is_replicated`.
    pub replicated: bool,
}

/// What a record of the partition means to a replica that knows another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acceptance {
    /// It is older than what is known.
    Old,
    /// It says of an epoch what can't be true beside what is known.
    Contradicts,
    /// The same leadership, perhaps with other members.
    SameEpoch,
    /// Another leadership.
    NewEpoch,
}

impl Known {
    pub(super) const NOTHING: Self = Self {
        version: 0,
        leader: None,
        leader_epoch: -1,
        partition_epoch: -1,
        may_be_chosen: false,
        replicated: false,
    };

    pub(super) fn judge(&self, partition: &Partition) -> Acceptance {
        if partition.partition_epoch < self.partition_epoch {
            return Acceptance::Old;
        }
        if partition.leader_epoch < self.leader_epoch {
            return Acceptance::Contradicts;
        }
        if partition.leader_epoch > self.leader_epoch {
            return Acceptance::NewEpoch;
        }
        match (self.leader, partition.leader) {
            // A leader may be lost within an epoch, but none begins in it.
            (known, told) if told.is_some() && told != known => Acceptance::Contradicts,
            _ => Acceptance::SameEpoch,
        }
    }

    pub(super) fn take(&mut self, own: BrokerId, partition: &Partition) {
        self.may_be_chosen = partition.isr.contains(&own) || partition.elr.contains(&own);
        self.replicated = partition.is_replicated();
        self.leader = partition.leader;
        self.leader_epoch = partition.leader_epoch;
        self.partition_epoch = partition.partition_epoch;
    }
}

impl Leader {
    /// A leadership that begins.
    pub(super) fn begin(
        id: BrokerId,
        broker_epoch: i64,
        view: &PartitionView,
        high_watermark: i64,
        log_end: i64,
        now: Duration,
    ) -> Self {
        let partition = &view.partition;
        let mut leader = Self::new(
            id,
            partition.leader_epoch,
            partition.isr.clone(),
            view.required,
            high_watermark,
            log_end,
        );
        leader.broker_epoch = broker_epoch;
        leader.adopt(partition);
        leader.see_brokers(&view.brokers);
        for follower in &mut leader.followers {
            // Members get the whole allowance to be heard; others must earn it.
            if partition.isr.contains(&follower.id) {
                follower.caught_up_at = Some(now);
            }
        }
        leader
    }

    /// Takes over the controller's record within this epoch. Who is out of the in-sync set, and not eligible either,
    /// although its broker serves must be heard anew: it may have told the controller that it found damage, and what it
    /// told here before is not so any more.
    pub(super) fn adopt(&mut self, partition: &Partition) {
        for follower in &mut self.followers {
            let may_be_chosen = partition.isr.contains(&follower.id) || partition.elr.contains(&follower.id);
            let leaves = self.isr.committed.contains(&follower.id) && !may_be_chosen;
            if leaves && follower.eligible {
                follower.begin_anew();
            }
        }
        self.isr.adopt(partition);
        let mut followers = Vec::with_capacity(partition.replicas.len());
        for id in partition.replicas.iter().chain(&partition.isr) {
            if *id == self.id || followers.iter().any(|known: &Progress| known.id == *id) {
                continue;
            }
            let known = self.followers.iter().find(|known| known.id == *id);
            let mut follower = known.cloned().unwrap_or_else(|| Progress::new(*id));
            let adding = partition.adding.contains(id);
            // It was a member and is being added: it was removed in between, and both changes
            // came as one. What it told before is of a replica that is gone (KAFKA-9672).
            if adding && !follower.adding && known.is_some() {
                follower.forget();
            }
            follower.adding = adding;
            followers.push(follower);
        }
        self.followers = followers;
    }

    /// Takes over what the metadata says of the followers' brokers. Whoever began another life
    /// has told nothing yet.
    pub(super) fn see_brokers(&mut self, brokers: &[BrokerView]) {
        for follower in &mut self.followers {
            let seen = brokers.iter().find(|broker| broker.id == follower.id);
            let broker_epoch = seen.map_or(-1, |broker| broker.broker_epoch);
            if broker_epoch != follower.broker_epoch {
                follower.forget();
                follower.broker_epoch = broker_epoch;
            }
            follower.eligible = seen.is_some_and(|broker| !broker.fenced && !broker.shutting_down);
        }
    }
}
