//! Opening and creating a log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use super::cleaned::{self, KnownCleaned};
use super::compact::finish_swaps;
use super::recover::{FoundSegment, Known, Recovered, Recovery, note_epoch};
use super::report::RecoveryReport;
use super::truncate::{MARKER_FILE_NAME, Marker, PRODUCERS_FILE_NAME};
use super::{LogInner, Writer};
use crate::checkpoint::flushed::FlushedPoint;
use crate::checkpoint::leader_epochs::{self, EpochEntry};
use crate::checkpoint::topic_partition::TopicPartition;
use crate::checkpoint::{Loaded, load};
use crate::config::LogConfig;
use crate::dir::OpenLogOptions;
use crate::dir::shared::DirShared;
use crate::epochs::EpochCache;
use crate::fs::{FileSystem, OpenMode, is_disk_full, read_whole, remove_if_exists};
use crate::producer::{ProducerState, snapshot};
use crate::segment::scan::{Chain, Scan};
use crate::segment::{Segment, names};

/// What the directory knows of a log that it opens.
pub(crate) struct OpenLog {
    pub name: TopicPartition,
    pub topic_id: Uuid,
    pub config: LogConfig,
    /// The last process closed the directory properly.
    pub clean: bool,
    /// `None`: the directory's checkpoint was lost or garbled. A partition that a valid checkpoint does not name has
    /// nothing flushed.
    pub flushed: Option<FlushedPoint>,
    pub log_start: i64,
    pub options: OpenLogOptions,
}

impl LogInner {
    /// Opens the log in a partition's directory: recovers it and makes every byte of it durable.
    pub(crate) fn open(
        shared: &Arc<DirShared>,
        dir: PathBuf,
        open: OpenLog,
    ) -> Result<Arc<Self>, (PathBuf, io::Error)> {
        let dir: Arc<Path> = dir.into();
        Self::open_in(shared, &dir, open).map_err(|error| (dir.to_path_buf(), error))
    }

