//! `--from`: where reading begins.

use std::str::FromStr;

use jiff::Timestamp;

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
        let number = |digits: &str, what: &str| match digits.parse::<i64>() {
            Ok(number) => Ok(number),
            Err(_) => Err(format!("{what} is at most {}", i64::MAX)),
        };
        match text {
            "beginning" | "earliest" => Ok(Self::Beginning),
            "end" | "latest" => Ok(Self::End),
            _ if is_digits(text) => Ok(Self::Offset(number(text, "an offset")?)),
            _ => match text.strip_prefix('@') {
                Some(millis) if is_digits(millis) => Ok(Self::Time(number(millis, "a time")?)),
                _ => time(text),
            },
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn time(text: &str) -> Result<StartAt, String> {
    let time: Timestamp = text.parse().map_err(|_| {
        "expected beginning, end, an offset, a time such as 2026-01-31T12:00:00Z, or @ and milliseconds since 1970"
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
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for text in [
            "",
            "begin",
            "-1",
            "+1",
            "1.5",
            "@",
            "@-1",
            "@x",
            "9223372036854775808",
            "2023-11-14",
            "1969-12-31T23:59:59Z",
        ] {
            assert!(text.parse::<StartAt>().is_err(), "{text}");
        }
    }
}
