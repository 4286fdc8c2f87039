//! What a reader is sent of one partition: read within the memory that there is, encoded as messages, and cut into
//! answers of bounded size.

use bytes::Bytes;
use millrace_engine::partition::FetchBound;
use millrace_proto::{
    batch::{BatchError, BatchHeader, Codec, DecodeLimits, OwnedBatch, OwnedRecords, owned_batches},
    encoded::{self, EncodedAnswer, MessageEncoder},
    v1::{self, ErrorReason},
};

use super::{Answers, Reader};
use crate::{
    broker::Broker,
    error::ApiError,
    forward::{Data, Source, Target},
    limits,
    memory::{ConnectionBudget, MemoryPermit},
    partition::Offsets,
    rpc::fetch::no_memory,
    turns::{self, Turn},
};

/// What the broker decodes for plain readers costs at most this.
const DECODE: DecodeLimits = DecodeLimits {
    max_decompressed_bytes: limits::MAX_DECOMPRESSED_BYTES,
    max_records: 10_000_000,
    max_headers_per_record: 65_536,
};

/// What a message takes in memory beside its content, and a header beside its own, as is counted for an answer.
const ITEM_BYTES: usize = 64;

/// Where what is read of a partition goes.
pub(in crate::rpc) trait Sink: Send {
    /// For which answers messages are encoded.
    const ANSWERS: encoded::Answers;

    /// The next messages are of this batch. Told of all batches, also of those without messages.
    fn enter(&mut self, _batch: &BatchHeader) {}

    /// Whether one more message is wanted.
    fn wants(&self) -> bool;

    /// One more is on its way.
    fn count(&mut self, message: Encoded);

    /// Passes on the messages that were counted since the last time, encoded, with which the partition is read up to
    /// `next`; waits until there is room for more. Whoever they were for may be gone, and ends the reading then.
    fn send(&mut self, messages: Bytes, next: i64) -> impl Future<Output = ()> + Send;
}

/// A message that was encoded.
#[derive(Clone, Copy, Debug)]
pub(in crate::rpc) struct Encoded {
    /// Its offset.
    pub offset: i64,
    /// Bytes of its key, value and headers.
    pub content: usize,
    /// Where it ends in the bytes of those that are sent together.
    pub end: usize,
}

/// A reader's answers about one partition.
struct Out<'a> {
    remaining: &'a mut Option<u64>,
    answers: &'a Answers,
    partition: i32,
    offsets: Offsets,
}

impl Sink for Out<'_> {
    const ANSWERS: encoded::Answers = encoded::Answers::Read;

    fn wants(&self) -> bool {
        *self.remaining != Some(0)
    }

    fn count(&mut self, _message: Encoded) {
        *self.remaining = self.remaining.map(|left| left - 1);
    }

    async fn send(&mut self, messages: Bytes, next: i64) {
        let progress = v1::PartitionProgress {
            partition: self.partition,
            next_offset: next,
            high_watermark: self.offsets.high_watermark,
            log_start: self.offsets.log_start,
        };
        // A closed channel ends `serve` by itself.
        let _ = self.answers.send(Ok(EncodedAnswer::read(messages, progress))).await;
    }
}

impl Reader {
    /// Sends what one partition has next; answers with whether that was anything.
    pub(super) async fn advance(&mut self, at: usize, answers: &Answers) -> Result<bool, ApiError> {
        let cursor = &mut self.cursors[at];
        if cursor.told && cursor.has_ended() {
            return Ok(false);
        }
        let bound = match cursor.source.bound(&self.broker, cursor.next).await? {
            FetchBound::UpTo(bound) => bound.min(cursor.stop.unwrap_or(i64::MAX)),
            FetchBound::Nothing => cursor.next,
        };
        let mut out = Out {
            remaining: &mut self.remaining,
            answers,
            partition: cursor.source.target().number,
            offsets: cursor.source.offsets(),
        };
        if cursor.next >= bound {
            let told = std::mem::replace(&mut cursor.told, true);
            if !told {
                out.send(Bytes::new(), cursor.next).await;
            }
            return Ok(!told);
        }
        let before = cursor.next;
        let read = pass_on(
            &self.broker,
            self.budget.as_ref(),
            &mut cursor.source,
            &mut cursor.next,
            bound,
            &mut out,
        );
        // Another batch than was looked at is to be looked at anew.
        let is_other = !read.await?;
        cursor.told |= !is_other;
        Ok(is_other || cursor.next > before)
    }
}

