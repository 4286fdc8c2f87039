//! For how long this broker knows that it is not fenced: what it leads is led by nobody else then.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// The broker's lease as far as it knows itself.
#[derive(Debug)]
pub(crate) struct OwnLease {
    session: Duration,
    /// The broker leaves, and others take over although it lives.
    given_up: AtomicBool,
    /// `None`: nothing was heard yet.
    until: watch::Sender<Option<Instant>>,
}

impl OwnLease {
    /// No lease yet; each sign of life that counts prolongs it by `session`.
    pub(crate) fn new(session: Duration) -> Self {
        Self {
            session,
            given_up: AtomicBool::new(false),
            until: watch::Sender::new(None),
        }
    }

    /// A sign of life keeps the broker in service that was sent at this time: the controller has heard it later, and
    /// counts from then.
    pub(crate) fn renew(&self, sent_at: Instant) {
        let until = sent_at + self.session;
        self.until.send_if_modified(|known| {
            let later = known.is_none_or(|known| known < until);
            if later {
                *known = Some(until);
            }
            later
        });
    }

    /// From now on it never holds.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Whether it holds now.
    pub(crate) fn holds(&self) -> bool {
        self.holds_at(Instant::now())
    }

    fn holds_at(&self, now: Instant) -> bool {
        !self.given_up.load(Ordering::Acquire) && self.until.borrow().is_some_and(|until| now < until)
    }

    /// Waits until it holds. False if it does not within this time.
    pub(crate) async fn wait(&self, within: Duration) -> bool {
        let mut news = self.until.subscribe();
        let renewed = async {
            while !self.holds() {
                if self.given_up.load(Ordering::Acquire) || news.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(within, renewed).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_holds_for_a_session_from_the_sign_of_life_that_counted() {
        let second = Duration::from_secs(1);
        let lease = OwnLease::new(2 * second);
        let sent = Instant::now();
        assert!(!lease.holds_at(sent));
        lease.renew(sent);
        assert!(lease.holds_at(sent + second));
        assert!(!lease.holds_at(sent + 2 * second));
        // An answer that was late prolongs nothing, and takes nothing.
        lease.renew(sent - second);
        assert!(lease.holds_at(sent + second) && !lease.holds_at(sent + 2 * second));
        lease.renew(sent + second);
        assert!(lease.holds_at(sent + 2 * second));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_next_sign_that_counts() {
        let hour = Duration::from_secs(3_600);
        let lease = OwnLease::new(hour);
        assert!(!lease.wait(Duration::ZERO).await);
        let renewing = async { lease.renew(Instant::now()) };
        assert!(tokio::join!(lease.wait(hour), renewing).0);
        assert!(lease.wait(Duration::ZERO).await);
    }

    #[tokio::test]
    async fn who_leaves_has_no_lease_whatever_is_heard() {
        let hour = Duration::from_secs(3_600);
        let lease = OwnLease::new(hour);
        lease.renew(Instant::now());
        assert!(lease.holds());
        lease.give_up();
        lease.renew(Instant::now() + hour);
        assert!(!lease.holds() && !lease.wait(hour).await);
    }
}
