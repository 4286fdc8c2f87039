//! Compaction by a real broker.

use std::collections::BTreeMap;

use millrace_proto::batch::{BatchBuilder, BatchView, Codec, DecodeLimits, batches};

use super::*;
use crate::{
    partition::{AppendRequest, SequenceRule, SoundBatch, housekeeping},
    rpc::convert::Acks,
    testing::{PHANTOM, TestBroker, committed},
};

fn settings(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0"),
        ("segment.bytes", "1024"),
    ]
    .iter()
    .chain(more)
    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
    .collect()
}

fn write(partition: &Arc<Partition>, key: &str, value: &str) {
    let mut builder = BatchBuilder::new(Codec::None);
    let now = now_ms();
    builder
        .append(now, Some(key.as_bytes()), Some(value.as_bytes()), &[])
        .unwrap();
    let request = AppendRequest {
        acks: Acks::Leader,
        leader_epoch: None,
        expected_offset: None,
        sequence_rule: SequenceRule::Contiguous,
    };
    let batch = SoundBatch::build(&mut builder, &[now], None).unwrap();
    partition.append(&batch, &request).unwrap();
}

/// All records from the beginning on: offset, key, value.
fn read(partition: &Partition) -> Vec<(i64, String, String)> {
    let mut found = Vec::new();
    let mut offset = 0;
    let end = partition.offsets().log_end;
    while offset < end {
        let read = partition.read_within(offset, usize::MAX, end).unwrap();
        assert!(read.next_offset > offset, "{offset}");
        offset = read.next_offset;
        for batch in batches(&read.bytes) {
            let view: BatchView<'_> = batch.unwrap();
            for record in &view.records(&DecodeLimits::DEFAULT).unwrap() {
                let record = record.unwrap();
                let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
                found.push((record.offset, text(record.key), text(record.value)));
            }
        }
    }
    found
}

