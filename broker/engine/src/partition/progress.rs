//! What a leader knows of one follower: how far its disk holds the log, and when it last held
//! all of it.

use std::time::Duration;

use crate::cluster::BrokerId;

/// One follower as its leader sees it, in one leader epoch and one life of the follower.
///
/// `durable_end ≤ offset`, the follower's log end as its last counted request told it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    pub id: BrokerId,
    /// Its life by the newest metadata; -1 while it is not registered. Only requests of this
    /// life count (KIP-903).
    pub broker_epoch: i64,
    /// Neither fenced nor shutting down (KIP-841).
    pub eligible: bool,
    /// It is being added by a move.
    pub adding: bool,
    /// The last counted request's number; an older one that arrives late leaves no trace.
    pub sequence: u64,
    /// Up to where its disk holds the leader's log; `None` until it was heard in this epoch.
    /// Never falls while it may be chosen to lead: what was once on its disk may have been counted.
    pub durable_end: Option<i64>,
    /// The oldest record that it keeps; `None` until it was heard in this epoch.
    pub log_start: Option<i64>,
    /// The last time at which its disk held all that the leader's log held.
    pub caught_up_at: Option<Duration>,
    /// A moment and the leader's log end at it, which the follower has yet to reach.
    sample: Option<(Duration, i64)>,
    /// It came back with less than it had acknowledged: never counted again in this life.
    pub lost_data: bool,
}

impl Progress {
    pub(super) fn new(id: BrokerId) -> Self {
        Self {
            id,
            broker_epoch: -1,
            eligible: false,
            adding: false,
            sequence: 0,
            durable_end: None,
            log_start: None,
            caught_up_at: None,
            sample: None,
            lost_data: false,
        }
    }

    /// Forgets all that was heard: another life of the follower, or a replica that was removed
    /// and added anew (KAFKA-9672), has proven nothing yet.
    pub(super) fn forget(&mut self) {
        self.sequence = 0;
        self.log_start = None;
        self.lost_data = false;
        self.begin_anew();
    }

    /// Forgets how much of the log it held and holds.
    pub(super) fn begin_anew(&mut self) {
        self.durable_end = None;
        self.caught_up_at = None;
        self.sample = None;
    }

    /// Counts a request that has passed all checks.
    ///
    /// Caught up is judged by samples of the leader's end: a sample stays until the follower's
    /// disk has reached it, for with pipelined requests each one comes before the last one's
    /// records are flushed. So the judged lag is at most twice the true one.
    pub(super) fn count(&mut self, now: Duration, durable_end: i64, leader_end: i64) {
        let durable_end = self.durable_end.map_or(durable_end, |known| known.max(durable_end));
        self.durable_end = Some(durable_end);
        if durable_end >= leader_end {
            self.caught_up_at = Some(now);
            self.sample = Some((now, leader_end));
            return;
        }
        match self.sample {
            Some((at, end)) if durable_end >= end => {
                self.caught_up_at = Some(self.caught_up_at.map_or(at, |known| known.max(at)));
                self.sample = Some((now, leader_end));
            }
            Some(_) => {}
            None => self.sample = Some((now, leader_end)),
        }
    }

    /// The follower fell below what it had acknowledged.
    pub(super) fn mark_lost(&mut self) {
        self.lost_data = true;
        self.durable_end = None;
        self.caught_up_at = None;
    }

    /// Whether it holds all, or held all less than `lag_max` ago.
    pub(super) fn caught_up(&self, now: Duration, log_end: i64, lag_max: Duration) -> bool {
        self.durable_end.is_some_and(|end| end >= log_end)
            || self.caught_up_at.is_some_and(|at| now.saturating_sub(at) <= lag_max)
    }

    /// When it will count as lagging if nothing more is heard of it; `None`: never, or it does
    /// already.
    pub(super) fn lags_after(&self, log_end: i64, lag_max: Duration) -> Option<Duration> {
        if self.durable_end.is_some_and(|end| end >= log_end) {
            return None;
        }
        self.caught_up_at.map(|at| at.saturating_add(lag_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_follower_whose_flushes_trail_its_fetches_is_caught_up() {
        let mut follower = Progress::new(1);
        // Each second the leader appends 10; the disk is always 3 seconds behind.
        for second in 0..200 {
            let end = i64::try_from(second * 10).unwrap();
            follower.count(at(second), (end - 30).max(0), end);
        }
        assert!(follower.caught_up(at(199), 1990, LAG));
        assert!(!follower.caught_up(at(199), 1990, at(2)));
    }

    #[test]
    fn a_follower_with_a_hanging_disk_falls_behind_although_it_fetches() {
        let mut follower = Progress::new(1);
        follower.count(at(0), 10, 10);
        for second in 1..=31 {
            follower.count(at(second), 10, 10 + i64::try_from(second).unwrap());
            assert_eq!(follower.caught_up(at(second), 100, LAG), second <= 30, "{second}");
        }
        assert_eq!(follower.lags_after(100, LAG), Some(at(30)));
        // An idle partition's follower is never behind.
        assert_eq!(follower.lags_after(10, LAG), None);
        assert!(follower.caught_up(at(500), 10, LAG));
    }

    #[test]
    fn what_was_acknowledged_stays_counted() {
        let mut follower = Progress::new(1);
        follower.count(at(0), 10, 20);
        follower.count(at(1), 7, 20);
        assert_eq!(follower.durable_end, Some(10));
        follower.forget();
        assert_eq!(follower, Progress::new(1));
    }
}