    fn open_in(shared: &Arc<DirShared>, dir: &Arc<Path>, open: OpenLog) -> io::Result<Arc<Self>> {
        let fs = &shared.fs;
        let marker = read_marker(&**fs, dir)?;
        let mut found = if marker.is_some() {
            Vec::new()
        } else {
            finish_swaps(&**fs, dir)?;
            list_segments(&**fs, dir)?
        };
        if !open.clean && marker.is_none() {
            settle_snapshots(&**fs, dir, open.flushed)?;
        }
        let dropped = drop_below_start(&**fs, dir, &mut found, open.log_start)?;
        let report = RecoveryReport {
            unclean: !open.clean || open.flushed.is_none(),
            flushed_point_unknown: open.flushed.is_none(),
            ..RecoveryReport::default()
        };
        let interval_bytes = open.config.index_interval_bytes;
        let mut created = false;
        let known_cleaned = match found.is_empty() {
            // It is read when somebody asks.
            true => None,
            false => Some(cleaned::read(&**fs, dir)?),
        };
        let (recovered, report) = if found.is_empty() {
            let base = marker.as_ref().map_or(open.log_start, |marker| marker.offset).max(0);
            let segment = if marker.is_some() {
                None
            } else {
                Some(Segment::create(fs, dir, base, interval_bytes)?)
            };
            created = segment.is_some();
            let recovered = Recovered {
                segments: segment.into_iter().collect(),
                log_end: base,
                indexed_end: base,
                epochs: Vec::new(),
                walked_from: None,
            };
            (recovered, report)
        } else {
            let known = Known {
                flushed: open.flushed,
                drop_cache: !open.clean,
                latest_epoch: open.options.latest_epoch.unwrap_or(i32::MAX),
                gaps_below: match known_cleaned {
                    // What can't be read may have told of gaps anywhere.
                    Some(KnownCleaned::Unknown) => i64::MAX,
                    known => cleaned::told_gaps_below(known),
                },
            };
            let mut recovery = Recovery {
                fs,
                dir,
                interval_bytes,
                known,
                report,
            };
            let recovered = recovery.run(&found)?;
            (recovered, recovery.report)
        };
        if !open.clean {
            // Names of files that a killed process made may not be durable yet.
            fs.sync_dir(dir)?;
        }
        let log_start = recovered
            .segments
            .first()
            .map_or(recovered.log_end, |first| first.base_offset);
        let log_start = log_start.max(open.log_start).min(recovered.log_end);
        let mut inner = LogInner {
            shared: shared.clone(),
            name: open.name,
            topic_id: open.topic_id,
            dir: dir.clone(),
            config: RwLock::new(Arc::new(open.config)),
            flush_lock: Mutex::new(()),
            writer: Mutex::new(new_writer()),
            segments: RwLock::new(Arc::new(recovered.segments.clone())),
            epochs: RwLock::new(EpochCache::default()),
            epochs_file: Mutex::new(()),
            log_start: AtomicI64::new(log_start),
            log_end: AtomicI64::new(recovered.log_end),
            durable_end: AtomicI64::new(recovered.log_end),
            indexed_end: AtomicI64::new(recovered.indexed_end),
            epochs_behind: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            truncations: AtomicU64::new(0),
            has_damage: AtomicBool::new(!report.damage.is_empty()),
            damage: RwLock::new(report.damage.clone()),
            gaps_below: AtomicI64::new(cleaned::told_gaps_below(known_cleaned)),
            cleaned: Mutex::new(known_cleaned),
            compacting: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            report,
        };
        if let Some(marker) = marker {
            let active = inner.start_over(marker)?;
            *inner.segments.write() = Arc::new(vec![active]);
            inner.log_start.store(marker.offset, Ordering::Release);
            let mut writer = new_writer();
            inner.report.replayed_batches = inner.reload_producers(&mut writer, marker.offset)?;
            *inner.writer.lock() = writer;
            return Ok(Arc::new(inner));
        }
        // Without a flushed point batches may be missing at the end with nothing that tells of them.
        if inner.report.truncated_bytes > 0 || inner.report.flushed_point_unknown {
            inner.lower_cleaned_at_start(recovered.log_end)?;
        }
        // Snapshots of offsets that are no more would be taken for those of new records.
        inner.remove_snapshots_where(|offset| offset > recovered.log_end)?;
        remove_orphans(&**fs, dir, &recovered.segments)?;
        let mut writer = new_writer();
        inner.report.replayed_batches = inner.reload_producers(&mut writer, recovered.log_end)?;
        // Where no walk of the recovery came by, the replay may have.
        inner.report.damage = inner.damage.read().clone();
        if inner.load_epochs(&recovered)? {
            // All that was found counts as durable, so the epochs of it must be, too.
            match inner.write_epochs() {
                Err(error) if is_disk_full(&error) => {
                    writer.epochs_dirty = true;
                    inner.epochs_behind.store(true, Ordering::Release);
                }
                other => other?,
            }
        }
        writer.dir_unsynced = created || dropped;
        // The walk may have added entries to an index, or taken some away; a full disk may not have taken others.
        let indexed_end = recovered.indexed_end;
        let segments = &recovered.segments;
        let next_base = |at: usize| segments.get(at + 1).map_or(i64::MAX, |next| next.base_offset);
        let unsynced = segments
            .iter()
            .enumerate()
            .filter(|(at, _)| next_base(*at) > indexed_end);
        writer.unsynced = unsynced.map(|(_, segment)| segment.clone()).collect();
        *inner.writer.lock() = writer;
        if inner.report.truncated_bytes > 0 {
            tracing::info!(partition = %inner.name, bytes = inner.report.truncated_bytes, "cut a torn tail");
        }
        Ok(Arc::new(inner))
    }

