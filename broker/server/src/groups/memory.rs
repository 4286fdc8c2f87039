//! What the coordinators of one broker take of their common budget (`group.coordinator.state.max.bytes`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// About how many bytes the state of all of a broker's coordinators takes.
#[derive(Clone, Debug, Default)]
pub(super) struct StateBytes(Arc<AtomicUsize>);

impl StateBytes {
    /// Of all together.
    pub(super) fn all(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// The part of a coordinator that begins. It counts for nothing once it is dropped.
    pub(super) fn share(&self) -> Share {
        Share {
            all: self.clone(),
            own: 0,
        }
    }
}

/// One coordinator's part.
#[derive(Debug)]
pub(super) struct Share {
    all: StateBytes,
    own: usize,
}

impl Share {
    /// What the others take. Those that take a step at the very same moment do not see what the other one lets in with
    /// it: by so much, one request for each, the sum may get above the budget.
    pub(super) fn elsewhere(&self) -> usize {
        self.all.all().saturating_sub(self.own)
    }

    /// Tells what this one takes now.
    pub(super) fn set(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.own, bytes);
        if bytes >= before {
            self.all.0.fetch_add(bytes - before, Relaxed);
        } else {
            self.all.0.fetch_sub(before - bytes, Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_counts_no_more() {
        let all = StateBytes::default();
        let (mut one, mut other) = (all.share(), all.share());
        one.set(7);
        other.set(5);
        one.set(3);
        assert_eq!((one.elsewhere(), other.elsewhere(), all.all()), (5, 3, 8));
        drop(other);
        assert_eq!((one.elsewhere(), all.all()), (0, 3));
    }
}
