//! Against what prost's own decoding takes from the allocator.

use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::*;
use crate::{allocations::peak, v1};

/// What decoding may take beside what is counted: the buffer's shared head, an error.
const SLACK: usize = 1 << 10;

fn counted(shape: &'static Shape, encoded: &[u8]) -> usize {
    let mut size = DecodedSize::new(shape, encoded.len());
    size.read(encoded);
    size.bytes()
}

/// Decodes, and compares with what was counted before. Answers with whether it is a message.
fn compare<T: Message + Default + Shaped>(encoded: &[u8]) -> bool {
    let counted = counted(T::SHAPE, encoded);
    let bytes = Bytes::copy_from_slice(encoded);
    let (decoded, held) = peak(|| T::decode(bytes));
    assert!(
        held <= counted + SLACK,
        "{held} bytes of {}, {counted} counted",
        encoded.len()
    );
    assert!(
        decoded.is_err() || counted <= 6 * held + SLACK,
        "{counted} counted, {held} held"
    );
    decoded.is_ok()
}

/// A field of bytes, a text or a message.
fn delimited(number: u8, content: &[u8]) -> Vec<u8> {
    assert!(number < 16 && content.len() < 128);
    [&[number << 3 | 2, content.len() as u8], content].concat()
}

#[test]
fn the_smallest_items_are_counted_while_they_come() {
    for (shape, item, place) in [
        (v1::PublishRequest::SHAPE, [0x12, 0], size_of::<v1::Message>()),
        (v1::ProduceRequest::SHAPE, [0x22, 0], size_of::<v1::ProducePartition>()),
        (v1::MetadataRequest::SHAPE, [0x0a, 0], size_of::<String>()),
    ] {
        let mut size = DecodedSize::new(shape, 16 << 20);
        let pieces = item.repeat(8 << 10);
        for piece in 1..=1024 {
            size.read(&pieces);
            assert!(size.bytes() >= piece * (8 << 10) * place);
        }
        assert!(size.bytes() < 16 << 30);
    }
    let nested = delimited(2, &delimited(2, &[0x1a, 0].repeat(50)));
    let size = counted(v1::PublishStreamRequest::SHAPE, &nested);
    assert!(size >= 50 * size_of::<v1::Header>() + size_of::<v1::Message>());
}

#[test]
fn a_full_request_of_small_messages_and_packed_numbers_is_as_large_as_prost_makes_it() {
    let request = v1::PublishRequest {
        topic: "orders".into(),
        messages: vec![
            v1::Message {
                value: Some(Bytes::from_static(b"v")),
                ..Default::default()
            };
            100_000
        ],
        ..Default::default()
    };
    assert!(compare::<v1::PublishRequest>(&request.encode_to_vec()));
    assert!(counted(v1::PublishRequest::SHAPE, &request.encode_to_vec()) < 32 << 20);
    let move_ = v1::PartitionReassignment {
        replicas: vec![1; 100_000],
        ..Default::default()
    };
    let moves = v1::ReassignPartitionsRequest {
        reassignments: vec![move_],
        ..Default::default()
    };
    assert!(compare::<v1::ReassignPartitionsRequest>(&moves.encode_to_vec()));
    // Not packed, which decoders take as well.
    let single = [0x18, 1].repeat(60);
    assert!(compare::<v1::PartitionReassignment>(&single));
    assert!(counted(v1::PartitionReassignment::SHAPE, &single) >= 60 * 4);
}

#[test]
fn bytes_numbers_and_unknown_fields_take_nothing() {
    let value = v1::PublishRequest {
        partition: Some(7),
        expected_offset: Some(i64::MAX),
        ..Default::default()
    };
    assert_eq!(counted(v1::PublishRequest::SHAPE, &value.encode_to_vec()), 0);
    // Field 15 in each wire type; in the group, what looks like items.
    let group = [vec![0x7b], [0x12, 0].repeat(9), vec![0x83, 1, 0x84, 1, 0x7c]].concat();
    for unknown in [
        vec![0x78, 0xff, 1],
        vec![0x79, 1, 2, 3, 4, 5, 6, 7, 8],
        delimited(15, &[0x12, 0]),
        group,
        vec![0x7d, 1, 2, 3, 4],
    ] {
        assert!(compare::<v1::PublishRequest>(&unknown), "{unknown:?}");
        assert_eq!(counted(v1::PublishRequest::SHAPE, &unknown), 0, "{unknown:?}");
        let followed = [unknown, vec![0x12, 0]].concat();
        assert!(compare::<v1::PublishRequest>(&followed), "{followed:?}");
        assert!(counted(v1::PublishRequest::SHAPE, &followed) > 0, "{followed:?}");
    }
}

