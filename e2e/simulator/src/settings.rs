//! What one run is like: each seed draws its own, and some faults have rate zero, so that runs
//! get deep in different places (FoundationDB's swarm testing, TigerBeetle's VOPR).

use std::time::Duration;

use millrace_engine::config::FlushPolicy;
use millrace_log::fs::faulty::SplitMix64;

use crate::{compaction::CompactionSettings, groups::GroupSettings};

/// What tells the generator of the settings of groups from a seed's own.
const GROUPS: u64 = 0x6209_25E7_7136_0003;
/// And that of the settings of a compacted topic.
const COMPACTED: u64 = 0xC0A7_25E7_7136_0004;

/// How the network misbehaves. Rates are per million messages.
#[derive(Clone, Debug, Default)]
pub struct NetworkFaults {
    /// Messages that get lost.
    pub drop_per_million: u32,
    /// Messages that arrive twice.
    pub repeat_per_million: u32,
    /// Messages that take up to `slow_max`.
    pub slow_per_million: u32,
    /// How long a slow message takes at most.
    pub slow_max: Duration,
    /// How long any other message takes at most: above zero, messages overtake each other.
    pub delay_max: Duration,
}

/// How often each fault is drawn, relative to the others; zero means never.
#[derive(Clone, Debug, Default)]
pub struct FaultWeights {
    /// The power of one machine goes: what was not synced is lost, in part or in whole.
    pub crash: u32,
    /// The power of all machines goes at one instant.
    pub crash_all: u32,
    /// A process is killed; its machine lives on.
    pub kill: u32,
    /// A process stands still for a while and goes on with its old timers.
    pub pause: u32,
    /// A broker leaves in order, and comes back.
    pub shutdown: u32,
    /// A disk is lost; after a refusal the operator permits the new one.
    pub wipe: u32,
    /// Two stopped brokers get each other's disks for a while.
    pub swap: u32,
    /// A disk comes back as it was some lives ago.
    pub restore: u32,
    /// A disk has no room for a while.
    pub full: u32,
    /// An fsync fails, and the directory with it.
    pub sync_error: u32,
    /// Two brokers, or a broker and the clients, can't talk to each other, in one direction or both.
    pub cut: u32,
    /// One broker can't talk to anybody.
    pub isolate: u32,
    /// One of the cuts heals, in any order.
    pub mend: u32,
    /// The metadata quorum gets another leader.
    pub depose: u32,
    /// An operator has the preferred replicas lead.
    pub elect: u32,
    /// An operator moves a replica, or cancels a move.
    pub reassign: u32,
    /// An operator changes when the topic's records are forced to the disk.
    pub alter_flush: u32,
    /// An operator changes `min.insync.replicas`.
    pub alter_min_insync: u32,
    /// An operator deletes the topic and creates it again.
    pub replace_topic: u32,
    /// A bit flips in data at rest on one disk.
    pub rot: u32,
    /// An operator deletes the oldest records of a partition, or all.
    pub delete_records: u32,
    /// An operator changes how many replicas a partition has.
    pub resize: u32,
}

/// What one run is like.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many brokers, each of which is also a voter of the metadata quorum.
    pub brokers: usize,
    /// How many partitions the one topic has.
    pub partitions: u32,
    /// On how many brokers each partition is.
    pub replication: usize,
    /// `min.insync.replicas`.
    pub min_insync: usize,
    /// When records are forced to the disk, at first.
    pub flush: FlushPolicy,
    /// How many producers write to all partitions.
    pub producers: usize,
    /// How many batches a producer has in flight for a partition. A broker remembers the last five of each.
    pub in_flight: usize,
    /// How many of the producers, the last ones, are content with the leader's own log (acks=1):
    /// what they are told is stored may be lost, and is never there twice.
    pub leader_acks: usize,
    /// How many consumers read all partitions.
    pub consumers: usize,
    /// How long the faults last, by the virtual clock.
    pub faulty_for: Duration,
    /// The mean time between two faults.
    pub fault_every: Duration,
    /// The mean time between two records of a producer for a partition.
    pub produce_every: Duration,
    /// How often a broker is heard of by the controller.
    pub heartbeat_every: Duration,
    /// How long a broker that is not heard of stays in service.
    pub lease: Duration,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
    /// How long an fsync or another change of a log takes at most.
    pub disk_delay_max: Duration,
    /// How often a broker notes on its disk how far its logs are flushed.
    pub checkpoint_every: Duration,
    /// `segment.bytes` of every log.
    pub segment_bytes: u32,
    /// How many bytes a fetch answers with at most.
    pub fetch_bytes: usize,
    /// In the end only a part of the brokers is healed that is enough, and the others stay as they are.
    pub heal_core: bool,
    /// Consumer groups, whose records are in the topic: nobody else writes to it then.
    pub groups: Option<GroupSettings>,
    /// The topic is compacted: its records have keys.
    pub compaction: Option<CompactionSettings>,
    /// How long a producer tries before it gives a record up.
    pub delivery_timeout: Duration,
    /// The network.
    pub network: NetworkFaults,
    /// The machines.
    pub faults: FaultWeights,
}