/// Reads a partition from `next` on, below `bound`, and passes on what there is, some 512 KiB; moves `next` on. False:
/// nothing was read, as it is another batch now that is larger than was asked for.
pub(in crate::rpc) async fn pass_on(
    broker: &Broker,
    budget: Option<&ConnectionBudget>,
    source: &mut Source,
    next: &mut i64,
    bound: i64,
    out: &mut impl Sink,
) -> Result<bool, ApiError> {
    // As read, decompressed and as an answer. Where memory is short, a small answer goes out
    // without: readers that do not take theirs must not hold up the others.
    let mut permit = match budget {
        Some(budget) => budget.acquire_for_answer(3 * limits::READ_RESPONSE_BYTES).await,
        None => None,
    };
    let mut small = budget.is_some() && permit.is_none();
    let size = if small {
        limits::SMALL_ANSWER_BYTES
    } else {
        limits::READ_RESPONSE_BYTES
    };
    let mut data = source.read(*next, size, bound).await?;
    if let Some(bytes) = data.first_batch_too_large {
        // A batch is read whole however large it is, once it has its memory.
        if let Some(budget) = budget {
            drop(permit.take());
            if !small {
                permit = budget.try_for_answer(3 * limits::READ_RESPONSE_BYTES + bytes);
                small = permit.is_none();
            }
            if small {
                permit = Some(budget.acquire_for_large_answer(bytes).await.ok_or_else(no_memory)?);
            }
        }
        data = source.read(*next, bytes, bound).await?;
        if data.first_batch_too_large.is_some() {
            return Ok(false);
        }
    }
    let target = source.target().clone();
    broker.metrics.count_fetched(&target.topic, data.bytes.len());
    if data.bytes.is_empty() {
        // Nothing left between here and the bound (compaction may leave such gaps).
        *next = data.up_to.max(*next);
    }
    pass_on_encoded(&target, budget, data, next, permit, small, out).await?;
    Ok(true)
}

/// Encodes the messages of batches, which count `permit`, and sends them, in answers of bounded size.
///
/// With `few`, only one small answer: then nothing of a large batch is kept while a slow reader takes it.
async fn pass_on_encoded<S: Sink>(
    target: &Target,
    budget: Option<&ConnectionBudget>,
    data: Data,
    next: &mut i64,
    permit: Option<MemoryPermit>,
    few: bool,
    out: &mut S,
) -> Result<(), ApiError> {
    let mut encoder = MessageEncoder::new(S::ANSWERS, &target.topic, target.number);
    let (mut messages, mut size) = (Vec::new(), 0);
    let read = data.bytes.len();
    'batches: for batch in owned_batches(data.bytes) {
        let begin = *next;
        let batch = batch.map_err(|error| damaged(target, begin, &error))?;
        let until = batch.header().next_offset();
        let damaged = |error| damaged(target, begin, &error).with("damaged_until", until);
        if !data.crc_verified {
            batch.verify_crc().map_err(damaged)?;
        }
        out.enter(batch.header());
        if !batch.header().is_control() {
            let (records, turn) = decode(&batch).await?;
            let mut records = records.map_err(damaged)?;
            // Decompressed records stay until the last of them is taken. Their memory is not waited
            // for: all who wait would hold theirs meanwhile.
            let (few, _held) = match budget {
                Some(budget) if !few && batch.header().codec() != Codec::None => {
                    let held = budget.try_for_answer(records.len_bytes());
                    (held.is_none(), held)
                }
                _ => (few, None),
            };
            // Without memory of their own they stay only while the turn lasts, which ends here without a wait.
            let _turn = turn.filter(|_| few);
            let full = if few {
                limits::SMALL_ANSWER_BYTES
            } else {
                limits::READ_RESPONSE_BYTES
            };
            let room = read.max(records.len_bytes()).min(full);
            while let Some(record) = records.next_borrowed() {
                let record = record.map_err(damaged)?;
                if record.offset < *next {
                    continue;
                }
                if !out.wants() {
                    break 'batches;
                }
                if size >= full {
                    if few {
                        break 'batches;
                    }
                    size = 0;
                    out.send(std::mem::take(&mut messages).into(), *next).await;
                }
                if messages.is_empty() {
                    // What is small takes some more as a message than as a record.
                    messages.reserve(room + room / 4);
                }
                let content = encoder.encode(&record, &mut messages);
                *next = record.offset + 1;
                size += content + ITEM_BYTES * (1 + record.headers.len());
                out.count(Encoded {
                    offset: record.offset,
                    content,
                    end: messages.len(),
                });
            }
        }
        *next = (*next).max(batch.header().next_offset());
    }
    // Of few messages, nothing is left that it counts.
    let _permit = permit.filter(|_| !few);
    out.send(messages.into(), *next).await;
    Ok(())
}

/// A batch's records, and the turn in which they were decompressed, where that may take long.
async fn decode(batch: &OwnedBatch) -> Result<(Result<OwnedRecords, BatchError>, Option<Turn>), ApiError> {
    let (length, codec) = (batch.bytes().len(), batch.header().codec());
    if codec == Codec::None {
        return Ok((batch.records(&DECODE), None));
    }
    if length <= limits::TRIED_IN_PLACE_BYTES {
        let tried = batch.records(&DecodeLimits {
            max_decompressed_bytes: limits::CODED_IN_PLACE_BYTES,
            ..DECODE
        });
        if !matches!(tried, Err(BatchError::DecompressedTooLarge { .. })) {
            return Ok((tried, None));
        }
    }
    let batch = batch.clone();
    let decoding = turns::CODECS.run(move |turn| (batch.records(&DECODE), Some(turn)));
    decoding.await
}

fn damaged(target: &Target, offset: i64, error: &dyn std::fmt::Display) -> ApiError {
    tracing::error!(topic = &*target.topic, partition = target.number, offset, %error, "a batch can't be decoded");
    ApiError::new(
        ErrorReason::DamagedLog,
        format!(
            "The batch at offset {offset} can't be decoded ({error}): read on behind it, or restore the partition."
        ),
    )
    .with("partition", target.number)
    .with("offset", offset)
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
