//! One run: the disk, the log under test, the model and the seed's choices.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millrace_log::fs::faulty::{FaultPlan, SplitMix64};
use millrace_log::{
    DirIdentity, DirOptions, FaultyFileSystem, FileSystem, Log, LogConfig, LogDir, OpenDirError, OpenLogError,
};
use uuid::Uuid;

use crate::model::Model;

/// A safety rule that is taken away to see whether anybody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    None,
    SyncDirDoesNothing,
    SyncDataDoesNothing,
    FlushNotMade,
    TruncationNotMade,
    RetryWithoutProducer,
    EpochNotNoted,
    RetentionAboveHighWatermark,
    TimeLookupOneLate,
    ChecksumsNotLookedAt,
    FailedSyncSucceeds,
    IndexWrong,
}

pub const DIR: &str = "/data";
pub const TOPIC: &str = "orders";
pub const PARTITION_DIR: &str = "/data/orders-0";

/// Which faults this seed has, and how often. Some rates are zero, so that runs get deep.
pub struct Choices {
    pub write_error_per_million: u32,
    pub sync_error_per_million: u32,
    pub read_error_per_million: u32,
    pub capacity_bytes: u64,
    pub crash_percent: u64,
    pub flip_derived_files: bool,
    pub lose_flushed_point: bool,
    pub log_append_time: bool,
}

pub struct World {
    pub disk: FaultyFileSystem,
    pub rng: SplitMix64,
    pub lie: Lie,
    pub choices: Choices,
    pub config: LogConfig,
    pub dir: Option<LogDir>,
    pub log: Option<Log>,
    pub model: Model,
    pub now_ms: i64,
    pub leader_epoch: i32,
    pub broker_epoch: i64,
    pub trace: Vec<String>,
    pub reached: BTreeMap<&'static str, u64>,
    /// The directory reported an error: nothing may succeed before it is opened anew.
    pub offline: bool,
    /// The stored log start and flushed point at the last look: as the process sees them, and as they are on the disk.
    pub stored: (i64, i64),
    pub stored_durably: (i64, i64),
    /// In the present step the flushed point may go back to here.
    pub lowered_to: i64,
    /// In the present step the disk lost what was not synced.
    pub power_was_cut: bool,
    reads_may_fail: bool,
}

impl World {
    pub fn new(seed: u64, lie: Lie) -> World {
        let mut rng = SplitMix64::new(seed);
        let disk = FaultyFileSystem::new(rng.next_u64());
        let one_in = |rng: &mut SplitMix64, n: u64| rng.below(n) == 0;
        let choices = Choices {
            write_error_per_million: if one_in(&mut rng, 4) { 2000 } else { 0 },
            sync_error_per_million: if one_in(&mut rng, 4) { 10_000 } else { 0 },
            read_error_per_million: if one_in(&mut rng, 4) { 5_000 } else { 0 },
            capacity_bytes: if one_in(&mut rng, 5) {
                1_500 + rng.below(6_000)
            } else {
                u64::MAX
            },
            crash_percent: [0, 2, 5, 15][rng.below(4) as usize],
            flip_derived_files: one_in(&mut rng, 5),
            lose_flushed_point: one_in(&mut rng, 6),
            log_append_time: one_in(&mut rng, 5),
        };
        let config = LogConfig {
            segment_bytes: [300, 1024, 4096, 1 << 20][rng.below(4) as usize],
            segment_ms: [500, 5_000, i64::MAX / 2][rng.below(3) as usize],
            segment_index_bytes: [24, 96, 10 << 20][rng.below(3) as usize],
            index_interval_bytes: [1, 100, 4096][rng.below(3) as usize],
            retention_ms: [None, Some(1_000), Some(20_000)][rng.below(3) as usize],
            retention_bytes: [None, Some(1_000), Some(5_000)][rng.below(3) as usize],
            timestamp_type: if choices.log_append_time {
                millrace_proto::batch::TimestampType::LogAppendTime
            } else {
                millrace_proto::batch::TimestampType::CreateTime
            },
            message_timestamp_after_max_ms: [None, Some(100_000)][rng.below(2) as usize],
            verify_crc_on_read: lie != Lie::ChecksumsNotLookedAt,
            ..LogConfig::default()
        };
        let mut world = World {
            disk,
            rng,
            lie,
            choices,
            config,
            dir: None,
            log: None,
            model: Model::default(),
            now_ms: 1_000_000,
            leader_epoch: 0,
            broker_epoch: 1,
            trace: Vec::new(),
            reached: BTreeMap::new(),
            offline: false,
            stored: (0, 0),
            stored_durably: (0, 0),
            lowered_to: i64::MAX,
            power_was_cut: false,
            reads_may_fail: false,
        };
        world.set_lies();
        let fs: Arc<dyn FileSystem> = world.disk.shared();
        let identity = DirIdentity {
            cluster_id: "sim".into(),
            node_id: 1,
            directory_id: Uuid::from_u128(7),
        };
        LogDir::format(&fs, Path::new(DIR), &identity).unwrap();
        let dir = LogDir::open(&fs, Path::new(DIR), &DirOptions::default()).unwrap();
        dir.set_broker_epoch(1).unwrap();
        let log = dir
            .create_log(TOPIC, 0, Uuid::from_u128(9), world.config.clone())
            .unwrap();
        world.dir = Some(dir);
        world.log = Some(log);
        world.turn_faults_on();
        world
    }

