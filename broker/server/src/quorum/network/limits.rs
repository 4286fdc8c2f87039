//! All bounds of the quorum's network in one place, each with its reason.

use std::time::Duration;

use super::super::record::MAX_ENTRY_BYTES;

/// The largest message: a request's worth of small entries (1 MiB) and one of the largest, with
/// room for what stands around them.
pub(super) const MAX_MESSAGE_BYTES: usize = MAX_ENTRY_BYTES + (2 << 20);

/// Entries in one request: a leader sends 256 at most.
pub(super) const MAX_ENTRIES: usize = 4_096;

/// Bytes of a snapshot in one message: many fit into a second of a slow network, so that a
/// transfer that makes progress is seen to.
pub(super) const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// The largest chunk that is taken.
pub(super) const MAX_SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

/// The largest snapshot that is taken, as on the disk.
pub(super) const MAX_SNAPSHOT_BYTES: u64 = 1 << 30;

/// A snapshot may make no progress for so long, at either end.
pub(super) const SNAPSHOT_IDLE: Duration = Duration::from_secs(10);

/// A snapshot must be transferred and on the disk within this time: 1 GiB at 10 MiB/s, and as
/// long again for a slow disk.
pub(in super::super) const SNAPSHOT_WITHIN: Duration = Duration::from_secs(240);

/// Requests that may be worked on at a time, other than commands (which have their own limit).
/// Each peer has two or three; with the largest message it bounds memory.
pub(super) const MAX_REQUESTS: usize = 64;

/// Connecting takes no longer, or the peer counts as not there.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_millis(1_000);

/// A connection without a sign of life for this long is asked for one.
pub(super) const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(2);

/// It is given up if none comes within this time.
pub(super) const KEEP_ALIVE_WITHIN: Duration = Duration::from_secs(2);

/// What may be on its way on a connection without being read.
pub(super) const WINDOW_BYTES: u32 = 1 << 20;

/// The longest address, in bytes: a DNS name has 253 at most.
pub(in super::super) const MAX_ADDRESS_BYTES: usize = 1_024;

/// Pauses between attempts to reach a peer that is not there: the first, and the longest. A
/// broker that comes back is found within the longest.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(20);
/// See [`BACKOFF_FIRST`].
pub(super) const BACKOFF_LONGEST: Duration = Duration::from_millis(500);

/// That a member has lost what it had acknowledged is logged again after this time.
pub(super) const LOSS_TOLD_EVERY: Duration = Duration::from_secs(60);
