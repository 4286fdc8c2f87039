//! What of the log's batches becomes messages, and in which pieces.

use millrace_proto::batch::{BatchBuilder, Codec, ControlRecord, end_transaction_batch};
use prost::Message as _;
use uuid::Uuid;

use super::*;
use crate::memory::MemoryBudget;

/// Pieces that were sent: their messages, and up to where they read.
#[derive(Default)]
struct Sent {
    wanted: Option<usize>,
    counted: Vec<Encoded>,
    pieces: Vec<(Vec<v1::ReceivedMessage>, i64)>,
}

impl Sink for Sent {
    const ANSWERS: encoded::Answers = encoded::Answers::Read;

    fn wants(&self) -> bool {
        self.wanted != Some(0)
    }

    fn count(&mut self, message: Encoded) {
        self.wanted = self.wanted.map(|wanted| wanted - 1);
        self.counted.push(message);
    }

    async fn send(&mut self, messages: Bytes, next: i64) {
        let decoded = v1::ReadResponse::decode(messages.clone()).unwrap().messages;
        let counted = std::mem::take(&mut self.counted);
        assert_eq!(counted.len(), decoded.len());
        let mut begin = 0;
        for (message, counted) in decoded.iter().zip(counted) {
            assert_eq!(message.offset, counted.offset);
            let alone = messages.slice(begin..counted.end);
            assert_eq!(
                &v1::ReadResponse::decode(alone).unwrap().messages[..],
                std::slice::from_ref(message)
            );
            begin = counted.end;
        }
        assert_eq!(begin, messages.len());
        self.pieces.push((decoded, next));
    }
}

impl Sent {
    fn offsets(&self) -> Vec<i64> {
        let all = self.pieces.iter().flat_map(|(messages, _)| messages);
        all.map(|message| message.offset).collect()
    }
}

fn target() -> Target {
    Target {
        topic: "orders".into(),
        topic_id: Uuid::nil(),
        number: 3,
    }
}

/// Values of these lengths from an offset on.
fn batch(codec: Codec, base_offset: i64, lengths: &[usize]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    for length in lengths {
        builder.append(1_000, Some(b"k"), Some(&vec![7; *length]), &[]).unwrap();
    }
    builder.set_base_offset(base_offset).build().unwrap().to_vec()
}

