//! More partitions than the process has file handles. A test binary of its own, as the limit is the process's.
#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use millrace_log::{AppendOptions, DirIdentity, DirOptions, FileSystem, Log, LogConfig, LogDir, OsFileSystem};
use millrace_proto::batch::{BatchBuilder, Codec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use uuid::Uuid;

const PARTITIONS: i32 = 300;
/// More than are closed in all tries to open a file.
const SEGMENTS: usize = 1_000;
const TOPIC_ID: Uuid = Uuid::from_u128(9);

fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1_000, None, Some(b"value"), &[]).unwrap();
    builder.build().unwrap()
}

fn append(log: &Log) {
    log.append_as_leader(&batch(), 1, 1_000, &AppendOptions::default())
        .unwrap();
}

/// The limit is the whole process's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn limit_handles(most: u64) {
    let limit = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: Some(most),
        ..limit
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn format(fs: &Arc<dyn FileSystem>, path: &Path) {
    let identity = DirIdentity {
        cluster_id: "c".into(),
        node_id: 1,
        directory_id: Uuid::from_u128(7),
    };
    LogDir::format(fs, path, &identity).unwrap();
}

#[test]
fn files_that_are_closed_already_do_not_count_as_given_back() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    limit_handles(2_048);
    let folder = tempfile::tempdir().unwrap();
    let fs = OsFileSystem::shared();
    format(&fs, folder.path());
    let dir = LogDir::open(&fs, folder.path(), &DirOptions::default()).unwrap();
    let of_one_batch = LogConfig {
        segment_bytes: u32::try_from(batch().len()).unwrap(),
        ..LogConfig::default()
    };
    let segments = dir.create_log("many-segments", 0, TOPIC_ID, of_one_batch).unwrap();
    for _ in 0..SEGMENTS {
        append(&segments);
    }
    segments.flush().unwrap();
    // Once to see that they were used, once more to close them.
    segments.roll_if_due(1_000).unwrap();
    segments.roll_if_due(1_000).unwrap();

    limit_handles(64);
    let create = |number| dir.create_log("t", number, TOPIC_ID, LogConfig::default()).unwrap();
    let logs: Vec<Log> = (0..PARTITIONS).map(create).collect();
    logs.iter().for_each(append);
    assert!(logs.iter().all(|log| log.log_end_offset() == 1));
}

#[test]
fn partitions_share_the_handles_that_there_are() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    limit_handles(64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let fs = OsFileSystem::shared();
    format(&fs, path);
    let open = |path: &Path| LogDir::open(&fs, path, &DirOptions::default()).unwrap();

    let dir = open(path);
    let create = |number| dir.create_log("t", number, TOPIC_ID, LogConfig::default()).unwrap();
    let logs: Vec<Log> = (0..PARTITIONS).map(create).collect();
    // None of them is on the disk before all are written, so that there are data to be forced there.
    logs.iter().for_each(append);
    for log in &logs {
        log.flush().unwrap();
    }
    for log in &logs {
        append(log);
        log.flush().unwrap();
        assert_eq!(log.read(0, 1 << 20, true, 2).unwrap().bytes.len(), 2 * batch().len());
        dir.probe().unwrap();
    }
    dir.write_checkpoints().unwrap();
    dir.close_clean(1).unwrap();
    drop((logs, dir));

    let dir = open(path);
    for number in 0..PARTITIONS {
        let log = dir.open_log("t", number, TOPIC_ID, LogConfig::default()).unwrap();
        assert_eq!(log.log_end_offset(), 2);
    }
    assert!(dir.was_clean());
}
