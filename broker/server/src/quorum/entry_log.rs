//! The metadata log and the voter's state file as one store of entries; all of it blocks.
//!
//! ```text
//!   purged < log start ≤ flushed end ≤ written end
//! ```
//!
//! An entry's index is its offset and its term is the leader epoch. Writes come from one caller
//! at a time, in order; reads may come from many.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use millrace_log::{FileSystem, Log, LogConfig, LogDir, OpenLogError, producer::ProducerState};
use millrace_proto::batch::batches;
use parking_lot::Mutex;
use uuid::Uuid;

use super::{
    error::QuorumError,
    options::{METADATA_PARTITION, METADATA_TOPIC, METADATA_TOPIC_ID, QuorumOptions},
    record::{self, MAX_ENTRY_BYTES},
    state_file::{self, QuorumState},
    types::{Entry, LogId, Vote},
};

/// Entries are given up by whole segments, so a segment is small.
const SEGMENT_BYTES: u32 = 16 << 20;
/// One read of the log asks for about so much, so that memory stays bounded whatever is asked.
const READ_BYTES: usize = 1 << 20;

/// The entries of one voter and what it must not forget beside them.
pub(super) struct EntryLog {
    log: Log,
    /// A log works only while its directory is open.
    _log_dir: Arc<LogDir>,
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    state: Mutex<QuorumState>,
    /// Entries below this index are in a snapshot that is on the disk.
    snapshot_next: AtomicU64,
    /// Whether there was no state file: this voter has never done anything.
    is_new: bool,
}

impl EntryLog {
    /// Opens the metadata log and checks that log and state file belong together.
    ///
    /// # Errors
    /// [`QuorumError::Damaged`] if entries or the vote are missing, or what is there
    /// contradicts itself; [`QuorumError::OtherVoter`]; [`QuorumError::Io`].
    pub(super) fn open(options: &QuorumOptions) -> Result<Self, QuorumError> {
        let log = open_partition(options)?;
        let dir = log.path().to_owned();
        let state_path = dir.join(state_file::FILE_NAME);
        let loaded = QuorumState::load(&*options.fs, &state_path)?;
        let is_new = loaded.is_none();
        let state = match loaded {
            Some(state) => state,
            None if log.log_start_offset() == 0 && log.log_end_offset() == 0 => {
                check_unused(&options.log_dir)?;
                QuorumState::new(options.voter_id, options.directory_id)
            }
            None => {
                return Err(QuorumError::damaged(
                    state_path.display().to_string(),
                    "it is missing although there are entries: this voter could vote twice",
                ));
            }
        };
        state.check_owner(options.voter_id, options.directory_id)?;
        let log = Self {
            log,
            _log_dir: Arc::clone(&options.log_dir),
            fs: Arc::clone(&options.fs),
            dir,
            state: Mutex::new(state),
            snapshot_next: AtomicU64::new(0),
            is_new,
        };
        log.reconcile()?;
        Ok(log)
    }

    /// Where snapshots are kept.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether this voter has never done anything.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Makes a new voter's state file, so that from now on a missing one is noticed.
    pub(super) fn store_new_state(&self) -> io::Result<()> {
        self.change_state(QuorumState::clone)
    }

    /// Finishes a purge that a crash has interrupted, and checks that log and state join up.
    fn reconcile(&self) -> Result<(), QuorumError> {
        let what = || self.dir.display().to_string();
        let first = self.purged().map_or(0, |last| last.index + 1);
        if self.start() > first {
            let reason = format!("entries from {first} to below {} are missing", self.start());
            return Err(QuorumError::damaged(what(), reason));
        }
        if self.start() < first {
            self.drop_below(first).map_err(QuorumError::io(what()))?;
        }
        // A damaged log is never cut or skipped over: entries in it may be committed.
        if let Some(damage) = self.log.damage().first() {
            let reason = format!("entries from {} to below {}: {}", damage.from, damage.to, damage.reason);
            return Err(QuorumError::damaged(what(), reason));
        }
        // Reading both ends proves that the log holds entries of this format.
        let (start, end) = (self.start(), self.end());
        // An empty log, all of it given up, has none.
        for index in [start, end.saturating_sub(1)].into_iter().filter(|_| start < end) {
            self.entry(index)
                .map_err(|error| QuorumError::damaged(what(), error.to_string()))?;
        }
        Ok(())
    }

    /// The index of the first entry.
    fn start(&self) -> u64 {
        u64::try_from(self.log.log_start_offset()).unwrap_or(0)
    }

    /// The index after the last entry that is written.
    pub(super) fn end(&self) -> u64 {
        u64::try_from(self.log.log_end_offset()).unwrap_or(0)
    }

    /// The index after the last entry that is on the disk.
    #[cfg(test)]
    pub(super) fn flushed_end(&self) -> u64 {
        u64::try_from(self.log.durable_end_offset()).unwrap_or(0)
    }

    /// The index after the last entry that is in a snapshot on the disk.
    #[cfg(test)]
    pub(super) fn snapshot_end(&self) -> u64 {
        self.snapshot_next.load(Ordering::Acquire)
    }

