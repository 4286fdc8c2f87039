//! gzip, RFC 1952.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::Failure;

/// The first guess of the output's size, when the input is very small.
const MIN_GUESS: usize = 4096;

pub(super) fn compress(input: &[u8], level: Option<i32>, output: &mut Vec<u8>) -> Result<(), String> {
    let level = level
        .and_then(|level| u32::try_from(level).ok())
        .map_or(Compression::default(), Compression::new);
    let mut encoder = GzEncoder::new(output, level);
    encoder
        .write_all(input)
        .and_then(|()| encoder.finish().map(|_| ()))
        .map_err(|error| error.to_string())
}

/// Members may follow one another, as Java's `GZIPInputStream` reads them.
pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let mut decoder = MultiGzDecoder::new(input);
    let mut output = Vec::new();
    let mut filled = 0;
    loop {
        if filled == output.len() {
            if filled > limit {
                return Err(Failure::TooLarge);
            }
            // Doubles, up to one byte more than allowed: that byte tells "just fits" from "too
            // large".
            let grow = filled
                .max(input.len().saturating_mul(4))
                .max(MIN_GUESS)
                .min(limit + 1 - filled);
            output.reserve_exact(grow);
            output.resize(filled + grow, 0);
        }
        match decoder.read(&mut output[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) => return Err(Failure::damaged(error)),
        }
    }
    if filled > limit {
        return Err(Failure::TooLarge);
    }
    output.truncate(filled);
    Ok(output)
}
