//! All bounds of the command in one place, each with its reason.

use std::{ops::RangeInclusive, time::Duration};

use millrace_proto::batch::MAX_RECORD_OVERHEAD;

/// Bytes read from standard input at once: few system calls, small beside a batch.
pub const INPUT_CHUNK_BYTES: usize = 256 << 10;

/// Chunks of lines read ahead of the producer: enough that reading and sending overlap.
pub const INPUT_CHUNKS_AHEAD: usize = 4;

/// The longest input line of all, in bytes: the largest record that the client takes without what is around its
/// value. How far it can be compressed is no matter here.
pub const MAX_LINE_BYTES: usize = (16 << 20) - 1024 - MAX_RECORD_OVERHEAD;

/// Messages sent and not yet known to be stored, so that a million lines need no million
/// futures in memory at once.
pub const DELIVERIES_AHEAD: usize = 64 << 10;

/// How long consumed output may stay in the buffer when nothing more comes: unnoticeable to
/// a person, long enough to not flush between two batches.
pub const OUTPUT_IDLE: Duration = Duration::from_millis(3);

/// Bytes of output buffered before they are written.
pub const OUTPUT_BUFFER_BYTES: usize = 256 << 10;

/// How often a consumer that shall end at the end looks whether it is there although no
/// batch came (the rest of a partition may be records that are not shown).
pub const END_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Latency samples of one benchmark: percentiles to 99.9 % need no more, and each costs a task.
pub const LATENCY_SAMPLES: u64 = 100_000;

/// The highest latency that a histogram tells apart, in microseconds: ten minutes.
pub const MAX_LATENCY_US: u64 = 600_000_000;

/// How long `bench consume` and `bench end-to-end` wait for a record that does not come.
pub const BENCH_STALL: Duration = Duration::from_secs(60);

/// How long a broker may take to answer at first: long enough for one that is just starting and takes
/// connections already.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// When a broker that has not answered is looked at more closely: one that works answers sooner, and is
/// never probed.
pub const DIAGNOSIS_AFTER: Duration = Duration::from_millis(200);

/// How long all addresses may refuse connections before that is told: a restart on the same machine takes
/// less, and a typing error in the address should be no long wait.
pub const UNREACHABLE_FOR: Duration = Duration::from_millis(700);

/// Between two looks at an address that refuses connections.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// How long one address may take to be connected to, and to answer the probe.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two looks at moves that are waited for: a person sees them go on, and brokers notice nothing of it.
pub const MOVE_POLL: Duration = Duration::from_millis(500);

/// How often a drain that is waited for is planned anew where replicas stay and none is on its way: what was
/// in the way may be gone.
pub const DRAIN_AGAIN: Duration = Duration::from_secs(5);

/// How long a write or a read may wait before it is looked at why: leaders change in less.
pub const WAIT_UNTOLD: Duration = Duration::from_secs(2);

/// How long an interrupt waits until the command takes notice; after that the process ends.
pub const INTERRUPT_UNTOLD: Duration = Duration::from_secs(2);

/// When it is told that a write waits although nothing is known to be wrong: a flush to a slow disk takes less.
pub const WAIT_UNANSWERED: Duration = Duration::from_secs(5);

/// The longest that `produce` waits for an acknowledgement, if asked to.
pub const MAX_DELIVERY_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Between two looks at why something waits.
pub const WAIT_LOOK_EVERY: Duration = Duration::from_secs(3);

/// How long brokers may take to say how a topic is, while something waits for it.
pub const WAIT_LOOK: Duration = Duration::from_secs(5);

/// Partitions that are named one by one in a line for people; of more, their number is told.
pub const NAMED_PARTITIONS: usize = 20;

/// What a member of a group may ask for as its session: what the client takes.
pub const SESSION_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 60);

/// How often a member of a group commits what is written while more and more comes; without more, at once.
pub const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
