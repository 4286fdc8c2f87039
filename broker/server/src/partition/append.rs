//! Appending a client's batch.

mod searches;

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use millrace_engine::config::{FlushPolicy, TimestampKind};
use millrace_log::{AppendError, AppendOptions, Appended as LogAppended, SequenceRule};
use millrace_proto::{batch::BatchHeader, v1::ErrorReason};

use self::searches::Searches;
use super::{Committed, Partition, SoundBatch, errors, writes::write};
use crate::{
    broker::now_ms,
    error::{ApiError, WriteOutcome},
    limits,
    metrics::TopicLabel,
    rpc::convert::Acks,
    turns,
};

/// Searches for repeated requests of long ago, of all partitions together.
pub(super) static DUPLICATE_SEARCHES: Searches = Searches::new(
    limits::DUPLICATE_SEARCHES,
    limits::DUPLICATE_SEARCHES_WAITING,
    limits::DUPLICATE_SEARCH_WAIT,
);

/// How a batch is to be appended.
#[derive(Clone, Copy, Debug)]
pub struct AppendRequest {
    /// When it counts as done.
    pub acks: Acks,
    /// The leader epoch that the client knows.
    pub leader_epoch: Option<i32>,
    /// Append only if the log ends here.
    pub expected_offset: Option<i64>,
    /// How the batch's sequence must follow its producer's last one.
    pub sequence_rule: SequenceRule,
}

/// A batch that is in the log.
#[derive(Debug)]
pub struct Appended {
    /// The offset of its first record; -1 if it is not remembered.
    pub base_offset: i64,
    /// The broker's time, if the topic uses that.
    pub log_append_time: Option<i64>,
    /// The oldest offset that is kept.
    pub log_start: i64,
    /// Whether it had been stored before.
    pub duplicate: bool,
    /// The partition's leader epoch.
    pub leader_epoch: i32,
    /// When it is committed.
    pub committed: Committed,
}

impl Partition {
    /// Looks into a batch that somebody sent, and encodes it anew where the topic has another codec.
    ///
    /// # Errors
    /// It is refused. Nothing is written.
    pub async fn check(&self, batch: Bytes) -> Result<SoundBatch, ApiError> {
        let checked = SoundBatch::check(batch, &self.config(), &turns::CODECS).await;
        checked.map_err(|error| self.not_appended(error))
    }

    /// Appends one batch.
    ///
    /// # Errors
    /// Refused, so nothing was written; or the disk failed, and the outcome is unknown.
    pub fn append(self: &Arc<Self>, batch: &SoundBatch, request: &AppendRequest) -> Result<Appended, ApiError> {
        self.try_append(batch, request)
            .map_err(|error| self.not_appended(error))
    }

    fn not_appended(&self, error: ApiError) -> ApiError {
        error
            .or_outcome(WriteOutcome::NotWritten)
            .with("partition", self.number)
    }

