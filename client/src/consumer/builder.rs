//! Settings of a consumer.

use std::time::Duration;

use super::Consumer;
use crate::{
    client::Client,
    error::{Error, Result},
    limits,
    record::{Isolation, Start},
};

/// What happens when a position is not in the log (it was deleted by retention, or cut off).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetReset {
    /// `next` and `next_batch` tell it; the partition stands until `seek`.
    #[default]
    Error,
    /// Go on at the oldest record that is kept.
    Beginning,
    /// Go on behind the newest readable record.
    End,
}

impl OffsetReset {
    pub(super) fn start(self) -> Option<Start> {
        match self {
            Self::Error => None,
            Self::Beginning => Some(Start::Beginning),
            Self::End => Some(Start::End),
        }
    }
}

/// Settings of a [`Consumer`].
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    client: Client,
    config: ConsumerConfig,
}

/// The settings.
#[derive(Clone, Debug)]
pub(super) struct ConsumerConfig {
    pub isolation: Isolation,
    pub fetch_max_bytes: usize,
    pub fetch_min_bytes: usize,
    pub fetch_max_wait: Duration,
    pub max_prefetch_bytes: usize,
    pub check_crc: bool,
    pub reset: OffsetReset,
}

impl ConsumerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            config: ConsumerConfig {
                isolation: Isolation::default(),
                fetch_max_bytes: limits::DEFAULT_FETCH_BYTES,
                fetch_min_bytes: 1,
                fetch_max_wait: limits::DEFAULT_FETCH_WAIT,
                max_prefetch_bytes: limits::DEFAULT_PREFETCH_BYTES,
                check_crc: true,
                reset: OffsetReset::default(),
            },
        }
    }

    /// Which records are seen. Default [`Isolation::ReadCommitted`].
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.config.isolation = isolation;
        self
    }

    /// About how many bytes one fetch brings at most; 1 to 16 MiB, default 2 MiB. A batch that is
    /// larger still comes whole.
    #[must_use]
    pub fn fetch_max_bytes(mut self, bytes: usize) -> Self {
        self.config.fetch_max_bytes = bytes;
        self
    }

    /// A fetch waits for this many bytes, at most for `fetch_max_wait`; 1 to `fetch_max_bytes`,
    /// default 1.
    #[must_use]
    pub fn fetch_min_bytes(mut self, bytes: usize) -> Self {
        self.config.fetch_min_bytes = bytes;
        self
    }

    /// How long a fetch waits for new data; up to 1 minute, default 0.5 s. What it waits for comes
    /// at once all the same.
    #[must_use]
    pub fn fetch_max_wait(mut self, wait: Duration) -> Self {
        self.config.fetch_max_wait = wait;
        self
    }

    /// What is fetched ahead of `next` at most, in bytes over all partitions; default 32 MiB.
    #[must_use]
    pub fn max_prefetch_bytes(mut self, bytes: usize) -> Self {
        self.config.max_prefetch_bytes = bytes;
        self
    }

    /// Whether each batch's checksum is compared. Default true.
    #[must_use]
    pub fn check_crc(mut self, on: bool) -> Self {
        self.config.check_crc = on;
        self
    }

    /// What happens when a position is not in the log. Default: an error.
    #[must_use]
    pub fn reset(mut self, reset: OffsetReset) -> Self {
        self.config.reset = reset;
        self
    }

    /// A consumer without partitions: [`Consumer::assign`] gives it some. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// Settings out of bounds.
    pub fn build(self) -> Result<Consumer> {
        let config = &self.config;
        if !(1..=limits::MAX_FETCH_BYTES).contains(&config.fetch_max_bytes) {
            return Err(Error::invalid(format!(
                "fetch_max_bytes must be 1 to {}.",
                limits::MAX_FETCH_BYTES
            )));
        }
        if !(1..=config.fetch_max_bytes).contains(&config.fetch_min_bytes) {
            return Err(Error::invalid("fetch_min_bytes must be 1 to fetch_max_bytes."));
        }
        if config.fetch_max_wait > limits::MAX_FETCH_WAIT {
            return Err(Error::invalid("fetch_max_wait must be at most 1 minute."));
        }
        if config.max_prefetch_bytes < config.fetch_max_bytes {
            return Err(Error::invalid(
                "max_prefetch_bytes is below fetch_max_bytes: no fetch would be made.",
            ));
        }
        Ok(Consumer::start(self.client, self.config))
    }
}
