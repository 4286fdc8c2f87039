//! What a stream remembers for as long as it lasts.

use millrace_proto::v1::ErrorReason;

use super::budget::{HeldBytes, Share};
use crate::error::ApiError;

/// The memory of what a stream remembers: of each partition that it follows, say. Given back when it
/// is dropped.
#[derive(Debug, Default)]
pub struct StreamState {
    /// None where nothing is counted.
    share: Option<Share>,
    held: Option<HeldBytes>,
    bytes: usize,
}

impl StreamState {
    /// Nothing yet, of a connection's share.
    pub(super) fn new(share: Share) -> Self {
        Self {
            share: Some(share),
            held: None,
            bytes: 0,
        }
    }

    /// Holds `bytes` from now on instead of what it held. False if there is not so much: then it holds
    /// what it did.
    #[must_use]
    pub fn hold(&mut self, bytes: usize) -> bool {
        let Some(share) = &self.share else { return true };
        if let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) {
            let Some(more) = share.try_more(more) else {
                return false;
            };
            match &mut self.held {
                Some(held) => held.add(more),
                None => self.held = Some(more),
            }
        } else if let Some(held) = &mut self.held {
            held.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

/// There is no memory for what a stream would have to remember.
pub fn no_stream_memory() -> ApiError {
    ApiError::new(
        ErrorReason::Overloaded,
        "The broker's memory for what streams follow is used up: follow fewer partitions on this connection, end streams that are not needed, or try again later.",
    )
}

#[cfg(test)]
mod tests {
    use crate::memory::MemoryBudget;

    #[test]
    fn a_stream_s_memory_grows_and_shrinks_within_its_connection_s_share() {
        let budget = MemoryBudget::new(200, 60);
        let (one, other) = (budget.connection(), budget.connection());
        let (mut first, mut second) = (one.stream_state(), one.stream_state());
        assert!(first.hold(20) && first.hold(50));
        assert!(!second.hold(11), "the connection has no more");
        assert!(first.hold(30) && second.hold(30));
        assert_eq!(budget.streams_used(), 60);
        let (mut third, mut fourth) = (other.stream_state(), other.stream_state());
        assert!(third.hold(40) && !fourth.hold(1), "all of it is used");
        assert!(!third.hold(41) && third.hold(40), "what it had stays");
        drop((first, second));
        assert!(third.hold(0) && fourth.hold(60));
        drop((third, fourth));
        assert_eq!(budget.streams_used(), 0);
    }
}
