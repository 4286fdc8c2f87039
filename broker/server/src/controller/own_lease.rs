//! For how long this broker knows that it is not fenced: what it leads is led by nobody else then.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// The broker's lease as far as it knows itself.
#[derive(Debug)]
pub(crate) struct OwnLease {
    session: Duration,
    /// `None`: nothing was heard yet.
    until: watch::Sender<Option<Instant>>,
}

impl OwnLease {
    /// No lease yet; each sign of life that counts prolongs it by `session`.
    pub(crate) fn new(session: Duration) -> Self {
        Self {
            session,
            until: watch::Sender::new(None),
        }
    }

    /// A sign of life counts that was sent at this time: the controller has heard it later, and counts from then.
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

    fn holds_at(&self, now: Instant) -> bool {
        holds(*self.until.borrow(), now)
    }

    /// Waits until it holds. False if it does not within this time.
    pub(crate) async fn wait(&self, within: Duration) -> bool {
        if self.holds_at(Instant::now()) {
            return true;
        }
        let mut news = self.until.subscribe();
        let renewed = news.wait_for(|until| holds(*until, Instant::now()));
        matches!(tokio::time::timeout(within, renewed).await, Ok(Ok(_)))
    }
}

fn holds(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| now < until)
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
}
