//! Compacting the logs of compacted topics, leaders' and followers' alike, each at its own pace: one round at a time, the
//! dirtiest log first, in steps that are paced, on threads that may block.

#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use millrace_log::{
    Compaction, CompactionBounds, CompactionError, CompactionNeed, CompactionOptions, CompactionStep, CompactionTraffic,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::Partition;
use crate::{
    broker::{Broker, now_ms},
    limits::{COMPACTION_RETRY_FIRST, COMPACTION_RETRY_LONGEST, COMPACTION_STEP_BYTES},
    replication::Key,
};

/// Compacts what is due until the broker stops.
pub async fn run(broker: Arc<Broker>) {
    let mut waits = Waits::default();
    let mut ticks = tokio::time::interval(broker.config.compaction_look_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopping.cancelled() => return,
        }
        compact_all(&broker, &mut waits).await;
    }
}

/// One round after the other, until none is due or the broker stops. All are looked at again only now and then, and not
/// for each round: with many partitions that would cost more than the rounds.
pub(super) async fn compact_all(broker: &Arc<Broker>, waits: &mut Waits) {
    while !broker.stopping.is_cancelled() {
        let look_again = Instant::now() + broker.config.compaction_look_every;
        let (working, mut taken) = (broker.clone(), std::mem::take(waits));
        let look = move || {
            let due = all_due(&working, &mut taken, Instant::now());
            (due, taken)
        };
        let due = match tokio::task::spawn_blocking(look).await {
            Ok((due, taken)) => {
                *waits = taken;
                due
            }
            Err(error) => {
                tracing::error!(%error, "looking for what is to be compacted failed");
                return;
            }
        };
        if due.is_empty() {
            return;
        }
        for (partition, need) in due {
            if broker.stopping.is_cancelled() {
                return;
            }
            let ended = round(broker, &partition).await;
            note(broker, &partition, &need, ended, waits);
            if Instant::now() >= look_again {
                break;
            }
        }
    }
}

/// How a round ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// All up to this offset is compacted.
    Done(i64),
    /// There was nothing to do, or the log was cut meanwhile: it is looked at again later.
    Later,
    /// The broker stops, or the partition is not to be compacted any more.
    GivenUp,
}

/// The partitions that are due, those first of whose logs most was not compacted yet, as in Kafka.
fn all_due(broker: &Broker, waits: &mut Waits, now: Instant) -> Vec<(Arc<Partition>, CompactionNeed)> {
    let now_ms = now_ms();
    let mut there = HashSet::new();
    let mut due = Vec::new();
    let mut dirtiest = 0;
    for partition in broker.partitions.all() {
        if !is_compacted(&partition) {
            continue;
        }
        there.insert(partition.key());
        let need = match partition.log.compaction_need(&bounds(&partition), now_ms) {
            Ok(need) => need,
            Err(error) => {
                if !waits.has(&partition, now) {
                    failed(broker, &partition, &error, waits);
                }
                continue;
            }
        };
        let dirty = dirty_ppm(&need);
        dirtiest = dirtiest.max(dirty);
        if need.is_due && !waits.has(&partition, now) {
            due.push((partition, need));
        }
    }
    waits.0.retain(|key, _| there.contains(key));
    #[allow(clippy::cast_precision_loss, reason = "a gauge")]
    broker.metrics.compaction_max_dirty_ratio.set(dirtiest as f64 / 1e6);
    broker.metrics.compaction_failing.set(waits.failing());
    due.sort_by_key(|(_, need)| Reverse((dirty_ppm(need), need.dirty_bytes)));
    due
}

/// Whether its log is to be compacted.
fn is_compacted(partition: &Partition) -> bool {
    partition.config().cleanup.compact && !partition.is_gone() && partition.log.offline().is_none()
}

/// Up to where it may be compacted: not what may be cut (KAFKA-13194).
fn bounds(partition: &Partition) -> CompactionBounds {
    let offsets = partition.offsets();
    CompactionBounds {
        high_watermark: offsets.high_watermark,
        last_stable_offset: offsets.last_stable,
    }
}

/// The share of the log that was not compacted yet, in millionths.
fn dirty_ppm(need: &CompactionNeed) -> u64 {
    let all = u128::from(need.clean_bytes) + u128::from(need.dirty_bytes);
    let dirty = u128::from(need.dirty_bytes) * 1_000_000;
    dirty
        .checked_div(all)
        .and_then(|ppm| u64::try_from(ppm).ok())
        .unwrap_or(0)
}

