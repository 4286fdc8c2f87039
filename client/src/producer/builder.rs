//! Settings of a producer.

use std::time::Duration;

use millrace_proto::{batch::Codec, v1};

use super::{Producer, buffer::BatchRules, partitioner::Partitioner, sequencer::Rules};
use crate::{
    client::Client,
    error::{Error, Result},
    limits,
};

/// When a record counts as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    /// When it is on stable storage of all in-sync replicas, at least `min.insync.replicas`.
    #[default]
    All,
    /// When the leader has it in its log. A crash of the leader may lose it.
    Leader,
    /// When it is handed to the connection. Failures are not told; offsets are not known.
    None,
}

/// Settings of a [`Producer`].
#[derive(Clone, Debug)]
pub struct ProducerBuilder {
    client: Client,
    acks: Acks,
    compression: Codec,
    compression_level: Option<i32>,
    batch_bytes: usize,
    linger: Duration,
    idempotent: Option<bool>,
    max_in_flight: Option<usize>,
    buffer_bytes: usize,
    delivery_timeout: Duration,
    request_timeout: Duration,
    partitioner: Partitioner,
}

/// Settings that are checked.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    pub acks: Acks,
    pub batch: BatchRules,
    pub rules: Rules,
    pub linger: Duration,
    pub buffer_bytes: usize,
    pub delivery_timeout: Duration,
    pub request_timeout: Duration,
    pub partitioner: Partitioner,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            acks: Acks::All,
            compression: Codec::None,
            compression_level: None,
            batch_bytes: limits::DEFAULT_BATCH_BYTES,
            linger: limits::DEFAULT_LINGER,
            idempotent: None,
            max_in_flight: None,
            buffer_bytes: limits::DEFAULT_BUFFER_BYTES,
            delivery_timeout: limits::DEFAULT_DELIVERY_TIMEOUT,
            request_timeout: limits::DEFAULT_REQUEST_TIMEOUT,
            partitioner: Partitioner::Default,
        }
    }

    /// When a record counts as stored. Default [`Acks::All`].
    #[must_use]
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// How batches are compressed. Default: not at all.
    #[must_use]
    pub fn compression(mut self, codec: Codec) -> Self {
        self.compression = codec;
        self
    }

    /// gzip 1 to 9 (default 6), zstd -131072 to 22 (default 3); the others have none.
    #[must_use]
    pub fn compression_level(mut self, level: i32) -> Self {
        self.compression_level = Some(level);
        self
    }

    /// A batch of this many bytes is sent without waiting for more; 1 to 16 MiB, default 1 MiB. A
    /// record that is larger goes in a batch of its own. Smaller where a topic's
    /// `max.message.bytes` turned out to be.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// How long a batch waits for more records; default 5 ms. While `max_in_flight` batches of the
    /// partition are in flight, it waits anyway.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Whether the broker recognises repeated batches, so that retries neither double nor reorder
    /// records (KIP-98). Default: yes with [`Acks::All`], which it needs.
    #[must_use]
    pub fn idempotent(mut self, on: bool) -> Self {
        self.idempotent = Some(on);
        self
    }

    /// Batches of one partition in flight: 1 to 64; default 16 if idempotent, else 5. Not
    /// idempotent, more than 1 may reorder records when a batch is refused.
    #[must_use]
    pub fn max_in_flight(mut self, batches: usize) -> Self {
        self.max_in_flight = Some(batches);
        self
    }

    /// Bytes that wait for their acknowledgement, over all partitions; `send` waits when they are
    /// reached. Default 32 MiB.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// How long a record may take from `send` to its acknowledgement, retries included. Default
    /// 120 s.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// How long one attempt may take; 1 ms to 5 minutes, default 30 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How records without a partition of their own are spread. Default: by key, else sticky.
    #[must_use]
    pub fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.partitioner = partitioner;
        self
    }

    /// A producer. An idempotent one gets its id from the cluster here.
    ///
    /// # Errors
    /// Settings that contradict each other or are out of bounds; no broker gave an id.
    pub async fn build(self) -> Result<Producer> {
        let config = self.check()?;
        Producer::start(self.client, config).await
    }

    fn check(&self) -> Result<ProducerConfig> {
        let idempotent = self.idempotent.unwrap_or(self.acks == Acks::All);
        if idempotent && self.acks != Acks::All {
            return Err(Error::invalid(
                "An idempotent producer needs acks all: set that, or idempotent(false).",
            ));
        }
        let usual = if idempotent {
            limits::DEFAULT_IDEMPOTENT_IN_FLIGHT
        } else {
            limits::DEFAULT_IN_FLIGHT
        };
        let most = limits::MAX_IN_FLIGHT;
        let max_in_flight = self.max_in_flight.unwrap_or(usual);
        if !(1..=most).contains(&max_in_flight) {
            return Err(Error::invalid(format!(
                "max_in_flight is {max_in_flight}: it must be 1 to {most}."
            )));
        }
        if !(1..=limits::MAX_BATCH_BYTES).contains(&self.batch_bytes) {
            return Err(Error::invalid(format!(
                "batch_bytes is {}: it must be 1 to {}.",
                self.batch_bytes,
                limits::MAX_BATCH_BYTES
            )));
        }
        if self.buffer_bytes < self.batch_bytes {
            return Err(Error::invalid(
                "buffer_bytes is below batch_bytes: no batch could be filled.",
            ));
        }
        if !(Duration::from_millis(1)..=limits::MAX_PRODUCE_TIMEOUT).contains(&self.request_timeout) {
            return Err(Error::invalid("request_timeout must be 1 ms to 5 minutes."));
        }
        if self.delivery_timeout < self.linger {
            return Err(Error::invalid(
                "delivery_timeout is below linger: every record would fail.",
            ));
        }
        if let Some(level) = self.compression_level
            && !self.compression.levels().is_some_and(|levels| levels.contains(&level))
        {
            return Err(Error::invalid(format!(
                "{} has no compression level {level}.",
                self.compression
            )));
        }
        Ok(ProducerConfig {
            acks: self.acks,
            batch: BatchRules {
                codec: self.compression,
                level: self.compression_level,
                batch_bytes: self.batch_bytes,
            },
            rules: Rules {
                idempotent,
                max_in_flight,
            },
            linger: self.linger,
            buffer_bytes: self.buffer_bytes,
            delivery_timeout: self.delivery_timeout,
            // A broker that is asked to wait for longer answers when nobody is interested any more.
            request_timeout: self
                .request_timeout
                .min(self.delivery_timeout)
                .max(Duration::from_millis(1)),
            partitioner: self.partitioner.clone(),
        })
    }
}

impl Acks {
    pub(crate) fn to_proto(self) -> v1::Acks {
        match self {
            Self::All => v1::Acks::All,
            Self::Leader => v1::Acks::Leader,
            Self::None => v1::Acks::None,
        }
    }
}
