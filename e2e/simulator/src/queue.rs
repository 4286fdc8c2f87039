//! What is due when: the virtual clock's events in their order.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// Events by the time at which they are due, those of one time in the order in which they were
/// added.
///
/// The heap holds only keys and places: events are large, and each one passes many others. What runs
/// cost most is to keep it in order, so a key is one number: when the event is due in nanoseconds, how
/// many were added before it, and its place.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    order: BinaryHeap<Reverse<u128>>,
    places: Vec<Option<T>>,
    free: Vec<usize>,
    added: u64,
}

/// Bits of a key for the place: so many events may wait at a time.
const PLACE_BITS: u32 = 24;

/// Bits of a key for the time when the event is due, in nanoseconds; those in between count what was added.
const DUE_BITS: u32 = 64;

fn key(due: Duration, added: u64, place: usize) -> u128 {
    assert!(
        due.as_nanos() >> DUE_BITS == 0 && added >> (64 - PLACE_BITS) == 0 && place >> PLACE_BITS == 0,
        "a run has its bounds"
    );
    due.as_nanos() << (u128::BITS - DUE_BITS) | u128::from(added) << PLACE_BITS | place as u128
}

fn due(key: u128) -> Duration {
    #[allow(clippy::cast_possible_truncation, reason = "so many bits are left")]
    Duration::from_nanos((key >> (u128::BITS - DUE_BITS)) as u64)
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            order: BinaryHeap::new(),
            places: Vec::new(),
            free: Vec::new(),
            added: 0,
        }
    }

    pub(crate) fn add(&mut self, due: Duration, event: T) {
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place] = Some(event);
                place
            }
            None => {
                self.places.push(Some(event));
                self.places.len() - 1
            }
        };
        self.added += 1;
        self.order.push(Reverse(key(due, self.added, place)));
    }

    /// When the next event is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.order.peek().map(|Reverse(key)| due(*key))
    }

    /// Takes the next event out.
    pub(crate) fn pop(&mut self) -> Option<(Duration, T)> {
        let Reverse(key) = self.order.pop()?;
        #[allow(clippy::cast_possible_truncation, reason = "so many bits are left")]
        let place = (key & ((1 << PLACE_BITS) - 1)) as usize;
        self.free.push(place);
        self.places[place].take().map(|event| (due(key), event))
    }
}
