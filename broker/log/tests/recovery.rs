//! Recovery of one log: the tail cut and garbled at every byte, damage below the flushed point, lost checkpoints.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use millrace_log::{
    AppendError, AppendOptions, DirIdentity, DirOptions, FaultyFileSystem, FormatDirError, Log, LogConfig, LogDir,
    OpenDirError, OpenLogOptions, ReadError,
};
use millrace_proto::batch::{BatchBuilder, Codec, batches};
use uuid::Uuid;

use common::{TOPIC_ID, format, open};

fn batch(records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for at in 0..records {
        builder
            .append(1000 + at as i64, Some(b"key"), Some(b"some value"), &[])
            .unwrap();
    }
    builder.build().unwrap()
}

fn append(log: &Log, records: usize) {
    log.append_as_leader(&batch(records), 3, 1000, &AppendOptions::default())
        .unwrap();
}

/// A log of ten batches of three records, all on the disk, whose stored flushed point is that of `flushed` batches;
/// and the log's only segment.
fn ten_batches(flushed: usize) -> (FaultyFileSystem, PathBuf) {
    let disk = FaultyFileSystem::new(1);
    let fs = format(&disk);
    let dir = open(&fs);
    let log = dir
        .create_log(
            "t",
            0,
            TOPIC_ID,
            LogConfig {
                index_interval_bytes: 150,
                ..LogConfig::default()
            },
        )
        .unwrap();
    for at in 0..=10 {
        if at == flushed {
            log.flush().unwrap();
            dir.write_checkpoints().unwrap();
        }
        if at < 10 {
            append(&log, 3);
        }
    }
    log.flush().unwrap();
    (disk.clone(), PathBuf::from("/data/t-0/00000000000000000000.log"))
}

fn reopen(disk: &FaultyFileSystem) -> (LogDir, Log) {
    reopen_in(disk, None)
}

fn reopen_in(disk: &FaultyFileSystem, latest_epoch: Option<i32>) -> (LogDir, Log) {
    disk.crash();
    let fs = disk.shared();
    let dir = open(&fs);
    let options = OpenLogOptions { latest_epoch };
    let log = dir
        .open_log_with("t", 0, TOPIC_ID, LogConfig::default(), options)
        .unwrap();
    (dir, log)
}

/// Reads all that can be read from `from`; every batch must have a right CRC.
fn read_all(log: &Log, from: i64) -> Vec<i64> {
    let mut offsets = Vec::new();
    let mut offset = from;
    while let Ok(data) = log.read(offset, 200, true, i64::MAX) {
        if data.bytes.is_empty() {
            break;
        }
        for batch in batches(&data.bytes) {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            offsets.push(batch.header().base_offset);
        }
        offset = data.next_offset;
    }
    offsets
}

/// Bits that are flipped in each byte: single ones, high and low, and all.
const MASKS: [u8; 4] = [0x80, 0x01, 0x10, 0xff];

/// What a log looks like after recovery.
#[derive(Debug, PartialEq)]
struct Expected {
    /// Base offsets of the batches that are served.
    served: Vec<i64>,
    end: i64,
}

/// The log of [`ten_batches`] cut before batch `at`.
fn cut_before(at: u64) -> Expected {
    let served: Vec<i64> = (0..at as i64).map(|batch| batch * 3).collect();
    let end = at as i64 * 3;
    Expected { served, end }
}

/// Whether the leader epochs of the metadata are told, or not: all batches have epoch 3.
const LATEST_EPOCHS: [Option<i32>; 2] = [None, Some(3)];

