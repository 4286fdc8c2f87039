//! The entries of a segment's other files.

use millrace_log::{EpochEntry, index::txn::AbortedTransaction, producer::ProducerState};
use serde::Serialize;

use crate::output::{OutputFormat, TextTable, time_ms};

/// Rows as a table, or as one JSON object a line.
fn render<const N: usize>(
    names: [&'static str; N],
    rows: impl Iterator<Item = [i64; N]>,
    format: OutputFormat,
) -> anyhow::Result<String> {
    if format == OutputFormat::Json {
        let mut text = String::new();
        for row in rows {
            text.push_str(&serde_json::to_string(&Row {
                names: &names,
                values: &row,
            })?);
            text.push('\n');
        }
        return Ok(text);
    }
    let header = names.map(|name| name.replace('_', " ").to_uppercase());
    let columns: Vec<usize> = (0..N).collect();
    let mut table = TextTable::new(&header.each_ref().map(String::as_str)).right(&columns);
    for row in rows {
        let mut cells = row.map(|value| value.to_string());
        for (cell, (name, value)) in cells.iter_mut().zip(names.iter().zip(row)) {
            if name.ends_with("timestamp") {
                *cell = time_ms(value).unwrap_or_else(|| "none".to_owned());
            }
        }
        table.row(cells);
    }
    Ok(table.render())
}

struct Row<'a> {
    names: &'a [&'static str],
    values: &'a [i64],
}

impl Serialize for Row<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.names.iter().zip(self.values))
    }
}

/// `.index`: offsets and positions.
pub fn offset_index(entries: &[(i64, u64)], format: OutputFormat) -> anyhow::Result<String> {
    let rows = entries
        .iter()
        .map(|(offset, position)| [*offset, i64::try_from(*position).unwrap_or(i64::MAX)]);
    render(["offset", "position"], rows, format)
}

/// `.timeindex`: times and offsets.
pub fn time_index(entries: &[(i64, i64)], format: OutputFormat) -> anyhow::Result<String> {
    render(
        ["timestamp", "offset"],
        entries.iter().map(|(time, offset)| [*time, *offset]),
        format,
    )
}

/// `.txnindex`: aborted transactions.
pub fn transactions(entries: &[AbortedTransaction], format: OutputFormat) -> anyhow::Result<String> {
    let rows = entries.iter().map(|entry| {
        [
            entry.producer_id,
            entry.first_offset,
            entry.last_offset,
            entry.last_stable_offset,
        ]
    });
    render(
        ["producer_id", "first_offset", "last_offset", "last_stable_offset"],
        rows,
        format,
    )
}

/// `.snapshot`: what is known of producers.
pub fn producers(state: &ProducerState, format: OutputFormat) -> anyhow::Result<String> {
    let rows = state.entries().iter().map(|(id, entry)| {
        [
            *id,
            i64::from(entry.epoch),
            i64::from(entry.last_sequence()),
            entry.last_timestamp,
        ]
    });
    render(
        ["producer_id", "producer_epoch", "last_sequence", "last_timestamp"],
        rows,
        format,
    )
}

/// `leader-epoch-checkpoint`: where leader epochs begin.
pub fn leader_epochs(entries: &[EpochEntry], format: OutputFormat) -> anyhow::Result<String> {
    let rows = entries.iter().map(|entry| [i64::from(entry.epoch), entry.start_offset]);
    render(["leader_epoch", "start_offset"], rows, format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_rows() {
        let entries = [(0, 7), (1_700_000_000_123, 9)];
        let text = time_index(&entries, OutputFormat::Text).unwrap();
        assert!(
            text.lines().nth(2).unwrap().starts_with("2023-11-14T22:13:20.123Z"),
            "{text}"
        );
        let json = time_index(&entries, OutputFormat::Json).unwrap();
        assert_eq!(
            json,
            "{\"timestamp\":0,\"offset\":7}\n{\"timestamp\":1700000000123,\"offset\":9}\n"
        );
    }
}
