//! Writing results: tables for people, JSON for programs, sizes and times in words.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::NOTHING};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::error::OutputError;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Tables and sentences for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

impl OutputFormat {
    /// The format that a command line asks for which as a whole is wrong.
    pub fn of_unparsed(args: impl Iterator<Item = OsString>) -> Self {
        let mut before = OsString::new();
        for arg in args.take_while(|arg| arg != "--") {
            let whole = ["--output=json", "-o=json", "-ojson"].iter().any(|flag| arg == *flag);
            if whole || (arg == "json" && (before == "--output" || before == "-o")) {
                return Self::Json;
            }
            before = arg;
        }
        Self::Text
    }
}

/// Writes text to standard output.
pub fn print(text: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Tells what was done: a sentence for people, an object for programs.
pub fn tell(format: OutputFormat, text: &str, json: &impl Serialize) -> anyhow::Result<()> {
    match format {
        OutputFormat::Text => Ok(print(text)?),
        OutputFormat::Json => print_json(json),
    }
}

/// `topic/NAME created`, as kubectl says it, with a note where nothing was really done.
pub fn done(kind: &str, name: impl Display, what: &str, dry_run: bool) -> String {
    format!("{kind}/{name} {what}{}\n", if dry_run { " (dry run)" } else { "" })
}

/// Writes one JSON value and a newline to standard output.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(print(&text)?)
}

/// A table without borders, as kubectl's.
pub struct TextTable(Table);

impl TextTable {
    /// A table with these column names.
    pub fn new(header: &[&str]) -> Self {
        let mut table = Table::new();
        // A line is a row, whatever the terminal's width, so that `grep` and `awk` work on it.
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(header.iter().map(Cell::new));
        Self::pad(&mut table);
        Self(table)
    }

    fn pad(table: &mut Table) {
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
    }

    /// Aligns the columns of these numbers to the right, for numbers.
    pub fn right(mut self, columns: &[usize]) -> Self {
        for &column in columns {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells);
    }

