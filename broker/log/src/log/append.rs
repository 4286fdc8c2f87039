//! Appending: one client batch at the leader, any number of stamped batches at a follower.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use millrace_proto::batch::{
    BatchHeader, HEADER_LEN, TimestampType, batches, stamp_header_log_append_time, stamp_offset_and_epoch,
};

use super::{CheckedBatch, Log, LogInner, Writer};
use crate::config::LogConfig;
use crate::error::{AppendError, ChangeError, DiskFull};
use crate::fs::is_disk_full;
use crate::producer::{SequenceCheck, SequenceError, SequenceRule};
use crate::segment::Segment;

/// How a leader appends a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendOptions {
    /// How the batch's sequence must relate to its producer's last one.
    pub sequence_rule: SequenceRule,
    /// Append only if the log ends here. A duplicate is answered as a duplicate whatever the log end.
    pub expected_offset: Option<i64>,
    /// The batch comes from the broker itself, not from a client: control batches are allowed, size and record times
    /// are not bounded.
    pub internal: bool,
}

/// What a leader's append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The batch is in the log; not durable before the next flush.
    New {
        /// Offset of its first record.
        base_offset: i64,
        /// Offset of its last record.
        last_offset: i64,
        /// The append time if the topic stamps it (LogAppendTime), else -1.
        append_time_ms: i64,
    },
    /// The same batch was appended before; it may not be durable or committed yet.
    Duplicate {
        /// Offset of its first record.
        base_offset: i64,
        /// Offset of its last record.
        last_offset: i64,
        /// The largest timestamp of the original.
        timestamp: i64,
    },
}

/// What a follower's append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerAppended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// The log end after it.
    pub log_end: i64,
    /// How many batches.
    pub batches: usize,
}

impl From<ChangeError> for AppendError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Offline(offline) => offline.into(),
            ChangeError::Closed => AppendError::Closed,
            other => AppendError::Invalid(other.to_string()),
        }
    }
}

impl Log {
    /// Appends one batch as the partition's leader: checks header, CRC, size, record count, record times and
    /// sequence, gives it the next offsets and the leader epoch (and the append time, with LogAppendTime) and writes
    /// it. The payload is not copied.
    ///
    /// `now_ms` is the broker's clock in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was written except perhaps with [`AppendError::Offline`].
    pub fn append_as_leader(
        &self,
        batch: &Bytes,
        leader_epoch: i32,
        now_ms: i64,
        options: &AppendOptions,
    ) -> Result<Appended, AppendError> {
        self.append_checked(&CheckedBatch::check(batch.clone())?, leader_epoch, now_ms, options)
    }

    /// [`Log::append_as_leader`] for a batch whose checksum was compared before.
    ///
    /// # Errors
    /// As there.
    pub fn append_checked(
        &self,
        batch: &CheckedBatch,
        leader_epoch: i32,
        now_ms: i64,
        options: &AppendOptions,
    ) -> Result<Appended, AppendError> {
        let config = self.inner.config();
        check_client_batch(batch, &config, now_ms, options)?;
        let (header, batch) = (*batch.header(), batch.bytes());

        let inner = &*self.inner;
        let mut writer = inner.writer.lock();
        inner.check_change()?;
        // Nothing may be appended under an older leader's epoch.
        let lowest = inner.epochs.read().latest().map_or(0, |entry| entry.epoch);
        if leader_epoch < lowest {
            return Err(AppendError::InvalidLeaderEpoch {
                epoch: leader_epoch,
                lowest,
                highest: i32::MAX,
            });
        }
        let sequence = writer.producers.check(&header, options.sequence_rule);
        if let Ok(SequenceCheck::Duplicate(original)) = sequence {
            return Ok(Appended::Duplicate {
                base_offset: original.base_offset,
                last_offset: original.last_offset,
                timestamp: original.timestamp,
            });
        }
        let log_end = inner.log_end();
        if let Some(expected) = options.expected_offset
            && expected != log_end
            && !matches!(
                sequence,
                Err(SequenceError::InvalidEpoch { .. } | SequenceError::Duplicate { .. })
            )
        {
            return Err(AppendError::OffsetMismatch { expected, log_end });
        }
        sequence?;
        inner.claim_space(&config, batch.len())?;

        let mut stamped = [0; HEADER_LEN];
        stamped.copy_from_slice(&batch[..HEADER_LEN]);
        let payload = &batch[HEADER_LEN..];
        let mut append_time_ms = -1;
        if config.timestamp_type == TimestampType::LogAppendTime {
            stamp_header_log_append_time(&mut stamped, payload, now_ms);
            append_time_ms = now_ms;
        }
        stamp_offset_and_epoch(&mut stamped, log_end, leader_epoch);
        // The offsets have changed: check that they still exist.
        let header = BatchHeader::decode(&stamped)?;
        let active = inner.roll_for(&mut writer, &config, &header, batch.len() as u64, now_ms)?;
        inner.write_batches(
            &mut writer,
            &active,
            &[IoSlice::new(&stamped), IoSlice::new(payload)],
            &[(active.size(), header)],
            Some(now_ms),
        )?;
        Ok(Appended::New {
            base_offset: log_end,
            last_offset: header.last_offset(),
            append_time_ms,
        })
    }

