//! How far a change of a topic's replicas is.

use std::collections::HashMap;

use millrace_client::v1::{PartitionDescription, Reassignment};

use super::seen::Replicas;

/// Bytes are told in multiples of this: what is told is written each time it changes.
const ROUNDED_TO: i64 = 64 << 20;

/// What partitions and their moves say. A move that leaves the number of replicas as it is (a rebalance, a drain) is
/// the cluster's own business.
#[must_use]
pub fn replicas(partitions: &[PartitionDescription], moves: &[Reassignment]) -> Replicas {
    let moves: HashMap<i32, &Reassignment> = moves.iter().map(|one| (one.partition, one)).collect();
    let mut all = Replicas::default();
    let mut bytes = 0.0;
    for partition in partitions {
        let (held, added, removed) = (
            count(&partition.replicas),
            count(&partition.adding_replicas),
            count(&partition.removing_replicas),
        );
        let before = held - added;
        all.fewest = if all.targets.is_empty() {
            before
        } else {
            all.fewest.min(before)
        };
        all.targets.insert(held - removed);
        if added != removed {
            all.changing += 1;
            if let Some(one) = moves.get(&partition.partition) {
                bytes += bytes_left(partition, one);
            }
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "a rough sum, far below 2^63")]
    let bytes = bytes as i64;
    all.bytes_remaining = bytes.div_euclid(ROUNDED_TO) * ROUNDED_TO;
    if bytes % ROUNDED_TO > 0 {
        all.bytes_remaining += ROUNDED_TO;
    }
    all
}

fn count(brokers: &[i32]) -> i32 {
    i32::try_from(brokers.len()).unwrap_or(i32::MAX)
}

/// The share of the leader's bytes that the added replicas lack, by offsets.
#[allow(clippy::cast_precision_loss, reason = "a rough sum for people")]
fn bytes_left(partition: &PartitionDescription, one: &Reassignment) -> f64 {
    let (Some(start), Some(end), Some(size)) = (partition.log_start, partition.log_end, partition.size_bytes) else {
        return 0.0;
    };
    let records = (end - start).max(1) as f64;
    one.progress
        .iter()
        .filter(|replica| !replica.in_sync && one.adding_replicas.contains(&replica.broker_id))
        .map(|replica| {
            let lacks = end - replica.log_end.unwrap_or(start).max(start);
            size as f64 * lacks.max(0) as f64 / records
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::ReplicaProgress;

    use super::*;

    fn partition(replicas: &[i32], adding: &[i32], removing: &[i32]) -> PartitionDescription {
        PartitionDescription {
            replicas: replicas.to_vec(),
            adding_replicas: adding.to_vec(),
            removing_replicas: removing.to_vec(),
            log_start: Some(100),
            log_end: Some(300),
            size_bytes: Some(400 << 20),
            ..PartitionDescription::default()
        }
    }

    #[test]
    fn at_rest_nothing_is_left() {
        let still = replicas(&[partition(&[0, 1], &[], &[]), partition(&[1, 2], &[], &[])], &[]);
        assert_eq!(
            still,
            Replicas {
                fewest: 2,
                targets: [2].into(),
                changing: 0,
                bytes_remaining: 0
            }
        );
    }

    #[test]
    fn a_growing_topic_has_what_is_there_and_tells_what_is_left() {
        let moves = [Reassignment {
            adding_replicas: vec![1, 2],
            progress: vec![
                ReplicaProgress {
                    broker_id: 1,
                    log_end: Some(200),
                    in_sync: false,
                },
                ReplicaProgress {
                    broker_id: 2,
                    log_end: None,
                    in_sync: false,
                },
                ReplicaProgress {
                    broker_id: 0,
                    log_end: Some(300),
                    in_sync: true,
                },
            ],
            ..Reassignment::default()
        }];
        let grows = replicas(&[partition(&[0, 1, 2], &[1, 2], &[])], &moves);
        assert_eq!((grows.fewest, grows.changing), (1, 1));
        assert_eq!(grows.targets, [3].into());
        // Half of the log for one, all of it for the other.
        assert_eq!(grows.bytes_remaining, 640 << 20);
    }

    #[test]
    fn a_move_to_another_broker_is_no_change_of_the_number() {
        let moves = replicas(&[partition(&[0, 1, 2], &[2], &[0])], &[]);
        assert_eq!((moves.fewest, moves.changing), (2, 0));
        assert_eq!(moves.targets, [2].into());
        let shrinks = replicas(&[partition(&[0, 1, 2], &[], &[2])], &[]);
        assert_eq!((shrinks.fewest, shrinks.changing), (3, 1));
        assert_eq!(shrinks.targets, [2].into());
    }
}
