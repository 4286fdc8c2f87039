//! Records go to a real broker and come back.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{TestBroker, consumer, produce, read};
use millrace_client::{
    Acks, Client, Codec, ErrorKind, ErrorReason, Header, Isolation, NewTopic, OffsetReset, Partitioner, Record, Start,
    WriteOutcome,
};

#[tokio::test]
async fn keys_values_headers_and_times_come_back_in_every_codec() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let mut expected = Vec::new();
    for codec in Codec::ALL {
        let producer = client.producer().compression(codec).build().await.unwrap();
        for at in 0..300i64 {
            let mut record = Record::new("t").partition(0).timestamp(1_700_000_000_000 + at);
            if at % 3 != 0 {
                record = record.key(format!("key-{at}"));
            }
            if at % 5 != 0 {
                record = record.value(vec![u8::try_from(at % 251).unwrap(); usize::try_from(at).unwrap()]);
            }
            if at % 7 == 0 {
                record = record.header("codec", codec.name()).header("codec", "again");
                record.headers.push(Header {
                    name: "empty".into(),
                    value: None,
                });
            }
            expected.push(record.clone());
            let _delivery = producer.send(record).await.unwrap();
        }
        producer.close().await.unwrap();
    }
    let mut consumer = consumer(&client, "t", Start::Beginning).await;
    for (offset, record) in expected.into_iter().enumerate() {
        let got = consumer.next().await.unwrap();
        assert_eq!(usize::try_from(got.offset).unwrap(), offset);
        assert_eq!(
            (got.key, got.value, got.headers),
            (record.key, record.value, record.headers)
        );
        assert_eq!(Some(got.timestamp), record.timestamp);
    }
    assert_eq!(consumer.position("t", 0).unwrap(), 1_500);
}

#[tokio::test]
async fn deliveries_tell_offsets_in_order_and_flush_waits() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client
        .producer()
        .batch_bytes(2_000)
        .linger(Duration::from_secs(60))
        .build()
        .await
        .unwrap();
    let offsets = produce(
        &producer,
        "t",
        (0..500).map(|at| format!("value {at} {}", "x".repeat(100))),
    )
    .await;
    assert_eq!(offsets, (0..500).collect::<Vec<_>>());
    assert_eq!(producer.buffered_bytes(), 0);
}

#[tokio::test]
async fn weaker_acks_write_as_well() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let leader = client.producer().acks(Acks::Leader).build().await.unwrap();
    assert_eq!(produce(&leader, "t", ["a".to_owned()]).await, [0]);
    let none = client.producer().acks(Acks::None).build().await.unwrap();
    assert_eq!(produce(&none, "t", ["b".to_owned(), "c".to_owned()]).await, [-1, -1]);
    none.close().await.unwrap();
    let mut consumer = consumer(&client, "t", Start::Beginning).await;
    assert_eq!(read(&mut consumer, 3).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn wrong_settings_are_refused() {
    let broker = TestBroker::start().await;
    let client = broker.client().await;
    let refused = [
        client.producer().acks(Acks::Leader).idempotent(true),
        client.producer().max_in_flight(65),
        client.producer().batch_bytes(0),
        client.producer().buffer_bytes(10),
        client.producer().compression(Codec::Gzip).compression_level(10),
    ];
    for builder in refused {
        assert_eq!(builder.build().await.unwrap_err().kind(), &ErrorKind::InvalidArgument);
    }
    assert!(client.consumer().fetch_max_bytes(0).build().is_err());
}

#[tokio::test]
async fn unknown_topics_and_partitions_are_told() {
    let (_broker, client) = TestBroker::with_topic("t", 2).await;
    let producer = client.producer().build().await.unwrap();
    let error = producer.send(Record::new("nowhere")).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.outcome()),
        (Some(ErrorReason::UnknownTopic), Some(WriteOutcome::NotWritten))
    );
    let error = producer.send(Record::new("t").partition(2)).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::UnknownPartition));
    let mut consumer = client.consumer().build().unwrap();
    let error = consumer.assign([("nowhere", 0, Start::End)]).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::UnknownTopic));
    assert_eq!(consumer.next().await.unwrap_err().kind(), &ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn too_large_is_refused_by_client_or_broker_and_others_go_on() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let limit = [("max.message.bytes", "100000")];
    client.admin().alter_configs("t", limit, [] as [&str; 0]).await.unwrap();
    let producer = client.producer().linger(Duration::ZERO).build().await.unwrap();
    let huge = Record::new("t").partition(0).value(vec![0; 17 << 20]);
    assert_eq!(
        producer.send(huge).await.unwrap_err().kind(),
        &ErrorKind::RecordTooLarge
    );
    let first = producer
        .send(Record::new("t").partition(0).value("first"))
        .await
        .unwrap();
    first.await.unwrap();
    let large = producer
        .send(Record::new("t").partition(0).value(vec![0; 200_000]))
        .await
        .unwrap();
    let error = large.await.unwrap_err();
    assert_eq!(
        (error.reason(), error.outcome()),
        (Some(ErrorReason::MessageTooLarge), Some(WriteOutcome::NotWritten))
    );
    assert_eq!(
        producer.flush().await.unwrap_err().reason(),
        Some(ErrorReason::MessageTooLarge)
    );
    // The limit is known from here on: batches are made to fit.
    let offsets = produce(&producer, "t", (0..50).map(|_| "v".repeat(10_000))).await;
    assert_eq!(offsets, (1..51).collect::<Vec<_>>());
}

