//! Any bytes as a segment, with any flushed point: recovery ends, what is served has a right CRC, and the log goes on.
//!
//! Or any bytes over indexes, producer snapshots and leader epochs beside sound segments: all records are served.
#![no_main]

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use millrace_log::checkpoint::flushed::{self, FlushedPoint, FlushedPoints};
use millrace_log::checkpoint::partition_metadata;
use millrace_log::fs::OpenMode;
use millrace_log::{
    AppendOptions, DirIdentity, DirOptions, FaultyFileSystem, FileSystem, Log, LogConfig, LogDir, ReadError,
    TopicPartition, dump,
};
use millrace_proto::batch::{BatchBuilder, Codec, batches, crc};
use uuid::Uuid;

const TOPIC_ID: Uuid = Uuid::from_u128(2);
const BATCHES: i32 = 6;
const SNAPSHOT_COVERS_FROM: usize = 6;

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<4>() else { return };
    if head[0] & 4 == 4 {
        beside_sound_segments(*head, rest);
    } else {
        segment_of_any_bytes(*head, rest);
    }
});

fn segment_of_any_bytes(head: [u8; 4], input: &[u8]) {
    let mut made = Vec::new();
    let mut segment = input;
    if head[0] & 1 == 1 {
        // Sound batches first, and the input over them.
        for at in 0..4 {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.append(1000, None, Some(b"value"), &[]).unwrap();
            builder.set_base_offset(at).set_leader_epoch(0);
            made.extend_from_slice(&builder.build().unwrap());
        }
        let from = usize::from(head[1]) % made.len();
        for (target, byte) in made[from..].iter_mut().zip(segment) {
            *target ^= byte;
        }
        segment = &made;
    }
    let fs = FaultyFileSystem::new(0).shared();
    format(&fs);
    let dir = open(&fs);
    drop(dir.create_log("t", 0, TOPIC_ID, LogConfig::default()).unwrap());
    drop(dir);
    fs.open(Path::new("/d/t-0/00000000000000000000.log"), OpenMode::CreateOrTruncate)
        .unwrap()
        .write_all_vectored_at(&[IoSlice::new(segment)], 0)
        .unwrap();
    if head[0] & 2 == 2 {
        let point = FlushedPoint { offset: i64::from(head[1] & 7), indexed: 0 };
        let points = FlushedPoints::from([(TopicPartition::new("t", 0), point)]);
        millrace_log::fs::write_atomic(&*fs, Path::new("/d/flushed-offset-checkpoint"), &flushed::encode(&points)).unwrap();
    }
    let dir = open(&fs);
    let log = dir.open_log("t", 0, TOPIC_ID, LogConfig::default()).unwrap();
    read_all(&log);
    goes_on(&fs, &log);
}

fn beside_sound_segments(head: [u8; 4], garbage: &[u8]) {
    let disk = FaultyFileSystem::new(0);
    let fs = disk.shared();
    format(&fs);
    let config = LogConfig { index_interval_bytes: 1, ..LogConfig::default() };
    let dir = open(&fs);
    let log = dir.create_log("t", 0, TOPIC_ID, config.clone()).unwrap();
    for at in 0..BATCHES {
        if at == BATCHES / 2 {
            log.roll().unwrap();
        }
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(1000 + i64::from(at), None, Some(b"value"), &[]).unwrap();
        builder.set_producer(7, 0, at);
        log.append_as_leader(&builder.build().unwrap(), at, 2000, &AppendOptions::default()).unwrap();
    }
    if head[0] & 1 == 1 {
        dir.close_clean(1).unwrap();
    } else {
        log.flush().unwrap();
        dir.write_checkpoints().unwrap();
    }
    drop((dir, log));
    let derived = |path: &Path| path.starts_with("/d/t-0") && path.extension().is_none_or(|kind| kind != "log");
    let own = |path: &Path| derived(path) && !path.ends_with(partition_metadata::FILE_NAME);
    let files: Vec<(PathBuf, u64)> = disk.list_files().into_iter().filter(|(path, _)| own(path)).collect();
    let first = usize::from(head[1]) % files.len();
    for (path, len) in &files[first..(first + 1 + usize::from(head[0] >> 6)).min(files.len())] {
        let from = usize::from(head[3]) % (usize::try_from(*len).unwrap() + 1);
        disk.edit(path, |bytes| {
            garble(bytes, from, garbage, head[2]);
            Ok(())
        })
        .unwrap();
    }
    let dir = open(&fs);
    let log = dir.open_log("t", 0, TOPIC_ID, config).unwrap();
    assert_eq!(read_all(&log), i64::from(BATCHES), "derived files hid records");
    assert_eq!(log.log_end_offset(), i64::from(BATCHES));
    assert_eq!(log.damage(), []);
    goes_on(&fs, &log);
}

/// Bytes over a file's own from a place on, or instead of them; a snapshot may get its checksum again.
fn garble(bytes: &mut Vec<u8>, from: usize, garbage: &[u8], how: u8) {
    if how & 1 == 1 {
        bytes.truncate(from);
        bytes.extend_from_slice(garbage);
    } else {
        bytes[from..].iter_mut().zip(garbage).for_each(|(target, byte)| *target ^= byte);
    }
    if how & 2 == 2 && bytes.len() > SNAPSHOT_COVERS_FROM {
        let checksum = crc::crc32c(&bytes[SNAPSHOT_COVERS_FROM..]);
        bytes[SNAPSHOT_COVERS_FROM - 4..SNAPSHOT_COVERS_FROM].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn format(fs: &Arc<dyn FileSystem>) {
    let identity = DirIdentity { cluster_id: "c".into(), node_id: 0, directory_id: Uuid::from_u128(1) };
    LogDir::format(fs, Path::new("/d"), &identity).unwrap();
}

fn open(fs: &Arc<dyn FileSystem>) -> LogDir {
    LogDir::open(fs, Path::new("/d"), &DirOptions::default()).unwrap()
}

/// Reads from the log start until something ends it; where that is.
fn read_all(log: &Log) -> i64 {
    let mut offset = log.log_start_offset();
    while offset < log.log_end_offset() {
        match log.read(offset, 1 << 16, true, i64::MAX) {
            Ok(data) if data.bytes.is_empty() => break,
            Ok(data) => {
                batches(&data.bytes).for_each(|batch| batch.unwrap().verify_crc().unwrap());
                offset = data.next_offset;
            }
            // What is told to be behind the damage is behind the offset.
            Err(ReadError::Corrupt { to, .. }) => {
                assert!(to.is_none_or(|to| to > offset));
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    offset
}

fn goes_on(fs: &Arc<dyn FileSystem>, log: &Log) {
    let _ = log.offset_for_timestamp(1000, i64::MAX);
    let _ = log.scrub(0, u64::MAX).unwrap();
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1000, None, Some(b"next"), &[]).unwrap();
    let next = builder.build().unwrap();
    let epoch = log.latest_epoch().map_or(0, |entry| entry.epoch);
    if log.append_as_leader(&next, epoch, 1000, &AppendOptions::default()).is_ok() {
        log.flush().unwrap();
    }
    let _ = dump::verify(&**fs, Path::new("/d"), &dump::VerifyOptions { records: true }, &mut |_| ()).unwrap();
}
