//! What a planner answers: reassignments, and what a person should know beside them.

use std::{collections::BTreeMap, fmt};

use crate::TopicPartition;

/// New replicas for one partition, as KIP-455 takes them.
///
/// Reassignments of a plan do not depend on each other: any order and any batches of them keep each
/// partition's spread over racks at least as good as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    /// The partition.
    pub partition: TopicPartition,
    /// Its replicas now, preferred leader first.
    pub from: Vec<i32>,
    /// Its replicas then, preferred leader first. A replica that replaces another one takes
    /// its position, so that the preferred leader changes only where it must.
    pub to: Vec<i32>,
    /// The bytes to copy: those of one replica for each broker that is new to the partition; 0 if
    /// only the order changes or replicas go.
    pub bytes: u64,
}

impl Reassignment {
    /// The brokers that get a replica.
    pub fn added(&self) -> impl Iterator<Item = i32> + '_ {
        self.to.iter().copied().filter(|id| !self.from.contains(id))
    }

    /// The brokers that lose their replica.
    pub fn removed(&self) -> impl Iterator<Item = i32> + '_ {
        self.from.iter().copied().filter(|id| !self.to.contains(id))
    }
}

/// What a plan can't mend, or what its reader should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Fewer racks than replicas: some rack holds several replicas of one partition, and its
    /// loss takes all of them.
    TooFewRacks {
        /// Replicas of each such partition.
        replication_factor: usize,
        /// Racks with a broker that stays.
        racks: usize,
    },
    /// A rack is so small beside the others that spreading replicas over racks gives each of its brokers
    /// clearly more than a fair share.
    UnevenRacks {
        /// The small rack.
        rack: String,
        /// Replicas of each of its brokers at weight 1, rounded.
        replicas: u64,
        /// Replicas of the cluster's average broker at weight 1, rounded.
        average: u64,
    },
    /// Brokers without a rack beside some that have one: they count for no spread.
    UnknownRack {
        /// The brokers, by number.
        brokers: Vec<i32>,
    },
    /// Partitions whose replicas are not as evenly spread over racks as the racks' sizes allow, and stay so
    /// under this plan.
    NotSpread {
        /// How many there are.
        partitions: usize,
        /// The first of them.
        first: TopicPartition,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewRacks {
                replication_factor,
                racks,
            } => write!(
                out,
                "{racks} racks for a replication factor of {replication_factor}: the loss of one rack can take several replicas of a partition; add brokers in more racks"
            ),
            Self::UnevenRacks {
                rack,
                replicas,
                average,
            } => write!(
                out,
                "rack {rack} has few brokers: spreading over racks gives each of them {replicas} replicas where the average broker has {average}; add brokers to it"
            ),
            Self::UnknownRack { brokers } => {
                write!(
                    out,
                    "brokers without a rack, which count for no spread: {brokers:?}; set their rack"
                )
            }
            Self::NotSpread { partitions, first } => write!(
                out,
                "{partitions} partitions, {first} first, could be spread better over racks than they will be; repair racks once the brokers there can take replicas"
            ),
        }
    }
}

/// Reassignments that reach a goal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What changes, by partition; partitions that stay as they are are not in it.
    pub reassignments: Vec<Reassignment>,
    /// What the plan's reader should know.
    pub notices: Vec<Notice>,
    /// Candidates looked at: what planning cost, whatever the machine.
    pub steps: u64,
}

impl Plan {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reassignments.is_empty()
    }

    /// The bytes to copy in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reassignments
            .iter()
            .fold(0, |sum, change| sum.saturating_add(change.bytes))
    }

    /// The replicas to copy in all.
    #[must_use]
    pub fn replicas_moved(&self) -> usize {
        self.reassignments.iter().map(|change| change.added().count()).sum()
    }

    /// The bytes that each broker gets; brokers that get none are not in it.
    #[must_use]
    pub fn bytes_onto(&self) -> BTreeMap<i32, u64> {
        let mut onto: BTreeMap<i32, u64> = BTreeMap::new();
        for change in &self.reassignments {
            let added = change.added().count() as u64;
            for id in change.added() {
                let bytes = onto.entry(id).or_default();
                *bytes = bytes.saturating_add(change.bytes / added.max(1));
            }
        }
        onto
    }

    /// This plan and `next`, which was made for the cluster after this one, as one. A partition that both
    /// change goes straight to where the second one puts it; one that comes back to where it was drops out.
    #[must_use]
    pub fn then(self, next: Plan) -> Plan {
        let mut joined: BTreeMap<TopicPartition, Reassignment> = self
            .reassignments
            .into_iter()
            .map(|change| (change.partition, change))
            .collect();
        for change in next.reassignments {
            let Some(first) = joined.remove(&change.partition) else {
                joined.insert(change.partition, change);
                continue;
            };
            if first.from == change.to {
                continue;
            }
            // One of the two knows what a replica weighs, if either copies anything at all.
            let each = |change: &Reassignment| change.bytes / (change.added().count() as u64).max(1);
            let weight = each(&first).max(each(&change));
            let mut both = Reassignment {
                from: first.from,
                bytes: 0,
                ..change
            };
            both.bytes = weight.saturating_mul(both.added().count() as u64);
            joined.insert(both.partition, both);
        }
        Plan {
            reassignments: joined.into_values().collect(),
            notices: next.notices,
            steps: self.steps + next.steps,
        }
    }
}