#[tokio::test]
async fn partitioners_spread_as_they_say() {
    let (_broker, client) = TestBroker::with_topic("t", 6).await;
    let by_key = client.producer().build().await.unwrap();
    let mut partitions = BTreeMap::new();
    for round in 0..2 {
        for key in 0..50 {
            let record = Record::new("t").key(format!("key-{key}")).value("v");
            let partition = by_key.send(record).await.unwrap().await.unwrap().partition;
            let known = *partitions.entry(key).or_insert(partition);
            assert_eq!(known, partition, "round {round}");
        }
    }
    let used: std::collections::BTreeSet<_> = partitions.values().collect();
    assert_eq!(used.len(), 6);
    let custom = client
        .producer()
        .partitioner(Partitioner::Custom(Arc::new(|input| input.partitions + 4)))
        .build()
        .await
        .unwrap();
    let delivery = custom.send(Record::new("t").value("v")).await.unwrap();
    assert_eq!(delivery.await.unwrap().partition, 4);
    let round_robin = client
        .producer()
        .partitioner(Partitioner::RoundRobin)
        .build()
        .await
        .unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        seen.insert(round_robin.send(Record::new("t").value("v")).await.unwrap().partition());
    }
    assert_eq!(seen.len(), 6);
    round_robin.close().await.unwrap();
}

#[tokio::test]
async fn seeking_by_offset_time_and_ends() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client.producer().batch_bytes(300).build().await.unwrap();
    for at in 0..100i64 {
        let record = Record::new("t")
            .partition(0)
            .timestamp(1_700_000_000_000 + at * 1_000)
            .value(at.to_string());
        let _delivery = producer.send(record).await.unwrap();
    }
    producer.flush().await.unwrap();
    let mut consumer = consumer(&client, "t", Start::Offset(42)).await;
    assert_eq!(read(&mut consumer, 2).await, ["42", "43"]);
    assert_eq!(consumer.position("t", 0).unwrap(), 44);
    consumer.seek("t", 0, Start::Time(1_700_000_070_500)).await.unwrap();
    assert_eq!(read(&mut consumer, 1).await, ["71"]);
    consumer.seek("t", 0, Start::Beginning).await.unwrap();
    assert_eq!(read(&mut consumer, 1).await, ["0"]);
    let rest = consumer.next_batch().await.unwrap();
    assert_eq!(rest.start_offset(), 1, "what next did not give out");
    consumer.seek("t", 0, Start::End).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(200), consumer.next()).await;
    assert!(waiting.is_err(), "nothing is there yet");
    produce(&producer, "t", ["new".to_owned()]).await;
    assert_eq!(read(&mut consumer, 1).await, ["new"]);
    assert_eq!(consumer.status("t", 0).unwrap().lag(), Some(0));
    let offsets = client
        .admin()
        .list_offsets(
            "t",
            [(0, Start::Beginning), (0, Start::End)].into_iter().take(1),
            Isolation::ReadCommitted,
        )
        .await
        .unwrap();
    assert_eq!(offsets[0].offset, 0);
}

