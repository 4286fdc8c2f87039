//! The memory of one call's messages.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

use super::budget::MemoryPermit;

/// The permits of the messages that a call has received, in their order, and of its answer. Calls
/// that hold messages for long take them; else a permit goes back when the next message begins, or
/// when nobody reads the request any more and the answer has begun.
#[derive(Clone, Debug, Default)]
pub struct MessagePermits(Arc<Mutex<Permits>>);

#[derive(Debug, Default)]
struct Permits {
    claimed: bool,
    /// Nobody reads the request any more.
    read: bool,
    /// Of messages.
    queue: VecDeque<MemoryPermit>,
    /// Of the answer.
    kept: Vec<MemoryPermit>,
}

impl MessagePermits {
    /// From now on the caller takes each message's permit by [`MessagePermits::take`].
    pub fn claim(&self) {
        self.0.lock().claimed = true;
    }

    /// The permit of the oldest message not yet taken.
    #[must_use]
    pub fn take(&self) -> Option<MemoryPermit> {
        self.0.lock().queue.pop_front()
    }

    /// The permit of the message that came last, shared.
    #[must_use]
    pub fn last(&self) -> Option<MemoryPermit> {
        self.0.lock().queue.back().cloned()
    }

    /// A message begins: where nobody takes permits, those before it go back, so that it
    /// does not wait for them.
    pub(super) fn begin(&self) {
        let mut permits = self.0.lock();
        if !permits.claimed {
            permits.queue.clear();
        }
    }

    pub(super) fn push(&self, permit: MemoryPermit) {
        self.0.lock().queue.push_back(permit);
    }

    /// What the message that came last takes decoded.
    pub(super) fn add_decoded_to_last(&self, decoded: MemoryPermit) {
        if let Some(permit) = self.0.lock().queue.back_mut() {
            permit.add_decoded(decoded);
        }
    }

    /// Keeps what the answer itself takes, until it is sent.
    pub fn keep(&self, permit: MemoryPermit) {
        self.0.lock().kept.push(permit);
    }

    /// Whether what the answer takes is kept.
    pub(super) fn keeps_answer(&self) -> bool {
        !self.0.lock().kept.is_empty()
    }

    /// Nobody reads the request any more.
    pub(super) fn end(&self) {
        self.0.lock().read = true;
    }

    /// Whether what answers has nothing of the request, once it answers.
    pub(super) fn is_read(&self) -> bool {
        let permits = self.0.lock();
        permits.read && !permits.claimed
    }

    /// The request is not needed any more; its answer may be.
    pub fn release(&self) {
        self.0.lock().queue.clear();
    }
}
