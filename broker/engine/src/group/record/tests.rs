use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::group::{
    limits::MAX_VERSION,
    types::{Assigned, Assignor, MemberDetails, MemberState, Start},
};

fn at() -> impl Strategy<Value = TopicPartition> {
    (0u128..3, 0u32..5).prop_map(|(topic, partition)| TopicPartition {
        topic: Uuid::from_u128(topic),
        partition,
    })
}

fn start() -> impl Strategy<Value = Start> {
    prop_oneof![
        Just(Start::Beginning),
        Just(Start::End),
        any::<i64>().prop_map(Start::Time)
    ]
}

fn text() -> impl Strategy<Value = String> {
    "[a-z\u{e9}\u{1f600}]{0,8}"
}

fn current() -> impl Strategy<Value = CurrentRecord> {
    let all = proptest::collection::btree_map(at(), (any::<i32>(), any::<bool>()), 0..10);
    (0i32..9, 9..i32::MAX, 0..=MAX_VERSION, 0u8..3, all).prop_map(|(previous_epoch, epoch, version, state, all)| {
        let part = |kept: bool| -> Assigned {
            all.iter()
                .filter(|(_, (_, is))| *is == kept)
                .map(|(at, (epoch, _))| (*at, *epoch))
                .collect()
        };
        CurrentRecord {
            epoch,
            previous_epoch,
            version,
            state: [MemberState::Active, MemberState::Left, MemberState::Fenced][state as usize],
            assigned: part(true),
            revoking: part(false),
        }
    })
}

fn member() -> impl Strategy<Value = MemberRecord> {
    let option = || proptest::option::of(text());
    let names = (option(), text(), text(), option(), option());
    let rest = (
        any::<[u32; 3]>(),
        0u8..3,
        proptest::collection::vec(text(), 0..4),
        start(),
    );
    (names, rest).prop_map(
        |(
            (instance_id, client_id, client_host, rack, pattern),
            ([session, reconnect, rebalance], assignor, topics, start),
        )| {
            MemberRecord {
                instance_id,
                details: MemberDetails {
                    client_id,
                    client_host,
                    rack,
                    session_timeout: Duration::from_millis(session.into()),
                    reconnect_timeout: Duration::from_millis(reconnect.into()),
                    rebalance_timeout: Duration::from_millis(rebalance.into()),
                    assignor: [None, Some(Assignor::Uniform), Some(Assignor::Range)][assignor as usize],
                    topics,
                    pattern,
                    start,
                },
            }
        },
    )
}

