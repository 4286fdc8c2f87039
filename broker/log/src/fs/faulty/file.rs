//! One open file of the faulty disk.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::FaultyFileSystem;
use super::state::{State, eio};
use crate::fs::File;

pub(super) struct FaultyFile {
    pub disk: FaultyFileSystem,
    pub path: PathBuf,
    pub id: u64,
    pub generation: u64,
    pub writable: bool,
    /// Failed writebacks that this handle has reported, or that were before it.
    pub seen_failures: AtomicU64,
}

impl FaultyFile {
    fn with<T>(&self, act: impl FnOnce(&mut State, u64) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        if state.generation != self.generation {
            return Err(eio("this handle is from before the crash"));
        }
        act(&mut state, self.id)
    }

    fn read(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.with(|state, id| {
            if state.plan.matches(&self.path) && state.rng.chance(state.plan.read_error_per_million) {
                state.counts.read_errors += 1;
                return Err(eio("read"));
            }
            let bytes = &state.files[&id].current;
            let start = usize::try_from(pos).unwrap_or(usize::MAX).min(bytes.len());
            let end = start.saturating_add(len).min(bytes.len());
            state.bytes_read += (end - start) as u64;
            Ok(Bytes::copy_from_slice(&bytes[start..end]))
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state, id| {
            let fails = state.sync_fault(&self.path);
            let lies = state.plan.sync_data_does_nothing;
            let hides = state.plan.failed_syncs_succeed;
            let is_full = state.plan.syncs_find_no_room && state.plan.matches(&self.path);
            state.counts.disk_full += u64::from(is_full);
            let Some(inode) = state.files.get_mut(&id) else {
                return Ok(());
            };
            if is_full {
                inode.drop_dirty();
                return Err(io::ErrorKind::StorageFull.into());
            }
            if fails {
                inode.drop_dirty();
                return if hides { Ok(()) } else { Err(eio("fsync")) };
            }
            let failures = inode.failed_writebacks;
            if self.seen_failures.swap(failures, Ordering::Relaxed) < failures {
                return Err(eio("an earlier writeback"));
            }
            if !lies {
                inode.sync();
            }
            Ok(())
        })
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.generation == self.generation
            && let Some(inode) = state.files.get_mut(&self.id)
        {
            inode.handles = inode.handles.saturating_sub(1);
        }
    }
}

impl File for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|state, id| Ok(state.files[&id].current.len() as u64))
    }

    fn read_exact_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        let bytes = self.read(pos, buf.len())?;
        if bytes.len() < buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.copy_from_slice(&bytes);
        Ok(())
    }

    fn read_at(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        self.read(pos, len)
    }

    fn write_all_vectored_at(&self, slices: &[IoSlice<'_>], pos: u64) -> io::Result<()> {
        let mut data: Vec<u8> = Vec::with_capacity(slices.iter().map(|slice| slice.len()).sum());
        for slice in slices {
            data.extend_from_slice(slice);
        }
        self.with(|state, id| {
            if !self.writable {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            if let Err(error) = state.write_fault(&self.path) {
                // Part of the bytes may have arrived all the same.
                let keep = state.rng.below(data.len() as u64 + 1);
                data.truncate(usize::try_from(keep).unwrap_or(0));
                let clock = state.clock_ms;
                if let Some(inode) = state.files.get_mut(&id) {
                    inode.write(pos, &data, clock);
                }
                state.recount();
                return Err(error);
            }
            let clock = state.clock_ms;
            let old_len = state.files[&id].current.len() as u64;
            let grows = (pos + data.len() as u64).saturating_sub(old_len);
            let room = state.plan.capacity_bytes.saturating_sub(state.used_bytes);
            let full = grows > room;
            if full {
                state.counts.disk_full += 1;
                // As a real disk does: what still fits is written, then the call fails.
                let fits = data.len() as u64 - (grows - room).min(data.len() as u64);
                data.truncate(usize::try_from(fits).unwrap_or(0));
            }
            if let Some(inode) = state.files.get_mut(&id) {
                inode.write(pos, &data, clock);
            }
            state.used_bytes += (pos + data.len() as u64).saturating_sub(old_len);
            if full {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state, id| {
            state.write_fault(&self.path)?;
            let clock = state.clock_ms;
            if let Some(inode) = state.files.get_mut(&id) {
                inode.set_len(usize::try_from(len).unwrap_or(usize::MAX), clock);
            }
            state.recount();
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn map(&self, pos: u64, len: usize) -> io::Result<Bytes> {
        let bytes = self.read(pos, len)?;
        if bytes.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }

    fn drop_cache(&self, from: u64) {
        let _ = self.with(|state, id| {
            if let Some(inode) = state.files.get_mut(&id) {
                inode.drop_cache(from);
            }
            state.recount();
            Ok(())
        });
    }
}
