//! How the logs of a run are compacted.

use std::time::Duration;

use millrace_log::fs::faulty::SplitMix64;

/// The topic's `cleanup.policy` is compact: each replica compacts its own log, at its own pace.
#[derive(Clone, Debug)]
pub struct CompactionSettings {
    /// How many keys the records of a partition have. A run with groups has theirs.
    pub keys: u64,
    /// So many of a hundred records are tombstones. A run with groups has theirs.
    pub tombstone_percent: u64,
    /// `delete.retention.ms`.
    pub delete_retention: Duration,
    /// `min.cleanable.dirty.ratio`, in millionths.
    pub dirty_ppm: u32,
    /// The mean time after which a broker looks again at a log that is not being compacted. Each log's is up to twice as
    /// long.
    pub look_every: Duration,
    /// How long a round waits at most between two steps.
    pub pause_max: Duration,
    /// How many bytes a step reads and writes.
    pub step_bytes: u64,
    /// How many bytes the map of keys takes: a small one leaves the rest to the next round.
    pub map_bytes: usize,
    /// Steps, per million, in the midst of which the process or the power goes.
    pub die_per_million: u32,
    /// How many readers read logs from their start, each at one replica.
    pub scans: usize,
}

impl CompactionSettings {
    /// What is due is compacted at once, in few steps.
    #[must_use]
    pub fn calm() -> Self {
        Self {
            keys: 4,
            tombstone_percent: 0,
            delete_retention: Duration::from_secs(24 * 60 * 60),
            dirty_ppm: 1,
            look_every: Duration::from_millis(200),
            pause_max: Duration::from_millis(1),
            step_bytes: 1 << 20,
            map_bytes: 1 << 16,
            die_per_million: 0,
            scans: 0,
        }
    }

    /// The compaction of a seed.
    pub(crate) fn draw(rng: &mut SplitMix64) -> Self {
        let mut pick = |choices: &[u64]| {
            let at = usize::try_from(rng.below(choices.len() as u64)).unwrap_or(0);
            choices[at]
        };
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            keys: pick(&[2, 5, 20]),
            tombstone_percent: pick(&[10, 30, 60]),
            delete_retention: Duration::from_millis(pick(&[500, 5_000, 20_000, 86_400_000])),
            dirty_ppm: narrow(pick(&[0, 200_000, 500_000])),
            look_every: Duration::from_millis(pick(&[200, 1_000, 5_000])),
            pause_max: Duration::from_millis(pick(&[1, 50, 1_000])),
            step_bytes: pick(&[1, 300, 2_000, 1 << 20]),
            map_bytes: usize::try_from(pick(&[100, 400, 1 << 16])).unwrap_or(1),
            die_per_million: narrow(pick(&[0, 5_000, 50_000])),
            scans: 2,
        }
    }
}