/// What a flip at byte `at`, above the flushed point, must leave: the log cut before its batch. Base offset and leader
/// epoch (4 bytes from the 12th) lie outside the CRC, as the leader sets them without reading the records. The offset
/// must be the next one; a batch whose epoch rose passes, where the latest one is not known, for one of a newer leader.
/// It stays, and the log ends with it, as what follows contradicts it.
fn after_flip(whole: &[u8], size: u64, at: u64, mask: u8, latest_epoch: Option<i32>) -> Expected {
    let (batch, in_batch) = (at / size, (at % size) as usize);
    let mut bytes = whole[(batch * size) as usize..].to_vec();
    bytes[in_batch] ^= mask;
    let epoch = i32::from_be_bytes(bytes[12..16].try_into().unwrap());
    if (12..16).contains(&in_batch) && epoch > 3 && latest_epoch.is_none() {
        return cut_before(batch + 1);
    }
    cut_before(batch)
}

#[test]
fn a_tail_cut_or_garbled_at_any_byte_recovers_to_the_right_prefix() {
    let size = batch(3).len() as u64;
    let (disk, path) = ten_batches(5);
    let whole = disk.contents(&path).unwrap();
    assert_eq!(whole.len() as u64, 10 * size);
    let mut damages: Vec<Option<u8>> = MASKS.into_iter().map(Some).collect();
    damages.extend([Some(0), None]);
    for (at, latest_epoch) in (5 * size..10 * size).flat_map(|at| LATEST_EPOCHS.map(|epoch| (at, epoch))) {
        for damage in &damages {
            let (disk, path) = ten_batches(5);
            disk.edit(&path, |bytes| {
                let at = usize::try_from(at).unwrap();
                match damage {
                    None => bytes.truncate(at),
                    // A tail of which only the length arrived.
                    Some(0) => bytes[at..].fill(0),
                    Some(mask) => bytes[at] ^= mask,
                }
                Ok(())
            })
            .unwrap();
            // What was zero before is not damaged by zeros.
            let changed = disk.contents(&path).unwrap();
            let first = (0..whole.len()).find(|at| changed.get(*at) != whole.get(*at));
            let expected = match damage {
                Some(mask) if *mask != 0 => after_flip(&whole, size, at, *mask, latest_epoch),
                _ => cut_before(first.map_or(10, |first| first as u64 / size)),
            };
            let what = format!("{damage:x?} at byte {at}, latest epoch {latest_epoch:?}");
            let (dir, log) = reopen_in(&disk, latest_epoch);
            let (served, end) = (read_all(&log, 0), log.log_end_offset());
            assert_eq!(Expected { served, end }, expected, "{what}");
            assert_eq!(log.damage(), [], "{what}");
            assert_eq!(log.durable_end_offset(), end, "{what}");
            // The tail is erased: what comes next is not followed by old bytes, also after another crash.
            let epoch = log.latest_epoch().map_or(3, |entry| entry.epoch);
            log.append_as_leader(&batch(1), epoch, 1000, &AppendOptions::default())
                .unwrap();
            log.flush().unwrap();
            drop((dir, log));
            let (_dir, log) = reopen(&disk);
            assert_eq!(log.log_end_offset(), end + 1, "{what}: cut records came back");
        }
    }
}