    /// The table's lines, each ended by a newline and without spaces at its end.
    pub fn render(&self) -> String {
        self.0.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// `NAME: value` lines, values in one column.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    rows.iter()
        .map(|(name, value)| format!("{:width$}  {value}\n", format!("{name}:")))
        .collect()
}

/// Bytes in binary units: `0 B`, `1.5 KiB`, `12 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be written as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 99.95 && value.fract() >= 0.05 && value.fract() < 0.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A whole number with its thousands parted: `1,000,000`.
pub fn count(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 message`, `2 messages`.
pub fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Numbers of brokers: `[0]`, `[0,1,2]`. The brackets tell broker 0 from none.
pub fn ids<T: Display>(ids: &[T]) -> String {
    let ids: Vec<String> = ids.iter().map(T::to_string).collect();
    format!("[{}]", ids.join(","))
}

/// Milliseconds in the largest units: `7d`, `1h30m`, `250ms`.
pub fn duration_ms(ms: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    if ms < 0 {
        return "unlimited".to_owned();
    }
    let (mut rest, mut text) = (ms, String::new());
    for (size, unit) in UNITS {
        if rest >= size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if rest > 0 || text.is_empty() {
        text.push_str(&format!("{rest}ms"));
    }
    text
}

/// A time of an answer in milliseconds; `None` if it is none that can be counted in them.
pub fn millis(time: impl TryInto<Duration>) -> Option<i64> {
    i64::try_from(time.try_into().ok()?.as_millis()).ok()
}

/// How long ago a time was, in one or two units, as kubectl's AGE: `5s`, `3m20s`, `2d`.
pub fn age(from: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(from).max(SignedDuration::ZERO).as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600, seconds / 60);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        120..7_200 => format!("{minutes}m"),
        7_200..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC; `None` for -1 and other times that there are not.
pub fn time_ms(ms: i64) -> Option<String> {
    let time = Timestamp::from_millisecond(ms).ok().filter(|_| ms >= 0)?;
    Some(format!("{time:.3}"))
}

/// A setting's value with what it means, where the key's unit says so.
pub fn setting(key: &str, value: &str) -> String {
    let meaning = match value.parse::<i64>() {
        Ok(i64::MAX) => "unlimited".to_owned(),
        Ok(number) if key.ends_with(".ms") && !(0..1_000).contains(&number) => duration_ms(number),
        Ok(number) if key.ends_with(".bytes") && number >= 1024 => bytes(number.unsigned_abs()),
        Ok(number) if key.ends_with(".bytes") && number < 0 => "unlimited".to_owned(),
        _ => return value.to_owned(),
    };
    format!("{value} ({meaning})")
}

/// The 16 bytes of an id as a UUID; other lengths as plain hexadecimal.
pub fn uuid(id: &[u8]) -> String {
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    if id.len() != 16 {
        return hex;
    }
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_at_most_three_digits() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1 MiB"),
            (1 << 20, "1 MiB"),
            (123 << 20, "123 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn numbers_are_parted() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(plural(1, "line"), "1 line");
        assert_eq!(plural(2_000, "line"), "2,000 lines");
    }

    #[test]
    fn broker_zero_is_not_none() {
        assert_eq!(ids::<i32>(&[]), "[]");
        assert_eq!(ids(&[0]), "[0]");
        assert_eq!(ids(&[0, 12]), "[0,12]");
    }

    #[test]
    fn durations_name_their_units() {
        for (ms, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (1_500, "1s500ms"),
            (604_800_000, "7d"),
            (5_400_000, "1h30m"),
            (-1, "unlimited"),
        ] {
            assert_eq!(duration_ms(ms), text);
        }
    }

    #[test]
    fn ages_are_short() {
        let start = Timestamp::UNIX_EPOCH;
        for (seconds, text) in [
            (5, "5s"),
            (119, "119s"),
            (150, "2m30s"),
            (601, "10m"),
            (7_200, "2h"),
            (700_000, "8d"),
        ] {
            assert_eq!(age(start, start + SignedDuration::from_secs(seconds)), text);
        }
        assert_eq!(
            age(start + SignedDuration::from_secs(5), start),
            "0s",
            "a clock that is behind"
        );
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(time_ms(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(time_ms(1_700_000_000_123).as_deref(), Some("2023-11-14T22:13:20.123Z"));
        assert_eq!(time_ms(-1), None);
        assert_eq!(time_ms(i64::MAX), None);
    }

    #[test]
    fn settings_are_explained_by_their_unit() {
        assert_eq!(setting("retention.ms", "3600000"), "3600000 (1h)");
        assert_eq!(setting("retention.bytes", "-1"), "-1 (unlimited)");
        assert_eq!(setting("segment.bytes", "1073741824"), "1073741824 (1 GiB)");
        assert_eq!(
            setting("segment.ms", &i64::MAX.to_string()),
            "9223372036854775807 (unlimited)"
        );
        assert_eq!(setting("flush", "os"), "os");
        assert_eq!(setting("min.insync.replicas", "2"), "2");
    }

    #[test]
    fn an_id_is_a_uuid() {
        let id: Vec<u8> = (0..16).collect();
        assert_eq!(uuid(&id), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(uuid(&[0xab]), "ab");
    }

    #[test]
    fn a_table_has_a_line_for_each_row() {
        let mut table = TextTable::new(&["NAME", "PARTITIONS"]).right(&[1]);
        table.row(["a".into(), "10".into()]);
        table.row(["long-name".into(), "3".into()]);
        assert_eq!(
            table.render(),
            "NAME        PARTITIONS\na                   10\nlong-name            3\n"
        );
    }

    #[test]
    fn fields_stand_below_each_other() {
        assert_eq!(
            fields(&[("Name", "t".into()), ("Partitions", "3".into())]),
            "Name:        t\nPartitions:  3\n"
        );
    }
}
