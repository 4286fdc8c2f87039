//! Between the contract's messages and stored records.

use millrace_engine::config::TopicCompression;
pub use millrace_proto::v1::ms_to_timestamp;
use millrace_proto::{
    batch::{Codec, Header},
    v1::{self, ErrorReason},
};

use crate::{
    error::ApiError,
    limits::{MAX_HEADER_NAME_BYTES, MAX_HEADERS_PER_MESSAGE},
};

/// Milliseconds since 1970, rounded down.
///
/// # Errors
/// Before 1970, or not a time.
pub fn timestamp_to_ms(field: &str, time: &prost_types::Timestamp) -> Result<i64, ApiError> {
    let invalid = |problem: &str| {
        ApiError::new(ErrorReason::InvalidTimestamp, format!("Field {field}: {problem}.")).with("field", field)
    };
    if time.seconds < 0 || !(0..1_000_000_000).contains(&time.nanos) {
        return Err(invalid("must be a time from 1970 on, with nanos below 1e9"));
    }
    time.seconds
        .checked_mul(1_000)
        .and_then(|ms| ms.checked_add(i64::from(time.nanos / 1_000_000)))
        .ok_or_else(|| invalid("is too far in the future"))
}

/// A duration of the contract within `0 ..= max`, or `default` if absent.
///
/// # Errors
/// Negative or above `max`.
pub fn duration(
    field: &str,
    value: Option<prost_types::Duration>,
    default: std::time::Duration,
    max: std::time::Duration,
) -> Result<std::time::Duration, ApiError> {
    let Some(value) = value else { return Ok(default) };
    // The conversion would add up what is out of bounds, beyond what a number holds.
    let possible = value.seconds >= 0 && (0..1_000_000_000).contains(&value.nanos);
    let converted = possible.then(|| std::time::Duration::try_from(value).ok()).flatten();
    converted
        .filter(|duration| *duration <= max)
        .ok_or_else(|| ApiError::field(field, format!("must be from 0 to {} s", max.as_secs())))
}

/// The same in whole milliseconds, as records hold it: parts of one are rounded up, so that none becomes zero.
///
/// # Errors
/// As [`duration`].
pub fn whole_ms_duration(
    field: &str,
    value: Option<prost_types::Duration>,
    default: std::time::Duration,
    max: std::time::Duration,
) -> Result<std::time::Duration, ApiError> {
    let duration = duration(field, value, default, max)?;
    let parts = duration.subsec_nanos() % 1_000_000;
    let missing = (1_000_000 - parts) % 1_000_000;
    Ok(duration.saturating_add(std::time::Duration::from_nanos(missing.into())))
}

/// Nobody would be told whether `field`, an expected offset, was met.
pub fn offset_expected_without_answer(field: String) -> ApiError {
    ApiError::field(
        field,
        "needs acks that tell what became of it: leave acks out, or the expected offset",
    )
}

/// Checks a message's own bounds; answers with its time in milliseconds, or `now_ms`.
///
/// # Errors
/// The first field that is out of bounds.
pub fn check_message(at: usize, message: &v1::Message, now_ms: i64) -> Result<i64, ApiError> {
    if message.headers.len() > MAX_HEADERS_PER_MESSAGE {
        return Err(ApiError::field(
            format!("messages[{at}].headers"),
            format!("has more than {MAX_HEADERS_PER_MESSAGE} entries"),
        ));
    }
    for (number, header) in message.headers.iter().enumerate() {
        if header.name.is_empty() || header.name.len() > MAX_HEADER_NAME_BYTES {
            return Err(ApiError::field(
                format!("messages[{at}].headers[{number}].name"),
                format!("must have 1 to {MAX_HEADER_NAME_BYTES} bytes"),
            ));
        }
    }
    match &message.timestamp {
        Some(time) => timestamp_to_ms(&format!("messages[{at}].timestamp"), time),
        None => Ok(now_ms),
    }
}

/// A message's headers as records have them.
pub fn record_headers(message: &v1::Message) -> Vec<Header<'_>> {
    message
        .headers
        .iter()
        .map(|header| Header {
            key: header.name.as_bytes(),
            value: header.value.as_deref(),
        })
        .collect()
}