#[test]
fn damage_below_the_flushed_point_is_never_served_and_never_cut() {
    let size = batch(3).len() as u64;
    let flips = (0..5 * size).flat_map(|at| MASKS.map(|mask| (at, mask)));
    for ((at, mask), latest_epoch) in flips.flat_map(|flip| LATEST_EPOCHS.map(|epoch| (flip, epoch))) {
        let (disk, path) = ten_batches(5);
        disk.edit(&path, |bytes| {
            bytes[usize::try_from(at).unwrap()] ^= mask;
            Ok(())
        })
        .unwrap();
        let what = format!("{mask:#x} at byte {at}, latest epoch {latest_epoch:?}");
        let before = disk.contents(&path).unwrap();
        let (_dir, log) = reopen_in(&disk, latest_epoch);
        assert_eq!(log.log_end_offset(), 30, "{what}: {:?}", log.recovery_report());
        assert!(
            disk.contents(&path).unwrap() == before,
            "damaged bytes are kept as they are ({what})"
        );
        let latest = log.latest_epoch().map(|entry| entry.epoch);
        assert_eq!(latest, Some(3), "{what}: the epoch of a damaged batch counts");
        log.scrub(0, u64::MAX).unwrap();
        let (hit, in_batch) = (at / size, at % size);
        let fell = (12..16).contains(&in_batch) && {
            let epoch = before[(hit * size + 12) as usize..][..4].try_into().unwrap();
            (0..3).contains(&i32::from_be_bytes(epoch))
        };
        // The epoch of the first batch may be any. If the second one's is lower, one of both is damaged: the first,
        // as it might have risen.
        let damaged = match (fell, hit) {
            (true, 0) => None,
            (true, 1) => Some(0),
            _ => Some(hit),
        };
        let known: Vec<(i64, i64)> = log.damage().iter().map(|range| (range.from, range.to)).collect();
        let expected = damaged.map(|batch| (batch as i64 * 3, batch as i64 * 3 + 3));
        assert_eq!(known, Vec::from_iter(expected), "{what}");
        // What lies behind is served, what lies before, too.
        let Some(damaged) = damaged else { continue };
        let refused = log.read(damaged as i64 * 3, 1000, true, i64::MAX);
        assert!(matches!(refused, Err(ReadError::Corrupt { .. })), "{what}");
        let behind: Vec<i64> = (damaged + 1..10).map(|batch| batch as i64 * 3).collect();
        assert_eq!(read_all(&log, damaged as i64 * 3 + 3), behind, "{what}");
        assert_eq!(read_all(&log, 0), cut_before(damaged).served, "{what}");
    }
}

/// Nothing follows the last batch that could contradict an epoch in it that rose: where the latest one is not known it
/// stays. All else is damage. The log ends at the flushed point, and no byte is cut.
#[test]
fn the_last_batch_of_a_flushed_log_is_never_cut() {
    let size = batch(3).len() as u64;
    let in_header = (0..8).chain(12..16);
    let flips = in_header.flat_map(|at| MASKS.map(|mask| (at, mask)));
    for ((in_batch, mask), latest_epoch) in flips.flat_map(|flip| LATEST_EPOCHS.map(|epoch| (flip, epoch))) {
        let (disk, path) = ten_batches(10);
        let at = 9 * size + in_batch;
        let whole = disk.contents(&path).unwrap();
        disk.edit(&path, |bytes| {
            bytes[usize::try_from(at).unwrap()] ^= mask;
            Ok(())
        })
        .unwrap();
        let before = disk.contents(&path).unwrap();
        let passes = after_flip(&whole, size, at, mask, latest_epoch);
        let what = format!("{mask:#x} at byte {in_batch}, latest epoch {latest_epoch:?}");
        let (_dir, log) = reopen_in(&disk, latest_epoch);
        assert!(disk.contents(&path).unwrap() == before, "{what}");
        assert_eq!(log.log_end_offset(), 30, "{what}");
        assert_eq!(read_all(&log, 0), passes.served, "{what}");
        let damage: Vec<(i64, i64)> = log.damage().iter().map(|range| (range.from, range.to)).collect();
        let expected = if passes.served.len() == 10 {
            vec![]
        } else {
            vec![(27, 30)]
        };
        assert_eq!(damage, expected, "{what}");
    }
}

/// After a clean stop batches are walked by their headers alone: one that claims more records than it has, or another
/// length, must not make a torn tail of itself or of flushed records behind it.
#[test]
fn a_clean_start_cuts_nothing_because_of_a_damaged_header() {
    let size = batch(3).len() as u64;
    let in_header = [8, 9, 10, 11, 16, 17, 23, 24, 25, 26];
    for (hit, byte, mask) in (0..10_u64).flat_map(|hit| in_header.map(|at| MASKS.map(|mask| (hit, at, mask))).concat())
    {
        let (disk, path) = ten_batches(10);
        let (dir, log) = reopen(&disk);
        dir.set_broker_epoch(1).unwrap();
        dir.close_clean(1).unwrap();
        drop(log);
        let at = usize::try_from(hit * size + byte).unwrap();
        disk.edit(&path, |bytes| {
            bytes[at] ^= mask;
            Ok(())
        })
        .unwrap();
        let before = disk.contents(&path).unwrap();
        let (dir, log) = reopen(&disk);
        let what = format!("{mask:#x} at byte {byte} of batch {hit}");
        assert!(dir.was_clean(), "{what}");
        assert!(disk.contents(&path).unwrap() == before, "{what}: bytes were cut");
        assert_eq!(log.log_end_offset(), 30, "{what}");
        let offset = hit as i64 * 3 + 1;
        let told = log.read(offset, 1000, true, i64::MAX);
        let is_told =
            matches!(told, Err(ReadError::Corrupt { from, to: Some(to), .. }) if from < offset + 1 && offset < to);
        assert!(is_told, "{what}: {told:?}");
    }
}

