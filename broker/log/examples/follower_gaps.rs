//! What gaps between a leader's batches cost a follower on this disk: `cargo run --release --example follower_gaps --
//! DIRECTORY`. Prints appends per second without gaps, with a gap before each batch, and the ratio of the two.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_log::{DirIdentity, DirOptions, FileSystem, LogConfig, LogDir, OsFileSystem};
use millrace_proto::batch::{BatchBuilder, Codec, stamp_offset_and_epoch};

/// Long enough for several segments where appends are fast.
const LONGEST: Duration = Duration::from_secs(10);
const BATCHES: i64 = 50_000;
const FLUSH_EACH: i64 = 1_000;
const SEGMENT_BYTES: u32 = 16 << 20;

fn fetched(offset: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1000, Some(b"key"), Some(&[b'v'; 1000]), &[]).unwrap();
    let mut bytes = builder.build().unwrap().to_vec();
    stamp_offset_and_epoch(&mut bytes, offset, 0);
    bytes.into()
}

/// Appends per second, where each batch lies `step` offsets behind the one before.
fn measure(dir: &LogDir, topic: &str, step: i64) -> f64 {
    let config = LogConfig {
        segment_bytes: SEGMENT_BYTES,
        ..LogConfig::default()
    };
    let log = dir.create_log(topic, 0, uuid::Uuid::new_v4(), config).unwrap();
    let begin = Instant::now();
    let mut done = 0;
    while done < BATCHES && begin.elapsed() < LONGEST {
        log.append_as_follower(&fetched(done * step), 0, 1000).unwrap();
        done += 1;
        if done % FLUSH_EACH == 0 {
            log.flush().unwrap();
        }
    }
    log.flush().unwrap();
    let rate = done as f64 / begin.elapsed().as_secs_f64();
    println!(
        "{topic:<10} {done:>6} appends, {rate:>8.0} a second, {:>6} segments",
        log.segment_sizes().len()
    );
    rate
}

fn main() {
    let directory = std::env::args().nth(1).expect("a directory");
    let directory = Path::new(&directory).join("millrace-follower-gaps");
    let _ = std::fs::remove_dir_all(&directory);
    let fs: Arc<dyn FileSystem> = OsFileSystem::shared();
    let identity = DirIdentity {
        cluster_id: "x".into(),
        node_id: 1,
        directory_id: uuid::Uuid::new_v4(),
    };
    LogDir::format(&fs, &directory, &identity).unwrap();
    let dir = LogDir::open(&fs, &directory, &DirOptions::default()).unwrap();
    let without = measure(&dir, "no-gaps", 1);
    let with = measure(&dir, "gaps", 100);
    println!("with gaps: {:.2} of the rate without", with / without);
    drop(dir);
    std::fs::remove_dir_all(&directory).unwrap();
}
