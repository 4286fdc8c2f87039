//! The bytes are those of the generated types.

use proptest::{collection::vec, option, prelude::*};
use prost::Message as _;

use super::*;
use crate::{
    batch::{BatchBuilder, BatchView, Codec, DecodeLimits, OwnedBatch, Record, tests::plain::Plain},
    v1,
};

fn bytes(up_to: usize) -> impl Strategy<Value = Vec<u8>> {
    // Around the lengths whose varints get longer, too.
    prop_oneof![
        vec(any::<u8>(), 0..up_to),
        (any::<u8>(), 120usize..140).prop_map(|(byte, length)| vec![byte; length]),
        (any::<u8>(), 16_370usize..16_400).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // Text, text that is cut within a character, and anything.
    prop_oneof![
        "[a-zäß€]{0,20}".prop_map(String::into_bytes),
        "[ä€]{1,5}".prop_map(|text| text.as_bytes()[..text.len() - 1].to_vec()),
        vec(any::<u8>(), 0..20),
    ]
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(-1i64),
        Just(0),
        0i64..3_000,
        0i64..1 << 42,
        Just(1_700_000_000_000)
    ]
}

fn plain() -> impl Strategy<Value = Plain> {
    let headers = vec((name(), option::of(bytes(100))), 0..4);
    (time(), option::of(bytes(100)), option::of(bytes(1_000)), headers).prop_map(|(timestamp, key, value, headers)| {
        Plain {
            timestamp,
            key,
            value,
            headers,
        }
    })
}

fn offset() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0i64), 0i64..300, 0i64..1 << 50]
}

/// A batch of these records, in the order in which their times rise.
fn batch(codec: Codec, base_offset: i64, append_time: Option<i64>, records: &[Plain]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for record in records {
        record.append_to(&mut builder);
    }
    builder.set_base_offset(base_offset);
    if let Some(time) = append_time {
        builder.set_log_append_time(time);
    }
    builder.build().unwrap()
}

/// The record as the generated type has it.
fn received(topic: &str, partition: i32, record: &Record<'_>) -> v1::ReceivedMessage {
    let copied = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let timestamp = (record.timestamp >= 0).then(|| prost_types::Timestamp {
        seconds: record.timestamp / 1_000,
        nanos: (record.timestamp % 1_000) as i32 * 1_000_000,
    });
    v1::ReceivedMessage {
        topic: topic.to_owned(),
        partition,
        offset: record.offset,
        timestamp,
        message: Some(v1::Message {
            key: record.key.map(copied),
            value: record.value.map(copied),
            headers: record
                .headers
                .map(|header| v1::Header {
                    name: String::from_utf8_lossy(header.key).into_owned(),
                    value: header.value.map(copied),
                })
                .collect(),
            timestamp,
        }),
    }
}

fn content(message: &v1::ReceivedMessage) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let message = message.message.as_ref().unwrap();
    let headers = message.headers.iter();
    let headers: usize = headers.map(|header| header.name.len() + length(&header.value)).sum();
    length(&message.key) + length(&message.value) + headers
}

fn joined(answer: EncodedAnswer) -> Vec<u8> {
    let length = answer.len();
    let bytes = answer.into_parts().concat();
    assert_eq!(bytes.len(), length);
    bytes
}

proptest! {
    #[test]
    fn answers_are_those_of_the_generated_types(
        codec in prop::sample::select(&Codec::ALL[..]),
        base_offset in offset(),
        append_time in option::of(time()),
        records in vec(plain(), 1..6),
        topic in "[a-z]{0,249}",
        partition in prop_oneof![Just(0i32), 0i32..200, any::<i32>()],
        delivery_id in prop_oneof![Just(0u64), any::<u64>()],
        ends in (0i64..300, any::<i64>(), any::<i64>()),
    ) {
        let batch = batch(codec, base_offset, append_time, &records);
        let view = BatchView::parse(&batch).unwrap();
        let decoded = view.records(&DecodeLimits::default()).unwrap();
        let messages: Vec<_> = decoded.iter().map(|record| received(&topic, partition, &record.unwrap())).collect();
        prop_assert_eq!(messages.len(), records.len());
        let progress = v1::PartitionProgress {
            partition,
            next_offset: ends.0,
            high_watermark: ends.1,
            log_start: ends.2,
        };
        let encode = |answers| {
            let mut encoder = MessageEncoder::new(answers, &topic, partition);
            let mut encoded = Vec::new();
            let mut borrowed = OwnedBatch::parse(&batch).unwrap().records(&DecodeLimits::default()).unwrap();
            for message in &messages {
                let record = borrowed.next_borrowed().unwrap().unwrap();
                assert_eq!(encoder.encode(&record, &mut encoded), content(message));
            }
            assert!(borrowed.next_borrowed().is_none());
            Bytes::from(encoded)
        };
        let read = v1::ReadResponse { messages: messages.clone(), progress: vec![progress] };
        let encoded = EncodedAnswer::read(encode(Answers::Read), progress);
        prop_assert_eq!(v1::ReadResponse::decode(encoded.clone().into_buf()).unwrap(), read.clone());
        prop_assert_eq!(joined(encoded), read.encode_to_vec());
        let subscribed = v1::SubscribeResponse {
            response: Some(v1::subscribe_response::Response::Messages(v1::SubscribeMessages {
                delivery_id,
                messages: messages.clone(),
                progress: Some(progress),
            })),
        };
        let encoded = EncodedAnswer::subscribe(delivery_id, encode(Answers::Subscribe), progress);
        prop_assert_eq!(joined(encoded), subscribed.encode_to_vec());
        prop_assert_eq!(joined(EncodedAnswer::new(&subscribed)), subscribed.encode_to_vec());
    }
}

#[test]
fn an_answer_without_messages_tells_progress_alone() {
    let progress = v1::PartitionProgress::default();
    let read = v1::ReadResponse {
        messages: Vec::new(),
        progress: vec![progress],
    };
    let encoded = EncodedAnswer::read(Bytes::new(), progress);
    assert!(!encoded.is_empty());
    assert_eq!(joined(encoded), read.encode_to_vec());
}

#[test]
fn a_value_is_copied_once_into_memory_that_is_taken_once() {
    let record = Plain {
        timestamp: 1,
        key: None,
        value: Some(vec![7; 8 << 20]),
        headers: Vec::new(),
    };
    let batch = batch(Codec::None, 0, None, &[record]);
    let mut encoder = MessageEncoder::new(Answers::Read, "orders", 3);
    let mut records = OwnedBatch::parse(&batch)
        .unwrap()
        .records(&DecodeLimits::default())
        .unwrap();
    let record = records.next_borrowed().unwrap().unwrap();
    let (encoded, held) = crate::allocations::peak(|| {
        let mut encoded = Vec::new();
        encoder.encode(&record, &mut encoded);
        EncodedAnswer::read(encoded.into(), v1::PartitionProgress::default())
    });
    assert!(held < (8 << 20) + 1_000, "{held}");
    assert!(encoded.len() > 8 << 20);
}