#[test]
fn without_a_flushed_point_everything_is_scanned_and_nothing_is_guessed() {
    for damage in ["remove", "garble"] {
        let (disk, path) = ten_batches(5);
        let size = batch(3).len() as u64;
        let checkpoint = Path::new("/data/flushed-offset-checkpoint");
        if damage == "remove" {
            let fs = disk.shared();
            fs.remove_file(checkpoint).unwrap();
            fs.sync_dir(Path::new("/data")).unwrap();
        } else {
            disk.flip_bit(checkpoint, 3, 0).unwrap();
        }
        disk.flip_bit(&path, 2 * size + 80, 0).unwrap();
        let (dir, log) = reopen(&disk);
        assert!(!dir.was_clean());
        let report = log.recovery_report();
        assert!(report.unclean && report.flushed_point_unknown);
        assert_eq!(report.damage.len(), 1, "sound batches follow, so this is no torn tail");
        assert_eq!((report.damage[0].from, report.damage[0].to), (6, 9));
        assert_eq!(log.log_end_offset(), 30);
        assert_eq!(report.truncated_bytes, 0);
    }
}

/// The last batch of a log of which no flushed point is known, with an offset far on: nothing sound follows it, so that
/// it is taken for a torn tail, as one with a wrong CRC is.
#[test]
fn without_a_flushed_point_no_offset_is_believed_that_leaves_a_gap() {
    let size = batch(3).len() as u64;
    let (disk, path) = ten_batches(5);
    disk.flip_bit(Path::new("/data/flushed-offset-checkpoint"), 3, 0)
        .unwrap();
    disk.flip_bit(&path, 9 * size + 4, 6).unwrap();
    let (_dir, log) = reopen(&disk);
    assert!(log.recovery_report().flushed_point_unknown);
    assert_eq!((read_all(&log, 0), log.log_end_offset()), (cut_before(9).served, 27));
    assert_eq!(log.damage(), []);
}

#[test]
fn a_file_shorter_than_the_flushed_point_is_damage() {
    let (disk, path) = ten_batches(8);
    disk.edit(&path, |bytes| {
        bytes.truncate(400);
        Ok(())
    })
    .unwrap();
    let (_dir, log) = reopen(&disk);
    assert!(!log.damage().is_empty());
    assert!(matches!(
        log.read(20, 100, true, i64::MAX),
        Err(ReadError::Corrupt { .. })
    ));
    append(&log, 1);
    assert!(
        log.log_end_offset() > 24,
        "offsets that were durable once are not given again"
    );
}

