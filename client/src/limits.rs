//! All bounds and defaults of the client in one place, each with its reason.

use std::time::Duration;

/// The largest gRPC message taken or sent, in bytes: what a broker takes or sends at most, 16 MiB
/// of records and room for names around them.
pub const MAX_RPC_MESSAGE_BYTES: usize = (16 << 20) + (256 << 10);

/// HTTP/2 frames this client takes: a part of a fetch answer with a batch of the usual largest size
/// (1 MiB and its header) comes as one frame, whose records need no copy.
pub const HTTP2_FRAME_BYTES: u32 = 2 << 20;

/// What a stream may send ahead of being read: one fetch answer of the default size, so that no
/// answer waits for a window update in its middle.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// What a connection may send ahead of being read: two answers at once.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How long a broker may be silent before it is asked whether it lives.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How long it may take to answer that.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connecting may take, over all bootstrap addresses and attempts.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The least that one of several addresses gets to answer before the next is tried.
pub const LEAST_PATIENCE: Duration = Duration::from_millis(500);

/// How long a call without data (admin, look-ups) may take, retries included.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits between two attempts: the first one, doubled with each failure.
pub const MIN_BACKOFF: Duration = Duration::from_millis(20);

/// Waits between two attempts: the longest.
pub const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// How long a topic that metadata does not name is waited for: it may just have been created
/// through another broker.
pub const UNKNOWN_TOPIC_WAIT: Duration = Duration::from_secs(1);

/// Batches of one partition in flight when idempotent, if nothing else is asked for. Kafka's
/// brokers remember five per producer and partition (KIP-98, KAFKA-5494); Millrace's find older
/// ones in the log, so that small batches can share a flush with more than four others.
pub const DEFAULT_IDEMPOTENT_IN_FLIGHT: usize = 16;

/// Batches of one partition in flight when not idempotent, if nothing else is asked for.
pub const DEFAULT_IN_FLIGHT: usize = 5;

/// Batches of one partition in flight at most in any case: what one Produce stream holds.
pub const MAX_IN_FLIGHT: usize = 64;

/// The size at which a batch is sent without waiting for more.
pub const DEFAULT_BATCH_BYTES: usize = 1 << 20;

/// The largest batch: the largest that a topic can allow.
pub const MAX_BATCH_BYTES: usize = 16 << 20;

/// The largest record with its key, value and headers: a batch of it alone must fit
/// [`MAX_BATCH_BYTES`].
pub const MAX_RECORD_BYTES: usize = (16 << 20) - 1024;

/// What a batch to be compressed may have uncompressed where that is more than its size limit: the
/// ratio is an estimate, and a batch that turns out not to be compressible must still be below the
/// default `max.message.bytes` of 8 MiB.
pub const MAX_UNCOMPRESSED_BYTES: usize = 4 << 20;

/// What a batch's buffer has at least, in bytes: growing from less costs more than it saves.
pub const MIN_BUFFER_BYTES: usize = 4 << 10;

/// Bytes of batches in one produce request, except for one batch that is larger: more would only
/// delay the first one's acknowledgement.
pub const PRODUCE_REQUEST_BYTES: usize = 4 << 20;

/// Partitions in one request: what a broker takes.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

/// How often deadlines are looked after.
pub const DEADLINE_TICK: Duration = Duration::from_millis(50);

/// A partition that got nothing for this long begins with one batch in flight again. A broker that
/// forgot the producer takes any sequence, so that a later batch could overtake a refused earlier
/// one; brokers forget after a day by default (KIP-98, `producer.id.expiration.ms`).
pub const ESTABLISHED_FOR: Duration = Duration::from_secs(300);

/// Records waiting for their acknowledgement, in bytes over all partitions.
pub const DEFAULT_BUFFER_BYTES: usize = 32 << 20;

/// How long a record may take from `send` to its acknowledgement, retries included.
pub const DEFAULT_DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a batch waits for more records.
pub const DEFAULT_LINGER: Duration = Duration::from_millis(5);

/// The longest time that a broker takes for produce timeouts.
pub const MAX_PRODUCE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long closing a producer waits for brokers to take what needs no acknowledgement.
pub const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// Fetch streams per leader. A broker answers a stream's requests one after the other, so with one
/// stream a partition with data would wait behind one without, for as long as the latter waits.
pub const FETCH_LANES: usize = 2;

/// Starts of partitions that are looked up at once, each by a call of its own: more than partitions that a broker which
/// just went away leads, as a rule.
pub const START_LOOKUPS: usize = 32;

/// The default size of a fetch answer: what is under way stays within the caches of a usual machine,
/// which is worth 15 % of a reader's throughput against 4 MiB.
pub const DEFAULT_FETCH_BYTES: usize = 2 << 20;

/// The largest fetch answer that a broker gives.
pub const MAX_FETCH_BYTES: usize = 16 << 20;

/// How long a fetch waits at the broker for new data.
pub const DEFAULT_FETCH_WAIT: Duration = Duration::from_millis(500);

/// The longest that a broker waits.
pub const MAX_FETCH_WAIT: Duration = Duration::from_secs(60);

/// How long a fetch waits that leaves out partitions because enough of them is buffered: they must
/// not wait behind it for long.
pub const PARTIAL_FETCH_WAIT: Duration = Duration::from_millis(10);

/// What a consumer buffers ahead of its user, over all partitions.
pub const DEFAULT_PREFETCH_BYTES: usize = 32 << 20;

/// How long a broker may take beyond a fetch's wait before its stream is given up.
pub const FETCH_GRACE: Duration = Duration::from_secs(30);

/// Topics in one page of a list.
pub const PAGE_SIZE: i32 = 1_000;

/// How long a leader is waited for that alone knows a detail of a description: the rest of it should
/// not wait for one that is gone.
pub const DETAIL_WAIT: Duration = Duration::from_secs(3);

/// How often a call goes on to the broker that the last one named as the leader of the metadata quorum:
/// a lead that moves more often than this does not settle in this call.
pub const MAX_REDIRECTS: usize = 3;

/// Without an answer for this long a member stops to use its partitions, if nothing else is asked for.
pub const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the coordinator waits for another connection of a member that lost one, unless told otherwise.
pub const DEFAULT_RECONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a member may keep what it is told to give back, if nothing else is asked for.
pub const DEFAULT_REBALANCE_TIMEOUT: Duration = Duration::from_secs(45);

/// How often what was processed is committed, if nothing else is asked for; as Kafka's clients do.
pub const DEFAULT_COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// Partitions in one commit: what a coordinator takes.
pub const MAX_PARTITIONS_PER_COMMIT: usize = 10_000;

/// How long a broker may take to say where a coordinator is, before it is asked to pass the call on itself.
pub const FIND_COORDINATOR_WAIT: Duration = Duration::from_secs(1);

/// How long records wait behind an automatic commit that is due; the next one has the same offsets and more.
pub const AUTO_COMMIT_WAIT: Duration = Duration::from_secs(1);