    /// Appends whole batches as a follower fetched them: offsets and epochs stay as the leader set them. They must
    /// follow the log end (a gap is what compaction at the leader leaves, see `gaps.rs`), epochs must not fall, and none may be above `max_epoch`, the epoch the fetch was made under (KAFKA-18723).
    ///
    /// The batches of one segment are appended all or not at all. Where they need several segments and the disk is
    /// full before the last, those before stay, as after a crash: they are whole batches as the leader has them, in
    /// order, and to take them back needed a truncation, which a full disk may refuse as well. So after
    /// [`AppendError::DiskFull`] the caller goes on from where the log then ends ([`Log::log_end_offset`]) and not
    /// from where it did before.
    ///
    /// # Errors
    /// See [`AppendError`]. Wrong batches are found before anything is written.
    pub fn append_as_follower(
        &self,
        bytes: &Bytes,
        max_epoch: i32,
        now_ms: i64,
    ) -> Result<FollowerAppended, AppendError> {
        let mut parsed: Vec<(usize, BatchHeader)> = Vec::new();
        let mut iterator = batches(bytes);
        loop {
            let position = iterator.position();
            let Some(batch) = iterator.next() else { break };
            let batch = batch?;
            batch.verify_crc()?;
            parsed.push((position, *batch.header()));
        }
        let Some((_, first)) = parsed.first().copied() else {
            return Err(AppendError::Invalid("no batch to append".into()));
        };

        let inner = &*self.inner;
        let mut no_flush = None;
        let (mut writer, config, fetched) = loop {
            // An empty log may be made to begin lower, which no flush may overlap.
            if inner.log_start() == inner.log_end() {
                no_flush.get_or_insert_with(|| inner.flush_lock.lock());
            }
            let writer = inner.writer.lock();
            inner.check_change()?;
            let config = inner.config();
            let within = no_flush.is_some() && inner.begins_within(&first);
            let fetched = inner.check_fetched(&parsed, within, max_epoch)?;
            inner.claim_space(&config, bytes.len())?;
            if inner.permits_gaps(&fetched) {
                break (writer, config, fetched);
            }
            // Rarely: what the flush lock keeps away may change meanwhile, so that all is looked at anew.
            drop(writer);
            let _no_flush = no_flush.get_or_insert_with(|| inner.flush_lock.lock());
            inner.permit_gaps(&fetched)?;
        };
        let Fetched { within, log_end, .. } = fetched;
        if within {
            inner
                .begin_lower(&mut writer, first.base_offset)
                .map_err(|error| inner.refused_append(error))?;
        }

        // Write runs of batches that fit the active segment with one call each.
        let mut at = 0;
        while at < parsed.len() {
            let (start, header) = parsed[at];
            let active = inner.roll_for(&mut writer, &config, &header, header.size_in_bytes() as u64, now_ms)?;
            let room = u64::from(config.segment_bytes).saturating_sub(active.size());
            let mut run = vec![(active.size(), header)];
            let mut end = start + header.size_in_bytes();
            for (position, header) in &parsed[at + 1..] {
                let fits = (position + header.size_in_bytes() - start) as u64 <= room
                    && header.last_offset() - active.base_offset <= i64::from(i32::MAX);
                if !fits {
                    break;
                }
                run.push((active.size() + (position - start) as u64, *header));
                end = position + header.size_in_bytes();
            }
            inner.write_batches(
                &mut writer,
                &active,
                &[IoSlice::new(&bytes[start..end])],
                &run,
                Some(now_ms),
            )?;
            at += run.len();
        }
        Ok(FollowerAppended {
            base_offset: first.base_offset,
            log_end,
            batches: parsed.len(),
        })
    }
}

