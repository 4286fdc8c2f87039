//! What a caller may choose.

/// What to do where a partition has more replicas than there are racks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RackPolicy {
    /// Spread replicas over the racks as evenly as the racks' sizes allow, and say in a notice where there are
    /// too few racks (Cruise Control's `RackAwareDistributionGoal`).
    #[default]
    Spread,
    /// At most one replica of a partition in each rack, else an error (Cruise Control's `RackAwareGoal`).
    OnePerRack,
}

/// Which replicas move onto new brokers, among those that could.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteGoal {
    /// Those that give each new broker its share of the bytes, and no more than that. With the
    /// smallest ones alone, new brokers would stay empty and full disks full.
    #[default]
    Share,
    /// The smallest ones: the fewest bytes that even out the numbers of replicas.
    Cheapest,
}

/// How to plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Spread over racks, or insist on one replica per rack.
    pub racks: RackPolicy,
    /// How far from its fair share of replicas a broker may stay before data is moved for
    /// balance alone, in percent of the share, and never less than one replica. It keeps a
    /// cluster from moving data to and fro for little (CockroachDB uses the same 5 %). It does
    /// not apply to replicas that must be placed anyway: those always go where they even out best.
    pub tolerance_percent: u32,
    /// Which replicas move for balance.
    pub bytes: ByteGoal,
    /// How full a disk may be, in percent, once all that is planned for it has come and nothing
    /// that is planned to leave has left: steps of a plan may run in any order. Above it a
    /// broker gets nothing. Cruise Control's `DiskCapacityGoal` uses 80 %.
    pub max_disk_percent: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            racks: RackPolicy::default(),
            tolerance_percent: 5,
            bytes: ByteGoal::default(),
            max_disk_percent: 85,
        }
    }
}
