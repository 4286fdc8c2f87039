//! Zstandard, RFC 8878.

use zstd::zstd_safe::{self, CCtx, DCtx};

use super::Failure;

/// Kafka's default level.
const DEFAULT_LEVEL: i32 = 3;
/// The first guess of the output's size, when the input is very small.
const MIN_GUESS: usize = 64 << 10;
/// The first guess of how much the data was compressed.
const GUESS_GROWTH: usize = 8;
/// How much more room to try after too little. Each try decodes from the start, so all tries
/// together cost at most a third more than the last one.
const RETRY_GROWTH: usize = 4;
/// `ZSTD_error_dstSize_tooSmall` of zstd_errors.h, as zstd returns it: negated.
const DESTINATION_TOO_SMALL: usize = 70usize.wrapping_neg();

pub(super) fn compress(
    context: &mut CCtx<'static>,
    input: &[u8],
    level: Option<i32>,
    output: &mut Vec<u8>,
) -> Result<(), String> {
    let start = output.len();
    output.resize(start + zstd_safe::compress_bound(input.len()), 0);
    let length = context
        .compress(&mut output[start..], input, level.unwrap_or(DEFAULT_LEVEL))
        .map_err(|code| zstd_safe::get_error_name(code).to_owned())?;
    output.truncate(start + length);
    Ok(())
}

/// Decodes into one buffer and not as a stream: a stream's decoder takes a window of up to 128 MiB
/// because the frame header says so, and Kafka's producers do say so at the highest levels.
pub(super) fn decompress(input: &[u8], limit: usize) -> Result<Vec<u8>, Failure> {
    let guess = input.len().saturating_mul(GUESS_GROWTH).max(MIN_GUESS);
    // The frame may tell its size; it is believed only as far as the guess goes.
    let told = zstd_safe::get_frame_content_size(input).ok().flatten();
    let mut room = told
        .map_or(guess, |told| usize::try_from(told).unwrap_or(guess).min(guess))
        .min(limit);
    let mut context = DCtx::create();
    loop {
        let mut output = vec![0; room];
        match context.decompress(&mut output[..], input) {
            Ok(length) => {
                output.truncate(length);
                return Ok(output);
            }
            Err(DESTINATION_TOO_SMALL) if room == limit => return Err(Failure::TooLarge),
            Err(DESTINATION_TOO_SMALL) => {
                room = room.max(MIN_GUESS).saturating_mul(RETRY_GROWTH).min(limit);
            }
            Err(code) => return Err(Failure::damaged(zstd_safe::get_error_name(code))),
        }
    }
}
