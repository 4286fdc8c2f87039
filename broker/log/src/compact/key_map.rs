//! The last offset of each key, in bounded memory.
//!
//! A key is known by 128 bits of SipHash-2-4 under a secret of this compaction. Two keys with one hash would make the
//! older one's record go: without the secret nobody can look for such a pair, and by chance one is among a billion
//! keys once in 10^20 compactions, far below what memory and checksums let through.
//!
//! ```text
//! slot   hash high u64 | hash low u64 | offset + 1 u64 (0: free)      open addressing, at most three quarters full
//! ```

use siphasher::sip128::SipHasher24;

/// Bytes that one slot takes.
const SLOT_BYTES: usize = size_of::<Slot>();

#[derive(Clone, Copy, Default)]
struct Slot {
    high: u64,
    low: u64,
    /// One more than the offset, so that fresh memory holds free slots.
    next_offset: u64,
}

/// Keys with their last offsets.
pub(crate) struct KeyMap {
    hasher: SipHasher24,
    slots: Vec<Slot>,
    len: usize,
}

impl KeyMap {
    /// An empty map that takes at most `max_bytes`, and no more than `records` keys need. One key always fits.
    pub fn new(max_bytes: usize, records: u64, hash_key: &[u8; 16]) -> Self {
        let needed = records.saturating_add(records / 3).saturating_add(2);
        let slots = usize::try_from(needed)
            .unwrap_or(usize::MAX)
            .min(max_bytes / SLOT_BYTES);
        KeyMap {
            hasher: SipHasher24::new_with_key(hash_key),
            slots: vec![Slot::default(); slots.max(2)],
            len: 0,
        }
    }

    /// Notes that a key is at `offset`, which is not negative and above all that were noted before. False if the key is
    /// not known and there is no room for it.
    pub fn note(&mut self, key: &[u8], offset: i64) -> bool {
        let (at, hash) = self.find(key);
        let slot = &self.slots[at];
        if slot.next_offset == 0 {
            if self.len >= self.slots.len() / 4 * 3 && self.len > 0 {
                return false;
            }
            self.len += 1;
        }
        self.slots[at] = Slot {
            next_offset: offset.unsigned_abs() + 1,
            ..hash
        };
        true
    }

    /// The last offset of a key.
    pub fn last_offset(&self, key: &[u8]) -> Option<i64> {
        let (at, _) = self.find(key);
        let next_offset = self.slots[at].next_offset;
        next_offset.checked_sub(1).and_then(|offset| i64::try_from(offset).ok())
    }

    /// The slot that holds the key, or the free one where it would be.
    fn find(&self, key: &[u8]) -> (usize, Slot) {
        let (high, low) = self.hasher.hash(key).as_u64();
        let count = self.slots.len();
        // The upper half of the product is evenly spread over the slots.
        let mut at = ((u128::from(high) * count as u128) >> 64) as usize;
        loop {
            let slot = &self.slots[at];
            if slot.next_offset == 0 || (slot.high, slot.low) == (high, low) {
                let next_offset = 0;
                return (at, Slot { high, low, next_offset });
            }
            at = if at + 1 == count { 0 } else { at + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_last_offset_of_each_key_is_known() {
        let mut map = KeyMap::new(1 << 20, 5_000, &[7; 16]);
        let mut model = HashMap::new();
        for offset in 0..20_000_i64 {
            let key = (offset * offset % 4_999).to_be_bytes();
            assert!(map.note(&key, offset));
            model.insert(key, offset);
        }
        for key in 0..6_000_i64 {
            let key = key.to_be_bytes();
            assert_eq!(map.last_offset(&key), model.get(&key).copied());
        }
        assert_eq!(map.last_offset(b""), None);
        assert!(map.note(b"", i64::MAX - 1));
        assert_eq!(map.last_offset(b""), Some(i64::MAX - 1));
    }

    #[test]
    fn memory_is_bounded_and_a_full_map_still_takes_keys_that_it_knows() {
        for max_bytes in [0, 100, 1_000, 100_000] {
            let mut map = KeyMap::new(max_bytes, u64::MAX, &[1; 16]);
            assert!(map.slots.len() * SLOT_BYTES <= max_bytes.max(2 * SLOT_BYTES));
            let mut offset: i64 = 0;
            while map.note(&offset.to_be_bytes(), offset) {
                offset += 1;
            }
            assert!(offset >= 1, "one key always fits");
            assert!(map.slots.iter().any(|slot| slot.next_offset == 0), "a search ends");
            assert!(map.note(&0_i64.to_be_bytes(), 1_000_000));
            assert_eq!(map.last_offset(&0_i64.to_be_bytes()), Some(1_000_000));
            assert_eq!(map.last_offset(&offset.to_be_bytes()), None);
        }
        let small = KeyMap::new(usize::MAX, 30, &[1; 16]);
        assert!(small.slots.len() < 50, "no more than is needed");
    }
}
