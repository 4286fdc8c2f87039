//! Which faults a disk has, and how often.

use std::path::Path;

/// Faults that are on. Rates are per million calls. The default is a sound disk of unlimited size that nevertheless
/// loses what was not synced when it crashes.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// Writes, creations, renames and `set_len` that fail with an I/O error, some of the bytes written all the same.
    pub write_error_per_million: u32,
    /// Reads that fail with an I/O error.
    pub read_error_per_million: u32,
    /// Syncs that fail and drop the dirty pages.
    pub sync_error_per_million: u32,
    /// So many next syncs fail for certain.
    pub fail_next_syncs: u32,
    /// Syncs find no room for what was written before, as where blocks are allocated late, and drop it.
    pub syncs_find_no_room: bool,
    /// Only paths that contain this text get errors; empty means all.
    pub only_paths_with: String,
    /// How many bytes fit on the disk.
    pub capacity_bytes: u64,
    /// A crash may keep any set of 512-byte sectors, and cut at any byte, of an unsynced write. Off: each unsynced
    /// write is kept or lost whole.
    pub torn_writes: bool,
    /// A crash loses every unsynced change. Off: each is kept or lost by the seed.
    pub lose_all_unsynced: bool,
    /// The disk lies: `sync_dir` succeeds and does nothing. Only to prove that tests notice.
    pub sync_dir_does_nothing: bool,
    /// The disk lies: `sync_data` and `sync_all` succeed and do nothing. Only to prove that tests notice.
    pub sync_data_does_nothing: bool,
    /// The disk lies: a sync that fails, and drops the dirty pages, succeeds. Only to prove that tests notice.
    pub failed_syncs_succeed: bool,
}

impl Default for FaultPlan {
    fn default() -> Self {
        FaultPlan {
            write_error_per_million: 0,
            read_error_per_million: 0,
            sync_error_per_million: 0,
            fail_next_syncs: 0,
            syncs_find_no_room: false,
            only_paths_with: String::new(),
            capacity_bytes: u64::MAX,
            torn_writes: true,
            lose_all_unsynced: false,
            sync_dir_does_nothing: false,
            sync_data_does_nothing: false,
            failed_syncs_succeed: false,
        }
    }
}

impl FaultPlan {
    pub(super) fn matches(&self, path: &Path) -> bool {
        self.only_paths_with.is_empty() || path.to_string_lossy().contains(&self.only_paths_with)
    }
}

/// How often each fault happened: a fault that a test meant to inject and that never happened proves nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Failed writes.
    pub write_errors: u64,
    /// Failed reads.
    pub read_errors: u64,
    /// Failed syncs.
    pub sync_errors: u64,
    /// Writes refused for want of space.
    pub disk_full: u64,
    /// Crashes.
    pub crashes: u64,
}