/// The checks on a producer's batch that need nothing of the log.
fn check_client_batch(
    batch: &CheckedBatch,
    config: &LogConfig,
    now_ms: i64,
    options: &AppendOptions,
) -> Result<(), AppendError> {
    let header = batch.header();
    if header.record_count == 0 || i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1 {
        return Err(AppendError::Invalid(format!(
            "record count {} does not match last offset delta {}",
            header.record_count, header.last_offset_delta
        )));
    }
    if options.internal {
        return Ok(());
    }
    if header.is_control() {
        return Err(AppendError::Invalid("clients may not write control batches".into()));
    }
    if header.attributes.has_delete_horizon() {
        return Err(AppendError::Invalid("clients may not set a delete horizon".into()));
    }
    if header.size_in_bytes() > config.max_message_bytes as usize {
        return Err(AppendError::TooLarge {
            size_bytes: header.size_in_bytes(),
            max_bytes: config.max_message_bytes,
        });
    }
    if config.timestamp_type == TimestampType::CreateTime {
        if header.timestamp_type() == TimestampType::LogAppendTime {
            return Err(AppendError::Invalid("only the broker sets the append time".into()));
        }
        let earliest = config
            .message_timestamp_before_max_ms
            .map_or(i64::MIN, |bound| now_ms.saturating_sub(bound));
        let latest = config
            .message_timestamp_after_max_ms
            .map_or(i64::MAX, |bound| now_ms.saturating_add(bound));
        for timestamp in [batch.oldest_timestamp(), header.max_timestamp] {
            // -1 says that the producer gave no time.
            if timestamp != -1 && (timestamp < earliest || timestamp > latest) {
                return Err(AppendError::InvalidTimestamp {
                    timestamp,
                    earliest,
                    latest,
                });
            }
        }
    }
    Ok(())
}

/// What a follower's append comes to.
pub(super) struct Fetched {
    /// The log, which is empty, begins within the first batch.
    within: bool,
    /// The log's end after it.
    log_end: i64,
    /// Where the last batch that leaves a gap before it ends.
    pub gaps_end: Option<i64>,
}

impl LogInner {
    /// Checks that fetched batches follow the log and each other.
    fn check_fetched(
        &self,
        parsed: &[(usize, BatchHeader)],
        within: bool,
        max_epoch: i32,
    ) -> Result<Fetched, AppendError> {
        let mut fetched = Fetched {
            within,
            log_end: self.log_end(),
            gaps_end: None,
        };
        if let Some((_, first)) = parsed.first().filter(|_| within) {
            fetched.log_end = first.base_offset;
        }
        let mut epoch = self.epochs.read().latest().map_or(-1, |entry| entry.epoch);
        for (_, header) in parsed {
            if header.base_offset < fetched.log_end {
                return Err(AppendError::OutOfOrderOffset {
                    expected: fetched.log_end,
                    found: header.base_offset,
                });
            }
            if header.partition_leader_epoch < epoch.max(0) || header.partition_leader_epoch > max_epoch {
                return Err(AppendError::InvalidLeaderEpoch {
                    epoch: header.partition_leader_epoch,
                    lowest: epoch.max(0),
                    highest: max_epoch,
                });
            }
            if header.base_offset > fetched.log_end {
                fetched.gaps_end = Some(header.next_offset());
            }
            fetched.log_end = header.next_offset();
            epoch = header.partition_leader_epoch;
        }
        Ok(fetched)
    }

