//! What the consumer groups of a run are like.

use std::time::Duration;

use millrace_log::fs::faulty::SplitMix64;

/// How often each fault of members and coordinators is drawn, relative to the others; zero means never.
#[derive(Clone, Debug, Default)]
pub struct GroupFaultWeights {
    /// A member's process stands still for a while, with all that it was told.
    pub freeze: u32,
    /// A member's process is killed.
    pub kill: u32,
    /// A member leaves in order and comes back; a static one says that it will.
    pub restart: u32,
    /// A member's connection breaks: the coordinator sees it, the member perhaps not.
    pub break_stream: u32,
    /// A topic gets another partition.
    pub add_partition: u32,
    /// A coordinator does not know what became of an append, and ends.
    pub resign: u32,
    /// An operator resets an offset.
    pub reset: u32,
}

/// The consumer groups of a run: their records are in the simulated topic.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// How many groups there are.
    pub groups: usize,
    /// How many members each has.
    pub members: usize,
    /// How many of those, the last ones, have an instance id.
    pub statics: usize,
    /// Another process has the last member's instance id.
    pub double: bool,
    /// How many partitions each of the two topics has at first that all members subscribe to.
    pub partitions: [u32; 2],
    /// Groups begin at the end of what is there, or at the beginning.
    pub from_end: bool,
    /// A member's session time.
    pub session: Duration,
    /// How long a member without an instance id may be without a connection.
    pub reconnect: Duration,
    /// How long a member may keep what it must give back.
    pub rebalance: Duration,
    /// The mean time between two doings of a member's application.
    pub act_every: Duration,
    /// The mean time between two faults.
    pub fault_every: Duration,
    /// Requests, per million, of which another copy comes late, somewhere.
    pub late_per_million: u32,
    /// Each so-manieth answer of a coordinator is lost; 0: none.
    pub lost_every: u64,
    /// How long a broker may not have heard of new partitions.
    pub views_late: Duration,
    /// What goes wrong.
    pub faults: GroupFaultWeights,
}

impl GroupSettings {
    /// The groups of a seed.
    pub(crate) fn draw(rng: &mut SplitMix64) -> Self {
        let mut pick = |choices: &[u64]| {
            let at = usize::try_from(rng.below(choices.len() as u64)).unwrap_or(0);
            choices[at]
        };
        let count = |value: u64| usize::try_from(value).unwrap_or(1);
        let weight = |value: u64| u32::try_from(value).unwrap_or(1);
        let members = count(pick(&[2, 3, 5]));
        let statics = count(pick(&[0, 1, 2])).min(members);
        Self {
            groups: count(pick(&[1, 1, 2])),
            members,
            statics,
            double: pick(&[0, 1]) == 1 && statics > 0,
            partitions: [weight(pick(&[1, 2, 4])), weight(pick(&[1, 3]))],
            from_end: pick(&[0, 1]) == 1,
            session: Duration::from_millis(pick(&[3_000, 6_000])),
            reconnect: Duration::from_millis(pick(&[500, 2_000])),
            rebalance: Duration::from_secs(pick(&[2, 5])),
            act_every: Duration::from_millis(pick(&[100, 300])),
            fault_every: Duration::from_millis(pick(&[500, 1_500])),
            late_per_million: weight(pick(&[0, 10_000, 100_000])),
            lost_every: pick(&[0, 3, 7]),
            views_late: Duration::from_millis(pick(&[100, 2_000])),
            faults: GroupFaultWeights {
                freeze: weight(pick(&[0, 1, 3])),
                kill: weight(pick(&[0, 1, 3])),
                restart: weight(pick(&[0, 1, 3])),
                break_stream: weight(pick(&[0, 1, 3])),
                add_partition: weight(pick(&[0, 1])),
                resign: weight(pick(&[0, 1])),
                reset: weight(pick(&[0, 1])),
            },
        }
    }
}