    /// Visits the entries from `first` on, a chunk of them in memory at a time.
    ///
    /// # Errors
    /// The log can't be read.
    pub(super) fn each_from(&self, first: u64, mut visit: impl FnMut(Entry)) -> io::Result<()> {
        let mut next = first;
        loop {
            let entries = self.read(next..u64::MAX, READ_BYTES)?;
            let Some(last) = entries.last() else {
                return Ok(());
            };
            next = last.log_id.index + 1;
            entries.into_iter().for_each(&mut visit);
        }
    }

    /// The last entry that was given up.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.state.lock().purged()
    }

    /// The last entry written, or else the last one given up.
    pub(super) fn last(&self) -> io::Result<Option<LogId>> {
        let (start, end) = (self.start(), self.end());
        if start == end {
            return Ok(self.purged());
        }
        self.entry(end - 1).map(|entry| Some(entry.log_id))
    }

    /// Whether the log makes up for snapshots: it follows on `last` (none: it begins at the
    /// beginning) and holds the entry `newest` and those before it.
    pub(super) fn joins(&self, last: Option<LogId>, newest: LogId) -> bool {
        let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        next(self.purged()) <= next(last) && newest.index < self.end()
    }

    /// Writes entries. On return they can be read; they are on the disk only after
    /// [`EntryLog::flush`].
    pub(super) fn append(&self, entries: &[Entry]) -> io::Result<()> {
        let Some((first, last)) = entries.first().zip(entries.last()) else {
            return Ok(());
        };
        if first.log_id.index != self.end() {
            return Err(invalid(format!(
                "entry {} was to be written where {} is next",
                first.log_id.index,
                self.end()
            )));
        }
        let now_ms = now_ms();
        let mut batch_bytes = BytesMut::new();
        for entry in entries {
            batch_bytes.extend_from_slice(&record::encode(entry, now_ms).map_err(invalid)?);
        }
        // `encode` has checked that the term fits.
        let epoch = i32::try_from(last.log_id.leader_id.term).map_err(invalid)?;
        self.log
            .append_as_follower(&batch_bytes.freeze(), epoch, now_ms)
            .map_err(io::Error::other)?;
        Ok(())
    }

    /// Brings all that was written before the call onto the disk.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.log.flush().map_err(io::Error::other)?;
        Ok(())
    }

    /// The entries of `range` that there are: fewer only where the range goes beyond the log,
    /// or where `max_bytes` of batches are reached; then at least one.
    pub(super) fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let end = range.end.min(self.end());
        let mut next = range.start.max(self.start());
        let mut read = 0;
        let mut entries = Vec::new();
        while next < end && (read < max_bytes || entries.is_empty()) {
            let offset = i64::try_from(next).map_err(invalid)?;
            let bound = i64::try_from(end).map_err(invalid)?;
            let wanted = READ_BYTES.min(max_bytes.saturating_sub(read));
            let data = self.log.read(offset, wanted, true, bound).map_err(io::Error::other)?;
            let before = next;
            for batch in batches(&data.bytes) {
                let batch = batch.map_err(invalid)?;
                let entry = record::decode(&batch).map_err(invalid)?;
                if entry.log_id.index != next {
                    return Err(invalid(format!(
                        "entry {} stands where {next} should",
                        entry.log_id.index
                    )));
                }
                next += 1;
                read += batch.bytes().len();
                entries.push(entry);
            }
            if next == before {
                return Err(invalid(format!("entry {next} can't be read")));
            }
        }
        Ok(entries)
    }

    /// One entry, which must be there.
    pub(super) fn entry(&self, index: u64) -> io::Result<Entry> {
        let mut entries = self.read(index..index + 1, MAX_ENTRY_BYTES)?;
        entries
            .pop()
            .ok_or_else(|| invalid(format!("entry {index} is not in the log")))
    }

    /// Removes the entries from `end` on; on return they are gone from the disk.
    pub(super) fn truncate(&self, end: u64) -> io::Result<()> {
        if end >= self.end() {
            return Ok(());
        }
        if end < self.start() {
            return Err(invalid(format!(
                "entries from {end} on were to be removed, but the log begins at {}",
                self.start()
            )));
        }
        self.log
            .truncate_to(i64::try_from(end).map_err(invalid)?)
            .map_err(io::Error::other)?;
        self.flush()
    }

    /// Gives up the entries up to `last`, which must be in a snapshot on the disk.
    pub(super) fn purge(&self, last: &LogId) -> io::Result<()> {
        let snapshot_next = self.snapshot_next.load(Ordering::Acquire);
        if last.index >= snapshot_next {
            return Err(invalid(format!(
                "entries up to {} were to be given up, but snapshots hold only those below {snapshot_next}",
                last.index
            )));
        }
        if self.purged().is_some_and(|purged| purged.index >= last.index) {
            return Ok(());
        }
        // First the note, then the deed: a crash between them is made up for at the next start,
        // and the term of the last entry given up is known in any case.
        self.change_state(|state| state.with_purged(last))?;
        self.drop_below(last.index + 1)
    }

    /// Notes that a snapshot up to `last` is on the disk.
    pub(super) fn set_snapshot(&self, last: u64) {
        self.snapshot_next.fetch_max(last.saturating_add(1), Ordering::AcqRel);
    }

    /// Makes the log begin at `first`.
    pub(super) fn drop_below(&self, first: u64) -> io::Result<()> {
        let offset = i64::try_from(first).map_err(invalid)?;
        if first > self.end() {
            self.log
                .truncate_fully_and_start_at(offset, ProducerState::default())
                .map_err(io::Error::other)?;
        } else {
            self.log.advance_log_start(offset).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// This voter's vote.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.state.lock().vote()
    }

    /// Stores the vote; on return it is on the disk.
    pub(super) fn save_vote(&self, vote: &Vote) -> io::Result<()> {
        self.change_state(|state| state.with_vote(vote))
    }

    /// What this voter has drawn when it first wrote to its disk.
    pub(super) fn state_id(&self) -> Uuid {
        self.state.lock().state_id()
    }

    /// Whether the quorum was begun with this voter on this disk.
    pub(super) fn is_founder(&self) -> bool {
        self.state.lock().is_founder()
    }

    /// Notes that the quorum is begun with this voter; on return it is on the disk.
    pub(super) fn become_founder(&self) -> io::Result<()> {
        self.change_state(QuorumState::as_founder)
    }

    /// Draws another state id, so that nobody who knew this voter is answered, and stores the vote. Returns the id; it
    /// is on the disk then.
    pub(super) fn begin_anew(&self, vote: &Vote) -> io::Result<Uuid> {
        self.change_state(|state| state.begun_anew(vote))?;
        Ok(self.state_id())
    }

    fn change_state(&self, change: impl FnOnce(&QuorumState) -> QuorumState) -> io::Result<()> {
        let mut state = self.state.lock();
        let changed = change(&state);
        changed.store(&*self.fs, &self.dir.join(state_file::FILE_NAME))?;
        *state = changed;
        Ok(())
    }
}

