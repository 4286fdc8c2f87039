//! What a reader was told last of each partition, to tell only what changed.

use std::collections::HashMap;

use crate::{memory::StreamState, partition::Offsets, replication::Key};

/// Partitions that are remembered beyond twice those that a request names.
const BESIDE: usize = 64;

/// Of which a reader is told when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    high_watermark: i64,
    log_start: i64,
}

/// What was told of a partition.
#[derive(Clone, Copy, Debug)]
struct Entry {
    told: Told,
    /// The request that named it last.
    request: u32,
}

/// What a partition takes at most in the table, with its place in the index.
const ENTRY_BYTES: usize = size_of::<(Key, Entry)>() + 16;

/// Whether there is anything to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The reader knows.
    No,
    /// It does not, and is told at once.
    Yes,
    /// There is no memory to know by: it is told with each answer, which is not sent sooner for that.
    Unknown,
}

/// What one stream's reader was told.
#[derive(Debug)]
pub struct ToldOf {
    entries: HashMap<Key, Entry>,
    memory: StreamState,
    request: u32,
}

impl ToldOf {
    /// Nothing yet; what it will be counts in `memory`.
    #[must_use]
    pub fn nothing(memory: StreamState) -> Self {
        Self {
            entries: HashMap::new(),
            memory,
            request: 0,
        }
    }

    /// The next request comes.
    pub fn begin(&mut self) {
        self.request = self.request.wrapping_add(1);
    }

    /// A partition is at `offsets`.
    pub fn tell(&mut self, key: Key, offsets: &Offsets) -> News {
        let told = Told {
            high_watermark: offsets.high_watermark,
            log_start: offsets.log_start,
        };
        let request = self.request;
        if let Some(entry) = self.entries.get_mut(&key) {
            let before = std::mem::replace(entry, Entry { told, request });
            return if before.told == told { News::No } else { News::Yes };
        }
        if !self.make_room() {
            return News::Unknown;
        }
        self.entries.insert(key, Entry { told, request });
        News::Yes
    }

    /// Keeps what was told of partitions that the present request, of so many, does not name from growing.
    pub fn forget_others(&mut self, named: usize) {
        if self.entries.len() > 2 * named + BESIDE {
            let request = self.request;
            self.entries.retain(|_, entry| entry.request == request);
            self.entries.shrink_to_fit();
            let _ = self.memory.hold(self.entries.capacity() * ENTRY_BYTES);
        }
    }

    /// Has room for one more, if there is memory for that.
    fn make_room(&mut self) -> bool {
        let capacity = self.entries.capacity();
        if self.entries.len() < capacity {
            return true;
        }
        // As it grows by itself: to seven eighths of a power of two.
        let wanted = (2 * capacity).max(14);
        if !self.memory.hold(wanted * ENTRY_BYTES) {
            return false;
        }
        self.entries.reserve(wanted - self.entries.len());
        true
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::memory::MemoryBudget;

    fn at(high_watermark: i64) -> Offsets {
        Offsets {
            log_start: 0,
            last_stable: high_watermark,
            high_watermark,
            log_end: high_watermark,
            leader_epoch: 1,
        }
    }

    #[test]
    fn a_reader_is_told_what_changed() {
        let mut told = ToldOf::nothing(StreamState::default());
        let (one, other) = ((Uuid::nil(), 0), (Uuid::nil(), 1));
        told.begin();
        assert_eq!(told.tell(one, &at(5)), News::Yes);
        assert_eq!(told.tell(one, &at(5)), News::No);
        assert_eq!(told.tell(other, &at(5)), News::Yes);
        assert_eq!(told.tell(one, &at(6)), News::Yes);
    }

    #[test]
    fn what_is_remembered_counts_and_is_forgotten() {
        let budget = MemoryBudget::new(8 << 20, 1 << 20);
        let mut told = ToldOf::nothing(budget.connection().stream_state());
        told.begin();
        for number in 0..10_000 {
            assert_eq!(told.tell((Uuid::nil(), number), &at(1)), News::Yes);
            assert!(budget.streams_used() >= told.entries.capacity() * size_of::<(Key, Entry)>());
        }
        told.forget_others(10_000);
        assert_eq!(told.tell((Uuid::nil(), 9_999), &at(1)), News::No);
        let many = budget.streams_used();
        told.begin();
        assert_eq!(told.tell((Uuid::nil(), 7), &at(1)), News::No);
        told.forget_others(1);
        assert_eq!(told.entries.len(), 1);
        assert!(budget.streams_used() < many / 100);
        drop(told);
        assert_eq!(budget.streams_used(), 0);
    }

    #[test]
    fn without_memory_a_reader_is_told_with_each_answer() {
        let budget = MemoryBudget::new(8 << 20, 1 << 20);
        let connection = budget.connection();
        let mut others = connection.stream_state();
        assert!(others.hold(1 << 20));
        let mut told = ToldOf::nothing(connection.stream_state());
        for _ in 0..3 {
            told.begin();
            assert_eq!(told.tell((Uuid::nil(), 1), &at(1)), News::Unknown);
        }
        drop(others);
        assert_eq!(told.tell((Uuid::nil(), 1), &at(1)), News::Yes);
        assert_eq!(told.tell((Uuid::nil(), 1), &at(1)), News::No);
    }
}
