//! Open files that are kept for the next use, as many as the process can have beside its connections.
//!
//! A broker may hold more partitions than the operating system gives it file handles. So the handles that segments keep
//! are a cache: those that are opened last push out the ones that are kept for longest. One that was written to through
//! is kept until its data is on the disk, as an error of writing back is told to those who have the file open. If
//! nothing else can be closed, that data is forced there first.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::File;

/// How many handles are given back at a time when there are no more.
const GIVEN_BACK_AT_ONCE: usize = 64;

/// How often opening is tried again after others gave theirs back, which somebody else may have taken.
const TRIES: usize = 8;

/// From this many on, the list is looked through for files that are gone whenever it has doubled.
const LOOKED_THROUGH: usize = 1_024;

/// Those that may be open, the oldest first.
static KEPT: Mutex<VecDeque<Weak<KeptFile>>> = Mutex::new(VecDeque::new());

static MOST_KEPT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Keeps at most so many files open for their next use, in the whole process; those with data that is not on the disk
/// yet count, but stay.
pub fn keep_at_most(files: usize) {
    MOST_KEPT.store(files, Ordering::Relaxed);
}

/// A file that is opened when it is needed, and kept.
pub(crate) struct KeptFile {
    file: Mutex<Option<Arc<dyn File>>>,
    /// Whether it stays open until this is dropped: another file has its name by now, or soon.
    pinned: AtomicBool,
    /// Whether something was written that may not be on the disk.
    unsynced: AtomicBool,
    /// Whether that could not be forced to the disk when its handle was needed elsewhere.
    failed: AtomicBool,
    listed: AtomicBool,
}

impl KeptFile {
    /// One that is open already, or not.
    pub fn new(file: Option<Arc<dyn File>>) -> Arc<Self> {
        let is_open = file.is_some();
        let kept = Arc::new(Self {
            file: Mutex::new(file),
            pinned: AtomicBool::new(false),
            unsynced: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            listed: AtomicBool::new(false),
        });
        if is_open {
            kept.list();
        }
        kept
    }

    /// The file, opened if it is not.
    pub fn get(self: &Arc<Self>, open: impl FnOnce() -> io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        let mut slot = self.file.lock();
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = open()?;
        *slot = Some(file.clone());
        drop(slot);
        self.list();
        Ok(file)
    }

    /// Gives the handle back, unless it is pinned. Who uses it at this moment keeps it for so long.
    pub fn close(&self) {
        let mut slot = self.file.lock();
        if !self.pinned.load(Ordering::Acquire) {
            *slot = None;
        }
    }

    /// Opens the file if it is not, and keeps it open from now on.
    pub fn pin(self: &Arc<Self>, open: impl FnOnce() -> io::Result<Arc<dyn File>>) -> io::Result<()> {
        // Nobody may close it in between.
        self.pinned.store(true, Ordering::Release);
        self.get(open).map(|_| ()).inspect_err(|_| self.unpin())
    }

    /// Lets go of a pinned file.
    pub fn unpin(&self) {
        self.pinned.store(false, Ordering::Release);
    }

    /// Something was written by who still holds the file.
    pub fn note_write(&self) {
        self.unsynced.store(true, Ordering::Release);
    }

    /// Forces what was written to the disk.
    pub fn sync_data(&self, file: &dyn File) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            // The operating system tells of it only once.
            return Err(io::Error::other("writing back failed before its file was to be closed"));
        }
        // First, so that what is written meanwhile counts for the next time.
        self.unsynced.store(false, Ordering::Release);
        file.sync_data().inspect_err(|_| self.note_write())
    }

    fn list(self: &Arc<Self>) {
        if self.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut kept = KEPT.lock();
        if kept.len() >= LOOKED_THROUGH && kept.len().is_power_of_two() {
            kept.retain(|file| file.strong_count() > 0);
        }
        kept.push_back(Arc::downgrade(self));
        let most = MOST_KEPT.load(Ordering::Relaxed);
        // One more for each that can't be given back now.
        let tried = 2 * kept.len().saturating_sub(most);
        for _ in 0..tried.min(GIVEN_BACK_AT_ONCE) {
            if kept.len() <= most {
                break;
            }
            close_first(&mut kept, false);
        }
    }

    /// Closes it, unless it is in use, or has data that is not on the disk and may not be forced there.
    fn close_if_free(&self, may_sync: bool) -> Closing {
        let Some(mut slot) = self.file.try_lock() else {
            return Closing::Refused;
        };
        if self.pinned.load(Ordering::Acquire) {
            return Closing::Refused;
        }
        if let Some(file) = &*slot {
            if Arc::strong_count(file) > 1 {
                return Closing::Refused;
            }
            if self.unsynced.load(Ordering::Acquire) && !(may_sync && self.sync_to_close(&**file)) {
                return Closing::Refused;
            }
        }
        self.listed.store(false, Ordering::Release);
        if slot.take().is_some() {
            Closing::Closed
        } else {
            Closing::WasClosed
        }
    }

    fn sync_to_close(&self, file: &dyn File) -> bool {
        let synced = self.sync_data(file).is_ok();
        if !synced {
            self.failed.store(true, Ordering::Release);
        }
        synced
    }
}

enum Closing {
    Closed,
    /// There was no handle to give back.
    WasClosed,
    Refused,
}

/// Closes the first file of the list, which leaves it then; one that refuses stands behind the rest.
fn close_first(kept: &mut VecDeque<Weak<KeptFile>>, may_sync: bool) -> Closing {
    let Some(file) = kept.pop_front() else {
        return Closing::WasClosed;
    };
    let closing = file
        .upgrade()
        .map_or(Closing::WasClosed, |file| file.close_if_free(may_sync));
    if matches!(closing, Closing::Refused) {
        kept.push_back(file);
    }
    closing
}

/// Closes up to [`GIVEN_BACK_AT_ONCE`] of all files. Answers with whether any handle came of it.
fn give_back(kept: &mut VecDeque<Weak<KeptFile>>, may_sync: bool) -> bool {
    let mut closed = 0;
    for _ in 0..kept.len() {
        if matches!(close_first(kept, may_sync), Closing::Closed) {
            closed += 1;
        }
        if closed == GIVEN_BACK_AT_ONCE {
            break;
        }
    }
    closed > 0
}

/// Opens a file; if the process or the machine has no handle left, others give theirs back.
pub(super) fn open_with<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TRIES {
        match open() {
            Err(error) if is_out_of_handles(&error) => {
                let mut kept = KEPT.lock();
                if !give_back(&mut kept, false) && !give_back(&mut kept, true) {
                    // Another thread may have closed them all meanwhile: once more.
                    break;
                }
            }
            opened => return opened,
        }
    }
    open()
}

fn is_out_of_handles(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
