//! What is due when: the virtual clock's events in their order.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// Events by the time at which they are due, those of one time in the order in which they were
/// added.
///
/// The heap holds only keys and places: events are large, and each one passes many others.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    order: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    places: Vec<Option<T>>,
    free: Vec<usize>,
    added: u64,
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
        self.order.push(Reverse((due, self.added, place)));
    }

    /// When the next event is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.order.peek().map(|Reverse((due, ..))| *due)
    }

    /// Takes the next event out.
    pub(crate) fn pop(&mut self) -> Option<(Duration, T)> {
        let Reverse((due, _, place)) = self.order.pop()?;
        self.free.push(place);
        self.places[place].take().map(|event| (due, event))
    }
}
