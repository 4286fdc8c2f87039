//! A request's body that takes the memory of its messages before they are read, and again, where
//! they are large decoded, before they are whole.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame};
use millrace_proto::{
    decoded::{DecodedSize, Shape},
    v1::ErrorReason,
};
use tonic::{Status, body::Body as GrpcBody};

use super::{
    budget::{ConnectionBudget, MemoryPermit},
    layer::compressed,
    permits::MessagePermits,
};
use crate::{
    error::{ApiError, WriteOutcome, oversized},
    limits,
};

/// What is known of a call's messages before they are decoded.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Their type.
    pub shape: &'static Shape,
    /// Whether the call takes the memory of what it decodes by itself. Then messages that are too
    /// large decoded are refused all the same.
    pub self_admitting: bool,
}

/// A request's body that takes each message's memory first: its length before it comes, and what it
/// takes decoded beyond that before its last bytes go on, as nobody decodes it sooner.
pub struct BudgetBody {
    inner: GrpcBody,
    budget: ConnectionBudget,
    permits: MessagePermits,
    prefix: Prefix,
    decoded: Option<Decoded>,
    /// A frame that was read but may not go on yet.
    held: Option<Bytes>,
    acquiring: Option<Acquiring>,
    /// While a message that has its memory is waited for in its middle.
    stall: Option<Stall>,
    /// How long that may be.
    patience: Duration,
}

/// How long a message may still keep its memory without coming.
struct Stall {
    until: Pin<Box<tokio::time::Sleep>>,
    /// What was still to come when this time began.
    remaining: usize,
}

/// Reads along what the present message will be decoded.
#[derive(Debug)]
struct Decoded {
    size: DecodedSize,
    self_admitting: bool,
    /// The bytes of the message that are held were read, and may go on.
    read: bool,
}

/// Memory that is waited for.
struct Acquiring {
    what: Memory,
    permit: Pin<Box<dyn Future<Output = Option<MemoryPermit>> + Send>>,
}

/// Which memory of a message.
#[derive(Clone, Copy, Debug)]
enum Memory {
    /// Its bytes as they come.
    Encoded,
    /// What it takes beyond them.
    Decoded,
}

/// Where in the sequence of length-prefixed messages the next byte stands.
#[derive(Debug, Default)]
struct Prefix {
    /// How much of the five bytes is known, and their content.
    seen: usize,
    bytes: [u8; 5],
    /// Bytes of the present message still to come.
    remaining: usize,
}

/// A message that begins.
#[derive(Clone, Copy, Debug)]
struct Begun {
    length: usize,
    compressed: bool,
}

impl Prefix {
    /// Reads along `data` up to and with the next prefix; answers with how many bytes that
    /// is, and the message that begins there, if one does.
    fn scan(&mut self, data: &[u8]) -> (usize, Option<Begun>) {
        let mut at = self.remaining.min(data.len());
        self.remaining -= at;
        while at < data.len() && self.seen < self.bytes.len() {
            self.bytes[self.seen] = data[at];
            self.seen += 1;
            at += 1;
        }
        if self.seen < self.bytes.len() {
            return (at, None);
        }
        self.seen = 0;
        let [compressed, a, b, c, d] = self.bytes;
        self.remaining = u32::from_be_bytes([a, b, c, d]) as usize;
        let begun = Begun {
            length: self.remaining,
            compressed: compressed != 0,
        };
        (at, Some(begun))
    }
}

impl BudgetBody {
    /// A body whose messages take their memory from `budget`. Of calls that are not the contract's
    /// nothing is `expected`, and only the bytes as they come are counted.
    pub fn new(inner: GrpcBody, budget: ConnectionBudget, permits: MessagePermits, expected: Option<Expected>) -> Self {
        let decoded = expected.map(|expected| Decoded {
            size: DecodedSize::new(expected.shape, 0),
            self_admitting: expected.self_admitting,
            read: false,
        });
        Self {
            inner,
            budget,
            permits,
            prefix: Prefix::default(),
            decoded,
            held: None,
            acquiring: None,
            stall: None,
            patience: limits::MESSAGE_STALL,
        }
    }

