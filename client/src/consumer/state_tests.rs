use millrace_proto::batch::{BatchBuilder, Codec};

use super::{super::records::scan, *};
use crate::{consumer::OffsetReset, record::Isolation};

fn config() -> ConsumerConfig {
    ConsumerConfig {
        isolation: Isolation::ReadCommitted,
        fetch_max_bytes: 1_000,
        fetch_min_bytes: 1,
        fetch_max_wait: Duration::from_millis(500),
        max_prefetch_bytes: 3_000,
        check_crc: true,
        reset: OffsetReset::Error,
    }
}

fn cluster(leader_epoch: i32) -> Cluster {
    Cluster::from_proto(v1::MetadataResponse {
        cluster_id: "c".into(),
        version: 1,
        brokers: vec![v1::BrokerMetadata {
            broker_id: 1,
            address: "b:1".into(),
            ..Default::default()
        }],
        topics: vec![v1::TopicMetadata {
            name: "t".into(),
            topic_id: Bytes::from_static(b"0123456789abcdef"),
            partitions: (0..8)
                .map(|partition| v1::PartitionMetadata {
                    partition,
                    leader_id: Some(1),
                    leader_epoch,
                    ..Default::default()
                })
                .collect(),
        }],
    })
}

fn key(partition: i32) -> TopicPartition {
    ("t".into(), partition)
}

fn placed(key: TopicPartition, topic_id: Bytes, start: Start) -> Placed {
    Placed {
        key,
        topic_id,
        start,
        leader_epoch: None,
    }
}

fn assigned(partitions: i32) -> State {
    let mut state = State::default();
    for partition in 0..partitions {
        state.place(
            placed(
                key(partition),
                Bytes::from_static(b"0123456789abcdef"),
                Start::Offset(0),
            ),
            &cluster(3),
        );
    }
    state
}

fn plan(state: &mut State, config: &ConsumerConfig) -> Option<Box<Asked>> {
    match state.plan(&"b:1".into(), Instant::now(), config) {
        Plan::Fetch(asked) => Some(asked),
        Plan::Wait(_) => None,
    }
}

fn batch(offset: i64, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1, None, Some(&vec![0; value_bytes]), &[]).unwrap();
    builder.set_base_offset(offset).set_leader_epoch(3);
    builder.build().unwrap()
}

fn answer(state: &mut State, mut asked: Box<Asked>, told: v1::FetchedPartition, config: &ConsumerConfig) {
    let scanned = scan(&told.records, asked.offset(&told.topic, told.partition).unwrap_or(0));
    let told = v1::FetchedPartition {
        topic: "t".into(),
        ..told
    };
    state.ended(&"b:1".into(), &asked);
    state.answered(
        &mut asked,
        Answered {
            partition: told,
            scanned,
        },
        Instant::now(),
        config,
    );
}

fn data(partition: i32, offset: i64, value_bytes: usize) -> v1::FetchedPartition {
    v1::FetchedPartition {
        topic: "t".into(),
        partition,
        high_watermark: 10,
        records: batch(offset, value_bytes),
        ..Default::default()
    }
}

fn failed(partition: i32, reason: ErrorReason) -> v1::FetchedPartition {
    let error = v1::Error {
        reason: reason.into(),
        code: 14,
        ..Default::default()
    };
    v1::FetchedPartition {
        topic: "t".into(),
        partition,
        error: Some(error),
        ..Default::default()
    }
}

#[test]
fn two_requests_share_the_partitions_and_no_partition_is_in_both() {
    let (mut state, config) = (assigned(5), config());
    let first = plan(&mut state, &config).unwrap();
    let second = plan(&mut state, &config).unwrap();
    assert_eq!(
        (first.request.partitions.len(), second.request.partitions.len()),
        (3, 2)
    );
    let mut all: Vec<i32> = first
        .request
        .partitions
        .iter()
        .chain(&second.request.partitions)
        .map(|part| part.partition)
        .collect();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4]);
    assert!(plan(&mut state, &config).is_none());
}

#[test]
fn positions_move_and_epochs_are_sent_back() {
    let (mut state, config) = (assigned(1), config());
    let asked = plan(&mut state, &config).unwrap();
    assert_eq!(asked.request.partitions[0].current_leader_epoch, Some(3));
    assert_eq!(asked.request.partitions[0].last_fetched_epoch, None);
    answer(&mut state, asked, data(0, 0, 10), &config);
    let asked = plan(&mut state, &config).unwrap();
    assert_eq!(asked.request.partitions[0].fetch_offset, 1);
    assert_eq!(asked.request.partitions[0].last_fetched_epoch, Some(3));
    let status = |state: &State| state.partitions[&key(0)].status();
    assert_eq!(status(&state).position, 0, "not given out yet");
    assert_eq!(state.take().unwrap().unwrap().next_offset(), 1);
    assert_eq!((status(&state).position, status(&state).lag()), (1, Some(9)));
}

