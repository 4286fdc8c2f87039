//! One file of the faulty disk: what the process sees, what the disk holds, and the changes in between.

use std::io;

use super::plan::FaultPlan;
use super::rng::SplitMix64;

const SECTOR: usize = 512;

#[derive(Clone)]
enum Change {
    Write { pos: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone)]
pub(super) struct Inode {
    /// The page cache: what reads return.
    pub current: Vec<u8>,
    /// What a crash would leave if it lost all that was not synced.
    pub durable: Vec<u8>,
    /// Changes since the last sync, in order.
    dirty: Vec<Change>,
    pub modified_ms: i64,
    /// Open handles, which keep a nameless file alive.
    pub handles: u32,
    /// Writebacks that failed so far; each handle that was open then reports it once.
    pub failed_writebacks: u64,
}

fn write_into(bytes: &mut Vec<u8>, pos: usize, data: &[u8]) {
    if bytes.len() < pos + data.len() {
        bytes.resize(pos + data.len(), 0);
    }
    bytes[pos..pos + data.len()].copy_from_slice(data);
}

impl Inode {
    pub(super) fn new(now_ms: i64) -> Self {
        Inode {
            current: Vec::new(),
            durable: Vec::new(),
            dirty: Vec::new(),
            modified_ms: now_ms,
            handles: 0,
            failed_writebacks: 0,
        }
    }

    pub(super) fn write(&mut self, pos: u64, data: &[u8], now_ms: i64) {
        let pos = usize::try_from(pos).unwrap_or(usize::MAX);
        if data.is_empty() {
            return;
        }
        write_into(&mut self.current, pos, data);
        self.dirty.push(Change::Write {
            pos,
            data: data.to_vec(),
        });
        self.modified_ms = now_ms;
    }

    pub(super) fn set_len(&mut self, len: usize, now_ms: i64) {
        self.current.resize(len, 0);
        self.dirty.push(Change::SetLen(len));
        self.modified_ms = now_ms;
    }

    pub(super) fn sync(&mut self) {
        for change in self.dirty.drain(..) {
            match change {
                Change::Write { pos, data } => write_into(&mut self.durable, pos, &data),
                Change::SetLen(len) => self.durable.resize(len, 0),
            }
        }
    }

    /// A failed fsync: the pages are marked clean, the disk never got them.
    pub(super) fn drop_dirty(&mut self) {
        self.dirty.clear();
    }

    /// Clean bytes from `from` on are forgotten; dirty ones stay, and so does all before.
    pub(super) fn drop_cache(&mut self, from: u64) {
        let mut fresh = self.durable.clone();
        for change in &self.dirty {
            match change {
                Change::Write { pos, data } => write_into(&mut fresh, *pos, data),
                Change::SetLen(len) => fresh.resize(*len, 0),
            }
        }
        let kept = usize::try_from(from)
            .unwrap_or(usize::MAX)
            .min(fresh.len())
            .min(self.current.len());
        fresh[..kept].copy_from_slice(&self.current[..kept]);
        self.current = fresh;
    }

    pub(super) fn edit(&mut self, change: impl Fn(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        self.sync();
        change(&mut self.durable)?;
        change(&mut self.current)
    }

    pub(super) fn crash(&mut self, rng: &mut SplitMix64, plan: &FaultPlan) {
        let dirty = std::mem::take(&mut self.dirty);
        for change in dirty {
            if plan.lose_all_unsynced {
                break;
            }
            let fate = rng.below(3);
            if fate == 0 {
                continue;
            }
            match change {
                Change::SetLen(len) => self.durable.resize(len, 0),
                Change::Write { pos, data } if fate == 1 || !plan.torn_writes => {
                    write_into(&mut self.durable, pos, &data);
                }
                Change::Write { pos, data } => tear(&mut self.durable, pos, &data, rng),
            }
        }
        self.current = self.durable.clone();
    }
}

/// Either a prefix that ends at any byte, or any set of sectors; lost sectors within the new length read as zeros
/// (or as what was there before).
fn tear(durable: &mut Vec<u8>, pos: usize, data: &[u8], rng: &mut SplitMix64) {
    if rng.below(2) == 0 {
        let keep = usize::try_from(rng.below(data.len() as u64 + 1)).unwrap_or(0);
        write_into(durable, pos, &data[..keep]);
        return;
    }
    // The length may have been recorded although the bytes were not.
    if rng.below(2) == 0 && durable.len() < pos + data.len() {
        durable.resize(pos + data.len(), 0);
    }
    let mut at = 0;
    while at < data.len() {
        let sector_end = ((pos + at) / SECTOR + 1) * SECTOR - pos;
        let end = sector_end.min(data.len());
        if rng.below(2) == 0 {
            write_into(durable, pos + at, &data[at..end]);
        }
        at = end;
    }
}
