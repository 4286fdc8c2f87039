//! More partitions than the process has file handles. A test binary of its own, as the limit is the process's.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use bytes::Bytes;
use millrace_log::{AppendOptions, DirIdentity, DirOptions, Log, LogConfig, LogDir, OsFileSystem};
use millrace_proto::batch::{BatchBuilder, Codec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use uuid::Uuid;

const PARTITIONS: i32 = 300;
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

#[test]
fn partitions_share_the_handles_that_there_are() {
    let limit = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(64),
        ..limit
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let fs = OsFileSystem::shared();
    let identity = DirIdentity {
        cluster_id: "c".into(),
        node_id: 1,
        directory_id: Uuid::from_u128(7),
    };
    LogDir::format(&fs, path, &identity).unwrap();
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