    fn try_append(self: &Arc<Self>, batch: &SoundBatch, request: &AppendRequest) -> Result<Appended, ApiError> {
        let config = self.config();
        let keyless = batch.keyless();
        let batch = batch.checked();
        let size = batch.bytes().len() as u64;
        let options = AppendOptions {
            sequence_rule: request.sequence_rule,
            expected_offset: request.expected_offset,
            internal: false,
        };
        // Until it is known who waits for these records: a new role must find them all.
        let mut roles = self.roles.read();
        if self.is_gone() {
            return Err(errors::removed(self));
        }
        let leader_epoch = {
            let cell = self.cell.lock();
            let checked = cell
                .replica
                .check_append(request.leader_epoch, request.acks == Acks::All);
            checked.map_err(|error| self.refused(error))?
        };
        if let Some(at) = keyless.filter(|_| config.cleanup.compact) {
            return Err(errors::without_key(at, "The batch's record"));
        }
        // Not under the replica's lock, which flushes need too.
        let appended = write(batch.bytes().len(), || {
            self.log.append_checked(batch, leader_epoch, now_ms(), &options)
        });
        let mut answer = None;
        let (base_offset, last_offset, time, duplicate) = match appended {
            Ok(LogAppended::New {
                base_offset,
                last_offset,
                append_time_ms,
            }) => (
                base_offset,
                last_offset,
                Some(append_time_ms).filter(|ms| *ms >= 0),
                false,
            ),
            Ok(LogAppended::Duplicate {
                base_offset,
                last_offset,
                timestamp,
            }) => {
                let stamped = config.timestamp_kind == TimestampKind::LogAppendTime;
                (base_offset, last_offset, stamped.then_some(timestamp), true)
            }
            Err(error @ AppendError::DuplicateSequence { .. }) => {
                // It may take seconds, in which metadata must not wait, nor all partitions with it.
                drop(roles);
                let found = self.find_stored(batch.header(), request.sequence_rule)?;
                roles = self.roles.read();
                // In the epoch in which it was found to be there it is not cut.
                if !self.leads_in(leader_epoch) {
                    return Err(errors::lead_lost(self, leader_epoch));
                }
                match found {
                    Some((base_offset, last_offset)) => (base_offset, last_offset, None, true),
                    None if request.acks != Acks::All => return Err(errors::append(error)),
                    None => {
                        // It lies somewhere below the log's end; told before that is committed, it
                        // may be gone after it was called written.
                        answer = Some(errors::append(error).with("partition", self.number));
                        (-1, self.log.log_end_offset() - 1, None, true)
                    }
                }
            }
            Err(error) => {
                if matches!(error, AppendError::Offline(_)) {
                    self.on_directory_failed();
                }
                return Err(errors::append(error));
            }
        };
        if !duplicate {
            let label = TopicLabel {
                topic: self.topic.clone(),
            };
            self.metrics.appended_bytes.get_or_create(&label).inc_by(size);
            self.metrics.appended_batches.get_or_create(&label).inc();
        }
        let committed = if request.acks == Acks::All {
            let committed = self.waiters.add(last_offset + 1);
            // It may have been committed before the promise was made.
            let high_watermark = self.high_watermark.load(Ordering::Acquire);
            if high_watermark > last_offset {
                self.waiters.complete(high_watermark);
            }
            committed
        } else {
            Committed::done()
        };
        let committed = match answer {
            Some(answer) => committed.then(answer),
            None => committed,
        };
        self.on_appended();
        // Looked at only now: settings that changed meanwhile have queued a flush before.
        if self.config().flush == FlushPolicy::Ack {
            self.queue_flush();
        }
        drop(roles);
        Ok(Appended {
            base_offset,
            log_append_time: time,
            log_start: self.log.log_start_offset(),
            duplicate,
            leader_epoch,
            committed,
        })
    }

    /// Finds a repeated batch that is older than those that the log remembers of its producer: its
    /// first and last offset. `None` if it was stored, too long ago to be found.
    ///
    /// Where sequences may leave gaps, that later ones are stored is no proof that this one
    /// is: it may have been refused.
    fn find_stored(&self, header: &BatchHeader, rule: SequenceRule) -> Result<Option<(i64, i64)>, ApiError> {
        let search = || {
            self.log.find_batch(
                header.producer_id,
                header.producer_epoch,
                header.base_sequence,
                header.last_sequence(),
                limits::DUPLICATE_SEARCH_BYTES,
            )
        };
        let found = DUPLICATE_SEARCHES
            .run(search)
            .ok_or_else(|| {
                ApiError::new(
                    ErrorReason::Overloaded,
                    "Many senders repeat requests of long ago, which have to be searched for: repeat this one later.",
                )
                .outcome(WriteOutcome::Unknown)
            })?
            .map_err(|error| self.read_error(error).outcome(WriteOutcome::Unknown))?;
        match found {
            Some(found) => Ok(Some((found.base_offset, found.last_offset))),
            None if rule == SequenceRule::Contiguous => Ok(None),
            None => Err(ApiError::new(
                ErrorReason::OutOfOrderSequence,
                "This request is not found among the stored ones although a later one is: it was refused, or stored too long ago to tell.",
            )
            .outcome(WriteOutcome::Unknown)),
        }
    }
}
