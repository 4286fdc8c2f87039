//! All bounds of the metadata, and why each has its number.

/// How many producer ids a broker gets at once; as in Kafka, so that ids outlast any
/// number of restarts and a broker seldom asks.
pub const PRODUCER_ID_BLOCK: i64 = 1_000;

/// The most partitions one topic may have.
pub const MAX_PARTITIONS_PER_TOPIC: usize = 10_000;

/// The most partitions a cluster may have: what one quorum's state in memory holds well.
pub const MAX_PARTITIONS: usize = 100_000;

/// The most registered brokers: far above what one metadata quorum serves, low enough that a
/// peer which registers number after number fills nothing.
pub const MAX_BROKERS: usize = 1_000;

/// The most partitions that one command names: as many as one topic has.
pub const MAX_CHANGES: usize = MAX_PARTITIONS_PER_TOPIC;

/// The most voter ids in use at a time: each broker has one, also without a vote, and a disk that
/// is replaced has its old one until that is removed.
pub const MAX_VOTERS: usize = 2 * MAX_BROKERS;

/// The longest address, rack, version or holder's name, in bytes: a DNS name has 253.
pub const MAX_TEXT_BYTES: usize = 300;

/// How many partitions an answer names before it only counts: what a person reads.
pub const MAX_LISTED: usize = 20;

/// The longest time a maintenance slot is given for, in milliseconds: a day. Who needs longer
/// asks again; who has died blocks the others no longer than this.
pub const MAX_MAINTENANCE_MS: i64 = 24 * 60 * 60 * 1_000;
