//! Fetches from a real broker.

use prost::Message as _;

use super::*;
use crate::testing::TestBroker;

/// What a reader is answered who has read up to 5.
async fn fetch(test: &TestBroker, last_fetched_epoch: Option<i32>) -> v1::FetchedPartition {
    let request = v1::FetchRequest {
        partitions: vec![v1::FetchPartition {
            topic: "t".into(),
            fetch_offset: 5,
            last_fetched_epoch,
            ..Default::default()
        }],
        ..Default::default()
    };
    let mut session = FetchSession::new(test.broker().clone(), None, MessagePermits::default());
    let answer = session.answer(request.encode_to_vec().into()).await.unwrap();
    answer.response.partitions[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_behind_an_unclean_election_is_told_where_its_log_diverged() {
    let test = TestBroker::start().await;
    test.cut_partition("t").await;
    let told = fetch(&test, Some(0)).await;
    assert_eq!(told.error, None);
    let parted = v1::EpochEndOffset {
        leader_epoch: 0,
        end_offset: 0,
    };
    assert_eq!((told.diverging, told.records.len()), (Some(parted), 0));
    // Who does not know of which epoch its last record was can't be told where.
    let error = fetch(&test, None).await.error.unwrap();
    assert_eq!(error.reason, i32::from(ErrorReason::OffsetOutOfRange));
}
