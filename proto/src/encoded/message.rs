//! One message.

use super::Answers;
use crate::{
    batch::{
        NO_TIMESTAMP, Record,
        varint::{MAX_VARLONG_LEN, unsigned_len, write_unsigned},
    },
    v1::ms_to_timestamp,
};

/// Wire types of protobuf.
const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// Keys of fields, which have one byte each.
mod key {
    use super::{LENGTH_DELIMITED, VARINT};

    pub const TOPIC: u8 = of(1, LENGTH_DELIMITED);
    pub const PARTITION: u8 = of(2, VARINT);
    pub const OFFSET: u8 = of(3, VARINT);
    /// Of `ReceivedMessage`, and of the `Message` in it.
    pub const TIMESTAMP: u8 = of(4, LENGTH_DELIMITED);
    pub const MESSAGE: u8 = of(5, LENGTH_DELIMITED);
    pub const KEY: u8 = of(1, LENGTH_DELIMITED);
    pub const VALUE: u8 = of(2, LENGTH_DELIMITED);
    pub const HEADER: u8 = of(3, LENGTH_DELIMITED);
    pub const HEADER_NAME: u8 = of(1, LENGTH_DELIMITED);
    pub const HEADER_VALUE: u8 = of(2, LENGTH_DELIMITED);
    pub const SECONDS: u8 = of(1, VARINT);
    pub const NANOS: u8 = of(2, VARINT);

    pub const fn of(field: u8, wire_type: u8) -> u8 {
        field << 3 | wire_type
    }
}

/// Most bytes of a field's key and its number, or its length.
const FIELD_LEN: usize = 1 + MAX_VARLONG_LEN;
/// Most bytes of a time: key, length, seconds and nanoseconds.
const TIME_LEN: usize = 2 + 2 * FIELD_LEN;
/// Most bytes of what stands between a message's place and its content: offset, time, the begin of what the producer
/// sent, and that of its key or value.
const BEHIND_PLACE_LEN: usize = TIME_LEN + 3 * FIELD_LEN;

/// Encodes the records of one partition as messages of one kind of answer.
#[derive(Clone, Debug)]
pub struct MessageEncoder {
    /// Of the answer's field that has the messages.
    key: u8,
    /// What stands in front of a message's content, to be copied at once: the place (topic and partition), which is the
    /// same in all messages, with room before and behind it.
    head: Vec<u8>,
    /// Where the place begins in it, and what follows it.
    place: usize,
    behind_place: usize,
    /// The last record's time, in milliseconds and encoded: many records of a batch have the same.
    time_ms: i64,
    time: Small<TIME_LEN>,
}

impl MessageEncoder {
    /// For messages of a partition in such answers.
    #[must_use]
    pub fn new(answers: Answers, topic: &str, partition: i32) -> Self {
        let mut head = vec![0; FIELD_LEN];
        let mut begin = Small::<FIELD_LEN>::new();
        if !topic.is_empty() {
            begin.begin(key::TOPIC, topic.len());
            head.extend_from_slice(begin.bytes());
            head.extend_from_slice(topic.as_bytes());
            begin.clear();
        }
        // As protobuf has it, a negative number of 32 bits is encoded with 64.
        begin.number(key::PARTITION, i64::from(partition));
        head.extend_from_slice(begin.bytes());
        let behind_place = head.len();
        head.resize(behind_place + BEHIND_PLACE_LEN, 0);
        Self {
            key: key::of(answers.field(), LENGTH_DELIMITED),
            head,
            place: FIELD_LEN,
            behind_place,
            time_ms: NO_TIMESTAMP,
            time: Small::new(),
        }
    }

