//! What is done every few seconds: rolling, retention, expiry, gauges; and checkpoints, more often.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use millrace_engine::config::FlushPolicy;

use super::Partition;
use crate::{
    broker::{Broker, now_ms},
    limits::{self, CHECKPOINT_BYTES, CHECKPOINT_INTERVAL, CHECKPOINT_POLL, HOUSEKEEPING_INTERVAL},
};

/// Looks after the partitions until the broker stops.
pub async fn run(broker: Arc<Broker>) {
    // Apart: retention that waits for a slow disk must not make the next start a long one.
    tokio::join!(run_rounds(broker.clone()), run_checkpoints(broker));
}

/// Whether what is flushed is to be recorded now: not sooner than the interval after the last time, unless that
/// succeeded and much was flushed since. What could not be stored is no reason to try at every poll.
fn checkpoint_is_due(since_last: Option<Duration>, failed: bool, unrecorded_bytes: u64) -> bool {
    match since_last {
        Some(since) if since < CHECKPOINT_INTERVAL => !failed && unrecorded_bytes >= CHECKPOINT_BYTES,
        _ => true,
    }
}

/// Records up to where logs are on disk, every second and after so many bytes; until the broker stops or the directory
/// goes offline, which it stays until the process ends.
async fn run_checkpoints(broker: Arc<Broker>) {
    let mut ticks = tokio::time::interval(CHECKPOINT_POLL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first at once: it also takes the room that is kept for a full disk.
    let mut last: Option<tokio::time::Instant> = None;
    let mut failed = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopping.cancelled() => return,
        }
        if let Some(offline) = broker.dir.offline() {
            tracing::warn!(%offline, "no more checkpoints are written; the next start will scan more");
            return;
        }
        let since_last = last.map(|last| last.elapsed());
        if !checkpoint_is_due(since_last, failed, broker.dir.unrecorded_bytes()) {
            continue;
        }
        last = Some(tokio::time::Instant::now());
        let working = broker.clone();
        let done = tokio::task::spawn_blocking(move || working.dir.write_checkpoints()).await;
        failed = !matches!(done, Ok(Ok(())));
        match done {
            Ok(Ok(())) => {}
            // Said once, above.
            Ok(Err(_)) if broker.dir.offline().is_some() => {}
            Ok(Err(error)) => tracing::warn!(%error, "checkpoints can't be written; the next start will scan more"),
            Err(error) => tracing::error!(%error, "writing checkpoints failed"),
        }
    }
}

async fn run_rounds(broker: Arc<Broker>) {
    let mut turn = Turn::default();
    let mut ticks = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopping.cancelled() => return,
        }
        let working = broker.clone();
        let mut taken = std::mem::take(&mut turn);
        let done = tokio::task::spawn_blocking(move || {
            round(&working, &mut taken);
            taken
        });
        match done.await {
            Ok(taken) => turn = taken,
            Err(error) => tracing::error!(%error, "housekeeping failed"),
        }
        // What was found to be damaged; told again with each round until others lead.
        broker.report_offline_replicas().await;
    }
}

/// Asks for a flush of each partition whose topic wants one every `flush.ms`, until the
/// broker stops. Topics seldom want it, so that what is looked at each time are only those that do.
pub async fn run_interval_flush(broker: Arc<Broker>) {
    let mut wanting: Vec<Wanting> = Vec::new();
    let mut ticks = tokio::time::interval(limits::INTERVAL_FLUSH_LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut searched = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopping.cancelled() => return,
        }
        // Read before the search: what changes meanwhile is found by the next one.
        let changes = broker.partitions.settings_changes.load(Ordering::Acquire);
        if searched != Some(changes) {
            searched = Some(changes);
            wanting = search(&broker, wanting);
        }
        let now = now_ms();
        for one in &mut wanting {
            one.flush_if_due(now);
        }
    }
}

/// A partition that is flushed every `flush.ms`.
struct Wanting {
    partition: Weak<Partition>,
    /// When a flush was last asked for.
    last: Option<i64>,
}

impl Wanting {
    fn flush_if_due(&mut self, now: i64) {
        let Some(partition) = self.partition.upgrade() else {
            return;
        };
        let config = partition.config();
        let written = partition.log.log_end_offset() > partition.log.durable_end_offset();
        let due = self
            .last
            .is_none_or(|at| now.saturating_sub(at) >= config.flush_ms || now < at);
        if config.flush == FlushPolicy::Interval && written && due {
            self.last = Some(now);
            partition.queue_flush();
        }
    }
}

/// The partitions whose topics want it now; those that did before keep their time.
fn search(broker: &Broker, before: Vec<Wanting>) -> Vec<Wanting> {
    let mut before: HashMap<_, _> = before.into_iter().map(|one| (one.partition.as_ptr(), one)).collect();
    broker
        .partitions
        .all()
        .into_iter()
        .filter(|partition| partition.config().flush == FlushPolicy::Interval)
        .map(|partition| {
            before.remove(&Arc::as_ptr(&partition)).unwrap_or_else(|| Wanting {
                partition: Arc::downgrade(&partition),
                last: None,
            })
        })
        .collect()
}

