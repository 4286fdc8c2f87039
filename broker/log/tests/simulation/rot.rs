//! Bits that flip on the disk: each time on a copy of it, which is opened, read and thrown away, so that the run itself
//! goes on with sound files.
//!
//! Below the stored flushed point every damaged record must be told of, and nothing is cut. Above it, and where that
//! point is not known, rot looks like a torn tail. Base offset and leader epoch of a batch lie outside of its checksum:
//! no bit of theirs is flipped here, `tests/recovery.rs` does.

use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_log::checkpoint::{clean_mark, flushed, start_offsets};
use millrace_log::{
    AppendOptions, DirOptions, FaultyFileSystem, FileSystem, Log, LogDir, OpenLogError, ReadError, TopicPartition,
};
use millrace_proto::batch::{BatchBuilder, Codec, HEADER_LEN, batches};
use uuid::Uuid;

use crate::model::ModelBatch;
use crate::world::{DIR, TOPIC, World};

/// A copy of the disk with one log on it.
struct Copy<'a> {
    world: &'a World,
    disk: FaultyFileSystem,
    /// The batches that were damaged, by base offset.
    damaged: Vec<i64>,
    /// Where the log ended when it was opened: what follows is not the model's.
    opened_end: Cell<i64>,
}

/// Where a batch lies.
struct Place {
    path: PathBuf,
    position: usize,
    size: usize,
}

/// The disk as a power cut or a kill at this moment would leave it.
fn copy_of(world: &mut World) -> FaultyFileSystem {
    let cut = world.rng.below(2) == 0;
    let disk = world.disk.copy();
    disk.set_plan(millrace_log::fs::faulty::FaultPlan::default());
    if cut {
        disk.crash()
    } else {
        disk.kill_process()
    }
    disk
}

/// Flips bits of stored records: before the log is opened, or under it.
pub fn rot(world: &mut World) {
    let disk = copy_of(world);
    let name = TopicPartition::new(TOPIC, 0);
    let stored = disk.contents(&Path::new(DIR).join(flushed::FILE_NAME));
    let Some(point) = stored
        .ok()
        .and_then(|bytes| flushed::decode(&bytes).ok()?.get(&name).copied())
    else {
        return;
    };
    let below = world.model.visible();
    let candidates: Vec<(i64, usize)> = below
        .iter()
        .take_while(|batch| batch.header.next_offset() <= point.offset)
        .map(|batch| (batch.header.base_offset, batch.bytes.len()))
        .collect();
    if candidates.is_empty() {
        return;
    }
    let mut flips = Vec::new();
    for _ in 0..=world.rng.below(3) {
        let (base_offset, size) = candidates[world.rng.below(candidates.len() as u64) as usize];
        flips.push((base_offset, byte_to_flip(world, size), 1 << world.rng.below(8)));
    }
    flips.sort_unstable();
    flips.dedup_by_key(|flip| flip.0);
    let under_a_reader = world.rng.below(2) == 0;
    world.note(format!("rot below {}: {flips:?}, live: {under_a_reader}", point.offset));
    world.reach("bit rot");
    let max_bytes = [1, 1000, 1 << 20][world.rng.below(3) as usize];
    let copy = Copy {
        world,
        disk,
        damaged: flips.iter().map(|(base_offset, ..)| *base_offset).collect(),
        opened_end: Cell::new(0),
    };
    let kept = if under_a_reader {
        let (dir, log) = copy.open();
        copy.without_damage().check_contents(&log, max_bytes);
        let kept = copy.flip_all(&flips);
        copy.check_all(&log, max_bytes);
        drop((dir, log));
        copy.disk.kill_process();
        kept
    } else {
        copy.flip_all(&flips)
    };
    let (dir, log) = copy.open();
    copy.check_all(&log, max_bytes);
    copy.goes_on(&log);
    copy.check_contents(&log, max_bytes);
    for (place, bytes) in kept {
        let now = copy.disk.contents(&place.path).unwrap();
        assert!(
            now[place.position..].starts_with(&bytes),
            "damaged bytes of {} at {} were cut or changed",
            place.path.display(),
            place.position
        );
    }
    drop((dir, log));
}

/// Any byte that the checksum or the batch's own form covers.
fn byte_to_flip(world: &mut World, size: usize) -> usize {
    let rng = &mut world.rng;
    match rng.below(3) {
        0 => [8, 9, 10, 11, 16, 17, 23, 24, 25, 26][rng.below(10) as usize],
        1 => 16 + rng.below(HEADER_LEN as u64 - 16) as usize,
        _ => 16 + rng.below(size as u64 - 16) as usize,
    }
}