#[tokio::test]
async fn positions_that_are_not_there_are_told_or_reset() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client.producer().build().await.unwrap();
    produce(&producer, "t", (0..10).map(|at| at.to_string())).await;
    assert_eq!(client.admin().delete_messages("t", 0, 5).await.unwrap(), 5);
    let mut told = consumer(&client, "t", Start::Offset(2)).await;
    let error = told.next().await.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            ErrorKind::OffsetOutOfRange {
                position: 2,
                log_start: Some(5),
                high_watermark: Some(10),
                ..
            }
        ),
        "{error:?}"
    );
    told.seek("t", 0, Start::Offset(9)).await.unwrap();
    assert_eq!(read(&mut told, 1).await, ["9"]);
    let mut reset = client.consumer().reset(OffsetReset::Beginning).build().unwrap();
    reset.assign([("t", 0, Start::Offset(100))]).await.unwrap();
    assert_eq!(read(&mut reset, 5).await, ["5", "6", "7", "8", "9"]);
}

#[tokio::test]
async fn many_partitions_are_read_within_a_small_buffer() {
    let (_broker, client) = TestBroker::with_topic("t", 12).await;
    let producer = client.producer().batch_bytes(20_000).build().await.unwrap();
    for at in 0..6_000u32 {
        let partition = i32::try_from(at % 12).unwrap();
        let value = format!("{at:0200}");
        let _delivery = producer
            .send_to("t", Some(partition), None, Some(value.as_bytes()))
            .await
            .unwrap();
    }
    producer.flush().await.unwrap();
    let mut consumer = client
        .consumer()
        .fetch_max_bytes(50_000)
        .max_prefetch_bytes(100_000)
        .build()
        .unwrap();
    consumer
        .assign((0..12).map(|partition| ("t", partition, Start::Beginning)))
        .await
        .unwrap();
    let mut next = [0u32; 12];
    for _ in 0..6_000 {
        let record = tokio::time::timeout(Duration::from_secs(30), consumer.next())
            .await
            .unwrap()
            .unwrap();
        let at = usize::try_from(record.partition).unwrap();
        let expected = format!("{:0200}", u32::try_from(at).unwrap() + next[at] * 12);
        assert_eq!(record.value.as_deref(), Some(expected.as_bytes()));
        next[at] += 1;
    }
    assert_eq!(next, [500; 12]);
}

#[tokio::test]
async fn a_partition_without_data_holds_no_other_up() {
    let (_broker, client) = TestBroker::with_topic("t", 2).await;
    let producer = client.producer().batch_bytes(20_000).build().await.unwrap();
    produce(&producer, "t", (0..2_000).map(|at| format!("{at:01000}"))).await;
    // Small fetches: each would wait half a second behind the empty partition's.
    let mut consumer = client
        .consumer()
        .fetch_max_bytes(40_000)
        .max_prefetch_bytes(40_000)
        .build()
        .unwrap();
    consumer
        .assign([("t", 0, Start::Beginning), ("t", 1, Start::Beginning)])
        .await
        .unwrap();
    let begin = std::time::Instant::now();
    read(&mut consumer, 2_000).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn paused_partitions_wait() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client.producer().build().await.unwrap();
    let mut consumer = consumer(&client, "t", Start::Beginning).await;
    consumer.pause("t", 0).unwrap();
    produce(&producer, "t", ["a".to_owned()]).await;
    assert!(
        tokio::time::timeout(Duration::from_millis(300), consumer.next())
            .await
            .is_err()
    );
    consumer.resume("t", 0).unwrap();
    assert_eq!(read(&mut consumer, 1).await, ["a"]);
    consumer.unassign([("t", 0)]);
    assert!(consumer.position("t", 0).is_err());
}

