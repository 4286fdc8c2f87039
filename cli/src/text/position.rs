//! `--from`: where reading begins.

use std::str::FromStr;

use jiff::{Timestamp, civil, tz::TimeZone};

/// Where reading begins in each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest record that is kept.
    Beginning,
    /// Behind the newest record.
    End,
    /// This offset.
    Offset(i64),
    /// The first record of this time or later, in milliseconds since 1970.
    Time(i64),
}

impl FromStr for StartAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, Timestamp::now())
    }
}

impl StartAt {
    /// Reads a position; times such as `-1h` are before `now`.
    fn parse(text: &str, now: Timestamp) -> Result<Self, String> {
        let number = |digits: &str, what: &str| match digits.parse::<i64>() {
            Ok(number) => Ok(number),
            Err(_) => Err(format!("{what} is at most {}", i64::MAX)),
        };
        match text {
            "beginning" | "earliest" => return Ok(Self::Beginning),
            "end" | "latest" => return Ok(Self::End),
            _ if is_digits(text) => return Ok(Self::Offset(number(text, "an offset")?)),
            _ => {}
        }
        if let Some(millis) = text.strip_prefix('@').filter(|millis| is_digits(millis)) {
            return Ok(Self::Time(number(millis, "a time")?));
        }
        if let Some(ago) = text.strip_prefix('-').and_then(span_ms) {
            // Not below 1970: nothing is older.
            return Ok(Self::Time(now.as_millisecond().saturating_sub(ago).max(0)));
        }
        time(text)
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A span as `output::duration_ms` writes it, `1d12h`, `90m`, in milliseconds.
fn span_ms(text: &str) -> Option<i64> {
    let (mut rest, mut sum) = (text, 0_i64);
    while !rest.is_empty() {
        let (digits, behind) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit = behind.split(|c: char| c.is_ascii_digit()).next()?;
        let size: i64 = match unit {
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        sum = sum.checked_add(digits.parse::<i64>().ok()?.checked_mul(size)?)?;
        rest = &behind[unit.len()..];
    }
    (!text.is_empty()).then_some(sum)
}

/// A time, or a date or time without a zone, which is taken as UTC as times are shown.
fn timestamp(text: &str) -> Option<Timestamp> {
    if let Ok(time) = text.parse() {
        return Some(time);
    }
    // A zone that is named in brackets would be passed over.
    let local = text.parse::<civil::DateTime>().ok().filter(|_| !text.contains('['))?;
    Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

fn time(text: &str) -> Result<StartAt, String> {
    let time = timestamp(text).ok_or_else(|| {
        "expected beginning, end, an offset, a time such as 2026-01-31T12:00:00Z, a date such as 2026-01-31, a time \
         ago such as -1h or -30m, or @ and milliseconds since 1970"
            .to_owned()
    })?;
    // Records have whole milliseconds: the first one at or after the time is that of the
    // next whole millisecond.
    let millis =
        time.as_nanosecond().div_euclid(1_000_000) + i128::from(time.as_nanosecond().rem_euclid(1_000_000) > 0);
    match i64::try_from(millis) {
        Ok(millis @ 0..) => Ok(StartAt::Time(millis)),
        _ => Err("a time before 1970 is no record's".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        for (text, expected) in [
            ("beginning", StartAt::Beginning),
            ("earliest", StartAt::Beginning),
            ("end", StartAt::End),
            ("latest", StartAt::End),
            ("0", StartAt::Offset(0)),
            ("9223372036854775807", StartAt::Offset(i64::MAX)),
            ("@0", StartAt::Time(0)),
            ("@1700000000123", StartAt::Time(1_700_000_000_123)),
            ("2023-11-14T22:13:20Z", StartAt::Time(1_700_000_000_000)),
            ("2023-11-14T23:13:20.123+01:00", StartAt::Time(1_700_000_000_123)),
            ("2023-11-14T22:13:20.000000001Z", StartAt::Time(1_700_000_000_001)),
            ("2023-11-14", StartAt::Time(1_699_920_000_000)),
            ("2023-11-14T22:13:20", StartAt::Time(1_700_000_000_000)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn times_ago_count_from_now() {
        let now = Timestamp::from_millisecond(1_700_000_000_000).unwrap();
        for (text, ago) in [
            ("-1h", 3_600_000),
            ("-30m", 1_800_000),
            ("-1d12h", 129_600_000),
            ("-1s500ms", 1_500),
            ("-99999d", 1_700_000_000_000),
        ] {
            assert_eq!(
                StartAt::parse(text, now),
                Ok(StartAt::Time(1_700_000_000_000 - ago)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in [
            "",
            "begin",
            "-1",
            "-",
            "-h",
            "-1w",
            "-1h30",
            "-9223372036854775807d",
            "+1",
            "1.5",
            "@",
            "@-1",
            "@x",
            "9223372036854775808",
            "2023-11",
            "2023-11-14T22:13:20[Europe/Berlin]",
            "1969-12-31T23:59:59Z",
        ] {
            assert!(text.parse::<StartAt>().is_err(), "{text}");
        }
    }
}