async fn pass_on(
    bytes: Vec<u8>,
    crc_verified: bool,
    next: &mut i64,
    budget: Option<&ConnectionBudget>,
    few: bool,
    sent: &mut Sent,
) -> Result<(), ApiError> {
    let data = Data {
        bytes: bytes.into(),
        first_batch_too_large: None,
        crc_verified,
        up_to: i64::MAX,
    };
    pass_on_encoded(&target(), budget, data, next, None, few, sent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_begin_where_the_reader_is_and_control_records_are_none() {
    let mut marker = end_transaction_batch(ControlRecord::Commit { coordinator_epoch: 0 }, 7, 0, 1_000)
        .unwrap()
        .to_vec();
    marker[..8].copy_from_slice(&3i64.to_be_bytes());
    let bytes = [
        batch(Codec::None, 0, &[10; 3]),
        marker,
        batch(Codec::Lz4, 4, &[10; 2]),
        // Behind a gap.
        batch(Codec::Zstd, 9, &[10; 2]),
    ]
    .concat();
    let (mut next, mut sent) = (1, Sent::default());
    pass_on(bytes.clone(), false, &mut next, None, false, &mut sent)
        .await
        .unwrap();
    assert_eq!(sent.offsets(), [1, 2, 4, 5, 9, 10]);
    assert_eq!((next, sent.pieces.len()), (11, 1));
    let (messages, read_up_to) = &sent.pieces[0];
    assert_eq!(*read_up_to, 11);
    for message in messages {
        assert_eq!((&*message.topic, message.partition), ("orders", 3));
        let stored = message.message.as_ref().unwrap();
        assert_eq!(stored.key.as_deref(), Some(&b"k"[..]));
        assert_eq!(stored.value.as_deref(), Some(&[7; 10][..]));
        assert_eq!(
            (stored.timestamp, message.timestamp.unwrap().seconds),
            (message.timestamp, 1)
        );
    }
    // As many as are wanted.
    let (mut next, mut sent) = (0, Sent::default());
    sent.wanted = Some(4);
    pass_on(bytes, false, &mut next, None, false, &mut sent).await.unwrap();
    assert_eq!((sent.offsets(), next), (vec![0, 1, 2, 4], 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_are_bounded_and_hold_one_message_at_least() {
    let (mut next, mut sent) = (0, Sent::default());
    let lengths = [vec![100; 5_000], vec![3 << 20, 1, 300_000, 1]].concat();
    let bytes = batch(Codec::None, 0, &lengths);
    pass_on(bytes.clone(), true, &mut next, None, false, &mut sent)
        .await
        .unwrap();
    assert_eq!(sent.offsets(), (0..5_004).collect::<Vec<_>>());
    let (last, pieces) = sent.pieces.split_last().unwrap();
    for (messages, next) in pieces {
        let sizes: Vec<usize> = messages.iter().map(|message| 65 + value(message)).collect();
        let (last, others) = sizes.split_last().unwrap();
        let before: usize = others.iter().sum();
        assert!(before < limits::READ_RESPONSE_BYTES && before + last >= limits::READ_RESPONSE_BYTES);
        assert_eq!(messages.last().unwrap().offset + 1, *next);
    }
    assert_eq!(last.1, 5_004);
    // Where memory is short, one small answer; the reader comes again for the rest.
    let (mut next, mut sent) = (0, Sent::default());
    pass_on(bytes.clone(), true, &mut next, None, true, &mut sent)
        .await
        .unwrap();
    let (messages, _) = &sent.pieces[0];
    let size: usize = messages.iter().map(|message| 65 + value(message)).sum();
    assert!(
        (limits::SMALL_ANSWER_BYTES..limits::SMALL_ANSWER_BYTES + 165).contains(&size),
        "{size}"
    );
    assert_eq!((sent.pieces.len(), i64::try_from(messages.len()).unwrap()), (1, next));
    let (mut next, mut sent) = (5_000, Sent::default());
    pass_on(bytes, true, &mut next, None, true, &mut sent).await.unwrap();
    assert_eq!((sent.offsets(), next), (vec![5_000], 5_001));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_decompresses_to_more_than_there_is_memory_for_is_sent_in_small_answers() {
    let bytes = batch(Codec::Zstd, 0, &[1_000; 4_000]);
    let memory = MemoryBudget::new(64 << 20, 32 << 20);
    let connection = memory.connection();
    let (mut next, mut sent) = (0, Sent::default());
    pass_on(bytes.clone(), true, &mut next, Some(&connection), false, &mut sent)
        .await
        .unwrap();
    assert_eq!((sent.offsets().len(), next, memory.used()), (4_000, 4_000, 0));
    let _others = connection.try_for_answer(31 << 20).unwrap();
    let (mut next, mut sent) = (0, Sent::default());
    pass_on(bytes, true, &mut next, Some(&connection), false, &mut sent)
        .await
        .unwrap();
    assert_eq!(sent.pieces.len(), 1);
    assert!(sent.offsets().len() < 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_with_where_it_ends() {
    let mut bytes = [batch(Codec::None, 0, &[10; 3]), batch(Codec::None, 3, &[10; 2])].concat();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    let (mut next, mut sent) = (0, Sent::default());
    let error = pass_on(bytes, false, &mut next, None, false, &mut sent)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), ErrorReason::DamagedLog);
    let fact = |name: &str| error.metadata()[name].as_str();
    assert_eq!(
        (fact("partition"), fact("offset"), fact("damaged_until")),
        ("3", "3", "5")
    );
    assert!(sent.pieces.is_empty());
}

fn value(message: &v1::ReceivedMessage) -> usize {
    message.message.as_ref().unwrap().value.as_ref().unwrap().len()
}