#[tokio::test]
async fn a_full_buffer_makes_senders_wait_and_nothing_is_lost() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let producer = client
        .producer()
        .buffer_bytes(50_000)
        .batch_bytes(50_000)
        .linger(Duration::from_secs(60))
        .build()
        .await
        .unwrap();
    let mut full = 0;
    for at in 0..1_000 {
        let record = Record::new("t").partition(0).value(format!("{at:01000}"));
        match producer.try_send(&record) {
            Ok(delivery) => drop(delivery),
            Err(error) => {
                assert_eq!(error.kind(), &ErrorKind::BufferFull);
                full += 1;
                let _delivery = producer.send(record).await.unwrap();
            }
        }
        assert!(producer.buffered_bytes() <= 52_000);
    }
    assert!(full > 0);
    producer.flush().await.unwrap();
    let mut consumer = consumer(&client, "t", Start::Beginning).await;
    let expected: Vec<String> = (0..1_000).map(|at| format!("{at:01000}")).collect();
    assert_eq!(read(&mut consumer, 1_000).await, expected);
}

#[tokio::test]
async fn admin_lists_describes_alters_and_deletes() {
    let broker = TestBroker::start().await;
    let client = broker.client().await;
    let admin = client.admin();
    let checked = admin
        .clone()
        .validate_only(true)
        .create_topic(NewTopic::new("a").partitions(3))
        .await
        .unwrap();
    assert_eq!(checked.partitions, 3);
    assert!(admin.list_topics("").await.unwrap().is_empty());
    for at in 0..5 {
        admin
            .create_topic(
                NewTopic::new(format!("a{at}"))
                    .partitions(2)
                    .config("retention.ms", "60000"),
            )
            .await
            .unwrap();
    }
    let error = admin.create_topic(NewTopic::new("a1")).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::TopicExists));
    let names: Vec<String> = admin
        .list_topics("a")
        .await
        .unwrap()
        .into_iter()
        .map(|topic| topic.name)
        .collect();
    assert_eq!(names, ["a0", "a1", "a2", "a3", "a4"]);
    assert_eq!(admin.create_partitions("a0", 4).await.unwrap(), 4);
    let described = admin.describe_topic("a0").await.unwrap();
    assert_eq!(described.partitions.len(), 4);
    admin
        .alter_configs("a0", [("retention.ms", "70000")], ["cleanup.policy"])
        .await
        .unwrap();
    let configs = admin.describe_configs("a0").await.unwrap();
    let retention = configs.iter().find(|config| config.name == "retention.ms").unwrap();
    assert_eq!(retention.value, "70000");
    let error = admin
        .alter_configs("a0", [("no.such.key", "1")], [] as [&str; 0])
        .await
        .unwrap_err();
    assert_eq!(
        (error.reason(), error.metadata("key")),
        (Some(ErrorReason::InvalidConfig), Some("no.such.key"))
    );
    let cluster = admin.describe_cluster().await.unwrap();
    assert_eq!((cluster.brokers.len(), cluster.topics), (1, 5));
    assert!(
        !admin
            .describe_broker_configs(cluster.brokers[0].broker_id)
            .await
            .unwrap()
            .is_empty()
    );
    admin.delete_topic("a4").await.unwrap();
    assert_eq!(
        client.topic("a4").await.unwrap_err().reason(),
        Some(ErrorReason::UnknownTopic)
    );
}

#[tokio::test]
async fn nobody_at_the_address_is_told_in_time() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = Client::builder()
        .bootstrap(port.to_string())
        .connect_timeout(Duration::from_millis(500))
        .build()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Connection);
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert_eq!(
        Client::connect("nowhere").await.unwrap_err().kind(),
        &ErrorKind::InvalidArgument
    );
}

/// All futures can be spawned.
#[tokio::test]
async fn calls_can_move_between_threads() {
    fn movable<F: Send + 'static>(future: F) -> F {
        future
    }
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let admin = client.admin();
    movable(async move {
        admin.list_topics("").await.unwrap();
        admin.describe_configs("t").await.unwrap();
        admin.describe_cluster().await.unwrap();
        admin
            .alter_configs("t", [("retention.ms", "1000")], ["x"].into_iter().take(0))
            .await
            .unwrap();
        admin.create_topic(NewTopic::new("u")).await.unwrap();
    })
    .await;
    movable(async move {
        let producer = client.producer().build().await.unwrap();
        let delivery = producer.send_to("t", Some(0), None, Some(b"x")).await.unwrap();
        delivery.await.unwrap();
        let mut consumer = client.consumer().build().unwrap();
        consumer.assign([("t", 0, Start::Beginning)]).await.unwrap();
        consumer.next().await.unwrap();
        producer.close().await.unwrap();
    })
    .await;
}
