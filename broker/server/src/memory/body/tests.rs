//! Bodies whose messages wait for memory, cut in all places.

use std::time::Duration;

use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use millrace_proto::{decoded::Shaped as _, v1};
use prost::Message as _;

use super::*;
use crate::memory::MemoryBudget;

fn message(length: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend(std::iter::repeat_n(7, length));
    bytes
}

fn body(frames: Vec<Vec<u8>>) -> GrpcBody {
    let frames = frames
        .into_iter()
        .map(|frame| Ok::<_, Status>(Frame::data(Bytes::from(frame))));
    GrpcBody::new(StreamBody::new(futures::stream::iter(frames)))
}

#[tokio::test]
async fn every_cut_of_the_bytes_passes_unchanged_and_counts_each_message() {
    let bytes: Vec<u8> = [message(3), message(0), message(9)].concat();
    for cut in 0..bytes.len() {
        let budget = MemoryBudget::new(200, 100);
        let permits = MessagePermits::default();
        permits.claim();
        let (front, back) = bytes.split_at(cut);
        let inner = body(vec![front.to_vec(), back.to_vec()]);
        let read = BudgetBody::new(inner, budget.connection(), permits.clone(), None);
        let collected = read.collect().await.unwrap().to_bytes();
        assert_eq!(&collected[..], &bytes[..], "cut at {cut}");
        assert_eq!(budget.used(), 12);
        for used in [9, 9, 0] {
            drop(permits.take().unwrap());
            assert_eq!(budget.used(), used);
        }
        assert!(permits.take().is_none());
    }
}

#[tokio::test]
async fn compressed_messages_are_refused() {
    let budget = MemoryBudget::new(20, 10);
    let mut bytes = message(3);
    bytes[0] = 1;
    let read = BudgetBody::new(body(vec![bytes]), budget.connection(), MessagePermits::default(), None);
    let status = read.collect().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(!status.details().is_empty(), "the error is typed");
}

#[tokio::test]
async fn a_message_waits_for_its_bytes_while_those_before_it_go_on() {
    let budget = MemoryBudget::new(20, 10);
    let permits = MessagePermits::default();
    permits.claim();
    let frame = [message(8), message(5)].concat();
    let mut read = BudgetBody::new(body(vec![frame]), budget.connection(), permits.clone(), None);
    let first = read.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.len() >= 13, "the first message is whole");
    let waiting = tokio::time::timeout(Duration::from_millis(20), read.frame()).await;
    assert!(waiting.is_err());
    drop(permits.take());
    let rest = read.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.len() + rest.len(), 23);
}

#[tokio::test]
async fn where_nobody_takes_permits_the_next_message_gives_back_the_last() {
    let budget = MemoryBudget::new(20, 10);
    let frames = vec![message(8), message(8), message(8)];
    let read = BudgetBody::new(body(frames), budget.connection(), MessagePermits::default(), None);
    // Each message can only begin when the bytes of the one before are given back.
    let collected = tokio::time::timeout(Duration::from_secs(5), read.collect()).await;
    assert_eq!(collected.unwrap().unwrap().to_bytes().len(), 39);
}

const PUBLISHED: Option<Expected> = Some(Expected {
    shape: v1::PublishRequest::SHAPE,
    self_admitting: false,
});

/// An encoded call with so many messages without content.
fn publish(messages: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((2 * messages as u32).to_be_bytes());
    bytes.extend([0x12, 0].repeat(messages));
    bytes
}

#[tokio::test]
async fn every_cut_of_a_message_of_many_items_counts_what_it_takes_decoded() {
    let bytes = [publish(3_000), publish(1)].concat();
    let cuts = (0..40)
        .chain((40..bytes.len() - 20).step_by(501))
        .chain(bytes.len() - 20..bytes.len());
    for cut in cuts {
        let budget = MemoryBudget::new(64 << 20, 32 << 20);
        let permits = MessagePermits::default();
        permits.claim();
        let (front, back) = bytes.split_at(cut);
        let inner = body(vec![front.to_vec(), back.to_vec()]);
        let read = BudgetBody::new(inner, budget.connection(), permits.clone(), PUBLISHED);
        let collected = read.collect().await.unwrap().to_bytes();
        assert_eq!(&collected[..], &bytes[..], "cut at {cut}");
        let counted = budget.decoded_used();
        let request = v1::PublishRequest::decode(&bytes[5..5 + 6_000]).unwrap();
        let taken = request.messages.capacity() * size_of::<v1::Message>();
        assert!(
            (taken..3 * taken).contains(&counted),
            "{counted} counted, {taken} taken"
        );
        let first = permits.take().unwrap();
        drop(permits.take().unwrap());
        assert_eq!(budget.decoded_used(), counted, "it is the first message's");
        drop(first);
        assert_eq!((budget.decoded_used(), budget.used()), (0, 0));
    }
}

