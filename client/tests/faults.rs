//! Brokers stop and start, topics go and come back, under load.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::time::Duration;

use common::{TestBroker, consumer, produce, read};
use millrace_client::{ErrorReason, NewTopic, Record, Start};

/// Idempotent and under load: nothing is lost, doubled or reordered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_neither_loses_nor_doubles_nor_reorders() {
    let (mut broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client
        .producer()
        .batch_bytes(4_000)
        .linger(Duration::from_millis(1))
        .build()
        .await
        .unwrap();
    let sending = tokio::spawn({
        let producer = producer.clone();
        async move {
            let mut deliveries = Vec::new();
            for at in 0..6_000u32 {
                let value = format!("{at:0100}");
                deliveries.push(
                    producer
                        .send_to("t", Some(0), None, Some(value.as_bytes()))
                        .await
                        .unwrap(),
                );
                if at % 20 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            producer.flush().await.unwrap();
            let mut offsets = Vec::new();
            for delivery in deliveries {
                offsets.push(delivery.await.unwrap().offset);
            }
            offsets
        }
    });
    let mut consumer = consumer(&client, "t", Start::Beginning).await;
    let reading = tokio::spawn(async move { read(&mut consumer, 6_000).await });
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        broker.stop().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        broker.start_again().await;
    }
    let offsets = sending.await.unwrap();
    // A repeated batch may be so old that the broker does not know its offset any more.
    for (at, offset) in offsets.iter().enumerate() {
        assert!(
            *offset == -1 || usize::try_from(*offset).unwrap() == at,
            "record {at} is at {offset}"
        );
    }
    let expected: Vec<String> = (0..6_000).map(|at| format!("{at:0100}")).collect();
    assert_eq!(reading.await.unwrap(), expected);
}

#[tokio::test]
async fn records_sent_while_no_broker_is_there_are_written_when_it_comes_back() {
    let (mut broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client.producer().build().await.unwrap();
    produce(&producer, "t", ["before".to_owned()]).await;
    broker.stop().await;
    let delivery = producer
        .send(Record::new("t").partition(0).value("during"))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(delivery.result().is_none());
    broker.start_again().await;
    assert_eq!(delivery.await.unwrap().offset, 1);
}

#[tokio::test]
async fn what_no_broker_takes_ends_at_the_delivery_timeout_and_is_not_written() {
    let (mut broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client
        .producer()
        .delivery_timeout(Duration::from_millis(500))
        .build()
        .await
        .unwrap();
    broker.stop().await;
    let delivery = producer
        .send(Record::new("t").partition(0).value("lost"))
        .await
        .unwrap();
    let error = delivery.await.unwrap_err();
    assert_eq!(error.kind(), &millrace_client::ErrorKind::TimedOut);
    assert_eq!(error.outcome(), Some(millrace_client::WriteOutcome::NotWritten));
    assert_eq!(producer.buffered_bytes(), 0);
    broker.start_again().await;
    let mut stored = Err(error);
    for _ in 0..20 {
        stored = producer
            .send(Record::new("t").partition(0).value("kept"))
            .await
            .unwrap()
            .await;
        if stored.is_ok() {
            break;
        }
    }
    assert_eq!(stored.unwrap().offset, 0, "what timed out was never written");
}

#[tokio::test]
async fn what_is_tried_again_says_why_meanwhile() {
    let (mut broker, client) = TestBroker::with_topic("t", 1).await;
    broker.stop().await;
    let asked = std::time::Instant::now();
    let listing = tokio::spawn({
        let client = client.clone();
        async move { client.admin().list_topics("").await }
    });
    let told = || client.last_retried().filter(|(at, _)| *at >= asked);
    while told().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(told().unwrap().1.is_retriable());
    broker.start_again().await;
    assert_eq!(listing.await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_deleted_topic_is_told_and_one_of_the_same_name_is_another() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client.producer().build().await.unwrap();
    produce(&producer, "t", (0..10).map(|at| at.to_string())).await;
    let mut consumer = consumer(&client, "t", Start::Beginning).await;
    read(&mut consumer, 10).await;
    client.admin().delete_topic("t").await.unwrap();
    let error = consumer.next().await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::UnknownTopic));
    let error = producer.send(Record::new("t").partition(0).value("x")).await;
    let error = match error {
        Ok(delivery) => delivery.await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.reason(), Some(ErrorReason::UnknownTopic));
    let _ = producer.flush().await;
    client
        .admin()
        .create_topic(NewTopic::new("t").partitions(1))
        .await
        .unwrap();
    assert_eq!(produce(&producer, "t", ["anew".to_owned()]).await, [0]);
    consumer.seek("t", 0, Start::Beginning).await.unwrap();
    assert_eq!(read(&mut consumer, 1).await, ["anew"]);
}

#[tokio::test]
async fn a_deleted_topic_that_is_back_before_anyone_looks_fails_what_waited() {
    let (mut broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client.producer().build().await.unwrap();
    produce(&producer, "t", (0..3).map(|at| at.to_string())).await;
    client.admin().delete_topic("t").await.unwrap();
    client
        .admin()
        .create_topic(NewTopic::new("t").partitions(1))
        .await
        .unwrap();
    broker.stop().await;
    broker.start_again().await;
    // Whichever of both it meets: never a record of the old topic's sequence in the new one.
    let mut written = 0;
    for _ in 0..5 {
        if let Ok(delivery) = producer.send(Record::new("t").partition(0).value("v")).await
            && delivery.await.is_ok()
        {
            written += 1;
        }
    }
    assert!(written >= 4, "{written}");
    let mut consumer = consumer(&client, "t", Start::Beginning).await;
    assert_eq!(read(&mut consumer, written).await, vec!["v"; written]);
}

#[tokio::test]
async fn new_partitions_are_used() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client.producer().build().await.unwrap();
    produce(&producer, "t", ["a".to_owned()]).await;
    client.admin().create_partitions("t", 3).await.unwrap();
    let mut stored = None;
    for _ in 0..50 {
        if let Ok(delivery) = producer.send(Record::new("t").partition(2).value("b")).await {
            stored = Some(delivery.await.unwrap());
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stored.map(|stored| stored.partition), Some(2));
    assert_eq!(
        produce(&producer, "t", ["c".to_owned()]).await,
        [1],
        "the old partition goes on"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_sent_while_the_producer_is_closed_is_told_what_became_of_it() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    for round in 0..20u64 {
        let producer = client
            .producer()
            .linger(Duration::from_millis(1))
            .build()
            .await
            .unwrap();
        let sending = tokio::spawn({
            let producer = producer.clone();
            async move {
                let (mut stored, mut refused) = (0, 0);
                while refused == 0 {
                    let sent = producer.send(Record::new("t").partition(0).value("v")).await;
                    let ended = match sent {
                        Ok(delivery) => delivery.await.map(|_| ()),
                        Err(error) => Err(error),
                    };
                    match ended {
                        Ok(()) => stored += 1,
                        Err(error) => {
                            assert_eq!(error.kind(), &millrace_client::ErrorKind::Closed);
                            refused += 1;
                        }
                    }
                }
                stored
            }
        });
        tokio::time::sleep(Duration::from_millis(5 + round)).await;
        // The other's records may be refused, which flush tells.
        let _ = producer.close().await;
        let ended = tokio::time::timeout(Duration::from_secs(20), sending).await;
        ended.expect("no record is left without an end").unwrap();
    }
}