    pub fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    pub fn reach(&mut self, what: &'static str) {
        *self.reached.entry(what).or_insert(0) += 1;
    }

    pub fn note(&mut self, what: String) {
        // Whoever replays one seed wants to see it.
        if std::env::var_os("MILLRACE_SIM_SEED").is_some() {
            println!("{what}");
        }
        self.trace.push(what);
    }

    fn plan(&self) -> FaultPlan {
        FaultPlan {
            capacity_bytes: self.choices.capacity_bytes,
            sync_dir_does_nothing: self.lie == Lie::SyncDirDoesNothing,
            sync_data_does_nothing: self.lie == Lie::SyncDataDoesNothing,
            failed_syncs_succeed: self.lie == Lie::FailedSyncSucceeds,
            ..FaultPlan::default()
        }
    }

    fn set_lies(&mut self) {
        self.disk.set_plan(FaultPlan {
            capacity_bytes: u64::MAX,
            ..self.plan()
        });
    }

    pub fn turn_faults_on(&mut self) {
        self.disk.set_plan(FaultPlan {
            write_error_per_million: self.choices.write_error_per_million,
            sync_error_per_million: self.choices.sync_error_per_million,
            read_error_per_million: if self.reads_may_fail {
                self.choices.read_error_per_million
            } else {
                0
            },
            ..self.plan()
        });
    }

    /// Whether reads fail as often as the seed chose: while the log changes, not while it is compared with the model.
    pub fn let_reads_fail(&mut self, may_fail: bool) {
        self.reads_may_fail = may_fail;
        self.turn_faults_on();
    }

    /// No more errors; the disk stays as full as it is.
    pub fn turn_errors_off(&mut self) {
        self.disk.set_plan(self.plan());
    }

    /// A sound disk of unlimited size.
    pub fn turn_all_faults_off(&mut self) {
        self.set_lies();
    }

    /// Opens everything anew, without errors.
    pub fn reopen(&mut self) {
        self.log = None;
        self.dir = None;
        self.turn_errors_off();
        let fs: Arc<dyn FileSystem> = self.disk.shared();
        let dir = LogDir::open(&fs, Path::new(DIR), &DirOptions::default()).expect("opening needs no free space");
        let log = dir
            .open_log(TOPIC, 0, Uuid::from_u128(9), self.config.clone())
            .expect("recovery needs no free space");
        self.dir = Some(dir);
        self.log = Some(log);
        self.offline = false;
        self.turn_faults_on();
    }

    /// Begins to open everything while reads fail, and gives up at the first: a start that can't read must not take
    /// what it could not read for damage, or for nothing. Then the machine may die once more.
    pub fn fail_to_reopen(&mut self) {
        if self.choices.read_error_per_million == 0 || self.rng.below(2) == 0 {
            return;
        }
        self.log = None;
        self.dir = None;
        self.disk.set_plan(FaultPlan {
            read_error_per_million: 20 * self.choices.read_error_per_million,
            ..self.plan()
        });
        let fs: Arc<dyn FileSystem> = self.disk.shared();
        let opened = match LogDir::open(&fs, Path::new(DIR), &DirOptions::default()) {
            Ok(dir) => match dir.open_log(TOPIC, 0, Uuid::from_u128(9), self.config.clone()) {
                Ok(_) => true,
                Err(OpenLogError::Io { .. }) => false,
                Err(error) => panic!("a failed read is not: {error}"),
            },
            Err(OpenDirError::Io { .. }) => false,
            Err(error) => panic!("a failed read is not: {error}"),
        };
        if !opened {
            self.reach("start without reads");
        }
        self.note(format!("opened while reads fail: {opened}"));
        self.turn_errors_off();
        if self.rng.below(2) == 0 {
            self.disk.crash();
            self.power_was_cut = true;
        } else {
            self.disk.kill_process();
        }
    }

    /// Faults stop; the log must still take a batch, flush it and close properly.
    pub fn settle(&mut self) {
        self.choices.capacity_bytes = u64::MAX;
        self.choices.write_error_per_million = 0;
        self.choices.sync_error_per_million = 0;
        self.choices.read_error_per_million = 0;
        if self.offline {
            crate::faults::crash(self);
        }
        self.turn_faults_on();
        crate::appends::append(self);
        crate::operations::flush(self);
        crate::faults::close_clean(self);
    }
}