    /// Appends a record as a message to `out`; answers with what it has of content: the bytes of key, value and
    /// headers. A header's name that is no UTF-8, as text fields must be, gets U+FFFD in place of what is not.
    #[inline]
    pub fn encode(&mut self, record: &Record<'_>, out: &mut Vec<u8>) -> usize {
        if record.timestamp != self.time_ms {
            self.time_ms = record.timestamp;
            self.time = encoded_time(record.timestamp);
        }
        let time = self.time.bytes();
        let mut content = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        let mut message = nullable_len(record.key) + nullable_len(record.value) + time.len();
        let has_headers = record.headers.len() > 0;
        if has_headers {
            let (length, of_content) = headers_len(record);
            message += length;
            content += of_content;
        }

        let head = &mut self.head[..];
        let mut end = self.behind_place;
        put_number(head, &mut end, key::OFFSET, record.offset);
        put(head, &mut end, time);
        put_begin(head, &mut end, key::MESSAGE, message);
        let length = end - self.place + message;
        // It ends where the place begins.
        let mut begin = self.place - 1 - unsigned_len(length as u64);
        let mut at = begin;
        put_begin(head, &mut at, self.key, length);
        out.reserve(end - begin + message);
        if let Some(bytes) = record.key {
            put_begin(head, &mut end, key::KEY, bytes.len());
            out.extend_from_slice(&head[begin..end]);
            out.extend_from_slice(bytes);
            (begin, end) = (self.behind_place, self.behind_place);
        }
        if let Some(bytes) = record.value {
            put_begin(head, &mut end, key::VALUE, bytes.len());
            out.extend_from_slice(&head[begin..end]);
            out.extend_from_slice(bytes);
        } else {
            out.extend_from_slice(&head[begin..end]);
        }
        if has_headers {
            put_headers(record, out);
        }
        out.extend_from_slice(time);
        content
    }
}

/// A record's time as a field; nothing for one without a time.
fn encoded_time(ms: i64) -> Small<TIME_LEN> {
    let mut encoded = Small::new();
    if let Some(time) = ms_to_timestamp(ms) {
        encoded.begin(key::TIMESTAMP, 0);
        let begin = encoded.length;
        encoded.number(key::SECONDS, time.seconds);
        encoded.number(key::NANOS, i64::from(time.nanos));
        // The length, which is known only now, has one byte.
        encoded.bytes[begin - 1] = (encoded.length - begin) as u8;
    }
    encoded
}

#[inline]
fn nullable_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(0, |bytes| 1 + unsigned_len(bytes.len() as u64) + bytes.len())
}

/// What a header takes, without its own key and length.
fn header_len(name: &str, value: Option<&[u8]>) -> usize {
    // An empty text is the default, which is not encoded.
    nullable_len((!name.is_empty()).then_some(name.as_bytes())) + nullable_len(value)
}

/// What a record's headers take as fields, and of that the bytes of names and values.
fn headers_len(record: &Record<'_>) -> (usize, usize) {
    let (mut all, mut content) = (0, 0);
    for header in record.headers {
        let name = String::from_utf8_lossy(header.key);
        let length = header_len(&name, header.value);
        all += 1 + unsigned_len(length as u64) + length;
        content += name.len() + header.value.map_or(0, <[u8]>::len);
    }
    (all, content)
}

fn put_headers(record: &Record<'_>, out: &mut Vec<u8>) {
    for header in record.headers {
        put_header(&String::from_utf8_lossy(header.key), header.value, out);
    }
}

fn put_header(name: &str, value: Option<&[u8]>, out: &mut Vec<u8>) {
    let mut begin = Small::<{ 2 * FIELD_LEN }>::new();
    begin.begin(key::HEADER, header_len(name, value));
    if !name.is_empty() {
        begin.begin(key::HEADER_NAME, name.len());
    }
    out.extend_from_slice(begin.bytes());
    out.extend_from_slice(name.as_bytes());
    if let Some(value) = value {
        begin.clear();
        begin.begin(key::HEADER_VALUE, value.len());
        out.extend_from_slice(begin.bytes());
        out.extend_from_slice(value);
    }
}

/// Puts bytes at `*at` of a buffer that has room for them, and moves beyond them.
#[inline]
fn put(buffer: &mut [u8], at: &mut usize, bytes: &[u8]) {
    buffer[*at..][..bytes.len()].copy_from_slice(bytes);
    *at += bytes.len();
}

/// Puts a field's key and the length of what follows.
#[inline]
fn put_begin(buffer: &mut [u8], at: &mut usize, key: u8, length: usize) {
    buffer[*at] = key;
    *at += 1;
    write_unsigned(buffer, at, length as u64);
}

/// Puts a field that is a number; nothing for 0, which is the default.
#[inline]
fn put_number(buffer: &mut [u8], at: &mut usize, key: u8, number: i64) {
    if number != 0 {
        buffer[*at] = key;
        *at += 1;
        write_unsigned(buffer, at, number as u64);
    }
}

/// A few encoded fields, at most `N` bytes.
#[derive(Clone, Copy, Debug)]
struct Small<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Small<N> {
    fn new() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }

    fn begin(&mut self, key: u8, length: usize) {
        put_begin(&mut self.bytes, &mut self.length, key, length);
    }

    fn number(&mut self, key: u8, number: i64) {
        put_number(&mut self.bytes, &mut self.length, key, number);
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn clear(&mut self) {
        self.length = 0;
    }
}
