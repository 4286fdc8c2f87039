//! A log on a faulty disk, with what a broker does to it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::fs::faulty::FaultPlan;
use millrace_log::{
    AppendOptions, CleanupPolicy, CompactionBounds, CompactionError, CompactionOptions, CompactionReport,
    CompactionStep, FaultyFileSystem, FileSystem, Log, LogConfig, LogDir,
};
use millrace_proto::batch::{Codec, batches};

use crate::common::{self, TOPIC_ID, open};
use crate::model::{Model, build, record};

pub const PARTITION: &str = "/data/t-0";
pub const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A compacted topic of small segments.
pub fn config() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy {
            delete: false,
            compact: true,
        },
        min_cleanable_dirty_ppm: 0,
        index_interval_bytes: 100,
        retention_ms: None,
        message_timestamp_after_max_ms: None,
        ..LogConfig::default()
    }
}

pub fn options() -> CompactionOptions {
    CompactionOptions {
        map_bytes: 1 << 20,
        hash_key: [5; 16],
    }
}

pub struct Broker {
    pub disk: FaultyFileSystem,
    pub config: LogConfig,
    pub model: Model,
    pub now_ms: i64,
    pub leader_epoch: i32,
    pub dir: Option<LogDir>,
    pub log: Option<Log>,
}

impl Broker {
    pub fn new(config: LogConfig, seed: u64) -> Broker {
        let disk = FaultyFileSystem::new(seed);
        let dir = open(&common::format(&disk));
        let log = dir.create_log("t", 0, TOPIC_ID, config.clone()).unwrap();
        Broker {
            disk,
            config,
            model: Model::default(),
            now_ms: 1_000_000,
            leader_epoch: 0,
            dir: Some(dir),
            log: Some(log),
        }
    }

    pub fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    /// The same on a disk of its own, opened through `fs`.
    pub fn fork(&self, disk: FaultyFileSystem, fs: &Arc<dyn FileSystem>) -> Broker {
        let mut fork = Broker {
            disk,
            config: self.config.clone(),
            model: self.model.clone(),
            now_ms: self.now_ms,
            leader_epoch: self.leader_epoch,
            dir: None,
            log: None,
        };
        fork.open_through(fs);
        fork
    }

    pub fn open_through(&mut self, fs: &Arc<dyn FileSystem>) {
        self.log = None;
        self.dir = None;
        let dir = open(fs);
        self.log = Some(dir.open_log("t", 0, TOPIC_ID, self.config.clone()).unwrap());
        self.dir = Some(dir);
    }

    pub fn reopen(&mut self) {
        self.log = None;
        self.dir = None;
        self.disk.set_plan(FaultPlan::default());
        let fs = self.disk.shared();
        self.open_through(&fs);
    }

    /// The process is killed, and files whose names end so are lost, as a crash at the wrong time may have it.
    pub fn lose_files(&mut self, suffix: &str) {
        self.log().flush().unwrap();
        self.dir.as_ref().unwrap().write_checkpoints().unwrap();
        self.log = None;
        self.dir = None;
        self.disk.kill_process();
        for (path, _) in self.disk.list_files() {
            if path.to_string_lossy().ends_with(suffix) {
                self.disk.remove_file(&path).unwrap();
            }
        }
        self.disk.sync_dir(Path::new(PARTITION)).unwrap();
        self.reopen();
    }

    pub fn append(&mut self, batch: &Bytes) {
        self.log()
            .append_as_leader(batch, self.leader_epoch, self.now_ms, &AppendOptions::default())
            .unwrap();
        self.model.append(batch);
    }

    /// One batch of records `key=value`, or `key` for a tombstone.
    pub fn put(&mut self, records: &[&str]) {
        let records: Vec<_> = records
            .iter()
            .map(|text| match text.split_once('=') {
                Some((key, value)) => record(key, Some(value)),
                None => record(text, None),
            })
            .collect();
        self.append(&build(&records, self.now_ms, Codec::Lz4, None));
    }

    pub fn roll(&self) {
        self.log().roll().unwrap();
        self.log().flush().unwrap();
    }

    pub fn bounds(&self) -> CompactionBounds {
        let end = self.log().durable_end_offset();
        CompactionBounds {
            high_watermark: end,
            last_stable_offset: end,
        }
    }

    /// A whole round in one go.
    pub fn compact(&mut self) -> Result<Option<CompactionReport>, CompactionError> {
        self.compact_with(&options(), u64::MAX)
    }

    pub fn compact_with(
        &mut self,
        options: &CompactionOptions,
        step_bytes: u64,
    ) -> Result<Option<CompactionReport>, CompactionError> {
        let bounds = self.bounds();
        self.model.untouched_from = self.model.untouched_from.max(bounds.high_watermark);
        let Some(mut round) = self.log().begin_compaction(|| bounds, options, self.now_ms)? else {
            return Ok(None);
        };
        loop {
            if let CompactionStep::Done(report) = round.step(step_bytes, self.now_ms)? {
                return Ok(Some(report));
            }
        }
    }

    /// The texts of all records, as [`Broker::put`] takes them, with their offsets.
    pub fn texts(&self) -> Vec<(i64, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        crate::model::read(self.log(), self.log().log_start_offset(), i64::MAX)
            .iter()
            .map(|entry| {
                let key = text(entry.key.as_deref().unwrap_or(b"?"));
                let value = entry.value.as_deref().map(text);
                (
                    entry.offset,
                    value.map_or(key.clone(), |value| format!("{key}={value}")),
                )
            })
            .collect()
    }

    /// Records, order and every file are as they must be.
    pub fn check(&self) {
        self.model.check(self.log());
        self.check_times();
        let fs = self.disk.shared();
        let all = millrace_log::dump::VerifyOptions { records: true };
        let report = millrace_log::dump::verify_partition(&*fs, PARTITION.as_ref(), &all).unwrap();
        let problems = report.problems.iter();
        // The epoch file is written with the next flush.
        let problems: Vec<_> = problems
            .filter(|problem| !problem.file.ends_with("leader-epoch-checkpoint"))
            .collect();
        assert!(problems.is_empty(), "{problems:#?}");
        assert_eq!(report.next_offset, Some(self.model.log_end));
    }

    /// The time at each offset is that of the batch that a reader gets there, if there is a record in it.
    fn check_times(&self) {
        let (log, mut offset) = (self.log(), self.log().log_start_offset());
        let mut headers = Vec::new();
        while offset < log.log_end_offset() {
            let data = log.read(offset, usize::MAX, true, i64::MAX).unwrap();
            headers.extend(batches(&data.bytes).map(|batch| *batch.unwrap().header()));
            offset = data.next_offset;
        }
        headers.retain(|header| header.record_count > 0 && !header.is_control());
        for offset in log.log_start_offset()..=log.log_end_offset() {
            let holder = headers.iter().find(|header| header.last_offset() >= offset);
            let expected = holder.map(|header| match header.delete_horizon_ms() {
                Some(_) => header.max_timestamp,
                None => header.base_timestamp,
            });
            assert_eq!(log.batch_time(offset, i64::MAX).unwrap(), expected, "at {offset}");
        }
    }
}