impl Settings {
    /// A small cluster in which nothing happens by chance: for scenarios.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            brokers: 3,
            partitions: 1,
            replication: 3,
            min_insync: 2,
            flush: FlushPolicy::Ack,
            producers: 0,
            in_flight: 5,
            leader_acks: 0,
            consumers: 0,
            faulty_for: Duration::ZERO,
            fault_every: Duration::from_secs(1),
            produce_every: Duration::from_millis(100),
            heartbeat_every: Duration::from_millis(200),
            lease: Duration::from_secs(1),
            lag_max: Duration::from_secs(2),
            disk_delay_max: Duration::from_millis(2),
            checkpoint_every: Duration::from_secs(1),
            segment_bytes: 1 << 20,
            fetch_bytes: 1 << 20,
            heal_core: false,
            groups: None,
            compaction: None,
            delivery_timeout: Duration::from_secs(120),
            network: NetworkFaults {
                delay_max: Duration::from_millis(1),
                ..NetworkFaults::default()
            },
            faults: FaultWeights::default(),
        }
    }

    /// The settings of a seed. What is not drawn from `rng` is drawn from `added`, and then `later`, and may
    /// be nothing: it came later, and the runs of seeds without it stayed as they were.
    #[must_use]
    pub fn draw(rng: &mut SplitMix64, added: &mut SplitMix64, later: &mut SplitMix64) -> Self {
        let mut settings = Self::draw_first(rng);
        if added.below(2) == 0 {
            settings.draw_added(added);
        }
        match later.below(4) {
            0 => settings.draw_deletions(later),
            1 => settings.draw_later(later),
            _ => {}
        }
        settings
    }

    /// The settings of a seed with consumer groups. The topic's records are theirs, acknowledged once they are on enough
    /// disks: without bits that flip, deletions, and other policies.
    #[must_use]
    pub fn draw_groups(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed ^ GROUPS);
        let settings = Self::draw_first(&mut rng);
        Self {
            partitions: 1,
            producers: 0,
            leader_acks: 0,
            consumers: 0,
            faulty_for: settings.faulty_for.min(Duration::from_secs(30)),
            groups: Some(GroupSettings::draw(&mut rng)),
            ..settings
        }
    }

    /// The settings of a seed with a compacted topic. Runs are long, as a tombstone stays for a minute beyond its
    /// retention: so long it may take until the copy that it was first seen in is in place.
    #[must_use]
    pub fn draw_compacted(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed ^ COMPACTED);
        let mut settings = Self::draw_first(&mut rng);
        if rng.below(2) == 0 {
            settings.draw_added(&mut rng);
        }
        if rng.below(4) == 0 {
            settings.draw_deletions(&mut rng);
        }
        Self {
            segment_bytes: [512, 1_024, 2_048][index(&mut rng, 3)],
            partitions: settings.partitions.min(2),
            faulty_for: Duration::from_secs([30, 100, 150][index(&mut rng, 3)]),
            fault_every: Duration::from_secs([1, 3][index(&mut rng, 2)]),
            produce_every: Duration::from_millis([200, 500][index(&mut rng, 2)]),
            compaction: Some(CompactionSettings::draw(&mut rng)),
            ..settings
        }
    }

    /// The settings of a seed with consumer groups whose topic is compacted, as it is in a broker.
    #[must_use]
    pub fn draw_compacted_groups(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed ^ COMPACTED);
        let compaction = CompactionSettings::draw(&mut rng);
        let settings = Self::draw_groups(seed);
        // Who is away for longer than tombstones stay may bring back what they deleted, which the rules of groups know
        // nothing of: where they go within a run nobody is cut off for long, and no old image is restored.
        let (mut faults, mut network) = (settings.faults.clone(), settings.network.clone());
        if compaction.delete_retention < Duration::from_secs(60) {
            (faults.cut, faults.isolate, faults.restore) = (0, 0, 0);
            network.slow_max = network.slow_max.min(Duration::from_secs(5));
        }
        Self {
            faults,
            network,
            segment_bytes: [1_024, 4_096][index(&mut rng, 2)],
            faulty_for: Duration::from_secs([20, 100][index(&mut rng, 2)]),
            compaction: Some(compaction),
            ..settings
        }
    }

    /// Deletions, also where replicas are copied anew for lost disks and moves, or are added and taken away. Full disks
    /// are left out, on which a log start is stored only once there is room, and disks that have it from before: the
    /// simulation of storage has those.
    fn draw_deletions(&mut self, rng: &mut SplitMix64) {
        self.in_flight = [5, 16][index(rng, 2)];
        self.faults = FaultWeights {
            delete_records: [1, 3][index(rng, 2)],
            full: 0,
            wipe: [0, 1][index(rng, 2)],
            restore: 0,
            reassign: [0, 0, 1, 3][index(rng, 4)],
            replace_topic: 0,
            rot: 0,
            ..self.faults.clone()
        };
        if rng.below(4) == 0 {
            self.draw_later(rng);
        }
    }

    fn draw_later(&mut self, rng: &mut SplitMix64) {
        self.in_flight = 16;
        // A core is chosen for as many replicas as there were at first.
        self.heal_core = false;
        self.faults.resize = [1, 3][index(rng, 2)];
    }

    fn draw_added(&mut self, rng: &mut SplitMix64) {
        self.flush = [
            FlushPolicy::Ack,
            FlushPolicy::Ack,
            FlushPolicy::Ack,
            FlushPolicy::Os,
            FlushPolicy::Interval,
        ][index(rng, 5)];
        self.faults.alter_flush = [0, 0, 0, 1][index(rng, 4)];
        self.faults.alter_min_insync = [0, 0, 0, 1][index(rng, 4)];
        self.faults.replace_topic = [0, 0, 0, 1][index(rng, 4)];
        self.faults.rot = [0, 0, 3][index(rng, 3)];
        self.heal_core = rng.below(2) == 0;
    }

    fn draw_first(rng: &mut SplitMix64) -> Self {
        let mut pick = |choices: &[u64]| choices[index(rng, choices.len())];
        let brokers = usize::try_from(pick(&[3, 3, 3, 4, 5])).unwrap_or(3);
        let most = brokers as u64;
        let replication = usize::try_from(pick(&[3, 3, 3, 2, most.min(4), most])).unwrap_or(3);
        let min_insync = usize::try_from(pick(&[2, 2, 2, 1, 3])).unwrap_or(2).min(replication);
        let network = NetworkFaults {
            drop_per_million: narrow(pick(&[0, 0, 1_000, 20_000, 100_000])),
            repeat_per_million: narrow(pick(&[0, 0, 10_000, 100_000])),
            slow_per_million: narrow(pick(&[0, 0, 1_000, 20_000])),
            slow_max: Duration::from_millis(pick(&[500, 5_000, 60_000, 180_000])),
            delay_max: Duration::from_millis(pick(&[1, 5, 50])),
        };
        let mut weight = || narrow(pick(&[0, 0, 1, 3]));
        let faults = FaultWeights {
            crash: weight(),
            crash_all: weight().min(1),
            kill: weight(),
            pause: weight(),
            shutdown: weight(),
            wipe: weight().min(1),
            swap: weight().min(1),
            restore: weight().min(1),
            full: weight(),
            sync_error: weight(),
            cut: weight(),
            isolate: weight(),
            mend: 3,
            depose: weight(),
            elect: weight(),
            reassign: weight(),
            ..FaultWeights::default()
        };
        let partitions = narrow(pick(&[1, 1, 2, 4]));
        let producers = pick(&[1, 2]);
        // The first one asks for all, and the run's last record is from it.
        let leader_acks = pick(&[0, 1]).min(producers - 1);
        Self {
            brokers,
            partitions,
            replication,
            min_insync,
            flush: FlushPolicy::Ack,
            producers: usize::try_from(producers).unwrap_or(1),
            in_flight: 5,
            leader_acks: usize::try_from(leader_acks).unwrap_or(0),
            consumers: 1,
            faulty_for: Duration::from_secs(pick(&[15, 30, 60])),
            fault_every: Duration::from_millis(pick(&[300, 1_000, 3_000])),
            produce_every: Duration::from_millis(pick(&[50, 200, 500])),
            heartbeat_every: Duration::from_millis(500),
            lease: Duration::from_secs(pick(&[2, 5])),
            lag_max: Duration::from_secs(pick(&[1, 3, 30])),
            disk_delay_max: Duration::from_millis(pick(&[1, 20, 300])),
            checkpoint_every: Duration::from_secs(pick(&[1, 3, 10])),
            segment_bytes: narrow(pick(&[1_024, 4_096, 1 << 20])),
            fetch_bytes: usize::try_from(pick(&[1, 300, 1 << 20])).unwrap_or(1),
            heal_core: false,
            groups: None,
            compaction: None,
            delivery_timeout: Duration::from_secs(pick(&[5, 30, 120])),
            network,
            faults,
        }
    }
}

fn index(rng: &mut SplitMix64, len: usize) -> usize {
    usize::try_from(rng.below(len as u64)).unwrap_or(0)
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
