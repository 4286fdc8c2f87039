//! Snappy in the framing of snappy-java (`SnappyOutputStream`), which is what Kafka writes; a bare
//! Snappy block, as some other clients write, is read too.
//!
//! ```text
//! 0x82 "SNAPPY" 0x00 | version i32 = 1 | compatible version i32 = 1
//! | { length i32 | Snappy block } ...
//! ```

use super::Failure;

const MAGIC: &[u8; 8] = b"\x82SNAPPY\x00";
const VERSION: i32 = 1;
const FRAME_HEADER_LEN: usize = 16;
/// snappy-java's block size.
const BLOCK_LEN: usize = 32 << 10;
/// A Snappy copy of 3 bytes makes at most 64: no block grows more than 22 times. What claims more
/// is damaged, and nothing is allocated for it.
const MAX_GROWTH: usize = 22;

pub(super) fn compress(encoder: &mut snap::raw::Encoder, input: &[u8], output: &mut Vec<u8>) -> Result<(), String> {
    output.extend_from_slice(MAGIC);
    output.extend_from_slice(&VERSION.to_be_bytes());
    output.extend_from_slice(&VERSION.to_be_bytes());
    for block in input.chunks(BLOCK_LEN) {
        let start = output.len();
        output.resize(start + 4 + snap::raw::max_compress_len(block.len()), 0);
        let length = encoder
            .compress(block, &mut output[start + 4..])
            .map_err(|error| error.to_string())?;
        output[start..start + 4].copy_from_slice(&(length as i32).to_be_bytes());
        output.truncate(start + 4 + length);
    }
    Ok(())
}

pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let mut output = Vec::new();
    if !input.starts_with(MAGIC) {
        decompress_block(input, limit, &mut output)?;
        return Ok(output);
    }
    let mut rest = input;
    while !rest.is_empty() {
        // Streams may follow one another; a block's length can't look like the magic, as it would
        // be negative.
        if rest.starts_with(MAGIC) {
            rest = frame_header(rest)?;
            continue;
        }
        let (length, after) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| Failure::damaged("cut in a block length"))?;
        let length = i32::from_be_bytes(*length);
        let block = usize::try_from(length)
            .map_err(|_| Failure::Damaged(format!("block length {length}")))
            .and_then(|length| after.get(..length).ok_or_else(|| Failure::damaged("cut in a block")))?;
        decompress_block(block, limit, &mut output)?;
        rest = &after[block.len()..];
    }
    Ok(output)
}

fn frame_header(input: &[u8]) -> Result<&[u8], Failure> {
    let header = input
        .first_chunk::<FRAME_HEADER_LEN>()
        .ok_or_else(|| Failure::damaged("cut in the stream header"))?;
    let compatible = i32::from_be_bytes([header[12], header[13], header[14], header[15]]);
    if compatible > VERSION {
        return Err(Failure::Damaged(format!("needs a reader of version {compatible}")));
    }
    Ok(&input[FRAME_HEADER_LEN..])
}

fn decompress_block(block: &[u8], limit: usize, output: &mut Vec<u8>) -> Result<(), Failure> {
    let length = snap::raw::decompress_len(block).map_err(Failure::damaged)?;
    if length > block.len().saturating_mul(MAX_GROWTH) {
        return Err(Failure::Damaged(format!(
            "a block of {} bytes claims to hold {length}",
            block.len()
        )));
    }
    let start = output.len();
    if length > limit - start {
        return Err(Failure::TooLarge);
    }
    output.resize(start + length, 0);
    snap::raw::Decoder::new()
        .decompress(block, &mut output[start..])
        .map_err(Failure::damaged)?;
    Ok(())
}