/// Compacts until nothing is left.
async fn compact(test: &TestBroker, partition: &Partition) {
    let is_clean = || {
        let need = partition.log.compaction_need(&bounds(partition), now_ms()).unwrap();
        need.dirty_bytes == 0
    };
    while !is_clean() {
        compact_all(test.broker(), &mut Waits::default()).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_record_of_each_key_stays() {
    let test = TestBroker::start().await;
    let partition = test.partition_with("t", &[0], settings(&[])).await;
    let mut last = BTreeMap::new();
    for at in 0..300 {
        let (key, value) = (format!("key {}", at % 7), format!("value {at}"));
        write(&partition, &key, &value);
        last.insert(key, (i64::from(at), value));
    }
    committed(&partition, 300).await;
    partition.log.roll().unwrap();
    compact(&test, &partition).await;
    let found = read(&partition);
    assert_eq!(found.len(), 7, "{found:?}");
    assert!(found.is_sorted());
    for (offset, key, value) in &found {
        assert_eq!(last[key], (*offset, value.clone()));
    }
    assert_eq!(partition.offsets().log_end, 300);
    let metrics = &test.broker().metrics;
    assert!(metrics.compactions.get() > 0 && metrics.compaction_failures.get() == 0);
    assert!(metrics.compaction_read.get() >= metrics.compaction_written.get());
    assert!(metrics.compaction_written.get() > 0);
    // What comes later is written and compacted as before.
    write(&partition, "key 3", "newest");
    committed(&partition, 301).await;
    partition.log.roll().unwrap();
    compact(&test, &partition).await;
    let found = read(&partition);
    assert_eq!(found.len(), 7);
    assert_eq!(found.last().unwrap(), &(300, "key 3".to_owned(), "newest".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_committed_replaces_nothing() {
    let test = TestBroker::start().await;
    let partition = test.partition_with("t", &[0, PHANTOM], settings(&[])).await;
    for at in 0..100 {
        write(&partition, "key", &format!("value {at}"));
    }
    partition.log.flush().unwrap();
    partition.log.roll().unwrap();
    assert_eq!(partition.offsets().high_watermark, 0);
    assert!(all_due(test.broker(), &mut Waits::default(), Instant::now()).is_empty());
    compact_all(test.broker(), &mut Waits::default()).await;
    assert_eq!(read(&partition).len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_topics_with_the_policy_are_compacted_and_the_dirtiest_first() {
    let test = TestBroker::start().await;
    let other = test
        .partition_with("other", &[0], BTreeMap::from([("segment.bytes".into(), "1024".into())]))
        .await;
    let little = test.partition_with("little", &[0], settings(&[])).await;
    let much = test.partition_with("much", &[0], settings(&[])).await;
    for (partition, records) in [(&other, 90), (&little, 30), (&much, 60)] {
        for at in 0..records {
            write(partition, "key", &format!("value {at}"));
        }
        committed(partition, records).await;
        partition.log.roll().unwrap();
    }
    // All of both is dirty: then the larger one.
    let due = |waits: &mut Waits| all_due(test.broker(), waits, Instant::now());
    let topics = |due: &[(Arc<Partition>, CompactionNeed)]| -> Vec<String> {
        due.iter().map(|(partition, _)| partition.topic().to_owned()).collect()
    };
    let mut waits = Waits::default();
    assert_eq!(topics(&due(&mut waits)), ["much", "little"]);
    waits.until(&much, Instant::now() + Duration::from_secs(3_600));
    assert_eq!(topics(&due(&mut waits)), ["little"]);
    compact(&test, &much).await;
    compact(&test, &little).await;
    assert_eq!(read(&much).len(), 1);
    assert_eq!(read(&little).len(), 1);
    assert_eq!(read(&other).len(), 90);
    assert!(due(&mut waits).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn little_traffic_is_compacted_within_the_longest_lag() {
    let test = TestBroker::start().await;
    let lag = settings(&[("min.cleanable.dirty.ratio", "1"), ("max.compaction.lag.ms", "1")]);
    let partition = test.partition_with("t", &[0], lag).await;
    write(&partition, "key", "old");
    write(&partition, "key", "new");
    committed(&partition, 2).await;
    // As an hour later.
    housekeeping::look_after(&partition, now_ms() + 3_600_000);
    while read(&partition).len() > 1 {
        compact_all(test.broker(), &mut Waits::default()).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(read(&partition), [(1, "key".to_owned(), "new".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_told_of_and_the_log_left_as_it_is() {
    let test = TestBroker::start().await;
    let partition = test
        .partition_with("t", &[0], settings(&[("min.cleanable.dirty.ratio", "1")]))
        .await;
    for at in 0..10 {
        write(&partition, "key", &format!("value {at}"));
    }
    committed(&partition, 10).await;
    let segment = test.data().join("t-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let end = bytes.iter().rposition(|byte| *byte == b'9').unwrap();
    bytes[end] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    partition.log.roll().unwrap();
    let mut waits = Waits::default();
    while test.broker().metrics.compaction_failures.get() == 0 {
        compact_all(test.broker(), &mut waits).await;
    }
    assert_eq!(test.broker().metrics.compactions.get(), 0);
    while !partition.is_damaged() {
        partition.look_at_damage();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let problem = partition.problem().unwrap();
    assert!(problem.contains("offsets 9 to 9 are"), "{problem}");
    assert_eq!(partition.read_within(0, usize::MAX, 10).unwrap().next_offset, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_failures_a_log_is_left_alone_for_longer_each_time() {
    assert_eq!(retry_after(0), COMPACTION_RETRY_FIRST);
    assert_eq!(retry_after(1), 2 * COMPACTION_RETRY_FIRST);
    assert_eq!(retry_after(40), COMPACTION_RETRY_LONGEST);
    let test = TestBroker::start().await;
    let partition = test.partition("t", &[0]).await;
    let now = Instant::now();
    let mut waits = Waits::default();
    assert!(!waits.has(&partition, now));
    assert_eq!(waits.after_failure(&partition, now), COMPACTION_RETRY_FIRST);
    assert_eq!(waits.after_failure(&partition, now), 2 * COMPACTION_RETRY_FIRST);
    assert!(waits.has(&partition, now + COMPACTION_RETRY_FIRST));
    assert!(!waits.has(&partition, now + 2 * COMPACTION_RETRY_FIRST));
    assert_eq!(waits.failing(), 1);
    waits.until(&partition, now);
    assert_eq!(waits.failing(), 0);
}

#[test]
fn steps_are_paced_and_what_was_slow_is_not_made_up_for() {
    let second = Duration::from_secs(1);
    let mut now = Instant::now();
    let mut pace = Pace::new(1_000, now);
    assert_eq!(pace.pause(500, now), second / 2);
    now += second / 2;
    assert_eq!(pace.pause(1_000, now), second);
    // A step that took longer than it was given.
    now += 5 * second;
    assert_eq!(pace.pause(1_000, now), Duration::ZERO);
    assert_eq!(pace.pause(1_000, now), second);
    assert_eq!(pace.pause(0, now), second);
}
