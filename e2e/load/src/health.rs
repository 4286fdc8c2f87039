//! Partitions with too few replicas in sync to be written, as the cluster itself tells of them. `Writability` is pure: the
//! time is an argument.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_client::v1::PartitionList;

use crate::work::Work;

const LOOKS_EVERY: Duration = Duration::from_millis(200);

/// How many partitions could not be written, at most and for how long.
#[derive(Clone, Debug, Default)]
pub struct Writability {
    /// How often the cluster has told; what was not asked is not known.
    pub looks: u64,
    /// The most that were under `min.insync.replicas` at once.
    pub most: i64,
    /// Which they were, as far as they were named.
    pub which: Vec<String>,
    longest: Duration,
    since: Option<Instant>,
}

impl Writability {
    /// The cluster has told how many there are.
    pub fn told(&mut self, now: Instant, count: i64, which: impl FnOnce() -> Vec<String>) {
        self.looks += 1;
        self.longest = self.longest(now);
        self.since = (count > 0).then(|| self.since.unwrap_or(now));
        if count > self.most {
            (self.most, self.which) = (count, which());
        }
    }

    /// Forgets what was; what is under way begins now.
    pub fn mark(&mut self, now: Instant) {
        *self = Self {
            since: self.since.map(|_| now),
            ..Self::default()
        };
    }

    /// The longest time without a look that found none, from the first look that found some.
    pub fn longest(&self, now: Instant) -> Duration {
        let present = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.longest.max(present)
    }
}

/// Asks the cluster until the process ends. An answer that does not come tells nothing.
pub async fn watch(work: Arc<Work>) {
    let client = work.connect("millrace-load-health").await;
    loop {
        match client.admin().describe_cluster().await {
            Ok(told) => {
                let found = told.health.and_then(|health| health.under_min_in_sync);
                if let Some(found) = found {
                    let mut writability = work.writability.lock();
                    writability.told(Instant::now(), found.count, || names(&found));
                }
            }
            Err(error) => tracing::warn!(%error, "the cluster does not tell how it is"),
        }
        tokio::time::sleep(LOOKS_EVERY).await;
    }
}

fn names(found: &PartitionList) -> Vec<String> {
    let each = found.first.iter().take(10);
    each.map(|one| format!("{}-{}: {}", one.topic, one.partition, one.reason))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_at_once_and_the_longest_time_are_kept() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut writability = Writability::default();
        for (second, count) in [(0, 0), (1, 2), (2, 1), (5, 0), (6, 1), (7, 0)] {
            writability.told(at(second), count, || vec![format!("{count} at {second}")]);
        }
        assert_eq!((writability.looks, writability.most), (6, 2));
        assert_eq!(writability.which, ["2 at 1"]);
        assert_eq!(
            writability.longest(at(20)),
            Duration::from_secs(4),
            "until it was seen to be over"
        );
        writability.told(at(20), 1, Vec::new);
        assert_eq!(writability.longest(at(29)), Duration::from_secs(9), "also if it lasts");
        writability.mark(at(30));
        assert_eq!((writability.looks, writability.most), (0, 0));
        assert_eq!(
            writability.longest(at(31)),
            Duration::from_secs(1),
            "it lasts after the mark"
        );
    }
}
