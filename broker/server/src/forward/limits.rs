//! Bounds of what brokers pass on to each other.

use std::time::Duration;

use crate::limits::MAX_RPC_MESSAGE_BYTES;

/// What other brokers' requests and answers, half each, may take at a leader. They have a budget of
/// their own: from the clients' budget two brokers that pass on to each other could each wait for
/// the other's bytes.
pub const MEMORY_BYTES: usize = 4 * MAX_RPC_MESSAGE_BYTES;

/// Batches of one stream that wait for their replicas; more are not read until one is answered. Each
/// is a number and a promise there, its bytes are in the log; below it are the flows of dozens of
/// full publish streams.
pub const APPENDS_IN_FLIGHT: usize = 16_384;

/// Answers in a message.
pub const ANSWERS_AT_ONCE: usize = 256;

/// Messages of answers that wait to be taken.
pub const ANSWERS_AHEAD: usize = 4;

/// The longest that a batch waits for its replicas.
pub const APPEND_TIMEOUT_LONGEST: Duration = Duration::from_secs(300);

/// Refused flows are remembered for so long: longer than anything of them can be on its way, as a
/// sender opens another flow after a refusal.
pub const REFUSED_FLOW_KEPT: Duration = Duration::from_secs(60);

/// Partitions in one call.
pub const DESCRIBED_AT_ONCE: usize = 5_000;

/// Offsets of which one call asks for the times: about 30 KB. Each is looked up by reading some kilobytes.
pub const TIMES_AT_ONCE: usize = 1_000;

/// So many of them are looked up in one turn: from a slow disk in a second.
pub const TIMES_IN_A_TURN: usize = 64;

/// How long a leader looks for times at the longest.
pub const TIMES_WITHIN_LONGEST: Duration = Duration::from_secs(5);

/// Partitions in one call that asks where they end for lags: far below [`DESCRIBED_AT_ONCE`], so that a call of which
/// nothing comes costs little of what is known.
pub const ENDS_AT_ONCE: usize = 1_000;

/// Leaders that are asked at once for the ends and times of which lags are made, each one question at a time.
pub const LEADERS_AT_ONCE: usize = 8;

/// How long one such question may take, so that one of many does not take the time of the others.
pub const QUESTION_WITHIN: Duration = Duration::from_secs(2);

/// How much longer its answer is waited for than the leader was given.
pub const QUESTION_GRACE: Duration = Duration::from_millis(500);

/// Replicas in one answer of an inventory: about a megabyte.
pub const INVENTORY_AT_ONCE: usize = 20_000;

/// Topics that an inventory may be asked of by their ids.
pub const INVENTORY_TOPICS: usize = 1_000;

/// How long a plan waits for what other brokers hold, however often they are asked.
pub const INVENTORY_WITHIN: Duration = Duration::from_secs(5);

/// A broker that could not be asked is asked again after this time.
pub const INVENTORY_PAUSE: Duration = Duration::from_millis(100);

/// The longest that a call waits for records.
pub const NEWS_WAIT_LONGEST: Duration = Duration::from_secs(60);

/// How long a reader's call waits for records before it asks again.
pub const NEWS_WAIT: Duration = Duration::from_secs(10);

/// The largest read: a batch of the largest size.
pub const READ_BYTES: usize = 17 << 20;

/// The largest answer to a read.
pub const MAX_ANSWER_BYTES: usize = READ_BYTES + (1 << 20);

/// An answer that does not come within this time, beyond what it was asked to wait, is given up: what is
/// asked needs no other broker, only a disk.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a description of a topic waits for other brokers.
pub const DESCRIBE_WITHIN: Duration = Duration::from_secs(2);

/// What may be on its way on one stream before the receiver has taken it.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// The same for all streams of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// An answer about a group that does not come within this time is given up: it may wait for replicas, and for the
/// other broker's lease.
pub const GROUPS_ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Heartbeats of one member that wait to be sent.
pub const HEARTBEATS_AHEAD: usize = 4;

/// Members whose groups one other broker coordinates, connected to this one: half of the streams that a connection takes.
pub const MEMBERS_PER_PEER: usize = 8_192;

/// How long a connection may take to come about.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How long a stream may take to be accepted.
pub const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// A connection that shows no sign of life is asked for one this often, and given up when none
/// comes within [`PING_WAIT`]: a cut cable says nothing.
pub const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long that takes.
pub const PING_WAIT: Duration = Duration::from_secs(2);

/// Pauses between attempts: the first, and the longest.
pub const PAUSE_FIRST: Duration = Duration::from_millis(10);

/// The longest.
pub const PAUSE_LONGEST: Duration = Duration::from_millis(250);

/// How long a call looks for a partition's new leader: an election takes a second, and a few where
/// machines are busy.
pub const LEADER_WAIT: Duration = Duration::from_secs(10);

/// How long a reader that follows goes on without a partition's leader before it is told.
pub const READER_LEADER_WAIT: Duration = Duration::from_secs(30);

/// How often a reader looks for leaders that it has lost.
pub const LOST_LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a deposed leader has to answer for what it was sent, before what may be repeated is.
pub const DEPOSED_WAIT: Duration = Duration::from_millis(250);

/// From this many flows of a stream on it is looked, at each doubling, which of them are over.
pub const FLOWS_LOOKED_THROUGH: usize = 1_024;
