//! The four codecs, each a file: compression of whole buffers, decompression under a limit.
//!
//! No length field of a stream decides what is allocated: output grows with what is really decoded,
//! and by no more than the codec could make of the bytes that are there.

mod gzip;
mod lz4;
mod snappy;
mod zstd;

use super::{BatchError, Codec};

/// Why a stream can't be decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It breaks a rule of its format.
    Damaged(String),
    /// It has more bytes than allowed.
    TooLarge,
}

impl Failure {
    fn damaged(reason: impl ToString) -> Self {
        Failure::Damaged(reason.to_string())
    }
}

/// Decompresses `payload` to at most `limit` bytes; `None` if it is not compressed.
pub(crate) fn decompress(codec: Codec, payload: &[u8], limit: usize) -> Result<Option<Vec<u8>>, BatchError> {
    let result = match codec {
        Codec::None => return Ok(None),
        // What compaction leaves of a batch without records: no stream at all.
        _ if payload.is_empty() => return Ok(None),
        Codec::Gzip => gzip::decompress(payload, limit),
        Codec::Snappy => snappy::decompress(payload, limit),
        Codec::Lz4 => lz4::decompress(payload, limit),
        Codec::Zstd => zstd::decompress(payload, limit),
    };
    match result {
        Ok(mut bytes) => {
            // Consumers keep slices of it, so what was guessed far too large is given back. Not
            // less: shrinking makes the allocator fault its pages in anew for each batch.
            if bytes.capacity() / 2 > bytes.len() {
                bytes.shrink_to_fit();
            }
            Ok(Some(bytes))
        }
        Err(Failure::Damaged(reason)) => Err(BatchError::Compressed { codec, reason }),
        Err(Failure::TooLarge) => Err(BatchError::DecompressedTooLarge { codec, limit }),
    }
}

/// Compresses buffers with one codec and level; keeps its state from one to the next.
pub(crate) struct Compressor {
    level: Option<i32>,
    state: State,
}

enum State {
    None,
    Gzip,
    Snappy(Box<snap::raw::Encoder>),
    Lz4,
    Zstd(Box<::zstd::zstd_safe::CCtx<'static>>),
}

impl Compressor {
    /// `level` must be one of [`Codec::levels`].
    pub(crate) fn new(codec: Codec, level: Option<i32>) -> Self {
        let state = match codec {
            Codec::None => State::None,
            Codec::Gzip => State::Gzip,
            Codec::Snappy => State::Snappy(Box::new(snap::raw::Encoder::new())),
            Codec::Lz4 => State::Lz4,
            Codec::Zstd => State::Zstd(Box::default()),
        };
        Self { level, state }
    }

    /// Appends `input`, compressed, to `output`. The error is a message of the codec's library; it
    /// takes a lack of memory or a bug to see one.
    pub(crate) fn compress(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<(), String> {
        match &mut self.state {
            State::None => output.extend_from_slice(input),
            State::Gzip => gzip::compress(input, self.level, output)?,
            State::Snappy(encoder) => snappy::compress(encoder, input, output)?,
            State::Lz4 => lz4::compress(input, output)?,
            State::Zstd(context) => zstd::compress(context, input, self.level, output)?,
        }
        Ok(())
    }
}
