//! The batches and records of a segment as lines.

use std::{io::Write, ops::ControlFlow, path::Path};

use anyhow::Context;
use millrace_log::{
    FileSystem,
    dump::{DumpedBatch, dump_batches},
};
use millrace_proto::batch::{
    BatchError, BatchView, ControlRecord, ControlRecordType, DecodeLimits, Record, TimestampType,
};
use serde::Serialize;

use crate::{
    error::OutputError,
    output::{plural, time_ms},
    text::JsonBytes,
};

/// Bytes of a key or value shown in text; JSON has them all.
const SHOWN_BYTES: usize = 120;

/// How a segment is printed.
pub struct BatchPrinter<'a> {
    pub path: &'a Path,
    pub json: bool,
    pub print_records: bool,
    pub decode_records: bool,
}

#[derive(Serialize)]
struct JsonBatch<'a> {
    r#type: &'static str,
    file: &'a str,
    position: u64,
    size_bytes: usize,
    base_offset: i64,
    last_offset: i64,
    record_count: i32,
    leader_epoch: i32,
    max_timestamp: i64,
    timestamp_type: &'static str,
    compression: &'static str,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    transactional: bool,
    control: bool,
    crc: u32,
    crc_valid: bool,
}

#[derive(Serialize)]
struct JsonRecord {
    r#type: &'static str,
    offset: i64,
    timestamp: i64,
    control: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_type: Option<String>,
    encoding: &'static str,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<JsonHeader>,
}

#[derive(Serialize)]
struct JsonHeader {
    name: String,
    value: Option<String>,
}

/// Prints a segment; how many damages it has.
pub fn dump(fs: &dyn FileSystem, printer: &BatchPrinter<'_>, out: &mut impl Write) -> anyhow::Result<u64> {
    let mut damages = 0;
    let mut failed = None;
    if !printer.json {
        writeln!(out, "{}", printer.path.display()).map_err(OutputError)?;
    }
    let end = dump_batches(fs, printer.path, 0, |batch| match printer.batch(&batch, out) {
        Ok(damaged) => {
            damages += u64::from(damaged);
            ControlFlow::Continue(())
        }
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(reason) = end.reason {
        damages += 1;
        let bytes = end.file_bytes - end.valid_bytes;
        printer.note(
            out,
            &format!(
                "byte {}: the last {bytes} bytes are no batch: {reason}",
                end.valid_bytes
            ),
        )?;
    }
    Ok(damages)
}

impl BatchPrinter<'_> {
    /// Prints a batch; whether it is damaged.
    fn batch(&self, batch: &DumpedBatch, out: &mut impl Write) -> anyhow::Result<bool> {
        if self.json {
            json_line(out, &json_batch(self.path, batch))?;
        } else {
            writeln!(out, "{}", text_batch(batch)).map_err(OutputError)?;
        }
        if !self.decode_records {
            return Ok(!batch.crc_matches);
        }
        match self.records(batch, out)? {
            Ok(()) => Ok(!batch.crc_matches),
            Err(damage) => {
                self.note(out, &format!("byte {}: records: {damage}", batch.position))?;
                Ok(true)
            }
        }
    }

    /// Prints the records. The outer error is the output's, the inner one says what is wrong with the records.
    fn records(&self, batch: &DumpedBatch, out: &mut impl Write) -> anyhow::Result<Result<(), BatchError>> {
        let records = match BatchView::parse(&batch.bytes).and_then(|view| view.records(&DecodeLimits::DEFAULT)) {
            Ok(records) => records,
            Err(damage) => return Ok(Err(damage)),
        };
        for record in &records {
            let record = match record {
                Ok(record) => record,
                Err(damage) => return Ok(Err(damage)),
            };
            let control = batch.header.is_control().then(|| control_type(&record));
            if !self.print_records {
            } else if self.json {
                json_line(out, &json_record(&record, control))?;
            } else {
                writeln!(out, "{}", text_record(&record, control)).map_err(OutputError)?;
            }
        }
        Ok(Ok(()))
    }

    /// Says what is damaged: in place for people, on standard error for programs.
    fn note(&self, out: &mut impl Write, text: &str) -> anyhow::Result<()> {
        if self.json {
            eprintln!("{}: {text}", self.path.display());
        } else {
            writeln!(out, "  DAMAGED: {text}").map_err(OutputError)?;
        }
        Ok(())
    }
}

fn json_line(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(value).context("can't write JSON")?;
    line.push(b'\n');
    Ok(out.write_all(&line).map_err(OutputError)?)
}

fn json_batch<'a>(path: &'a Path, batch: &DumpedBatch) -> JsonBatch<'a> {
    let header = &batch.header;
    JsonBatch {
        r#type: "batch",
        file: path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
        position: batch.position,
        size_bytes: header.size_in_bytes(),
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        record_count: header.record_count,
        leader_epoch: header.partition_leader_epoch,
        max_timestamp: header.max_timestamp,
        timestamp_type: timestamp_type(header.timestamp_type()),
        compression: header.codec().name(),
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        transactional: header.is_transactional(),
        control: header.is_control(),
        crc: header.crc,
        crc_valid: batch.crc_matches,
    }
}

fn timestamp_type(kind: TimestampType) -> &'static str {
    match kind {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    }
}