    /// The epochs from their file where it can be trusted, from the batches elsewhere. Returns whether the file has
    /// to be written.
    fn load_epochs(&self, recovered: &Recovered) -> io::Result<bool> {
        let fs = &*self.shared.fs;
        let loaded = load(fs, &self.dir.join(leader_epochs::FILE_NAME), leader_epochs::decode)?;
        let (start, end) = (self.log_start(), self.log_end());
        let (stored, walked, from) = match loaded {
            Loaded::Found(entries) => (entries, recovered.epochs.clone(), recovered.walked_from.unwrap_or(end)),
            Loaded::Missing | Loaded::Damaged(_) => (Vec::new(), self.walk_epochs()?, 0),
        };
        let mut cache = EpochCache::default();
        for EpochEntry { epoch, start_offset } in stored.iter().filter(|entry| entry.start_offset < from) {
            cache.assign(*epoch, *start_offset);
        }
        for (epoch, base_offset) in walked {
            cache.assign(epoch, base_offset);
        }
        // An epoch that began at the log end and wrote nothing.
        for EpochEntry { epoch, start_offset } in stored.iter().filter(|entry| entry.start_offset == end) {
            cache.assign(*epoch, *start_offset);
        }
        cache.advance_start(start);
        cache.truncate_to(end + 1);
        let dirty = cache.entries() != stored;
        *self.epochs.write() = cache;
        Ok(dirty)
    }

    /// The epochs of every batch: only if their file was lost.
    fn walk_epochs(&self) -> io::Result<Vec<(i32, i64)>> {
        let mut epochs = Vec::new();
        for segment in self.segments().iter() {
            let file = segment.file()?;
            let mut chain = Chain::at(segment.base_offset);
            let mut scan = Scan::new(&*file, 0, segment.size());
            loop {
                while let Ok(Some((_, header))) = scan.next_header(segment.base_offset, &mut chain)? {
                    note_epoch(&mut epochs, &header);
                }
                let position = scan.position();
                match self
                    .resume_points(segment.base_offset)
                    .iter()
                    .find(|(_, at)| *at > position)
                {
                    Some((offset, at)) => {
                        chain = Chain::at(*offset);
                        scan = Scan::new(&*file, *at, segment.size());
                    }
                    None => break,
                }
            }
        }
        Ok(epochs)
    }
}

/// Snapshots that no flush covered may be torn, and whole ones may be in the cache only, even if an fsync seems to
/// succeed now where one failed before. All that is found counts as durable from now on, so they must be, too.
///
/// Those below the stored flushed point are left alone, so that a start does not cost a sync and a read for each segment
/// that was ever rolled. A snapshot is taken at the log end, which the point can pass only by a flush that was begun
/// later, and that syncs the snapshot first; one that retention makes farther below gets its name only when it is
/// durable ([`LogInner::write_snapshot_below`]). One at the point itself may be younger than the flush that led there.
fn settle_snapshots(fs: &dyn FileSystem, dir: &Path, flushed: Option<FlushedPoint>) -> io::Result<()> {
    let settled_below = flushed.map_or(i64::MIN, |point| point.offset);
    for path in snapshots(fs, dir)?
        .into_iter()
        .filter(|offset| *offset >= settled_below)
        .map(|offset| names::snapshot_path(dir, offset))
    {
        let file = fs.open(&path, OpenMode::ReadWrite)?;
        file.sync_all()?;
        file.drop_cache(0);
        if !is_sound_snapshot(fs, &path)? {
            remove_if_exists(fs, &path)?;
        }
    }
    fs.sync_dir(dir)
}

/// The offsets of all producer snapshots, rising.
pub(super) fn snapshots(fs: &dyn FileSystem, dir: &Path) -> io::Result<Vec<i64>> {
    let entries = fs.read_dir(dir)?;
    let parsed = entries.iter().filter_map(|entry| names::parse(entry.name.to_str()?));
    let mut offsets: Vec<i64> = parsed
        .filter(|(_, kind)| *kind == names::FileKind::Snapshot)
        .map(|(offset, _)| offset)
        .collect();
    offsets.sort_unstable();
    Ok(offsets)
}