    /// Nothing has come. In the middle of a message that is an error once too little came for too
    /// long: the memory that it has is missing to others.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<ApiError> {
        let remaining = self.prefix.remaining;
        if remaining == 0 {
            self.stall = None;
            return Poll::Pending;
        }
        let patience = self.patience;
        loop {
            let stall = self.stall.get_or_insert_with(|| Stall {
                until: Box::pin(tokio::time::sleep(patience)),
                remaining,
            });
            ready!(stall.until.as_mut().poll(context));
            if stall.remaining.saturating_sub(remaining) < limits::MESSAGE_LEAST_BYTES {
                return Poll::Ready(stalled());
            }
            self.stall = None;
        }
    }

    /// Passes on the held frame if all messages that begin or end in it have their memory; else
    /// keeps it, or what comes after those that have.
    ///
    /// # Errors
    /// A message that may not come, or for which there is no memory in time.
    fn poll_held(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ApiError>> {
        let mut scanned = 0;
        loop {
            if let Some(Acquiring { what, permit }) = &mut self.acquiring {
                // What is before it may go on meanwhile.
                let permit = match permit.as_mut().poll(context) {
                    Poll::Ready(permit) => permit.ok_or_else(no_memory)?,
                    Poll::Pending => {
                        let ready = self.held.as_mut().filter(|_| scanned > 0);
                        return ready.map_or(Poll::Pending, |frame| {
                            Poll::Ready(Ok(Some(frame.copy_to_bytes(scanned.min(frame.len())))))
                        });
                    }
                };
                match what {
                    Memory::Encoded => self.permits.push(permit),
                    Memory::Decoded => self.permits.add_decoded_to_last(permit),
                }
                self.acquiring = None;
            }
            let Some(frame) = &self.held else {
                return Poll::Ready(Ok(None));
            };
            let unread = frame.get(scanned..).unwrap_or_default();
            if unread.is_empty() {
                return Poll::Ready(Ok(self.held.take()));
            }
            if let Some(decoded) = &mut self.decoded {
                if let Some(bytes) = decoded.read(&self.prefix, unread)? {
                    let budget = self.budget.clone();
                    self.acquiring = Some(Acquiring {
                        what: Memory::Decoded,
                        permit: Box::pin(async move { budget.acquire_decoded(bytes).await }),
                    });
                    continue;
                }
                decoded.read = false;
            }
            let (used, begun) = self.prefix.scan(unread);
            scanned += used;
            if let Some(Begun { length, compressed }) = begun {
                self.begin(length, compressed)?;
            }
        }
    }

    /// A message of `length` bytes begins.
    fn begin(&mut self, length: usize, compressed: bool) -> Result<(), ApiError> {
        if compressed {
            return Err(self::compressed());
        }
        if length > limits::MAX_RPC_MESSAGE_BYTES {
            return Err(oversized(length, limits::MAX_RPC_MESSAGE_BYTES));
        }
        if let Some(decoded) = &mut self.decoded {
            decoded.size.begin(length);
        }
        self.stall = None;
        let budget = self.budget.clone();
        self.permits.begin();
        self.acquiring = Some(Acquiring {
            what: Memory::Encoded,
            permit: Box::pin(async move { budget.acquire(length).await }),
        });
        Ok(())
    }
}

impl Decoded {
    /// Reads what `unread` has of the present message, once. Answers with what is to be acquired
    /// before these bytes go on, if they end it and that is much.
    ///
    /// # Errors
    /// It takes more than any message may.
    fn read(&mut self, prefix: &Prefix, unread: &[u8]) -> Result<Option<usize>, ApiError> {
        let part = unread.get(..prefix.remaining).unwrap_or(unread);
        if self.read || part.is_empty() {
            return Ok(None);
        }
        self.read = true;
        self.size.read(part);
        let bytes = self.size.bytes();
        if bytes > limits::MAX_DECODED_BYTES {
            return Err(too_many_items(bytes));
        }
        let acquired = part.len() == prefix.remaining && !self.self_admitting;
        Ok(Some(bytes).filter(|bytes| acquired && *bytes > limits::UNCOUNTED_DECODED_BYTES))
    }
}

impl Drop for BudgetBody {
    fn drop(&mut self) {
        self.permits.end();
    }
}

impl Body for BudgetBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match ready!(self.poll_held(context)) {
                Ok(Some(bytes)) if !bytes.is_empty() => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(_) => {}
                Err(error) => {
                    (self.held, self.acquiring) = (None, None);
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
            let Poll::Ready(next) = Pin::new(&mut self.inner).poll_frame(context) else {
                let error = ready!(self.poll_stalled(context));
                return Poll::Ready(Some(Err(error.into())));
            };
            match next {
                None => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held = Some(data),
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
            }
        }
    }
}

/// A message of many small items, each of which takes many times its bytes once it is decoded.
fn too_many_items(bytes: usize) -> ApiError {
    ApiError::new(
        ErrorReason::MessageTooLarge,
        format!(
            "The request has so many items that it takes more than {} bytes of memory, which is the limit: send less at once (at most {} messages, {} partitions).",
            limits::MAX_DECODED_BYTES,
            limits::MAX_MESSAGES_PER_PUBLISH,
            limits::MAX_PARTITIONS_PER_REQUEST,
        ),
    )
    .with("size_bytes", bytes)
    .with("limit_bytes", limits::MAX_DECODED_BYTES)
    .outcome(WriteOutcome::NotWritten)
}

/// A message stopped in its middle.
fn stalled() -> ApiError {
    ApiError::new(
        ErrorReason::TimedOut,
        format!(
            "The request stopped in its middle: less than {} bytes of it came within {} s. Look at the connection, and send it again.",
            limits::MESSAGE_LEAST_BYTES,
            limits::MESSAGE_STALL.as_secs(),
        ),
    )
    .outcome(WriteOutcome::NotWritten)
}

/// A request waited too long for memory.
fn no_memory() -> ApiError {
    ApiError::new(
        ErrorReason::Overloaded,
        "The broker had no memory for the request in time: send less at once, and try again later.",
    )
    .outcome(WriteOutcome::NotWritten)
}

#[cfg(test)]
mod tests;