/// Opens the partition of the metadata log, or creates it.
fn open_partition(options: &QuorumOptions) -> Result<Log, QuorumError> {
    let config = || LogConfig {
        segment_bytes: SEGMENT_BYTES,
        retention_ms: None,
        retention_bytes: None,
        max_message_bytes: MAX_ENTRY_BYTES as u32,
        uses_reserve: true,
        ..LogConfig::default()
    };
    let dir = &options.log_dir;
    let (topic, partition) = (METADATA_TOPIC, METADATA_PARTITION);
    let error = match dir.open_log(topic, partition, METADATA_TOPIC_ID, config()) {
        Ok(log) => return Ok(log),
        Err(error) => error,
    };
    // A crash may have interrupted the creation. Nothing of the quorum's is there then, neither
    // entries, which `create_log` looks for, nor a vote.
    let state = partition_path(dir).join(state_file::FILE_NAME);
    let creatable = matches!(error, OpenLogError::NotFound(_) | OpenLogError::Damaged { .. });
    if !creatable || options.fs.exists(&state).map_err(QuorumError::io("metadata log"))? {
        return Err(open_error(error));
    }
    check_unused(dir)?;
    match dir.create_log(topic, partition, METADATA_TOPIC_ID, config()) {
        Err(OpenLogError::AlreadyExists(_)) => Err(open_error(error)),
        created => created.map_err(open_error),
    }
}

/// Refuses a directory without a vote that was in use: what it had promised and decided is lost. Taken for new, it
/// would begin a second quorum under the id of its cluster, and all topics in it would be strays.
///
/// A first start that crashed before there was a vote leaves neither of the two signs: entries, whose end is recorded,
/// and the broker epoch come after it.
pub(super) fn check_unused(dir: &LogDir) -> Result<(), QuorumError> {
    let end = dir.recorded_flushed(METADATA_TOPIC, METADATA_PARTITION);
    let end = end.filter(|end| *end > 0);
    if end.is_none() && dir.stored_broker_epoch().is_none() {
        return Ok(());
    }
    let held = end.map_or_else(String::new, |end| format!(" and held the entries below {end}"));
    let reason = format!(
        "it, or the vote in it, is gone although the directory was in use{held}: restore the volume; if it is lost \
         for good, empty the data directory, and in a cluster of several brokers permit the new disk with \
         `millrace broker replace-disk {}` and start with their addresses as seeds",
        dir.identity().node_id
    );
    Err(QuorumError::damaged(partition_path(dir).display().to_string(), reason))
}

/// Where the metadata log is, or would be.
pub(super) fn partition_path(dir: &LogDir) -> PathBuf {
    dir.path().join(format!("{METADATA_TOPIC}-{METADATA_PARTITION}"))
}

fn open_error(error: OpenLogError) -> QuorumError {
    match error {
        OpenLogError::Io { path, source } => QuorumError::Io {
            what: path.display().to_string(),
            source,
        },
        OpenLogError::Offline(offline) => QuorumError::Io {
            what: "metadata log".into(),
            source: io::Error::other(offline),
        },
        other => QuorumError::damaged("metadata log", other.to_string()),
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