fn is_sound_snapshot(fs: &dyn FileSystem, path: &Path) -> io::Result<bool> {
    match read_whole(fs, path, 1 << 30) {
        Ok(bytes) => Ok(snapshot::decode(&bytes).is_ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn new_writer() -> Writer {
    Writer {
        producers: ProducerState::default(),
        unsynced: Vec::new(),
        unsynced_snapshots: Vec::new(),
        dir_unsynced: false,
        epochs_dirty: false,
        bytes_since_checkpoint: 0,
        bytes_since_flush: 0,
        active_since_ms: None,
        snapshot_offset: -1,
    }
}

/// A full truncation that a crash interrupted.
fn read_marker(fs: &dyn FileSystem, dir: &Path) -> io::Result<Option<Marker>> {
    match read_whole(fs, &dir.join(MARKER_FILE_NAME), 64) {
        Ok(bytes) => match Marker::decode(&bytes) {
            Some(marker) => Ok(Some(marker)),
            // It was written atomically, so this is no torn write, and nothing may be removed by guessing.
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{MARKER_FILE_NAME} is damaged"),
            )),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The segments there are, oldest first; leftovers of half-done steps are removed.
fn list_segments(fs: &dyn FileSystem, dir: &Path) -> io::Result<Vec<FoundSegment>> {
    let mut found = Vec::new();
    for entry in fs.read_dir(dir)? {
        let Some(name) = entry.name.to_str() else { continue };
        if names::is_leftover(name) || name == PRODUCERS_FILE_NAME {
            remove_if_exists(fs, &dir.join(name))?;
        } else if let Some((base_offset, names::FileKind::Log)) = names::parse(name) {
            found.push(FoundSegment {
                base_offset,
                size: fs.metadata(&dir.join(name))?.len,
            });
        }
    }
    found.sort_by_key(|segment| segment.base_offset);
    Ok(found)
}

/// Finishes a deletion that a crash interrupted: segments wholly below the stored log start. Those whose producers only
/// their records tell stay until retention has made a snapshot (KAFKA-7190): a segment that was begun after the log
/// start was stored may have lost the one made with it.
fn drop_below_start(
    fs: &dyn FileSystem,
    dir: &Path,
    found: &mut Vec<FoundSegment>,
    log_start: i64,
) -> io::Result<bool> {
    let count = found
        .windows(2)
        .take_while(|pair| pair[1].base_offset <= log_start)
        .count();
    let mut told = 0;
    for at in (1..=count).rev() {
        if is_sound_snapshot(fs, &names::snapshot_path(dir, found[at].base_offset))? {
            told = at;
            break;
        }
    }
    let count = told;
    for segment in found.drain(..count) {
        for kind in [
            names::FileKind::OffsetIndex,
            names::FileKind::TimeIndex,
            names::FileKind::TransactionIndex,
            names::FileKind::Log,
        ] {
            remove_if_exists(fs, &names::path(dir, segment.base_offset, kind))?;
        }
    }
    Ok(count > 0)
}

/// Indexes without a segment.
fn remove_orphans(fs: &dyn FileSystem, dir: &Path, segments: &[Arc<Segment>]) -> io::Result<()> {
    for entry in fs.read_dir(dir)? {
        let Some((base, kind)) = entry.name.to_str().and_then(names::parse) else {
            continue;
        };
        let derived = matches!(
            kind,
            names::FileKind::OffsetIndex | names::FileKind::TimeIndex | names::FileKind::TransactionIndex
        );
        if derived
            && segments
                .binary_search_by_key(&base, |segment| segment.base_offset)
                .is_err()
        {
            remove_if_exists(fs, &names::path(dir, base, kind))?;
        }
    }
    Ok(())
}
