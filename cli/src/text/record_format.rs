//! How consumed records are written.

use std::io::{self, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use serde::Serialize;

use crate::output::time_ms;

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecordFormat {
    /// The value's bytes and a newline; a record without a value is an empty line
    Value,
    /// One JSON object a line with topic, partition, offset, timestamp, key, value and headers.
    /// What is no UTF-8 is base64, marked by "key_encoding" or "value_encoding"
    Json,
    /// Key, separator, value and a newline
    KeyValue,
}

/// A record to write.
#[derive(Clone, Debug)]
pub struct RecordView<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970; -1: none.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// Bytes in JSON: a string as it is where they are UTF-8, else base64 and the encoding's name.
#[derive(Debug, PartialEq, Eq)]
pub struct JsonBytes<'a> {
    pub text: Option<std::borrow::Cow<'a, str>>,
    pub encoding: Option<&'static str>,
}

impl<'a> JsonBytes<'a> {
    /// Text where it is text.
    pub fn new(bytes: Option<&'a [u8]>) -> Self {
        let Some(bytes) = bytes else {
            return Self {
                text: None,
                encoding: None,
            };
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => Self {
                text: Some(text.into()),
                encoding: None,
            },
            Err(_) => Self::base64(bytes),
        }
    }

    /// Always base64.
    pub fn base64(bytes: &[u8]) -> Self {
        Self {
            text: Some(STANDARD.encode(bytes).into()),
            encoding: Some("base64"),
        }
    }
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<String>,
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_encoding: Option<&'static str>,
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
    headers: Vec<JsonHeader>,
}

#[derive(Serialize)]
struct JsonHeader {
    name: String,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_encoding: Option<&'static str>,
}

/// Writes records in one format.
#[derive(Debug)]
pub struct RecordWriter {
    format: RecordFormat,
    separator: Vec<u8>,
}

impl RecordWriter {
    /// The separator stands between key and value in [`RecordFormat::KeyValue`].
    pub fn new(format: RecordFormat, separator: &str) -> Self {
        Self {
            format,
            separator: separator.as_bytes().to_vec(),
        }
    }

    /// Writes one record with its newline.
    pub fn write(&self, out: &mut impl Write, record: &RecordView<'_>) -> io::Result<()> {
        match self.format {
            RecordFormat::Value => out.write_all(record.value.unwrap_or_default())?,
            RecordFormat::KeyValue => {
                out.write_all(record.key.unwrap_or_default())?;
                out.write_all(&self.separator)?;
                out.write_all(record.value.unwrap_or_default())?;
            }
            RecordFormat::Json => serde_json::to_writer(&mut *out, &JsonLine(record))?,
        }
        out.write_all(b"\n")
    }
}

struct JsonLine<'a, 'b>(&'a RecordView<'b>);

impl Serialize for JsonLine<'_, '_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.0;
        let (key, value) = (JsonBytes::new(record.key), JsonBytes::new(record.value));
        let headers = record.headers.iter().map(|(name, value)| {
            let value = JsonBytes::new(*value);
            JsonHeader {
                // Kafka's rule is that names are UTF-8; a name that is not is shown as well as it goes.
                name: String::from_utf8_lossy(name).into_owned(),
                value: value.text.map(std::borrow::Cow::into_owned),
                value_encoding: value.encoding,
            }
        });
        JsonRecord {
            topic: record.topic,
            partition: record.partition,
            offset: record.offset,
            timestamp: time_ms(record.timestamp),
            key: key.text.as_deref(),
            key_encoding: key.encoding,
            value: value.text.as_deref(),
            value_encoding: value.encoding,
            headers: headers.collect(),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: RecordFormat, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
        let record = RecordView {
            topic: "t",
            partition: 1,
            offset: 2,
            timestamp: 0,
            key,
            value,
            headers: vec![(b"h", Some(b"\xff")), (b"n", None)],
        };
        let mut out = Vec::new();
        RecordWriter::new(format, "\t").write(&mut out, &record).unwrap();
        out
    }

    #[test]
    fn values_are_raw() {
        assert_eq!(written(RecordFormat::Value, Some(b"k"), Some(b"\xff\0")), b"\xff\0\n");
        assert_eq!(written(RecordFormat::Value, None, None), b"\n");
        assert_eq!(written(RecordFormat::KeyValue, Some(b"k"), Some(b"v")), b"k\tv\n");
        assert_eq!(written(RecordFormat::KeyValue, None, Some(b"v")), b"\tv\n");
    }

    #[test]
    fn json_tells_text_from_bytes_and_nothing() {
        let text = String::from_utf8(written(RecordFormat::Json, Some("ü".as_bytes()), Some(b"\xff\xfe"))).unwrap();
        assert_eq!(
            text,
            "{\"topic\":\"t\",\"partition\":1,\"offset\":2,\"timestamp\":\"1970-01-01T00:00:00.000Z\",\
             \"key\":\"ü\",\"value\":\"//4=\",\"value_encoding\":\"base64\",\
             \"headers\":[{\"name\":\"h\",\"value\":\"/w==\",\"value_encoding\":\"base64\"},{\"name\":\"n\",\"value\":null}]}\n"
        );
        let text = String::from_utf8(written(RecordFormat::Json, None, Some(b""))).unwrap();
        assert!(text.contains("\"key\":null,\"value\":\"\","), "{text}");
    }
}
