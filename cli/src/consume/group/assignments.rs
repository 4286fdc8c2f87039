//! Which partitions come and go, told beside the messages: as Kafka's verifiable consumer does.

use std::{
    io::{Write, stderr},
    sync::Arc,
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{error::OutputError, text::RecordFormat};

/// What became of partitions.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// This member reads them from here on.
    Assigned,
    /// It has written and committed what it read of them, and gives them back now.
    Revoked,
    /// Others have them, or may have.
    Lost,
}

/// Whether that is told, and how.
#[derive(Clone, Copy, Debug)]
pub struct Assignments {
    is_told: bool,
    format: RecordFormat,
}

/// The line among JSON messages; these have no "event".
#[derive(Serialize)]
struct JsonEvent<'a> {
    event: Change,
    time: String,
    partitions: Vec<JsonPartition<'a>>,
}

#[derive(Serialize)]
struct JsonPartition<'a> {
    topic: &'a str,
    partition: i32,
}

impl Assignments {
    /// Told or not, beside messages of this format.
    pub fn new(is_told: bool, format: RecordFormat) -> Self {
        Self { is_told, format }
    }

    /// Tells of partitions at once, with the time; what is in `out` goes before.
    ///
    /// # Errors
    /// The output can't be written.
    pub fn tell(self, out: &mut impl Write, change: Change, partitions: &[(Arc<str>, i32)]) -> Result<(), OutputError> {
        if !self.is_told || partitions.is_empty() {
            return Ok(());
        }
        // To the microsecond, so that it can be told who had a partition first.
        let time = format!("{:.6}", Timestamp::now());
        if self.format == RecordFormat::Json {
            write_json(out, change, time, partitions)?;
        } else {
            let mut names: Vec<String> = partitions.iter().map(|(topic, n)| format!("{topic}-{n}")).collect();
            names.sort_unstable();
            let what = format!("{change:?}").to_lowercase();
            writeln!(stderr(), "{time} {what}: {}", names.join(", "))?;
        }
        Ok(out.flush()?)
    }
}

fn write_json(
    out: &mut impl Write,
    event: Change,
    time: String,
    partitions: &[(Arc<str>, i32)],
) -> std::io::Result<()> {
    let named = partitions.iter().map(|(topic, partition)| JsonPartition {
        topic,
        partition: *partition,
    });
    let partitions = named.collect();
    serde_json::to_writer(
        &mut *out,
        &JsonEvent {
            event,
            time,
            partitions,
        },
    )?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_them_among_the_messages() {
        let mut out = Vec::new();
        write_json(&mut out, Change::Revoked, "now".to_owned(), &[("t".into(), 3)]).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"event\":\"revoked\",\"time\":\"now\",\"partitions\":[{\"topic\":\"t\",\"partition\":3}]}\n"
        );
    }

    #[test]
    fn nothing_is_told_unasked() {
        let mut out = Vec::new();
        let quiet = Assignments::new(false, RecordFormat::Json);
        quiet.tell(&mut out, Change::Assigned, &[("t".into(), 3)]).unwrap();
        assert!(out.is_empty());
    }
}