#[test]
fn disks_are_told_apart() {
    let disk = FaultyFileSystem::new(1);
    let fs = disk.shared();
    let path = Path::new("/data");
    let default = DirOptions::default();
    assert!(matches!(
        LogDir::open(&fs, path, &default),
        Err(OpenDirError::NotFormatted(_))
    ));
    fs.create_dir(path).unwrap();
    assert!(matches!(
        LogDir::open(&fs, path, &default),
        Err(OpenDirError::NotFormatted(_))
    ));
    format(&disk);
    let dir = open(&fs);
    assert!(matches!(
        LogDir::open(&fs, path, &default),
        Err(OpenDirError::Locked(_))
    ));
    dir.create_log("t", 0, TOPIC_ID, LogConfig::default()).unwrap();
    dir.write_checkpoints().unwrap();
    let other = DirIdentity {
        node_id: 2,
        ..dir.identity().clone()
    };
    assert!(
        matches!(
            LogDir::format(&fs, path, &other),
            Err(FormatDirError::AlreadyFormatted(_))
        ),
        "it is named as what it is, whatever else it holds"
    );
    let log = dir.open_log("t", 0, TOPIC_ID, LogConfig::default()).unwrap();
    log.flush().unwrap();
    dir.write_checkpoints().unwrap();
    assert!(matches!(
        LogDir::format(&fs, path, &other),
        Err(FormatDirError::AlreadyFormatted(_))
    ));
    drop(log);
    assert!(
        dir.open_log("t", 0, Uuid::from_u128(8), LogConfig::default()).is_err(),
        "another topic of that name"
    );
    drop(dir);
    for options in [
        DirOptions {
            expected_cluster_id: Some("other".into()),
            ..default.clone()
        },
        DirOptions {
            expected_node_id: Some(2),
            ..default.clone()
        },
        DirOptions {
            expected_directory_id: Some(Uuid::from_u128(8)),
            ..default.clone()
        },
    ] {
        assert!(matches!(
            LogDir::open(&fs, path, &options),
            Err(OpenDirError::Foreign { .. })
        ));
    }
    fs.remove_file(Path::new("/data/meta.properties")).unwrap();
    assert!(
        matches!(LogDir::open(&fs, path, &default), Err(OpenDirError::Damaged { .. })),
        "data without a name is not new"
    );
}

#[test]
fn appends_leave_the_reserve_and_retention_works_on_a_full_disk() {
    let disk = FaultyFileSystem::new(1);
    let fs = format(&disk);
    disk.set_plan(millrace_log::fs::faulty::FaultPlan {
        capacity_bytes: 20_000,
        ..Default::default()
    });
    let dir = LogDir::open(
        &fs,
        Path::new("/data"),
        &DirOptions {
            reserve_bytes: 8_000,
            ..DirOptions::default()
        },
    )
    .unwrap();
    let config = LogConfig {
        segment_bytes: 2_000,
        retention_bytes: Some(4_000),
        ..LogConfig::default()
    };
    let log = dir.create_log("t", 0, TOPIC_ID, config.clone()).unwrap();
    let fill = || loop {
        match log.append_as_leader(&batch(3), 0, 1000, &AppendOptions::default()) {
            Ok(_) => {}
            Err(AppendError::DiskFull(full)) => break full,
            Err(error) => panic!("{error}"),
        }
    };
    let full = fill();
    assert!(
        full.available_bytes >= 8_000 - 200 && full.reserve_bytes == 8_000,
        "{full:?}"
    );
    log.flush().unwrap();
    dir.write_checkpoints().unwrap();
    // Now somebody else fills the rest.
    disk.set_plan(millrace_log::fs::faulty::FaultPlan {
        capacity_bytes: disk.used_bytes(),
        ..Default::default()
    });
    assert!(matches!(
        log.append_as_leader(&batch(3), 0, 1000, &AppendOptions::default()),
        Err(AppendError::DiskFull(_))
    ));
    let start = log.log_start_offset();
    let report = log.apply_retention(1000, log.log_end_offset()).unwrap();
    assert!(!report.deleted.is_empty() && log.log_start_offset() > start);
    assert!(!read_all(&log, log.log_start_offset()).is_empty());
    let (end, log_start) = (log.log_end_offset(), log.log_start_offset());
    drop((log, dir));
    disk.set_plan(millrace_log::fs::faulty::FaultPlan {
        capacity_bytes: disk.used_bytes(),
        ..Default::default()
    });
    disk.crash();
    let dir = open(&fs);
    let log = dir.open_log("t", 0, TOPIC_ID, config).unwrap();
    assert_eq!((log.log_start_offset(), log.log_end_offset()), (log_start, end));
}