#[test]
fn a_full_partition_is_left_out_and_the_others_do_not_wait_long() {
    let (mut state, config) = (
        assigned(2),
        ConsumerConfig {
            max_prefetch_bytes: 10_000,
            ..config()
        },
    );
    let first = plan(&mut state, &config).unwrap();
    let partition = first.request.partitions[0].partition;
    answer(&mut state, first, data(partition, 0, 2_000), &config);
    let next = plan(&mut state, &config).unwrap();
    assert!(next.request.partitions.iter().all(|part| part.partition != partition));
    assert_eq!(next.max_wait, limits::PARTIAL_FETCH_WAIT);
    state.ended(&"b:1".into(), &next);
    state.take().unwrap().unwrap();
    assert!(plan(&mut state, &config).is_some_and(|asked| asked.max_wait == config.fetch_max_wait));
}

#[test]
fn what_is_fetched_ahead_is_bounded() {
    let (mut state, config) = (assigned(8), config());
    let mut open = Vec::new();
    while let Some(asked) = plan(&mut state, &config) {
        open.push(asked);
    }
    assert!(
        open.iter()
            .map(|asked| usize::try_from(asked.request.max_bytes).unwrap())
            .sum::<usize>()
            <= 3_000
    );
    for asked in open {
        let partition = asked.request.partitions[0].partition;
        answer(&mut state, asked, data(partition, 0, 1_500), &config);
    }
    assert!(plan(&mut state, &config).is_none(), "3,000 bytes are buffered");
    while state.take().is_some() {}
    assert!(plan(&mut state, &config).is_some());
    assert_eq!(state.buffered, 0);
}

#[test]
fn an_answer_from_before_a_seek_is_thrown_away() {
    let (mut state, config) = (assigned(1), config());
    let old = plan(&mut state, &config).unwrap();
    state.place(
        placed(key(0), Bytes::from_static(b"0123456789abcdef"), Start::Offset(7)),
        &cluster(3),
    );
    let new = plan(&mut state, &config).unwrap();
    assert_eq!(new.request.partitions[0].fetch_offset, 7);
    answer(&mut state, old, data(0, 0, 10), &config);
    assert!(state.take().is_none());
    assert!(
        plan(&mut state, &config).is_none(),
        "the new request is still in flight"
    );
}

#[test]
fn paused_partitions_keep_what_they_have() {
    let (mut state, config) = (assigned(1), config());
    let asked = plan(&mut state, &config).unwrap();
    answer(&mut state, asked, data(0, 0, 10), &config);
    state.set_paused(&key(0), true);
    assert!(state.take().is_none());
    assert!(plan(&mut state, &config).is_none());
    state.set_paused(&key(0), false);
    assert!(state.take().is_some());
}

#[test]
fn truncation_is_told_once_and_the_partition_stands_until_a_seek() {
    let (mut state, config) = (assigned(1), config());
    let asked = plan(&mut state, &config).unwrap();
    let diverging = v1::FetchedPartition {
        topic: "t".into(),
        diverging: Some(v1::EpochEndOffset {
            leader_epoch: 2,
            end_offset: 5,
        }),
        ..Default::default()
    };
    answer(&mut state, asked, diverging, &config);
    let error = state.take().unwrap().unwrap_err();
    assert!(matches!(
        error.kind(),
        ErrorKind::Truncated {
            end_offset: 5,
            position: 0,
            ..
        }
    ));
    assert!(state.take().is_none() && plan(&mut state, &config).is_none());
    state.place(
        placed(key(0), Bytes::from_static(b"0123456789abcdef"), Start::Offset(5)),
        &cluster(3),
    );
    assert!(plan(&mut state, &config).is_some());
}

#[test]
fn out_of_range_is_told_or_looked_up_anew() {
    let (mut state, mut config) = (assigned(1), config());
    let asked = plan(&mut state, &config).unwrap();
    answer(&mut state, asked, failed(0, ErrorReason::OffsetOutOfRange), &config);
    assert!(matches!(
        state.take().unwrap().unwrap_err().kind(),
        ErrorKind::OffsetOutOfRange { .. }
    ));

    config.reset = OffsetReset::Beginning;
    let mut state = assigned(1);
    let asked = plan(&mut state, &config).unwrap();
    answer(&mut state, asked, failed(0, ErrorReason::OffsetOutOfRange), &config);
    assert!(state.take().is_none() && plan(&mut state, &config).is_none());
    let (key, generation, start) = state.to_resolve().remove(0);
    assert_eq!(start, Start::Beginning);
    state.resolved(&key, generation, Ok(42));
    assert_eq!(
        plan(&mut state, &config).unwrap().request.partitions[0].fetch_offset,
        42
    );
}