impl Copy<'_> {
    fn open(&self) -> (LogDir, Log) {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<(LogDir, Log), OpenLogError> {
        let fs: Arc<dyn FileSystem> = self.disk.shared();
        let dir = LogDir::open(&fs, Path::new(DIR), &DirOptions::default()).unwrap();
        let log = dir.open_log(TOPIC, 0, Uuid::from_u128(9), self.world.config.clone())?;
        self.opened_end.set(log.log_end_offset());
        Ok((dir, log))
    }

    fn without_damage(&self) -> Copy<'_> {
        Copy {
            world: self.world,
            disk: self.disk.clone(),
            damaged: Vec::new(),
            opened_end: self.opened_end.clone(),
        }
    }

    fn flip_all(&self, flips: &[(i64, usize, u8)]) -> Vec<(Place, Vec<u8>)> {
        flips
            .iter()
            .map(|(base_offset, byte, mask)| {
                let place = self.place_of(*base_offset);
                let at = place.position + byte;
                let flip = |bytes: &mut Vec<u8>| {
                    bytes[at] ^= mask;
                    Ok(())
                };
                self.disk.edit(&place.path, flip).unwrap();
                let bytes = self.disk.contents(&place.path).unwrap();
                let kept = bytes[place.position..place.position + place.size].to_vec();
                (place, kept)
            })
            .collect()
    }

    /// Where a batch below the flushed point lies. None before it in its file is damaged yet, or its length is kept.
    fn place_of(&self, base_offset: i64) -> Place {
        let model = self.batch(base_offset);
        let in_order = self.disk.list_files().into_iter().rev();
        for (path, _) in in_order.filter(|(path, _)| path.extension().is_some_and(|kind| kind == "log")) {
            let bytes = self.disk.contents(&path).unwrap();
            let size = model.bytes.len();
            let found = bytes.windows(size).position(|window| window == &model.bytes[..]);
            if let Some(position) = found {
                return Place { path, position, size };
            }
        }
        panic!("batch {base_offset} is below the flushed point, and in no file");
    }

    fn batch(&self, base_offset: i64) -> &ModelBatch {
        let mut history = self.world.model.history.iter();
        history
            .find(|batch| batch.header.base_offset == base_offset)
            .unwrap_or_else(|| panic!("a batch at {base_offset} was never written"))
    }

    /// What can be read. A log start that a full disk could not store may be lower than the model's.
    fn readable(&self, log: &Log) -> impl Iterator<Item = &ModelBatch> {
        let start = log.log_start_offset();
        let history = self.world.model.history.iter();
        history.filter(move |batch| batch.header.last_offset() >= start)
    }

    /// Before and after the damage is looked for.
    fn check_all(&self, log: &Log, max_bytes: usize) {
        assert!(log.log_end_offset() >= self.world.model.durable, "damage cut the log");
        self.check_contents(log, max_bytes);
        self.check_points(log, max_bytes);
        log.scrub(0, u64::MAX).unwrap();
        let known = log.damage();
        for base_offset in &self.damaged {
            let range = offsets_of(self.batch(*base_offset));
            assert!(
                known
                    .iter()
                    .any(|known| known.from <= range.start && range.end <= known.to),
                "a scrub does not know of {range:?}: {known:?}"
            );
        }
        known.iter().for_each(|range| self.check_range(range.from..range.to));
        self.check_contents(log, max_bytes);
        self.check_points(log, max_bytes);
    }

    /// From front to back, each damage skipped as its error says: all sound batches, and nothing else.
    fn check_contents(&self, log: &Log, max_bytes: usize) {
        let (mut offset, end) = (log.log_start_offset(), log.log_end_offset());
        let mut served = Vec::new();
        while offset < end {
            match log.read(offset, max_bytes, true, i64::MAX) {
                Ok(data) if data.bytes.is_empty() => break,
                Ok(data) => {
                    served.extend(self.check_bytes(&data.bytes));
                    assert!(data.next_offset > offset);
                    offset = data.next_offset;
                }
                Err(ReadError::Corrupt { from, to, reason }) => {
                    let to = to.expect("the next sound batch is near");
                    assert!(to > offset, "sent from {offset} to {to}: {reason}");
                    self.check_range(from..to);
                    offset = to;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let end = self.opened_end.get().min(self.world.model.durable);
        let expected: Vec<i64> = self
            .readable(log)
            .filter(|batch| batch.header.last_offset() < end)
            .map(|batch| batch.header.base_offset)
            .filter(|base_offset| !self.damaged.contains(base_offset))
            .collect();
        served.retain(|base_offset| *base_offset < end);
        assert_eq!(served, expected, "sound records are not served, or others are");
    }

    /// Anywhere: the batch that holds the offset, or that it is damaged, and how far.
    fn check_points(&self, log: &Log, max_bytes: usize) {
        for batch in self.readable(log) {
            let range = offsets_of(batch);
            if range.end > self.world.model.durable {
                break;
            }
            let middle = (range.start + range.end) / 2;
            for offset in [range.start, middle, range.end - 1] {
                let offset = offset.max(log.log_start_offset());
                match log.read(offset, max_bytes, true, i64::MAX) {
                    Ok(data) => {
                        assert!(data.bytes.starts_with(&batch.bytes), "read at {offset} of {range:?}");
                        self.check_bytes(&data.bytes);
                    }
                    Err(ReadError::Corrupt { from, to, .. }) => {
                        let to = to.expect("the next sound batch is near");
                        assert!((from..to).contains(&offset), "{from} to {to} told at {offset}");
                        self.check_range(from..to);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// The base offsets of batches that were served, which are as they were written.
    fn check_bytes(&self, bytes: &[u8]) -> Vec<i64> {
        // A lost log start may bring back what was below an emptied log's.
        let known = self.world.model.begins_at..self.opened_end.get();
        let served = batches(bytes).map(|batch| batch.unwrap());
        served
            .filter(|batch| known.contains(&batch.header().base_offset))
            .map(|batch| {
                let base_offset = batch.header().base_offset;
                let written = &self.batch(base_offset).bytes;
                assert!(
                    batch.bytes() == &written[..],
                    "damaged bytes of {base_offset} are served"
                );
                base_offset
            })
            .collect()
    }

    /// No sound record is said to be damaged. What was not durable may be lost, and if later records are not they are
    /// behind the damage.
    fn check_range(&self, told: Range<i64>) {
        for batch in &self.world.model.history {
            let range = offsets_of(batch);
            let overlaps = told.start < range.end && range.start < told.end;
            let damaged = self.damaged.contains(&range.start);
            let durable = range.end <= self.world.model.durable;
            assert!(
                damaged || !durable || !overlaps,
                "{told:?} is told to be damaged, {range:?} is sound"
            );
        }
    }

    /// The log takes records, and closes.
    fn goes_on(&self, log: &Log) {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(self.world.now_ms, None, Some(b"more"), &[]).unwrap();
        let epoch = log.latest_epoch().map_or(0, |entry| entry.epoch);
        let options = AppendOptions::default();
        log.append_as_leader(&builder.build().unwrap(), epoch, self.world.now_ms, &options)
            .unwrap();
        log.flush().unwrap();
    }

    fn flip(&self, path: &Path, byte: u64, bit: u8) {
        self.disk.flip_bit(path, byte, bit).unwrap();
    }
}

fn offsets_of(batch: &ModelBatch) -> Range<i64> {
    batch.header.base_offset..batch.header.next_offset()
}

/// Flips a bit of one of the small files: the log opens, serves what was written, and cuts no durable record. What the
/// file said may be lost; a producer that is still known is known rightly.
///
/// The leader epochs and log starts are in Kafka's format, which has no checksum: a digit that turned into another is
/// believed. So only what is read is compared then, from wherever the log begins.
pub fn rot_small_file(world: &mut World) {
    let disk = copy_of(world);
    let small = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".snapshot")
            || name.ends_with("-checkpoint")
            || name.contains("epoch")
            || name == clean_mark::FILE_NAME
    };
    let files: Vec<(PathBuf, u64)> = disk
        .list_files()
        .into_iter()
        .filter(|(path, len)| *len > 0 && small(path))
        .collect();
    let flushed_path = Path::new(DIR).join(flushed::FILE_NAME);
    // The point's loss is an event of its own in the run, see `faults`.
    let files: Vec<_> = files.into_iter().filter(|(path, _)| *path != flushed_path).collect();
    if files.is_empty() || disk.contents(&flushed_path).is_err() {
        return;
    }
    let (path, len) = &files[world.rng.below(files.len() as u64) as usize];
    let (byte, bit) = (world.rng.below(*len), world.rng.below(8) as u8);
    world.note(format!("rot in {} at {byte}.{bit}", path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kinds = ["snapshot", "leader-epoch", "log-start", "clean", "broker-epoch"];
    if let Some(kind) = kinds.into_iter().find(|kind| name.contains(kind)) {
        world.reach(kind);
    }
    let copy = Copy {
        world,
        disk,
        damaged: Vec::new(),
        opened_end: Cell::new(0),
    };
    copy.flip(path, byte, bit);
    // All but the case of a digit of the checksum makes it another.
    let garbled = name == clean_mark::FILE_NAME && clean_mark::decode(&copy.disk.contents(path).unwrap()).is_err();
    let (dir, log) = copy.open();
    assert!(!dir.was_clean() || !garbled, "a damaged {name} was believed");
    assert_eq!(log.damage(), [], "damage in {name} was taken for damage of records");
    assert!(log.log_end_offset() >= copy.world.model.durable, "{name} cut the log");
    if name == start_offsets::FILE_NAME {
        let mut offset = log.log_start_offset();
        while offset < log.log_end_offset() {
            let data = log.read(offset, 1 << 20, true, i64::MAX).unwrap();
            if data.bytes.is_empty() {
                break;
            }
            copy.check_bytes(&data.bytes);
            offset = data.next_offset;
        }
    } else {
        copy.check_contents(&log, 1 << 20);
    }
    for (id, entry) in log.producer_state().entries() {
        for batch in &entry.batches {
            let known = (batch.base_sequence, batch.last_sequence, batch.base_offset);
            let before = copy.world.model.known_before.get(id);
            if before.is_some_and(|before| before.epoch == entry.epoch && before.batches.contains(&known)) {
                continue;
            }
            let written = copy.batch(batch.base_offset).header;
            assert_eq!((*id, entry.epoch), (written.producer_id, written.producer_epoch));
            assert_eq!(
                (batch.base_sequence, batch.last_sequence),
                (written.base_sequence, written.last_sequence())
            );
        }
    }
    drop((dir, log));
}