fn json_record(record: &Record<'_>, control_type: Option<String>) -> JsonRecord {
    let base64 = |bytes: Option<&[u8]>| bytes.and_then(|bytes| JsonBytes::base64(bytes).text).map(String::from);
    JsonRecord {
        r#type: "record",
        offset: record.offset,
        timestamp: record.timestamp,
        control: control_type.is_some(),
        control_type,
        encoding: "base64",
        key: base64(record.key),
        value: base64(record.value),
        headers: record
            .headers
            .map(|header| JsonHeader {
                name: String::from_utf8_lossy(header.key).into_owned(),
                value: base64(header.value),
            })
            .collect(),
    }
}

fn text_batch(batch: &DumpedBatch) -> String {
    let header = &batch.header;
    let mut text = format!(
        "byte {}: offsets {} to {}, {}, {} bytes, epoch {}, {} {}, compression {}",
        batch.position,
        header.base_offset,
        header.last_offset(),
        plural(u64::from(header.record_count.unsigned_abs()), "record"),
        header.size_in_bytes(),
        header.partition_leader_epoch,
        timestamp_type(header.timestamp_type()),
        time_ms(header.max_timestamp).unwrap_or_else(|| "none".to_owned()),
        header.codec(),
    );
    if header.has_producer() {
        text.push_str(&format!(
            ", producer {} epoch {} sequence {} to {}",
            header.producer_id,
            header.producer_epoch,
            header.base_sequence,
            header.last_sequence()
        ));
    }
    if header.is_transactional() {
        text.push_str(", transactional");
    }
    if header.is_control() {
        text.push_str(", control");
    }
    if !batch.crc_matches {
        text.push_str(", CRC DOES NOT MATCH");
    }
    text
}

fn text_record(record: &Record<'_>, control: Option<String>) -> String {
    let mut text = format!(
        "  {} {} key {} value {}",
        record.offset,
        time_ms(record.timestamp).unwrap_or_else(|| "no time".to_owned()),
        shown(record.key),
        shown(record.value)
    );
    if let Some(control) = control {
        text.push_str(&format!(" control {control}"));
    }
    for header in record.headers {
        text.push_str(&format!(" header {}={}", shown(Some(header.key)), shown(header.value)));
    }
    text
}

/// Bytes in quotes with what is no printable ASCII escaped, cut where they are long.
fn shown(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "none".to_owned(),
        Some(bytes) if bytes.len() <= SHOWN_BYTES => format!("\"{}\"", bytes.escape_ascii()),
        Some(bytes) => format!("\"{}\"... ({} bytes)", bytes[..SHOWN_BYTES].escape_ascii(), bytes.len()),
    }
}

fn control_type(record: &Record<'_>) -> String {
    match ControlRecord::decode(record).map(|control| control.kind()) {
        Ok(ControlRecordType::Abort) => "abort".to_owned(),
        Ok(ControlRecordType::Commit) => "commit".to_owned(),
        Ok(kind) => format!("{kind:?}"),
        Err(_) => "unreadable".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use millrace_log::OsFileSystem;
    use millrace_proto::batch::{BatchBuilder, Codec};

    use super::*;

    fn segment(codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec);
        builder.append(5, Some(b"k"), Some(b"\xff"), &[]).unwrap();
        builder.append(6, None, None, &[]).unwrap();
        builder.build().unwrap().to_vec()
    }

    fn printed(bytes: &[u8], json: bool) -> (String, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000000000000000000.log");
        std::fs::write(&path, bytes).unwrap();
        let printer = BatchPrinter {
            path: &path,
            json,
            print_records: true,
            decode_records: true,
        };
        let mut out = Vec::new();
        let damages = dump(&*OsFileSystem::shared(), &printer, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), damages)
    }

    #[test]
    fn json_is_one_object_a_line() {
        let (text, damages) = printed(&segment(Codec::Zstd), true);
        assert_eq!(damages, 0);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            (lines[0]["type"].as_str(), lines[0]["crc_valid"].as_bool()),
            (Some("batch"), Some(true))
        );
        assert!(lines[0].get("offset").is_none(), "only records have an offset");
        assert_eq!(
            (lines[1]["key"].as_str(), lines[1]["value"].as_str()),
            (Some("aw=="), Some("/w=="))
        );
        assert!(lines[2]["offset"] == 1 && lines[2]["value"].is_null());
    }

    #[test]
    fn damage_is_told() {
        let sound = segment(Codec::None);
        let (text, damages) = printed(&sound, false);
        assert!(damages == 0 && text.contains("key \"k\" value \"\\xff\""), "{text}");

        let mut flipped = sound.clone();
        flipped[40] ^= 1;
        let (text, damages) = printed(&flipped, false);
        assert!(damages == 1 && text.contains("CRC DOES NOT MATCH"), "{text}");

        let (text, damages) = printed(&sound[..sound.len() - 1], false);
        assert!(damages == 1 && text.contains("DAMAGED: byte 0"), "{text}");
    }

    #[test]
    fn long_values_are_cut_in_text() {
        assert_eq!(shown(None), "none");
        assert_eq!(shown(Some(b"a\n")), "\"a\\n\"");
        assert!(shown(Some(&[b'x'; 1000])).ends_with("\"... (1000 bytes)"));
    }
}
