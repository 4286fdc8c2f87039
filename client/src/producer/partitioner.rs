//! Which partition a record goes to.

use std::{
    fmt,
    sync::Arc,
    sync::atomic::{AtomicU32, Ordering},
};

use millrace_proto::partitioner::{murmur2, partition_for_key};

/// How records without a partition of their own are spread.
#[derive(Clone, Default)]
pub enum Partitioner {
    /// By the key's murmur2 hash, as Kafka's clients do; records without a key stay with one
    /// partition until its batch is sent, then go to another one (KIP-480).
    #[default]
    Default,
    /// One after the other, whatever the key.
    RoundRobin,
    /// As the function says; what it answers is taken modulo the number of partitions.
    Custom(Arc<dyn Fn(&PartitionerInput<'_>) -> u32 + Send + Sync>),
}

/// What a partitioner decides on.
#[derive(Clone, Copy, Debug)]
pub struct PartitionerInput<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// The record's value.
    pub value: Option<&'a [u8]>,
    /// How many partitions the topic has: 1 or more.
    pub partitions: u32,
}

impl fmt::Debug for Partitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "Default",
            Self::RoundRobin => "RoundRobin",
            Self::Custom(_) => "Custom",
        })
    }
}

/// What a partitioner remembers of one topic.
#[derive(Debug)]
pub struct TopicCursor {
    next: AtomicU32,
}

impl TopicCursor {
    /// Begins somewhere: producers that start together must not all begin with one partition.
    pub fn new(seed: u32) -> Self {
        Self {
            next: AtomicU32::new(seed),
        }
    }

    /// The partition of a record.
    #[inline]
    pub fn choose(&self, partitioner: &Partitioner, input: &PartitionerInput<'_>) -> u32 {
        let partitions = input.partitions.max(1);
        match (partitioner, input.key) {
            (Partitioner::Default, Some(key)) => partition_for_key(key, partitions),
            (Partitioner::Default, None) => self.next.load(Ordering::Relaxed) % partitions,
            (Partitioner::RoundRobin, _) => self.next.fetch_add(1, Ordering::Relaxed) % partitions,
            (Partitioner::Custom(choose), _) => choose(input) % partitions,
        }
    }

    /// Tells that a batch of `partition` ended: records without a key go on elsewhere, if it was
    /// theirs.
    pub fn batch_ended(&self, partitioner: &Partitioner, partition: u32, partitions: u32) {
        let current = self.next.load(Ordering::Relaxed);
        if matches!(partitioner, Partitioner::Default) && current % partitions.max(1) == partition {
            // A step that is a hash of the last place spreads without a random generator.
            let step = 1 + murmur2(&current.to_le_bytes()) % partitions.saturating_sub(1).max(1);
            let _ = self.next.compare_exchange(
                current,
                current.wrapping_add(step),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(key: Option<&[u8]>, partitions: u32) -> PartitionerInput<'_> {
        PartitionerInput {
            topic: "t",
            key,
            value: None,
            partitions,
        }
    }

    #[test]
    fn keys_go_where_kafka_puts_them() {
        let cursor = TopicCursor::new(7);
        // murmur2("foobar") = -790332482 in Kafka's own test.
        let expected = ((-790_332_482_i32).cast_unsigned() & 0x7fff_ffff) % 12;
        assert_eq!(
            cursor.choose(&Partitioner::Default, &input(Some(b"foobar"), 12)),
            expected
        );
    }

    #[test]
    fn records_without_key_stick_until_the_batch_ends_then_move() {
        let cursor = TopicCursor::new(5);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let here = cursor.choose(&Partitioner::Default, &input(None, 6));
            assert_eq!(cursor.choose(&Partitioner::Default, &input(None, 6)), here);
            cursor.batch_ended(&Partitioner::Default, (here + 1) % 6, 6);
            assert_eq!(
                cursor.choose(&Partitioner::Default, &input(None, 6)),
                here,
                "another partition's batch"
            );
            cursor.batch_ended(&Partitioner::Default, here, 6);
            assert_ne!(cursor.choose(&Partitioner::Default, &input(None, 6)), here);
            seen.insert(here);
        }
        assert_eq!(seen.len(), 6);
    }

    #[test]
    fn one_partition_and_custom_answers_out_of_range_are_fine() {
        let cursor = TopicCursor::new(u32::MAX);
        cursor.batch_ended(&Partitioner::Default, 0, 1);
        assert_eq!(cursor.choose(&Partitioner::Default, &input(None, 1)), 0);
        let custom = Partitioner::Custom(Arc::new(|_| u32::MAX));
        assert!(cursor.choose(&custom, &input(None, 3)) < 3);
        let round: Vec<u32> = (0..4)
            .map(|_| cursor.choose(&Partitioner::RoundRobin, &input(None, 2)))
            .collect();
        assert_eq!((round[0], round[2]), (1 - round[1], round[0]));
    }
}