#[test]
fn what_has_no_leader_is_looked_up_once_it_has_one() {
    let leaderless = Cluster::from_proto(v1::MetadataResponse {
        topics: vec![v1::TopicMetadata {
            name: "t".into(),
            topic_id: Bytes::from_static(b"0123456789abcdef"),
            partitions: vec![v1::PartitionMetadata::default()],
        }],
        ..v1::MetadataResponse::default()
    });
    let mut state = State::default();
    let id = Bytes::from_static(b"0123456789abcdef");
    state.place(placed(key(0), id, Start::Beginning), &leaderless);
    assert!(state.to_resolve().is_empty(), "nobody could be asked");
    state.follow(&cluster(2));
    assert_eq!(state.to_resolve().len(), 1);
}

#[test]
fn a_moved_leader_is_waited_for_and_a_new_one_is_asked_at_once() {
    let (mut state, config) = (assigned(1), config());
    let asked = plan(&mut state, &config).unwrap();
    answer(&mut state, asked, failed(0, ErrorReason::NotLeader), &config);
    assert!(state.take().is_none() && plan(&mut state, &config).is_none());
    state.follow(&cluster(4));
    assert_eq!(
        plan(&mut state, &config).unwrap().request.partitions[0].current_leader_epoch,
        Some(4)
    );
}

#[test]
fn a_deleted_topic_is_told() {
    let mut state = assigned(1);
    state.follow(&Cluster::default());
    assert_eq!(
        state.take().unwrap().unwrap_err().reason(),
        Some(ErrorReason::UnknownTopic)
    );
    state.follow(&Cluster::default());
    assert!(state.take().is_none(), "once");
}

#[test]
fn an_answer_in_parts_is_taken_part_by_part_up_to_a_damaged_one() {
    let config = config();
    let mut state = assigned(1);
    let mut asked = plan(&mut state, &config).unwrap();
    let mut take = |state: &mut State, records: Bytes| {
        let scanned = scan(&records, asked.offset("t", 0).unwrap());
        let partition = v1::FetchedPartition {
            topic: "t".into(),
            records,
            ..Default::default()
        };
        let answered = Answered { partition, scanned };
        state.answered(&mut asked, answered, Instant::now(), &config);
    };
    take(&mut state, batch(0, 10));
    take(&mut state, batch(1, 10));
    // Torn.
    take(&mut state, batch(2, 10).slice(..70));
    take(&mut state, batch(3, 10));
    let mut given = Vec::new();
    while let Some(item) = state.take() {
        given.push(item.map(|fetched| (fetched.start_offset(), fetched.next_offset())));
    }
    assert_eq!(given.len(), 3, "nothing behind damage");
    assert!(matches!(given[..2], [Ok((0, 1)), Ok((1, 2))]));
    assert!(
        given[2]
            .as_ref()
            .is_err_and(|error| error.to_string().contains("offset 2"))
    );
}

#[test]
fn damage_found_late_takes_back_what_follows() {
    let config = config();
    let mut state = assigned(1);
    for offset in 0..2 {
        let asked = plan(&mut state, &config).unwrap();
        answer(&mut state, asked, data(0, offset, 10), &config);
    }
    let (first, error) = (state.take().unwrap().unwrap(), Error::invalid("damaged"));
    state.damaged(&key(0), first.next_offset(), error);
    assert_eq!(state.partitions[&key(0)].status().position, 1);
    assert_eq!(state.take().unwrap().unwrap_err().to_string(), "damaged");
    assert!(state.take().is_none(), "what followed is gone");
    assert!(plan(&mut state, &config).is_none(), "until a seek");
}

#[test]
fn what_repeating_does_not_mend_is_told_once_for_each_partition() {
    let config = config();
    let mut state = assigned(2);
    let asked = plan(&mut state, &config).unwrap();
    let of = asked.request.partitions[0].partition;
    let error = Error::invalid("unknown call");
    state.failed(&asked, &error);
    state.failed(&asked, &error);
    state.ended(&"b:1".into(), &asked);
    assert!(
        state
            .take()
            .unwrap()
            .unwrap_err()
            .to_string()
            .contains(&format!("t-{of}"))
    );
    assert!(state.take().is_none());
    let other = plan(&mut state, &config).unwrap();
    assert_ne!(other.request.partitions[0].partition, of, "the others go on");
}

/// A part of partition 0 with the record at `offset`, of an answer that ends before `next_offset`.
fn part_of(offset: i64, next_offset: i64) -> v1::FetchedPartition {
    v1::FetchedPartition {
        next_offset: Some(next_offset),
        leader_epoch: 3,
        ..data(0, offset, 1)
    }
}