/// The codec for messages that the broker batches itself.
///
/// # Errors
/// A number that is no compression.
pub fn codec(requested: i32, topic: TopicCompression) -> Result<Codec, ApiError> {
    use v1::Compression as C;
    let requested =
        C::try_from(requested).map_err(|_| ApiError::field("compression", "is not one of the enum's values"))?;
    Ok(match requested {
        C::Unspecified => topic_codec(topic).unwrap_or(Codec::None),
        C::None => Codec::None,
        C::Gzip => Codec::Gzip,
        C::Snappy => Codec::Snappy,
        C::Lz4 => Codec::Lz4,
        C::Zstd => Codec::Zstd,
    })
}

/// The codec that a topic's setting asks for; `None`: as the producer sent it.
#[must_use]
pub fn topic_codec(topic: TopicCompression) -> Option<Codec> {
    match topic {
        TopicCompression::Producer => None,
        TopicCompression::Uncompressed => Some(Codec::None),
        TopicCompression::Gzip => Some(Codec::Gzip),
        TopicCompression::Snappy => Some(Codec::Snappy),
        TopicCompression::Lz4 => Some(Codec::Lz4),
        TopicCompression::Zstd => Some(Codec::Zstd),
    }
}

/// When to acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Not at all.
    None,
    /// When the leader has written it.
    Leader,
    /// When all in-sync replicas have it on disk.
    All,
}

/// The contract's acks; unspecified means all.
///
/// # Errors
/// A number that is none.
pub fn acks(value: i32) -> Result<Acks, ApiError> {
    match v1::Acks::try_from(value) {
        Ok(v1::Acks::Unspecified | v1::Acks::All) => Ok(Acks::All),
        Ok(v1::Acks::Leader) => Ok(Acks::Leader),
        Ok(v1::Acks::None) => Ok(Acks::None),
        Err(_) => Err(ApiError::field("acks", "is not one of the enum's values")),
    }
}

/// Checks an isolation; both kinds see the same until there are transactions.
///
/// # Errors
/// A number that is none.
pub fn check_isolation(value: i32) -> Result<(), ApiError> {
    v1::Isolation::try_from(value)
        .map(|_| ())
        .map_err(|_| ApiError::field("isolation", "is not one of the enum's values"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_convert_both_ways_to_the_millisecond() {
        for ms in [0, 1, 999, 1_000, 1_700_000_000_123] {
            let time = ms_to_timestamp(ms).unwrap();
            assert_eq!(timestamp_to_ms("t", &time), Ok(ms));
        }
        assert_eq!(ms_to_timestamp(-1), None);
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            let time = prost_types::Timestamp { seconds, nanos };
            assert!(timestamp_to_ms("t", &time).is_err(), "{seconds} {nanos}");
        }
    }

    #[test]
    fn durations_are_bounded() {
        use std::time::Duration as D;
        let check = |seconds, nanos| {
            let asked = Some(prost_types::Duration { seconds, nanos });
            let whole = whole_ms_duration("timeout", asked, D::from_secs(1), D::from_secs(60));
            let exact = duration("timeout", asked, D::from_secs(1), D::from_secs(60));
            assert_eq!(whole.is_ok(), exact.is_ok());
            whole
        };
        assert_eq!(check(60, 0), Ok(D::from_secs(60)));
        // What is stored has whole milliseconds, and a time that is not zero does not become zero.
        assert_eq!(check(1, 500_000), Ok(D::from_millis(1_001)));
        assert_eq!(check(0, 1), Ok(D::from_millis(1)));
        assert_eq!(check(59, 999_999_999), Ok(D::from_secs(60)));
        assert!(check(60, 1).is_err());
        assert!(check(-1, 0).is_err());
        for seconds in [i64::MAX, i64::MIN, 0] {
            for nanos in [i32::MAX, i32::MIN] {
                assert!(check(seconds, nanos).is_err(), "{seconds} s and {nanos} ns");
            }
        }
        assert_eq!(
            duration("t", None, D::from_secs(1), D::from_secs(2)),
            Ok(D::from_secs(1))
        );
    }

    #[test]
    fn unknown_enum_numbers_are_refused() {
        assert!(acks(9).is_err());
        assert!(check_isolation(-1).is_err());
        assert!(codec(77, TopicCompression::Producer).is_err());
        assert_eq!(codec(0, TopicCompression::Zstd), Ok(Codec::Zstd));
        assert_eq!(acks(0), Ok(Acks::All));
    }
}
