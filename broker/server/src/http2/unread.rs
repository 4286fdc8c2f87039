//! How much of a connection's window is taken by calls that do not read.
//!
//! All calls of a connection share its window. What came for calls that wait for memory takes of it, and the rest of
//! a call that has its memory could not come: each would wait for the other. So the window grows by what is not read,
//! as long as there is room for that in the broker.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::limits::{HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_WIDENED_MOST_BYTES, HTTP2_WIDENED_STEP_BYTES};

/// So much may stay unread before the window grows.
const ROOM: usize = HTTP2_CONNECTION_WINDOW_BYTES as usize / 2;

/// Bytes of one connection that came and that nobody has read, in all of its calls.
#[derive(Debug, Default)]
pub struct Unread {
    bytes: AtomicUsize,
    /// By how much the window has grown.
    widened: AtomicUsize,
    changed: Notify,
}

impl Unread {
    /// Bytes came and wait to be read.
    pub fn add(&self, bytes: usize) {
        let unread = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unread > ROOM + self.widened.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }

    /// Some of them were read, or thrown away.
    pub fn take(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before - bytes <= ROOM && self.widened.load(Ordering::Relaxed) > 0 {
            self.changed.notify_one();
        }
    }

    /// Waits until the window may have to be another one.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// By how much a connection's window has grown.
#[derive(Debug)]
pub struct Widening {
    /// What all connections may grow by.
    room: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Widening {
    /// Not at all yet.
    pub fn new(room: Arc<Semaphore>) -> Self {
        Self { room, held: None }
    }

    /// The connection's window as it has to be now, and whether there was no room for all of it.
    pub fn adjust(&mut self, unread: &Unread) -> (u32, bool) {
        let bytes = unread.bytes.load(Ordering::Relaxed);
        let wanted = match bytes {
            0..=ROOM => 0,
            _ => bytes
                .next_multiple_of(HTTP2_WIDENED_STEP_BYTES)
                .min(HTTP2_WIDENED_MOST_BYTES),
        };
        if wanted == 0 {
            self.held = None;
        }
        while self.bytes() < wanted
            && let Some(more) = self.step()
        {
            match &mut self.held {
                Some(held) => held.merge(more),
                held @ None => *held = Some(more),
            }
        }
        unread.widened.store(self.bytes(), Ordering::Relaxed);
        let window = HTTP2_CONNECTION_WINDOW_BYTES + u32::try_from(self.bytes()).unwrap_or(0);
        (window, self.bytes() < wanted)
    }

    fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    fn step(&self) -> Option<OwnedSemaphorePermit> {
        let step = u32::try_from(HTTP2_WIDENED_STEP_BYTES).ok()?;
        self.room.clone().try_acquire_many_owned(step).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const WINDOW: u32 = HTTP2_CONNECTION_WINDOW_BYTES;

    #[test]
    fn the_window_grows_by_what_is_not_read_while_there_is_room() {
        let room = Arc::new(Semaphore::new(3 * MIB));
        let (one, other) = (Unread::default(), Unread::default());
        let (mut first, mut second) = (Widening::new(room.clone()), Widening::new(room.clone()));
        one.add(ROOM);
        assert_eq!(first.adjust(&one), (WINDOW, false), "as always");
        one.add(MIB);
        assert_eq!(first.adjust(&one), (WINDOW + (2 << 20), false));
        other.add(2 * MIB);
        assert_eq!(
            second.adjust(&other),
            (WINDOW + (1 << 20), true),
            "there is no room for more"
        );
        one.take(MIB);
        assert_eq!(first.adjust(&one), (WINDOW, false));
        assert_eq!(second.adjust(&other), (WINDOW + (2 << 20), false));
        drop((first, second));
        assert_eq!(room.available_permits(), 3 * MIB);
    }

    #[test]
    fn one_connection_has_not_all_of_it() {
        let mut widening = Widening::new(Arc::new(Semaphore::new(1 << 30)));
        let unread = Unread::default();
        unread.add(1 << 29);
        let most = u32::try_from(HTTP2_WIDENED_MOST_BYTES).unwrap();
        assert_eq!(widening.adjust(&unread), (WINDOW + most, false));
    }

    #[tokio::test]
    async fn who_serves_the_connection_is_told() {
        let unread = Unread::default();
        unread.add(ROOM + 1);
        unread.changed().await;
        let mut widening = Widening::new(Arc::new(Semaphore::new(MIB)));
        widening.adjust(&unread);
        unread.take(1);
        unread.changed().await;
    }
}
