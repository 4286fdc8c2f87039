//! Bounds of what brokers copy from each other.

use std::time::Duration;

/// Records of one partition in an answer; a larger batch goes alone.
pub const PARTITION_BYTES: usize = 2 << 20;

/// A message of answers is sent once it holds so many bytes of records.
pub const RESPONSE_BYTES: usize = 2 << 20;

/// Answers in a message.
pub const RESPONSE_ANSWERS: usize = 5_000;

/// Fetches in a message.
pub const REQUEST_FETCHES: usize = 5_000;

/// The largest message of answers that is taken: a full one, and a batch of the largest size
/// that a topic may allow.
pub const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// The largest message of fetches that is taken.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;

/// What may be on its way before the receiver has taken it: a stream's window. A follower that
/// does not keep up must not make its leader hold more.
pub const WINDOW_BYTES: u32 = 4 << 20;

/// How long a connection may take to come about.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Pauses between attempts to connect: the first, and the longest.
pub const PAUSE_FIRST: Duration = Duration::from_millis(20);

/// The longest.
pub const PAUSE_LONGEST: Duration = Duration::from_millis(500);

/// A connection that shows no sign of life is asked for one this often, and given up when none
/// comes within [`PING_WAIT`]: a cut cable says nothing.
pub const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How long that takes.
pub const PING_WAIT: Duration = Duration::from_secs(2);

/// News of the high watermark alone wait this long for records to go with them.
pub const WATERMARK_NEWS_AFTER: Duration = Duration::from_millis(5);

/// A fetch without an answer is given up after this: the leader answers when there is something
/// to tell, and a broken stream is noticed by itself. Well below `replica.lag.time.max.ms`, so that
/// one that is lost all the same costs nobody's place in the in-sync set.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(20);

/// Where answers that producers wait for do not leave a gap, one for a replica that is far behind is sent this often.
pub const COPY_AT_LEAST_EVERY: Duration = Duration::from_millis(500);

/// An answer that a move's bound holds back goes out without records after this, well before the
/// follower gives its fetch up.
pub const THROTTLED_AT_MOST: Duration = Duration::from_secs(2);

/// What one answer may cost at most, however low the bound: the bound may be raised meanwhile.
pub const THROTTLE_PAUSE_LONGEST: Duration = Duration::from_secs(60);

/// Partitions whose turns are remembered while none of them waits.
pub const THROTTLE_REMEMBERED: usize = 10_000;

/// Changes of in-sync sets in one command.
pub const PROPOSALS_AT_ONCE: usize = 500;
