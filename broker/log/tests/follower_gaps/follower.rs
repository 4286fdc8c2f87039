//! A follower's log on a faulty disk, and what the leader has sent it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millrace_log::checkpoint::flushed;
use millrace_log::fs::faulty::FaultPlan;
use millrace_log::{FaultyFileSystem, FileSystem, Log, LogConfig, LogDir, TopicPartition};
use millrace_proto::batch::{BatchBuilder, Codec, batches, stamp_offset_and_epoch};

use crate::common::{self, TOPIC_ID, open};

pub const PARTITION: &str = "/data/t-0";

/// Bytes of a value, so that few batches fill a segment.
const VALUE: usize = 100;

/// A batch of so many records as the leader stored it at `offset`.
pub fn fetched(offset: i64, records: usize, epoch: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.append(1000, Some(b"k"), Some(&[b'v'; VALUE]), &[]).unwrap();
    }
    let mut bytes = builder.build().unwrap().to_vec();
    stamp_offset_and_epoch(&mut bytes, offset, epoch);
    bytes.into()
}

pub fn segment_path(base_offset: i64) -> PathBuf {
    Path::new(PARTITION).join(format!("{base_offset:020}.log"))
}

pub struct Follower {
    pub disk: FaultyFileSystem,
    config: LogConfig,
    pub dir: Option<LogDir>,
    pub log: Option<Log>,
}

impl Follower {
    pub fn new(segment_bytes: u32, seed: u64) -> Follower {
        let disk = FaultyFileSystem::new(seed);
        common::format(&disk);
        let config = LogConfig {
            segment_bytes,
            index_interval_bytes: 300,
            ..LogConfig::default()
        };
        let dir = open(&disk.shared());
        let log = dir.create_log("t", 0, TOPIC_ID, config.clone()).unwrap();
        log.flush().unwrap();
        dir.write_checkpoints().unwrap();
        let mut follower = Follower {
            disk,
            config,
            dir: Some(dir),
            log: Some(log),
        };
        follower.kill();
        follower
    }

    pub fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    pub fn open_through(&mut self, fs: &Arc<dyn FileSystem>) {
        self.log = None;
        self.dir = None;
        let dir = open(fs);
        self.log = Some(dir.open_log("t", 0, TOPIC_ID, self.config.clone()).unwrap());
        self.dir = Some(dir);
    }

    pub fn reopen(&mut self) {
        self.disk.set_plan(FaultPlan::default());
        let fs = self.disk.shared();
        self.open_through(&fs);
    }

    /// The process dies, the machine lives.
    pub fn kill(&mut self) {
        self.log = None;
        self.dir = None;
        self.disk.kill_process();
        self.reopen();
    }

    pub fn lose_flushed_point(&self) {
        self.disk
            .flip_bit(&Path::new("/data").join(flushed::FILE_NAME), 3, 0)
            .unwrap();
    }

    pub fn checkpoint(&self) {
        self.log().flush().unwrap();
        self.dir.as_ref().unwrap().write_checkpoints().unwrap();
    }

    /// The flushed point as the disk has it.
    pub fn stored_point(&self) -> i64 {
        let bytes = self
            .disk
            .contents(&Path::new("/data").join(flushed::FILE_NAME))
            .unwrap();
        let points = flushed::decode(&bytes).unwrap();
        points.get(&TopicPartition::new("t", 0)).map_or(0, |point| point.offset)
    }

    pub fn follow(&self, batch: &Bytes) {
        self.log().append_as_follower(batch, i32::MAX, 1000).unwrap();
    }

    pub fn bases(&self) -> Vec<i64> {
        self.log().segment_sizes().into_iter().map(|(base, _)| base).collect()
    }

    /// The batches of the log as they are read, one after the other.
    pub fn batches(&self) -> Vec<Bytes> {
        let log = self.log();
        let mut offset = log.log_start_offset();
        let mut found = Vec::new();
        while offset < log.log_end_offset() {
            let data = log.read(offset, 1 << 20, true, i64::MAX).unwrap();
            if data.bytes.is_empty() {
                // Behind a gap that no segment spans perhaps only the place was taken.
                assert_eq!(
                    log.segment_sizes().last(),
                    Some(&(log.log_end_offset(), 0)),
                    "nothing at {offset}"
                );
                break;
            }
            for batch in batches(&data.bytes) {
                let batch = batch.unwrap();
                batch.verify_crc().unwrap();
                found.push(Bytes::copy_from_slice(batch.bytes()));
            }
            offset = data.next_offset;
        }
        found
    }

    /// All files are what `log verify` wants them to be.
    pub fn verify_files(&self) {
        let fs = self.disk.shared();
        let all = millrace_log::dump::VerifyOptions { records: true };
        let report = millrace_log::dump::verify_partition(&*fs, PARTITION.as_ref(), &all).unwrap();
        let problems = report.problems.iter();
        // The epoch file is written with the next flush.
        let problems: Vec<_> = problems
            .filter(|problem| !problem.file.ends_with("leader-epoch-checkpoint"))
            .collect();
        assert!(problems.is_empty(), "{problems:#?}");
    }
}