fn take_part(state: &mut State, asked: &mut Asked, partition: v1::FetchedPartition, config: &ConsumerConfig) {
    let scanned = scan(&partition.records, asked.offset("t", 0).unwrap());
    state.answered(asked, Answered { partition, scanned }, Instant::now(), config);
}

fn follow_on(state: &mut State, asked: &Asked, config: &ConsumerConfig) -> Option<Box<Asked>> {
    state.follow_on(&"b:1".into(), asked, &part_of(0, 2), config)
}

fn starts(state: &mut State) -> Vec<i64> {
    std::iter::from_fn(|| state.take())
        .map(|item| item.unwrap().start_offset())
        .collect()
}

#[test]
fn what_follows_is_asked_for_before_the_answer_is_whole() {
    let (mut state, config) = (assigned(1), config());
    let leader = "b:1".into();
    let mut first = plan(&mut state, &config).unwrap();
    let mut second = follow_on(&mut state, &first, &config).unwrap();
    let asked = &second.request.partitions[0];
    assert_eq!(
        (asked.fetch_offset, asked.current_leader_epoch, asked.last_fetched_epoch),
        (2, Some(3), None)
    );
    assert!(follow_on(&mut state, &first, &config).is_none(), "at most one follows");
    for offset in 0..2 {
        take_part(&mut state, &mut first, part_of(offset, 2), &config);
    }
    state.ended(&leader, &first);
    assert!(plan(&mut state, &config).is_none(), "the second is not answered");
    take_part(&mut state, &mut second, part_of(2, 3), &config);
    state.ended(&leader, &second);
    assert_eq!(starts(&mut state), [0, 1, 2]);
    let third = plan(&mut state, &config).unwrap();
    let asked = &third.request.partitions[0];
    assert_eq!((asked.fetch_offset, asked.last_fetched_epoch), (3, Some(3)));
    state.ended(&leader, &third);
    assert_eq!((state.reserved, state.requests[&leader]), (0, 0));
}

#[test]
fn an_answer_that_ends_elsewhere_than_it_said_is_not_gone_on_behind() {
    let (mut state, config) = (assigned(1), config());
    let mut first = plan(&mut state, &config).unwrap();
    let mut second = follow_on(&mut state, &first, &config).unwrap();
    take_part(&mut state, &mut first, part_of(0, 2), &config);
    state.ended(&"b:1".into(), &first);
    take_part(&mut state, &mut second, part_of(2, 3), &config);
    state.ended(&"b:1".into(), &second);
    assert_eq!(starts(&mut state), [0]);
    let third = plan(&mut state, &config).unwrap();
    assert_eq!(third.request.partitions[0].fetch_offset, 1);
}

#[test]
fn nothing_is_asked_for_ahead_where_it_could_be_in_the_way() {
    let config = config();
    let refused = |partitions: i32, change: &dyn Fn(&mut State), part: &v1::FetchedPartition, why: &str| {
        let mut state = assigned(partitions);
        let asked = plan(&mut state, &config).unwrap();
        change(&mut state);
        let before = (state.reserved, state.requests.clone());
        let following = state.follow_on(&"b:1".into(), &asked, part, &config);
        assert!(following.is_none(), "{why}");
        assert_eq!((state.reserved, state.requests), before, "{why}");
    };
    let (part, nothing) = (part_of(0, 2), |_: &mut State| {});
    refused(1, &nothing, &part_of(0, 10), "it has caught up");
    refused(1, &nothing, &data(0, 0, 1), "the end is not told");
    let other_epoch = v1::FetchedPartition {
        leader_epoch: 4,
        ..part_of(0, 2)
    };
    refused(1, &nothing, &other_epoch, "of another epoch than is known");
    refused(3, &nothing, &part, "others wait for their turn");
    let pause = |state: &mut State| {
        state.set_paused(&key(0), true);
    };
    refused(1, &pause, &part, "paused");
    let seek = |state: &mut State| {
        state.place(placed(key(0), Bytes::new(), Start::Offset(7)), &cluster(3));
    };
    refused(1, &seek, &part, "it reads elsewhere");
    let full = |state: &mut State| state.partitions.get_mut(&key(0)).unwrap().buffered = 1_000;
    refused(1, &full, &part, "enough is buffered");
    let no_room = |state: &mut State| state.buffered = 2_000;
    refused(1, &no_room, &part, "there is no room");
}

#[test]
fn the_epoch_before_a_committed_offset_is_told_with_the_first_fetch() {
    let (mut state, config) = (State::default(), config());
    let begun = Placed {
        leader_epoch: Some(2),
        ..placed(key(0), Bytes::from_static(b"0123456789abcdef"), Start::Offset(7))
    };
    state.place(begun, &cluster(3));
    let asked = plan(&mut state, &config).unwrap();
    assert_eq!(asked.request.partitions[0].last_fetched_epoch, Some(2));
}