fn fact() -> impl Strategy<Value = Fact> {
    let time = || proptest::option::of(any::<i64>());
    let group =
        (0i32..9, 9..i32::MAX, any::<bool>(), time()).prop_map(|(target_epoch, epoch, range, empty_since_ms)| {
            GroupRecord {
                epoch,
                target_epoch,
                assignor: if range { Assignor::Range } else { Assignor::Uniform },
                empty_since_ms,
            }
        });
    let offset = (0i64.., proptest::option::of(any::<i32>()), text(), any::<i64>()).prop_map(
        |(offset, leader_epoch, metadata, committed_at_ms)| OffsetRecord {
            offset,
            leader_epoch,
            metadata,
            committed_at_ms,
        },
    );
    let topic =
        (any::<u32>(), start(), time()).prop_map(|(known_partitions, start, unsubscribed_since_ms)| TopicRecord {
            known_partitions,
            start,
            unsubscribed_since_ms,
        });
    let target = proptest::collection::btree_set(at(), 0..10).prop_map(|all| all.into_iter().collect::<Vec<_>>());
    let id = || text().prop_map(|id| MemberId::from(id.as_str()));
    prop_oneof![
        proptest::option::of(group).prop_map(Fact::Group),
        (id(), proptest::option::of(member())).prop_map(|(id, value)| Fact::Member(id, value)),
        (id(), proptest::option::of(target)).prop_map(|(id, value)| Fact::Target(id, value)),
        (id(), proptest::option::of(current())).prop_map(|(id, value)| Fact::Current(id, value)),
        (at(), proptest::option::of(offset)).prop_map(|(at, value)| Fact::Offset(at, value)),
        (any::<u128>(), proptest::option::of(topic)).prop_map(|(id, value)| Fact::Topic(Uuid::from_u128(id), value)),
        (text(), proptest::option::of(proptest::collection::vec(text(), 0..4)))
            .prop_map(|(id, value)| Fact::Pattern(id, value)),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    (text(), fact()).prop_map(|(group, fact)| Record {
        group: group.as_str().into(),
        fact,
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(record in record()) {
        let stored = record.encode();
        prop_assert_eq!(Record::decode(&stored.key, stored.value.as_deref()), Ok(record));
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(key in proptest::collection::vec(any::<u8>(), 0..80), value in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Record::decode(&key, Some(&value));
    }

    /// What is cut or has a byte more is never taken for a record, and its group is named.
    #[test]
    fn a_cut_or_longer_value_stops_its_group(record in record(), cut in any::<prop::sample::Index>()) {
        let stored = record.encode();
        let Some(value) = stored.value else { return Ok(()) };
        let mut longer = value.clone();
        longer.push(0);
        for value in [&value[..cut.index(value.len())], &longer[..]] {
            let read = Record::decode(&stored.key, Some(value));
            let stops = matches!(&read, Err(ReadError::Group { group, .. }) if *group == record.group);
            prop_assert!(stops, "{read:?}");
        }
    }

    #[test]
    fn a_changed_byte_never_panics(record in record(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut stored = record.encode();
        if let Some(value) = stored.value.as_mut() {
            let place = place.index(value.len());
            value[place] = byte;
        }
        let _ = Record::decode(&stored.key, stored.value.as_deref());
    }
}

/// The bytes that are on disks: a change of them is a change of the format.
#[test]
fn the_layout_is_what_it_was() {
    let record = Record {
        group: "g".into(),
        fact: Fact::Offset(
            TopicPartition {
                topic: Uuid::from_u128(7),
                partition: 3,
            },
            Some(OffsetRecord {
                offset: 258,
                leader_epoch: Some(4),
                metadata: "m".into(),
                committed_at_ms: 5,
            }),
        ),
    };
    let stored = record.encode();
    let mut key = vec![1, 5, 0, 0, 0, 1, b'g'];
    key.extend(7u128.to_be_bytes());
    key.extend([0, 0, 0, 3]);
    assert_eq!(stored.key, key);
    let value = [
        1, 0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0, 0, 4, 0, 0, 0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 5,
    ];
    assert_eq!(stored.value.as_deref(), Some(&value[..]));
}

#[test]
fn what_a_later_version_wrote_stops_only_what_it_may_be_about() {
    let group = |reason| {
        Err(ReadError::Group {
            group: "g".into(),
            reason,
        })
    };
    let later_type = [1, 99, 0, 0, 0, 1, b'g', 42];
    assert_eq!(
        Record::decode(&later_type, Some(&[1])),
        group(Unreadable::Newer {
            what: "record type",
            version: 99
        })
    );
    let key = [1, 1, 0, 0, 0, 1, b'g'];
    assert_eq!(
        Record::decode(&key, Some(&[2, 0])),
        group(Unreadable::Newer {
            what: "value's version",
            version: 2
        })
    );
    let later_key = [2, 1, 0, 0, 0, 1, b'g'];
    assert_eq!(
        Record::decode(&later_key, Some(&[1])),
        Err(ReadError::Key(Unreadable::Newer {
            what: "key's version",
            version: 2
        }))
    );
    // A count of four thousand millions in a few bytes costs no memory.
    let huge = [1, 1, 255, 255, 255, 255, b'g'];
    assert_eq!(
        Record::decode(&huge, None),
        Err(ReadError::Key(Unreadable::Damaged(Malformed::Truncated {
            what: "group id"
        })))
    );
}

/// What nothing can come after: a change of it would overflow, or never take place.
#[test]
fn epochs_and_versions_at_their_end_are_damage() {
    let read = |fact| {
        let record = Record {
            group: "g".into(),
            fact,
        };
        let stored = record.encode();
        Record::decode(&stored.key, stored.value.as_deref()).map(|read| assert_eq!(read, record))
    };
    let group = |epoch| {
        Fact::Group(Some(GroupRecord {
            epoch,
            ..GroupRecord::default()
        }))
    };
    let current = |epoch, version| {
        let current = CurrentRecord {
            epoch,
            version,
            ..CurrentRecord::default()
        };
        Fact::Current("a".into(), Some(current))
    };
    let damaged = |what| {
        Err(ReadError::Group {
            group: "g".into(),
            reason: Unreadable::Damaged(Malformed::Field { what }),
        })
    };
    assert_eq!(read(group(i32::MAX - 1)), Ok(()));
    assert_eq!(read(group(i32::MAX)), damaged("epoch"));
    assert_eq!(read(current(i32::MAX - 1, MAX_VERSION)), Ok(()));
    assert_eq!(read(current(i32::MAX, 1)), damaged("member epoch"));
    for version in [MAX_VERSION + 1, u32::MAX] {
        assert_eq!(read(current(1, version)), damaged("version"));
    }
}