    /// An empty log may begin within the first batch that the leader has for it: then the batch is stored whole, and
    /// the log start stays where it is (KAFKA-6361's follow-up, `UnexpectedAppendOffsetException` in Kafka).
    fn begins_within(&self, first: &BatchHeader) -> bool {
        let (log_start, log_end) = (self.log_start(), self.log_end());
        let within = first.base_offset < log_end && log_end <= first.last_offset();
        within && log_start == log_end && self.segments().len() == 1 && self.active().size() == 0
    }

    /// Writes bytes that hold `run` to the end of the active segment and publishes the new log end.
    fn write_batches(
        &self,
        writer: &mut Writer,
        active: &Arc<Segment>,
        slices: &[IoSlice<'_>],
        run: &[(u64, BatchHeader)],
        now_ms: Option<i64>,
    ) -> Result<(), AppendError> {
        let old_size = active.size();
        let len: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        let Some((_, last)) = run.last() else { return Ok(()) };
        let mut written = active.write(slices);
        if written.as_ref().is_err_and(is_disk_full) && self.config().uses_reserve && self.shared.release_reserve() {
            written = active
                .file()
                .and_then(|file| file.set_len(old_size))
                .and_then(|()| active.write(slices));
        }
        if let Err(error) = written {
            return Err(self.write_failed(writer, active, old_size, run.len(), &error));
        }
        LogInner::mark_unsynced(writer, active);
        writer.bytes_since_checkpoint += len;
        writer.bytes_since_flush += len;
        if old_size == 0 {
            writer.active_since_ms = now_ms;
        }
        let mut epochs_changed = false;
        for (_, header) in run {
            writer.producers.apply(header, now_ms);
            let latest = self.epochs.read().latest();
            if latest.is_none_or(|latest| latest.epoch < header.partition_leader_epoch) {
                epochs_changed |= self
                    .epochs
                    .write()
                    .assign(header.partition_leader_epoch, header.base_offset);
            }
        }
        writer.epochs_dirty |= epochs_changed;
        writer.producers.bound(self.config().max_producer_ids);
        let published = active.publish(run, old_size + len);
        self.log_end
            .store(last.next_offset(), std::sync::atomic::Ordering::Release);
        self.touch();
        published.map_err(|error| self.fail("writing an index", &error).into())
    }

    fn claim_space(&self, config: &LogConfig, bytes: usize) -> Result<(), DiskFull> {
        if config.uses_reserve {
            Ok(())
        } else {
            self.shared.claim_space(bytes as u64)
        }
    }

    /// A full disk is the one write error that leaves the disk trusted, if the half-written bytes can be erased.
    fn write_failed(
        &self,
        writer: &mut Writer,
        active: &Arc<Segment>,
        old_size: u64,
        batches: usize,
        error: &std::io::Error,
    ) -> AppendError {
        if is_disk_full(error) {
            let erase = || {
                let file = active.file()?;
                file.set_len(old_size)?;
                // The first of several may be whole, and a crash may keep it and lose the erasure.
                if batches > 1 { file.sync_data() } else { Ok(()) }
            };
            match erase() {
                Ok(()) => {
                    // The erasure must be durable before the segment counts as flushed.
                    LogInner::mark_unsynced(writer, active);
                    return self.shared.disk_full().into();
                }
                Err(error) => return self.fail("erasing a half-written batch", &error).into(),
            }
        }
        self.fail("appending", error).into()
    }
}
