//! The stream of one member, as its coordinator knows it.

use std::sync::atomic::{AtomicBool, Ordering};

use millrace_engine::group::{GroupId, MemberId};
use tokio::sync::Notify;

/// A stream by which heartbeats of one member come.
#[derive(Debug)]
pub struct MemberStream {
    pub(super) group: GroupId,
    pub(super) member: MemberId,
    wake: Notify,
    ended: AtomicBool,
}

impl MemberStream {
    /// A stream that has just begun.
    pub fn new(group: GroupId, member: MemberId) -> Self {
        Self {
            group,
            member,
            wake: Notify::new(),
            ended: AtomicBool::new(false),
        }
    }

    /// Waits until there is news for the member.
    pub async fn news(&self) {
        self.wake.notified().await;
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}