/// One round.
async fn round(broker: &Arc<Broker>, partition: &Arc<Partition>) -> Result<Ended, CompactionError> {
    let options = CompactionOptions {
        map_bytes: broker.config.compaction_map_bytes,
        // 122 random bits.
        hash_key: Uuid::new_v4().into_bytes(),
    };
    let compacted = partition.clone();
    let begin = move || {
        compacted
            .log
            .begin_compaction(|| bounds(&compacted), &options, now_ms())
    };
    let Some(mut compaction) = blocking(begin).await?? else {
        return Ok(Ended::Later);
    };
    let mut counted = CompactionTraffic::default();
    let mut pace = Pace::new(broker.config.compaction_bytes_per_second, Instant::now());
    loop {
        if broker.stopping.is_cancelled() || !is_compacted(partition) {
            give_up(compaction).await;
            return Ok(Ended::GivenUp);
        }
        let (taken, step) = blocking(move || {
            let step = compaction.step(COMPACTION_STEP_BYTES, now_ms());
            (compaction, step)
        })
        .await?;
        compaction = taken;
        let traffic = compaction.traffic();
        broker
            .metrics
            .compaction_read
            .inc_by(traffic.read_bytes - counted.read_bytes);
        broker
            .metrics
            .compaction_written
            .inc_by(traffic.written_bytes - counted.written_bytes);
        let bytes = traffic.read_bytes + traffic.written_bytes - counted.read_bytes - counted.written_bytes;
        counted = traffic;
        match step? {
            CompactionStep::More => {}
            CompactionStep::Done(report) => return Ok(report.cleaned_offset.map_or(Ended::Later, Ended::Done)),
        }
        let pause = pace.pause(bytes, Instant::now());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The next turn of the loop sees it.
            () = broker.stopping.cancelled() => {}
        }
    }
}

/// Runs what waits for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CompactionError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| CompactionError::Refused(format!("the compaction was broken off: {error}")))
}

/// Ends a round before its end, which removes a file.
async fn give_up(compaction: Compaction) {
    let _ = blocking(move || drop(compaction)).await;
}

/// Takes note of how a round ended.
fn note(
    broker: &Broker,
    partition: &Arc<Partition>,
    need: &CompactionNeed,
    ended: Result<Ended, CompactionError>,
    waits: &mut Waits,
) {
    let next_look = Instant::now() + broker.config.compaction_look_every;
    match ended {
        Ok(Ended::Done(offset)) => {
            broker.metrics.compactions.inc();
            waits.0.remove(&partition.key());
            // If it is due again all the same, it must not be so over and over.
            if offset <= need.first_dirty_offset {
                waits.until(partition, next_look);
            }
        }
        Ok(Ended::Later) => waits.until(partition, next_look),
        Ok(Ended::GivenUp) => {}
        Err(error) => failed(broker, partition, &error, waits),
    }
}

/// Takes note of an error: damage is told of as if a read had met it.
fn failed(broker: &Broker, partition: &Arc<Partition>, error: &CompactionError, waits: &mut Waits) {
    match error {
        // Not this broker's any more, or it stops.
        CompactionError::Closed => return,
        CompactionError::Offline(_) => partition.on_directory_failed(),
        CompactionError::Damaged { offset, .. } => partition.note_damage(*offset),
        CompactionError::Busy | CompactionError::Refused(_) => {}
    }
    broker.metrics.compaction_failures.inc();
    let again = waits.after_failure(partition, Instant::now());
    tracing::warn!(
        topic = partition.topic(),
        partition = partition.number(),
        %error,
        again_in_s = again.as_secs(),
        "a log can't be compacted"
    );
}

/// Partitions that are not to be compacted for a while.
#[derive(Debug, Default)]
pub(super) struct Waits(HashMap<Key, Wait>);

#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    /// Failed attempts in a row.
    failures: u32,
}

impl Waits {
    fn has(&self, partition: &Partition, now: Instant) -> bool {
        self.0.get(&partition.key()).is_some_and(|wait| wait.until > now)
    }

    fn until(&mut self, partition: &Partition, until: Instant) {
        let failures = 0;
        self.0.insert(partition.key(), Wait { until, failures });
    }

    /// Returns after how long it is tried again.
    fn after_failure(&mut self, partition: &Partition, now: Instant) -> Duration {
        let failures = self.0.get(&partition.key()).map_or(0, |wait| wait.failures);
        let delay = retry_after(failures);
        let wait = Wait {
            until: now + delay,
            failures: failures.saturating_add(1),
        };
        self.0.insert(partition.key(), wait);
        delay
    }

    fn failing(&self) -> i64 {
        let failing = self.0.values().filter(|wait| wait.failures > 0).count();
        i64::try_from(failing).unwrap_or(i64::MAX)
    }
}

/// How long to wait after so many failures before the last one: each time twice as long.
fn retry_after(failures: u32) -> Duration {
    let times = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
    COMPACTION_RETRY_FIRST
        .saturating_mul(times)
        .min(COMPACTION_RETRY_LONGEST)
}

/// Keeps to a number of bytes a second.
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    /// When all that was done until now is paid for.
    paid_at: Instant,
}

impl Pace {
    fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            paid_at: now,
        }
    }

    /// How long to wait after a step that moved so many bytes. What was not used while a step was slow is not made up for.
    fn pause(&mut self, bytes: u64, now: Instant) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_at += cost;
        let pause = self.paid_at.saturating_duration_since(now);
        self.paid_at = self.paid_at.max(now);
        pause
    }
}
