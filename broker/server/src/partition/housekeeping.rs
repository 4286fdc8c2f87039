//! What is done every few seconds: rolling, retention, expiry, gauges; and checkpoints, more often.

use std::sync::Arc;

use millrace_engine::config::FlushPolicy;

use super::Partition;
use crate::{
    broker::{Broker, now_ms},
    limits::{CHECKPOINT_BYTES, CHECKPOINT_INTERVAL, CHECKPOINT_POLL, HOUSEKEEPING_INTERVAL},
};

/// Looks after the partitions until the broker stops.
pub async fn run(broker: Arc<Broker>) {
    // Apart: retention that waits for a slow disk must not make the next start a long one.
    tokio::join!(run_rounds(broker.clone()), run_checkpoints(broker));
}

/// Records up to where logs are on disk, every second and after so many bytes.
async fn run_checkpoints(broker: Arc<Broker>) {
    let mut ticks = tokio::time::interval(CHECKPOINT_POLL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first at once: it also takes the room that is kept for a full disk.
    let mut last: Option<tokio::time::Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopping.cancelled() => return,
        }
        let recent = last.is_some_and(|last| last.elapsed() < CHECKPOINT_INTERVAL);
        if recent && broker.dir.unrecorded_bytes() < CHECKPOINT_BYTES {
            continue;
        }
        last = Some(tokio::time::Instant::now());
        let working = broker.clone();
        let done = tokio::task::spawn_blocking(move || working.dir.write_checkpoints()).await;
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "checkpoints can't be written; the next start will scan more"),
            Err(error) => tracing::error!(%error, "writing checkpoints failed"),
        }
    }
}

async fn run_rounds(broker: Arc<Broker>) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopping.cancelled() => return,
        }
        let working = broker.clone();
        let done = tokio::task::spawn_blocking(move || round(&working)).await;
        if let Err(error) = done {
            tracing::error!(%error, "housekeeping failed");
        }
    }
}

/// Asks for a flush of each partition whose topic wants one every `flush.ms`, until the
/// broker stops.
pub async fn run_interval_flush(broker: Arc<Broker>) {
    let mut last: std::collections::HashMap<(String, i32), i64> = std::collections::HashMap::new();
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(100));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = broker.stopping.cancelled() => return,
        }
        let now = now_ms();
        for partition in broker.partitions.all() {
            let config = partition.config();
            let written = partition.log.log_end_offset() > partition.log.durable_end_offset();
            if config.flush != FlushPolicy::Interval || !written {
                continue;
            }
            let key = (partition.topic.clone(), partition.number);
            let due = last
                .get(&key)
                .is_none_or(|at| now.saturating_sub(*at) >= config.flush_ms || now < *at);
            if due {
                last.insert(key, now);
                partition.queue_flush();
            }
        }
        if last.len() > 2 * broker.partitions.all().len() + 64 {
            last.clear();
        }
    }
}

fn round(broker: &Broker) {
    let now = now_ms();
    let mut bytes = 0;
    for partition in broker.partitions.all() {
        look_after(&partition, now);
        bytes += partition.size_bytes();
    }
    #[allow(clippy::cast_precision_loss, reason = "a gauge")]
    broker.metrics.log_bytes.set(bytes as f64);
    if let Ok(available) = broker.dir.available_bytes() {
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        broker.metrics.disk_available_bytes.set(available as f64);
    }
}

fn look_after(partition: &Arc<Partition>, now: i64) {
    let log = &partition.log;
    if log.offline().is_some() {
        return;
    }
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
                partition.wake_readers();
            }
        }
        Err(error) => tracing::warn!(partition = ?name(), %error, "retention failed"),
    }
    log.expire_producers(now);
}
