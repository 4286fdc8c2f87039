//! Buffers for reads, used again: fresh memory costs a page fault every 4 KiB, as much as the copy into it.

use bytes::Bytes;
use parking_lot::Mutex;

/// Smaller reads come from the allocator's own caches.
const MIN_BYTES: usize = 64 << 10;
/// Larger buffers are given back to the system.
const MAX_BYTES: usize = 5 << 20;
/// Buffers kept at most: a few readers at once, without holding memory for the busiest moment.
const MAX_KEPT: usize = 4;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer that holds `len` bytes of an earlier read, if one is kept: to be written over.
pub(super) fn take(len: usize) -> Option<Vec<u8>> {
    if len < MIN_BYTES {
        return None;
    }
    let mut kept = KEPT.lock();
    let at = kept.iter().position(|buffer| buffer.len() >= len)?;
    Some(kept.swap_remove(at))
}

/// The first `len` bytes of a buffer, which is kept for the next read when the last clone is dropped.
pub(super) fn share(buffer: Vec<u8>, len: usize) -> Bytes {
    if (MIN_BYTES..=MAX_BYTES).contains(&buffer.len()) {
        Bytes::from_owner(Pooled { buffer, len })
    } else {
        let mut buffer = buffer;
        buffer.truncate(len);
        Bytes::from(buffer)
    }
}

struct Pooled {
    buffer: Vec<u8>,
    len: usize,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut kept = KEPT.lock();
        if kept.len() < MAX_KEPT {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_serves_the_next_read_of_its_size() {
        // The largest size: other tests use the same pool with smaller ones.
        let len = MAX_BYTES;
        let buffer = vec![7; len];
        let address = buffer.as_ptr();
        let shared = share(buffer, len - 1);
        assert_eq!((shared.as_ptr(), shared.len()), (address, len - 1));
        let clone = shared.slice(1..);
        drop(shared);
        assert!(take(len).is_none(), "not used again while a clone lives");
        drop(clone);
        let again = take(len).unwrap();
        assert_eq!(again.as_ptr(), address);
        assert_eq!(&share(vec![1, 2, 3], 2)[..], [1, 2]);
    }
}