#[tokio::test]
async fn a_message_that_is_large_decoded_waits_with_its_last_bytes() {
    let budget = MemoryBudget::new(64 << 20, 32 << 20);
    let others = budget.connection().acquire_decoded(usize::MAX).await.unwrap();
    let bytes = publish(3_000);
    let (front, back) = bytes.split_at(4_000);
    let inner = body(vec![front.to_vec(), back.to_vec()]);
    let mut read = BudgetBody::new(inner, budget.connection(), MessagePermits::default(), PUBLISHED);
    let first = read.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first.len(), 4_000);
    let waiting = tokio::time::timeout(Duration::from_millis(20), read.frame()).await;
    assert!(waiting.is_err());
    drop(others);
    let rest = read.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(rest.len(), bytes.len() - 4_000);
    drop(read);
    // A call that admits by itself has nothing taken for it.
    let _all = budget.connection().acquire_decoded(usize::MAX).await.unwrap();
    let expected = PUBLISHED.map(|expected| Expected {
        self_admitting: true,
        ..expected
    });
    let inner = body(vec![bytes.clone()]);
    let read = BudgetBody::new(inner, budget.connection(), MessagePermits::default(), expected);
    assert_eq!(read.collect().await.unwrap().to_bytes(), bytes);
}

/// Eight million messages have a place in 16 MiB, which would take a gigabyte.
#[tokio::test]
async fn too_many_items_are_refused_while_they_come() {
    for self_admitting in [false, true] {
        let budget = MemoryBudget::new(64 << 20, 32 << 20);
        let bytes = Bytes::from(publish(8 << 20));
        let frames: Vec<_> = bytes.chunks(1 << 20).map(<[u8]>::to_vec).collect();
        let count = frames.len();
        let expected = PUBLISHED.map(|expected| Expected {
            self_admitting,
            ..expected
        });
        let mut read = BudgetBody::new(body(frames), budget.connection(), MessagePermits::default(), expected);
        let mut passed = 0;
        let refused = loop {
            match read.frame().await.unwrap() {
                Ok(_) => passed += 1,
                Err(status) => break status,
            }
        };
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("100000 messages"), "{}", refused.message());
        assert!(passed < 2, "{passed} of {count} frames");
    }
}

/// What the contract permits is not refused.
#[test]
fn the_most_messages_of_a_call_are_not_too_many_items() {
    let header = |name: &str| v1::Header {
        name: name.into(),
        value: Some(Bytes::from_static(b"0123456789")),
    };
    let message = v1::Message {
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::from(vec![7; 70])),
        headers: ["trace", "span", "kind"].map(header).into(),
        ..Default::default()
    };
    let request = v1::PublishRequest {
        topic: "orders".into(),
        messages: vec![message; limits::MAX_MESSAGES_PER_PUBLISH],
        ..Default::default()
    };
    let encoded = request.encode_to_vec();
    assert!(encoded.len() > 13 << 20 && encoded.len() < limits::MAX_RPC_MESSAGE_BYTES);
    let mut size = DecodedSize::new(v1::PublishRequest::SHAPE, encoded.len());
    size.read(&encoded);
    assert!(size.bytes() <= limits::MAX_DECODED_BYTES, "{}", size.bytes());
}

/// A body that brings `frames`, each after a pause, and then nothing more without ending.
fn slow(frames: Vec<(Duration, Vec<u8>)>) -> GrpcBody {
    let frames = futures::stream::iter(frames).then(|(pause, frame)| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, Status>(Frame::data(Bytes::from(frame)))
    });
    GrpcBody::new(StreamBody::new(frames.chain(futures::stream::pending())))
}

/// What is announced and does not come must not keep memory from others.
#[tokio::test]
async fn a_message_that_stops_in_its_middle_gives_its_memory_back() {
    let budget = MemoryBudget::new(2 << 20, 1 << 20);
    let length = 500_000;
    let bytes = message(length);
    let permits = MessagePermits::default();
    let inner = slow(vec![(Duration::ZERO, bytes[..100].to_vec())]);
    let mut read = BudgetBody::new(inner, budget.connection(), permits.clone(), None);
    read.patience = Duration::from_millis(50);
    let status = read.collect().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
    assert_eq!(budget.used(), length, "the call has it until it ends");
    drop(permits);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_slow_message_and_a_pause_between_two_are_no_stall() {
    let budget = MemoryBudget::new(2 << 20, 1 << 20);
    let whole = message(500_000);
    let (patience, pause) = (Duration::from_millis(60), Duration::from_millis(20));
    // Two times the patience for one message, and longer until the next begins.
    let mut frames: Vec<_> = whole.chunks(80_000).map(|part| (pause, part.to_vec())).collect();
    frames.push((patience * 3, message(3)));
    let permits = MessagePermits::default();
    let mut read = BudgetBody::new(slow(frames), budget.connection(), permits, None);
    read.patience = patience;
    let mut came = 0;
    while came < whole.len() + 8 {
        came += read.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
}