/// prost decodes up to where it finds the damage, and so far it is counted.
#[test]
fn damage_ends_the_count_where_it_ends_decoding() {
    let items = [0x12, 0].repeat(40);
    let good = counted(v1::PublishRequest::SHAPE, &items);
    for damage in [
        vec![0x80; 11],                     // a varint without an end
        vec![0xff, 0xff, 0xff, 0xff, 0x7f], // a key above 32 bits
        vec![0x02, 0],                      // field 0
        vec![0x17],                         // wire type 7
        vec![0x14],                         // a group that ends before it begins
        vec![0x10, 0],                      // a list of messages as a number
        vec![0x12, 0x7f],                   // an item longer than all
    ] {
        let damaged = [items.clone(), damage, vec![0; 20], items.clone()].concat();
        assert!(!compare::<v1::PublishRequest>(&damaged));
        assert_eq!(counted(v1::PublishRequest::SHAPE, &damaged), good);
    }
    // An item that ends behind its parent, and one that is longer than what its parent has left.
    let inner = delimited(2, &[0x12, 40]);
    let overlong = [inner, items.clone()].concat();
    assert!(!compare::<v1::PublishStreamRequest>(&overlong));
    for cut in 0..items.len() {
        compare::<v1::PublishRequest>(&items[..cut]);
    }
}

fn header() -> impl Strategy<Value = v1::Header> {
    let value = option::of(vec(any::<u8>(), 0..20).prop_map(Bytes::from));
    ("[a-z]{0,12}", value).prop_map(|(name, value)| v1::Header { name, value })
}

fn message() -> impl Strategy<Value = v1::Message> {
    let bytes = || option::of(vec(any::<u8>(), 0..200).prop_map(Bytes::from));
    (bytes(), bytes(), vec(header(), 0..6)).prop_map(|(key, value, headers)| v1::Message {
        key,
        value,
        headers,
        timestamp: None,
    })
}

fn publish() -> impl Strategy<Value = v1::PublishStreamRequest> {
    (any::<u64>(), "[a-z]{0,30}", vec(message(), 0..40)).prop_map(|(id, topic, messages)| v1::PublishStreamRequest {
        id,
        publish: Some(v1::PublishRequest {
            topic,
            messages,
            ..Default::default()
        }),
        resume_token: None,
    })
}

/// Fields of low numbers and short lengths, which are more often parts of messages than noise is.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        (1u8..8, any::<u8>()).prop_map(|(number, value)| vec![number << 3, value & 0x7f]),
        (1u8..8, vec(any::<u8>(), 0..6)).prop_map(|(number, content)| delimited(number, &content)),
        Just(vec![0x7b, 0x12, 0, 0x7c]),
        vec(any::<u8>(), 1..3),
    ];
    leaf.prop_recursive(4, 60, 6, |inner| {
        (1u8..5, vec(inner, 0..6), -1i8..2).prop_map(|(number, parts, lie)| {
            let mut content = parts.concat();
            content.truncate(120);
            let mut field = delimited(number, &content);
            if content.len() % 5 == 4 {
                field[1] = field[1].saturating_add_signed(lie);
            }
            field
        })
    })
}

proptest! {
    #[test]
    fn no_less_is_counted_than_prost_takes(request in publish()) {
        let encoded = request.encode_to_vec();
        prop_assert!(compare::<v1::PublishStreamRequest>(&encoded));
    }

    #[test]
    fn pieces_count_as_the_whole(request in publish(), mut cuts in vec(any::<proptest::sample::Index>(), 0..20)) {
        let encoded = request.encode_to_vec();
        let mut size = DecodedSize::new(v1::PublishStreamRequest::SHAPE, 7);
        size.read(&[0x80; 7]);
        // The same counter again, for the next message.
        size.begin(encoded.len());
        cuts.sort_by_key(|cut| cut.index(encoded.len() + 1));
        let mut from = 0;
        for cut in cuts {
            let to = cut.index(encoded.len() + 1);
            size.read(&encoded[from..to]);
            from = to;
        }
        size.read(&encoded[from..]);
        prop_assert_eq!(size.bytes(), counted(v1::PublishStreamRequest::SHAPE, &encoded));
        // What is behind the message is not of it.
        size.read(&[0x12, 0, 0x12, 0]);
        prop_assert_eq!(size.bytes(), counted(v1::PublishStreamRequest::SHAPE, &encoded));
    }

    #[test]
    fn whatever_comes_is_counted_at_least_as_prost_takes_it(parts in vec(likely(), 0..12)) {
        let encoded = parts.concat();
        compare::<v1::PublishStreamRequest>(&encoded);
        compare::<v1::PublishRequest>(&encoded);
        compare::<v1::ReassignPartitionsRequest>(&encoded);
        compare::<v1::AlterTopicRequest>(&encoded);
        compare::<v1::FetchRequest>(&encoded);
    }

    #[test]
    fn a_changed_byte_is_counted_at_least_as_prost_takes_it(
        request in publish(), at in any::<proptest::sample::Index>(), to in any::<u8>(),
    ) {
        let mut encoded = request.encode_to_vec();
        let at = at.index(encoded.len());
        encoded[at] = to;
        compare::<v1::PublishStreamRequest>(&encoded);
    }
}
