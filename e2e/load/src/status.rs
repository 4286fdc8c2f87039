//! What is told over HTTP.

use std::{sync::atomic::Ordering, time::Instant};

use serde::Serialize;

use crate::{
    partition::Wrong,
    work::{Mode, Work},
};

/// How it stands.
#[derive(Debug, Serialize)]
pub struct Status {
    /// waiting (for the topics), producing, paused, ending.
    pub state: &'static str,
    /// Messages that were given to the client.
    pub sent: u64,
    /// Those that were acknowledged.
    pub acknowledged: u64,
    /// Those that failed, retries included.
    pub failed: u64,
    /// The first few failures.
    pub failures: Vec<String>,
    /// What producers' clients tried again last, each once at most: empty if all went well at the first attempt.
    pub retried: Vec<String>,
    /// Messages that were read.
    pub consumed: u64,
    /// Messages of others among them.
    pub foreign: u64,
    /// What is wrong; `lost` counts what was passed, and at the end all.
    #[serde(flatten)]
    pub wrong: Wrong,
    /// The first few of that in words.
    pub findings: Vec<String>,
    /// The longest time without any acknowledgement since the last mark.
    pub longest_gap_ms: u128,
    /// The longest time without one in one partition, and which.
    pub longest_partition_gap_ms: u128,
    /// That partition.
    pub longest_gap_partition: String,
    /// How often the cluster has told of its partitions since the last mark.
    pub health_looks: u64,
    /// The most of its partitions that had too few replicas in sync to be written, since the last mark.
    pub under_min_in_sync: i64,
    /// The longest time for which there were any.
    pub under_min_in_sync_ms: u128,
    /// Which they were when they were the most.
    pub under_min_in_sync_partitions: Vec<String>,
    /// Bytes of values that were acknowledged.
    pub bytes: u64,
    /// Messages acknowledged in the last second.
    pub rate: u64,
    /// What could not be done at the end; none before it, empty: all is answered and read twice.
    pub undone: Option<Vec<String>>,
}

/// Looks at everything; `undone`: what could not be done at the end, if it has come.
pub fn status(work: &Work, undone: Option<Vec<String>>) -> Status {
    let now = Instant::now();
    let writability = work.writability.lock().clone();
    let mut status = Status {
        state: match *work.mode.borrow() {
            Mode::Producing if work.partitions().is_empty() => "waiting",
            Mode::Producing => "producing",
            Mode::Paused => "paused",
            Mode::Ending => "ending",
        },
        sent: work.sent.load(Ordering::Relaxed),
        acknowledged: 0,
        failed: 0,
        failures: work.failures.lock().clone(),
        retried: retried(work),
        consumed: 0,
        foreign: 0,
        wrong: Wrong::default(),
        findings: Vec::new(),
        longest_gap_ms: work.gaps.lock().longest(now).as_millis(),
        longest_partition_gap_ms: 0,
        longest_gap_partition: String::new(),
        health_looks: writability.looks,
        under_min_in_sync: writability.most,
        under_min_in_sync_ms: writability.longest(now).as_millis(),
        under_min_in_sync_partitions: writability.which,
        bytes: work.bytes.load(Ordering::Relaxed),
        rate: work.rate.load(Ordering::Relaxed),
        undone,
    };
    for partition in work.partitions() {
        let partition = partition.lock();
        status.acknowledged += partition.acknowledged_total();
        status.failed += partition.failed_total();
        status.consumed += partition.following.consumed;
        status.foreign += partition.following.foreign;
        let (wrong, words) = partition.judge(status.undone.is_some());
        status.wrong = status.wrong.and(wrong);
        status.findings.extend(words);
        let gap = partition.gaps.longest(now).as_millis();
        if gap > status.longest_partition_gap_ms {
            status.longest_partition_gap_ms = gap;
            status.longest_gap_partition = format!("{}-{}", partition.topic, partition.number);
        }
    }
    status.findings.truncate(20);
    status
}

fn retried(work: &Work) -> Vec<String> {
    let clients = work.clients.lock();
    let retried = clients.iter().filter_map(millrace_client::Client::last_retried);
    retried.map(|(_, error)| error.to_string()).collect()
}
