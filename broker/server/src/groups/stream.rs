//! The stream of one member, as its coordinator knows it.

use std::sync::atomic::{AtomicU8, Ordering};

use millrace_engine::group::{GroupId, MemberId};
use tokio::sync::Notify;

/// A stream by which heartbeats of one member come.
#[derive(Debug)]
pub struct MemberStream {
    group: GroupId,
    member: MemberId,
    /// The member is one that a broker plays.
    of_subscriber: bool,
    wake: Notify,
    state: AtomicU8,
}

/// It is there.
const OPEN: u8 = 0;
/// It has ended, which says nothing of the client.
const ENDED: u8 = 1;
/// It has ended, and the client with it, perhaps.
const LOST: u8 = 2;

impl MemberStream {
    /// A stream that has just begun. `of_subscriber`: a broker plays the member for a subscriber.
    pub fn new(group: GroupId, member: MemberId, of_subscriber: bool) -> Self {
        Self {
            group,
            member,
            of_subscriber,
            wake: Notify::new(),
            state: AtomicU8::new(OPEN),
        }
    }

    /// Waits until there is news for the member.
    pub async fn news(&self) {
        self.wake.notified().await;
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The group.
    pub fn group(&self) -> &GroupId {
        &self.group
    }

    /// The member.
    pub fn member(&self) -> &MemberId {
        &self.member
    }

    /// Whether it is one of the same member.
    pub(super) fn is_of_the_member_of(&self, other: &Self) -> bool {
        self.member == other.member && self.group == other.group
    }

    /// Whether another stream that is the same member ends it.
    pub(super) fn is_exclusive(&self) -> bool {
        self.of_subscriber
    }

    pub(super) fn end(&self, lost: bool) {
        self.state.store(if lost { LOST } else { ENDED }, Ordering::Release);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.load(Ordering::Acquire) != OPEN
    }

    /// Whether the client may have gone with it.
    pub(super) fn is_lost(&self) -> bool {
        self.state.load(Ordering::Acquire) == LOST
    }
}
