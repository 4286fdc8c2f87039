//! LZ4 frame format (`lz4_Frame_format.md` of the lz4 project), as Kafka's `Lz4BlockInputStream`
//! reads it, and linked blocks besides.
//!
//! ```text
//! magic u32 | flags u8 | block size u8 | [content size u64] | header checksum u8
//! | { length u32, high bit: stored | block | [checksum u32] } ... | 0u32 | [content checksum u32]
//! ```
//!
//! Integers are little-endian. Decoded here and not by the library's reader, which takes buffers of
//! the header's block size, up to 8 MiB, for a stream of a few bytes.

use std::io::Write;

use lz4_flex::block::{DecompressError, decompress_into, decompress_into_with_dict};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use twox_hash::XxHash32;

use super::Failure;

const MAGIC: u32 = 0x184D_2204;
const VERSION_MASK: u8 = 0b1100_0000;
const VERSION: u8 = 0b0100_0000;
const INDEPENDENT: u8 = 1 << 5;
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const RESERVED: u8 = 1 << 1;
const DICTIONARY: u8 = 1;
const STORED: u32 = 1 << 31;
/// How far back a linked block may refer.
const WINDOW: usize = 64 << 10;
/// A length byte of 255 adds 255 bytes: no block grows more.
const MAX_GROWTH: usize = 255;

pub(super) fn compress(input: &[u8], output: &mut Vec<u8>) -> Result<(), String> {
    // As Kafka writes: independent blocks of 64 KiB, no checksums, as the batch has its own.
    let info = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, output);
    encoder.write_all(input).map_err(|error| error.to_string())?;
    encoder.finish().map(|_| ()).map_err(|error| error.to_string())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let mut input = Input(input);
    let frame = Frame::read(&mut input)?;
    let mut output = Vec::new();
    loop {
        let length = input.u32()?;
        if length == 0 {
            break;
        }
        let block = input.take((length & !STORED) as usize)?;
        if block.len() > frame.block_len {
            return Err(Failure::Damaged(format!(
                "block of {} bytes exceeds {}",
                block.len(),
                frame.block_len
            )));
        }
        if frame.flags & BLOCK_CHECKSUM != 0 && input.u32()? != XxHash32::oneshot(0, block) {
            return Err(Failure::damaged("block checksum mismatch"));
        }
        if length & STORED != 0 {
            if block.len() > limit - output.len() {
                return Err(Failure::TooLarge);
            }
            output.extend_from_slice(block);
        } else {
            decompress_block(&frame, block, limit, &mut output)?;
        }
    }
    if frame.flags & CONTENT_CHECKSUM != 0 && input.u32()? != XxHash32::oneshot(0, &output) {
        return Err(Failure::damaged("content checksum mismatch"));
    }
    if frame.content_len.is_some_and(|length| length != output.len() as u64) {
        return Err(Failure::damaged("content size mismatch"));
    }
    if !input.0.is_empty() {
        return Err(Failure::Damaged(format!("{} bytes after the end mark", input.0.len())));
    }
    Ok(output)
}

fn decompress_block(frame: &Frame, block: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), Failure> {
    let start = output.len();
    let possible = frame.block_len.min(block.len().saturating_mul(MAX_GROWTH));
    let room = possible.min(limit - start);
    output.resize(start + room, 0);
    let (before, target) = output.split_at_mut(start);
    let result = if frame.flags & INDEPENDENT != 0 {
        decompress_into(block, target)
    } else {
        decompress_into_with_dict(block, target, &before[start.saturating_sub(WINDOW)..])
    };
    match result {
        Ok(length) => {
            output.truncate(start + length);
            Ok(())
        }
        Err(DecompressError::OutputTooSmall { .. }) if room < possible => Err(Failure::TooLarge),
        Err(error) => Err(Failure::damaged(error)),
    }
}

struct Frame {
    flags: u8,
    block_len: usize,
    content_len: Option<u64>,
}

impl Frame {
    fn read(input: &mut Input<'_>) -> Result<Frame, Failure> {
        if input.u32()? != MAGIC {
            return Err(Failure::damaged("no LZ4 frame"));
        }
        let start = input.0;
        let flags = input.u8()?;
        if flags & VERSION_MASK != VERSION || flags & (RESERVED | DICTIONARY) != 0 {
            return Err(Failure::Damaged(format!("unsupported frame flags {flags:#04x}")));
        }
        let descriptor = input.u8()?;
        let block_len = match (descriptor >> 4 & 0b111, descriptor & 0b1000_1111) {
            (size @ 4..=7, 0) => 1 << (8 + 2 * usize::from(size)),
            _ => return Err(Failure::Damaged(format!("unsupported block size {descriptor:#04x}"))),
        };
        let content_len = if flags & CONTENT_SIZE != 0 {
            Some(input.u64()?)
        } else {
            None
        };
        let checksum = (XxHash32::oneshot(0, &start[..start.len() - input.0.len()]) >> 8) as u8;
        if input.u8()? != checksum {
            return Err(Failure::damaged("header checksum mismatch"));
        }
        Ok(Frame {
            flags,
            block_len,
            content_len,
        })
    }
}

/// What is left of the stream.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Failure> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(Self::cut)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(Self::cut)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Failure> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, Failure> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Failure> {
        self.array().map(u64::from_le_bytes)
    }

    fn cut() -> Failure {
        Failure::damaged("cut")
    }
}
