//! Whether the disk still takes writes. A disk that hangs fails nothing: neither an acknowledgement
//! nor an error comes, while heartbeats go on. So a broker's lease depends on a write that came
//! back (Huang et al., "Gray Failure", HotOS'17).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millrace_log::LogDir;
use tokio_util::sync::CancellationToken;

use crate::limits;

/// When the disk last took a write.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    began: Instant,
    /// In milliseconds since `began`.
    last_write_ms: AtomicU64,
}

impl DiskWatch {
    /// The disk has just taken one.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            last_write_ms: AtomicU64::new(0),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether it has lately taken a write.
    pub(crate) fn writes(&self) -> bool {
        let silence = self.now_ms().saturating_sub(self.last_write_ms.load(Ordering::Acquire));
        Duration::from_millis(silence) <= limits::DISK_SILENCE
    }

    /// Writes and syncs a small file again and again, until `stop`. A write that fails takes the
    /// directory offline; one that hangs is waited for.
    pub(crate) async fn run(self: Arc<Self>, dir: Arc<LogDir>, stop: CancellationToken) {
        while tokio::time::timeout(limits::DISK_WRITE_EVERY, stop.cancelled())
            .await
            .is_err()
        {
            let (watch, dir) = (Arc::clone(&self), Arc::clone(&dir));
            let probed = tokio::task::spawn_blocking(move || {
                let began_ms = watch.now_ms();
                let probed = dir.probe();
                if probed.is_ok() {
                    // Of before the write: what it says was true then.
                    watch.last_write_ms.store(began_ms, Ordering::Release);
                }
                probed
            });
            match probed.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the disk did not take a write"),
                Err(error) => tracing::error!(%error, "the disk can't be probed"),
            }
        }
    }
}
