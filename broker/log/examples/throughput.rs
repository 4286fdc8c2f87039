//! How fast one log is on this disk, beside what the disk itself can do: `cargo run --release --example throughput --
//! DIRECTORY`.
#![allow(clippy::unwrap_used)]

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use millrace_log::fs::OpenMode;
use millrace_log::{AppendOptions, DirIdentity, DirOptions, FileSystem, LogConfig, LogDir, OsFileSystem};
use millrace_proto::batch::{BatchBuilder, Codec};

const MIB: usize = 1 << 20;

fn report(what: &str, bytes: usize, begin: Instant) {
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{what:<58} {:>9.0} MiB/s  {:>8.1} us/MiB",
        bytes as f64 / MIB as f64 / seconds,
        seconds * 1e6 * MIB as f64 / bytes as f64
    );
}

fn main() {
    let directory = std::env::args().nth(1).expect("a directory");
    let directory = Path::new(&directory).join("millrace-throughput");
    let _ = std::fs::remove_dir_all(&directory);
    let fs: Arc<dyn FileSystem> = OsFileSystem::shared();
    LogDir::format(
        &fs,
        &directory,
        &DirIdentity {
            cluster_id: "x".into(),
            node_id: 1,
            directory_id: uuid::Uuid::new_v4(),
        },
    )
    .unwrap();
    let dir = LogDir::open(
        &fs,
        &directory,
        &DirOptions {
            reserve_bytes: 1 << 30,
            ..DirOptions::default()
        },
    )
    .unwrap();
    let mut builder = BatchBuilder::new(Codec::None);
    while builder.size_in_bytes() < MIB - 1100 {
        builder.append(1000, None, Some(&[b'x'; 1010]), &[]).unwrap();
    }
    let batch = builder.build().unwrap();
    let options = AppendOptions::default();
    let config = LogConfig {
        segment_bytes: 512 << 20,
        ..LogConfig::default()
    };

    let begin = Instant::now();
    for _ in 0..1000 {
        std::hint::black_box(millrace_proto::batch::crc::crc32c(&batch));
    }
    report("CRC-32C of the batch", 1000 * batch.len(), begin);

    for round in 0..2 {
        for chunk_mib in [1, 4, 8] {
            let total = 1024 * MIB;
            let count = total / MIB;
            let raw = fs.open(&directory.join("raw"), OpenMode::CreateOrTruncate).unwrap();
            let begin = Instant::now();
            for at in 0..count {
                raw.write_all_vectored_at(&[IoSlice::new(&batch)], (at * batch.len()) as u64)
                    .unwrap();
                if (at + 1) % chunk_mib == 0 {
                    raw.sync_data().unwrap();
                }
            }
            report(
                &format!("raw write, fdatasync each {chunk_mib} MiB"),
                count * batch.len(),
                begin,
            );
            drop(raw);
            std::fs::remove_file(directory.join("raw")).unwrap();
            let log = dir
                .create_log("t", round * 10 + chunk_mib as i32, uuid::Uuid::new_v4(), config.clone())
                .unwrap();
            let begin = Instant::now();
            for at in 0..count {
                log.append_as_leader(&batch, 0, 1000, &options).unwrap();
                if (at + 1) % chunk_mib == 0 {
                    log.flush().unwrap();
                }
            }
            report(
                &format!("append, flush each {chunk_mib} MiB"),
                count * batch.len(),
                begin,
            );
            dir.delete_log("t", round * 10 + chunk_mib as i32).unwrap();
        }
    }

    let log = dir.create_log("r", 0, uuid::Uuid::new_v4(), config.clone()).unwrap();
    let begin = Instant::now();
    for _ in 0..1024 {
        log.append_as_leader(&batch, 0, 1000, &options).unwrap();
    }
    report("append without flush", 1024 * batch.len(), begin);
    log.flush().unwrap();
    for (what, verify) in [
        ("CRC checked", true),
        ("CRC not checked", false),
        ("CRC checked", true),
        ("CRC not checked", false),
    ] {
        log.update_config(LogConfig {
            verify_crc_on_read: verify,
            ..config.clone()
        });
        let sealed_end = log.segment_sizes().last().unwrap().0;
        let (mut offset, mut bytes, begin) = (0, 0, Instant::now());
        while offset < sealed_end {
            let data = log.read(offset, MIB, true, i64::MAX).unwrap();
            bytes += data.bytes.len();
            offset = data.next_offset;
        }
        report(&format!("read 1 MiB, sealed (mapped), {what}"), bytes, begin);
        let (mut sum, mut bytes, begin) = (0_u64, 0, Instant::now());
        offset = 0;
        while offset < sealed_end {
            let data = log.read(offset, MIB, true, i64::MAX).unwrap();
            sum += data
                .bytes
                .chunks_exact(64)
                .map(|chunk| u64::from(chunk[0]))
                .sum::<u64>();
            bytes += data.bytes.len();
            offset = data.next_offset;
        }
        std::hint::black_box(sum);
        report(&format!("  and each cache line touched, {what}"), bytes, begin);
        let (mut offset, mut bytes, begin) = (sealed_end, 0, Instant::now());
        while offset < log.log_end_offset() {
            let data = log.read(offset, MIB, true, i64::MAX).unwrap();
            bytes += data.bytes.len();
            offset = data.next_offset;
        }
        if bytes > 0 {
            report(&format!("read 1 MiB, active (pread), {what}"), bytes, begin);
        }
    }
    let small = {
        builder.append(1000, None, Some(&[b'x'; 100]), &[]).unwrap();
        builder.build().unwrap()
    };
    let begin = Instant::now();
    for _ in 0..100_000 {
        log.append_as_leader(&small, 0, 1000, &options).unwrap();
    }
    println!(
        "append of a {}-byte batch: {:.2} us",
        small.len(),
        begin.elapsed().as_secs_f64() * 10.0
    );
    drop((log, dir));
    let begin = Instant::now();
    let dir = LogDir::open(&fs, &directory, &DirOptions::default()).unwrap();
    let id = dir
        .partitions()
        .unwrap()
        .into_iter()
        .find_map(|found| match found.state {
            millrace_log::PartitionState::Present { topic_id } => Some(topic_id),
            _ => None,
        });
    let log = dir.open_log("r", 0, id.unwrap(), config).unwrap();
    println!(
        "recovery of {} MiB without a checkpoint: {:?} {:?}",
        log.size_bytes() >> 20,
        begin.elapsed(),
        log.recovery_report()
    );
    dir.close_clean(1).unwrap();
    drop((log, dir));
    std::fs::remove_dir_all(&directory).unwrap();
}
