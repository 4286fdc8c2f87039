//! Any bytes as a segment, with any flushed point: recovery ends, what is served has a right CRC, and the log goes on.
#![no_main]

use std::io::IoSlice;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use millrace_log::checkpoint::flushed::{self, FlushedPoint, FlushedPoints};
use millrace_log::fs::OpenMode;
use millrace_log::{
    AppendOptions, DirIdentity, DirOptions, FaultyFileSystem, LogConfig, LogDir, TopicPartition, dump,
};
use millrace_proto::batch::{BatchBuilder, Codec, batches};
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let Some((head, mut segment)) = data.split_first_chunk::<2>() else { return };
    let mut made = Vec::new();
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
    let disk = FaultyFileSystem::new(0);
    let fs = disk.shared();
    let identity = DirIdentity { cluster_id: "c".into(), node_id: 0, directory_id: Uuid::from_u128(1) };
    LogDir::format(&fs, Path::new("/d"), &identity).unwrap();
    let dir = LogDir::open(&fs, Path::new("/d"), &DirOptions::default()).unwrap();
    drop(dir.create_log("t", 0, Uuid::from_u128(2), LogConfig::default()).unwrap());
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
    let dir = LogDir::open(&fs, Path::new("/d"), &DirOptions::default()).unwrap();
    let log = dir.open_log("t", 0, Uuid::from_u128(2), LogConfig::default()).unwrap();
    let mut offset = log.log_start_offset();
    while offset < log.log_end_offset() {
        match log.read(offset, 1 << 16, true, i64::MAX) {
            Ok(data) if data.bytes.is_empty() => break,
            Ok(data) => {
                batches(&data.bytes).for_each(|batch| batch.unwrap().verify_crc().unwrap());
                offset = data.next_offset;
            }
            Err(_) => break,
        }
    }
    let _ = log.offset_for_timestamp(1000, i64::MAX);
    let _ = log.scrub(0, u64::MAX).unwrap();
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1000, None, Some(b"next"), &[]).unwrap();
    let next = builder.build().unwrap();
    let epoch = log.latest_epoch().map_or(0, |entry| entry.epoch);
    if log.append_as_leader(&next, epoch, 1000, &AppendOptions::default()).is_ok() {
        log.flush().unwrap();
    }
    let _ = dump::verify(&*fs, Path::new("/d"), &dump::VerifyOptions { records: true }).unwrap();
});
