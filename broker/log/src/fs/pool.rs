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

/// How many times as long as asked for a buffer may be: who asked may count only what it asked for.
const MAX_WASTE: usize = 2;

/// A buffer of at least `len` bytes, and of not many more, that an earlier read has filled, if one is kept: to be
/// written over.
pub(super) fn take(len: usize) -> Option<Vec<u8>> {
    if len < MIN_BYTES {
        return None;
    }
    let mut kept = KEPT.lock();
    let fits = len..=len.saturating_mul(MAX_WASTE);
    let at = kept.iter().position(|buffer| fits.contains(&buffer.len()))?;
    Some(kept.remove(at))
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
        // The one that served nobody for longest goes: its size may be of no use to today's readers.
        let oldest = (kept.len() == MAX_KEPT).then(|| kept.remove(0));
        kept.push(buffer);
        drop(kept);
        drop(oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_serves_the_next_read_of_about_its_size() {
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
        let is_it = |found: Option<&Vec<u8>>| found.is_some_and(|found| found.as_ptr() == address);
        assert!(
            !is_it(take(MIN_BYTES).as_ref()) && !is_it(take(len / 2 - 1).as_ref()),
            "a small read would hold more memory than it asked for"
        );
        let again = take(len / 2);
        assert!(is_it(again.as_ref()));
        assert_eq!(&share(vec![1, 2, 3], 2)[..], [1, 2]);
        // Buffers of another size make room for those that are used now.
        for _ in 0..=MAX_KEPT {
            drop(share(vec![0; MIN_BYTES], MIN_BYTES));
        }
        drop(share(again.unwrap(), len));
        assert!(is_it(take(len).as_ref()));
    }
}
