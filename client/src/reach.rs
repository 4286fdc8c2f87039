//! Which brokers can't be reached at the moment: told once when it lasts, and once when it is over.
//! All that talks to brokers tries again by itself; a person who waits meanwhile must see why.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind};

/// Shorter troubles, such as a restart of a broker that others stand in for, are not told.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// Outages by address.
#[derive(Debug, Default)]
pub struct Reach(Mutex<HashMap<Arc<str>, Outage>>);

#[derive(Debug)]
struct Outage {
    since: Instant,
    told: bool,
}

impl Reach {
    /// A call to `address` failed.
    pub fn failed(&self, address: &str, error: &Error) {
        if *error.kind() == ErrorKind::Connection && self.is_to_be_told(address, Instant::now()) {
            tracing::warn!(%address, %error, "this broker can't be reached; it is tried again until it can");
        }
    }

    /// A broker at `address` answered.
    pub fn reached(&self, address: &str) {
        let outage = self.0.lock().remove(address);
        if outage.is_some_and(|outage| outage.told) {
            tracing::warn!(%address, "this broker is reached again");
        }
    }

    fn is_to_be_told(&self, address: &str, now: Instant) -> bool {
        let mut outages = self.0.lock();
        let outage = outages.entry(address.into()).or_insert(Outage {
            since: now,
            told: false,
        });
        let lasts = now.saturating_duration_since(outage.since) >= TOLD_AFTER;
        lasts && !std::mem::replace(&mut outage.told, true)
    }

    /// Forgets addresses that nobody goes to any more.
    pub fn retain(&self, addresses: impl Fn(&str) -> bool) {
        self.0.lock().retain(|address, _| addresses(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_when_it_lasts() {
        let reach = Reach::default();
        let start = Instant::now();
        assert!(!reach.is_to_be_told("a:1", start));
        assert!(!reach.is_to_be_told("a:1", start + TOLD_AFTER / 2));
        assert!(reach.is_to_be_told("a:1", start + TOLD_AFTER));
        assert!(!reach.is_to_be_told("a:1", start + TOLD_AFTER * 9), "once");
        assert!(!reach.is_to_be_told("b:1", start + TOLD_AFTER), "each for itself");
        reach.reached("a:1");
        assert!(!reach.is_to_be_told("a:1", start + TOLD_AFTER * 10), "a new one");
        reach.retain(|address| address != "a:1");
        assert!(!reach.is_to_be_told("a:1", start + TOLD_AFTER * 12));
    }
}