/// Where the turn through all topics is. With many partitions a round looks after some of them only: to look at one that
/// nobody uses costs more than to keep it.
#[derive(Debug, Default)]
struct Turn {
    /// Topics that it has not come to.
    left: Vec<String>,
    /// What the logs of each topic took when they were looked at.
    bytes: HashMap<String, u64>,
}

impl Turn {
    /// Begins again if the last turn has ended.
    fn go_on(&mut self, topics: impl FnOnce() -> Vec<String>) {
        if self.left.is_empty() {
            self.left = topics();
            let there: HashSet<&str> = self.left.iter().map(String::as_str).collect();
            self.bytes.retain(|topic, _| there.contains(topic.as_str()));
        }
    }
}

/// How many partitions a round looks after, of `held` ones; it ends with the topic in which it has reached them.
fn share(held: usize) -> usize {
    held.div_ceil(limits::HOUSEKEEPING_ROUNDS)
        .max(limits::HOUSEKEEPING_PARTITIONS)
}

fn round(broker: &Broker, turn: &mut Turn) {
    let now = now_ms();
    turn.go_on(|| broker.partitions.topic_names());
    let share = share(broker.partitions.held());
    let mut looked_after = 0;
    while looked_after < share
        && let Some(topic) = turn.left.pop()
    {
        let mut bytes = 0;
        for partition in broker.partitions.of_topic(&topic) {
            look_after(&partition, now);
            bytes += partition.size_bytes();
            looked_after += 1;
        }
        turn.bytes.insert(topic, bytes);
    }
    let bytes: u64 = turn.bytes.values().sum();
    #[allow(clippy::cast_precision_loss, reason = "a gauge")]
    broker.metrics.log_bytes.set(bytes as f64);
    broker.partitions.count();
    if let Ok(available) = broker.dir.available_bytes() {
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        broker.metrics.disk_available_bytes.set(available as f64);
    }
}

pub(super) fn look_after(partition: &Arc<Partition>, now: i64) {
    let log = &partition.log;
    if log.offline().is_some() {
        return;
    }
    partition.look_at_damage();
    let name = || (partition.topic.as_str(), partition.number);
    if let Err(error) = log.roll_if_due(now) {
        tracing::warn!(partition = ?name(), %error, "can't roll a segment");
    }
    match log.apply_retention(now, partition.offsets().high_watermark) {
        Ok(report) => {
            for deleted in &report.deleted {
                tracing::info!(partition = ?name(), ?deleted, "retention removed a segment");
            }
            if !report.deleted.is_empty() {
                partition.on_log_start();
                partition.wake_readers();
            }
        }
        Err(error) => tracing::warn!(partition = ?name(), %error, "retention failed"),
    }
    log.expire_producers(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_comes_to_every_topic_and_forgets_those_that_are_gone() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut turn = Turn::default();
        turn.go_on(|| names(&["a", "b"]));
        assert_eq!(turn.left, ["a", "b"]);
        turn.bytes.extend([("a".to_owned(), 1), ("b".to_owned(), 2)]);
        turn.left.pop();
        turn.go_on(|| unreachable!("this turn has not ended"));
        assert_eq!(turn.left, ["a"]);
        turn.left.pop();
        turn.go_on(|| names(&["b", "c"]));
        assert_eq!(turn.left, ["b", "c"]);
        assert_eq!(turn.bytes, HashMap::from([("b".to_owned(), 2)]));
    }

    #[test]
    fn few_partitions_are_all_looked_after_in_each_round() {
        assert_eq!(share(0), limits::HOUSEKEEPING_PARTITIONS);
        assert_eq!(share(limits::HOUSEKEEPING_PARTITIONS), limits::HOUSEKEEPING_PARTITIONS);
        let many = limits::HOUSEKEEPING_ROUNDS * limits::HOUSEKEEPING_PARTITIONS * 2;
        assert_eq!(share(many + 1), 2 * limits::HOUSEKEEPING_PARTITIONS + 1);
    }

    #[test]
    fn failed_checkpoints_are_not_tried_at_every_poll() {
        let soon = Some(CHECKPOINT_INTERVAL / 10);
        assert!(checkpoint_is_due(None, false, 0), "at once after the start");
        assert!(!checkpoint_is_due(soon, false, CHECKPOINT_BYTES - 1));
        assert!(checkpoint_is_due(soon, false, CHECKPOINT_BYTES));
        assert!(!checkpoint_is_due(soon, true, u64::MAX));
        assert!(checkpoint_is_due(Some(CHECKPOINT_INTERVAL), true, 0));
    }
}
