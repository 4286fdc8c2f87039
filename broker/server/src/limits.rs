//! All bounds of the broker process in one place, each with its reason.

use std::time::Duration;

/// The largest gRPC message taken or sent, in bytes: the largest record batch
/// (`max.message.bytes` goes to 16 MiB) with room for names around it.
pub const MAX_RPC_MESSAGE_BYTES: usize = (16 << 20) + (256 << 10);

/// HTTP/2 frames: large ones halve the CPU per byte; one is also what a stream may hold
/// beyond its budget.
pub const HTTP2_FRAME_BYTES: u32 = 512 << 10;

/// What one stream may send ahead of being read: the bandwidth-delay product of 10 Gbit/s at
/// 0.8 ms, which is more than between machines of one cluster.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// What one connection may send ahead of being read. It is outside of the memory budget, so
/// that with `max.connections` it bounds what hostile peers can make the broker hold.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// By how much the windows of all connections may grow in all, for what came for calls that do not read: they wait for
/// memory, which others of the same connection have, whose rest must come.
pub const HTTP2_WIDENED_BYTES: usize = 32 << 20;

/// The same of one connection: sixteen calls that wait.
pub const HTTP2_WIDENED_MOST_BYTES: usize = 16 << 20;

/// In which steps.
pub const HTTP2_WIDENED_STEP_BYTES: usize = 1 << 20;

/// Where there was no room for a window to grow, it is looked again after this.
pub const HTTP2_WIDEN_AGAIN: Duration = Duration::from_millis(100);

/// File handles of the process that are counted with; more would be for nothing.
pub const HANDLES_MOST: usize = 1 << 20;

/// Connections of other brokers at once: each keeps a few.
pub const INTERNAL_CONNECTIONS: usize = 4_096;

/// A broker that says nothing for so long has gone: they ask each other for signs of life all the time.
pub const INTERNAL_IDLE: Duration = Duration::from_secs(30);

/// Connections to the port for health and metrics at once.
pub const HTTP_CONNECTIONS: usize = 1_024;

/// How long one of them may be silent: who looks less often connects again.
pub const HTTP_IDLE: Duration = Duration::from_secs(30);

/// Streams at once on a connection; a client needs a few.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 256;

/// Headers of one call.
pub const HTTP2_HEADER_LIST_BYTES: u32 = 16 << 10;

/// Of one stream's answers, what is given to the connection ahead of being sent.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 400 << 10;

/// A DATA frame below this costs the connection's buffer more than its bytes.
pub const SMALL_FRAME_BYTES: usize = 256;

/// Small frames that a call has not read yet are joined to pieces of about this size.
pub const JOINED_FRAMES_BYTES: usize = 16 << 10;

/// Of answers that a stream sends by hand, parts below this are copied to share frames, while more is there: a frame costs as
/// much as copying some 10 KiB. From this size on a chunk is not waited with.
pub const JOINED_ANSWERS_BYTES: usize = 8 << 10;

/// What frames below `SMALL_FRAME_BYTES` may lack of it in all, while they have come and are not yet
/// joined; beyond it, the connection ends. A whole connection window of frames of 16 bytes, which
/// is less than any message that is of use: it takes a peer that means harm.
pub const HTTP2_DATA_FRAME_BUDGET_BYTES: usize = 16 << 20;

/// A connection that has not greeted by then is closed.
pub const HTTP2_HANDSHAKE_WAIT: Duration = Duration::from_secs(20);

/// How often it is asked whether a connection's peer is still there.
pub const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// The same while a subscriber is served by it: one that is frozen is to be noticed soon.
pub const HTTP2_WATCHED_PING_INTERVAL: Duration = Duration::from_secs(1);

/// How long its answer may take.
pub const HTTP2_PING_WAIT: Duration = Duration::from_secs(20);

/// Requests of one Produce stream that wait for their acknowledgement; more are not read
/// until one is answered.
pub const MAX_PRODUCE_IN_FLIGHT: usize = 64;

/// Answers of one Produce stream that wait to be taken.
pub const PRODUCE_ANSWERS_AHEAD: usize = 4;

/// What a partition's place in an answer takes in memory at most, in bytes: an error with its text
/// and facts, and the same encoded; apart from the topic's name.
pub const ANSWER_PART_BYTES: usize = 768;

/// What a partition's place in a decoded fetch takes in memory apart from the request's own bytes,
/// at most: the message, in a list that may be half empty as it grows by doubling, and the
/// allocation of its topic's name.
pub const FETCH_PART_MEMORY_BYTES: usize = 2 * size_of::<millrace_proto::v1::FetchPartition>() + 48;

/// A decoded fetch up to this is not counted, as with `UNCOUNTED_ANSWER_BYTES`: some hundred
/// partitions.
pub const UNCOUNTED_FETCH_BYTES: usize = 64 << 10;

/// An answer's memory apart from records up to this is not counted, so that usual requests need not
/// wait for those who do not take their answers.
pub const UNCOUNTED_ANSWER_BYTES: usize = 16 << 10;

/// What a request may take decoded beyond its own bytes: items of a few bytes each have places in
/// memory of a hundred. 100,000 messages with three headers each take about 80 MiB by our count,
/// which is for lists that are half empty.
pub const MAX_DECODED_BYTES: usize = 96 << 20;

/// What all requests take decoded beyond their own bytes at once, beside the memory budget: as much as
/// requests as they come may take by default. One that takes more has it alone.
pub const DECODED_REQUESTS_BYTES: usize = 32 << 20;

/// What writes are answered with, beside the memory budget: two answers about as many partitions as a
/// request may name, or a publish of 100,000 messages. One that takes more has it alone.
pub const ACKNOWLEDGEMENTS_BYTES: usize = 16 << 20;

/// What a message that is published takes at most from being checked until the answer is sent: its place
/// among those of its partition, and its position twice, as there is the answer and the same encoded.
pub const PUBLISHED_MESSAGE_BYTES: usize = 2 * size_of::<millrace_proto::v1::Position>() + 32;

/// What a reader remembers of a partition beside its place there and the topic's name: what is asked of
/// its leader while nothing comes.
pub const READER_PARTITION_BYTES: usize = 160;

/// What a stream remembers of a topic that it follows, beside its name.
pub const FOLLOWED_TOPIC_BYTES: usize = 64;

/// What a request of a publish stream takes beside its messages until it is answered.
pub const PUBLISHED_REQUEST_BYTES: usize = 1 << 10;

/// A request that takes less beyond its own bytes is not counted, so that usual ones wait once:
/// less than a hundred messages or partitions.
pub const UNCOUNTED_DECODED_BYTES: usize = 16 << 10;

/// Requests of one PublishStream that wait for their acknowledgement.
pub const MAX_PUBLISH_IN_FLIGHT: usize = 256;

/// Fetch answers that may wait for a slow reader on one stream: one next, one being made.
pub const FETCH_ANSWERS_AHEAD: usize = 2;

/// Partitions named in one request.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;

/// Messages in one PublishRequest.
pub const MAX_MESSAGES_PER_PUBLISH: usize = 100_000;

/// Headers of one message.
pub const MAX_HEADERS_PER_MESSAGE: usize = 1_000;

/// The longest header name, in bytes.
pub const MAX_HEADER_NAME_BYTES: usize = 32 << 10;

/// The most bytes in one fetch answer.
pub const MAX_FETCH_BYTES: i32 = 16 << 20;

/// About how many bytes of records one part of a fetch answer has at most: several parts of an answer
/// of the default size, so that a reader works on one, and asks for what follows, while the next is
/// under way.
pub const FETCH_PART_BYTES: usize = 1 << 20;

/// How long records that were read ahead of a request are kept.
pub const READ_AHEAD_KEPT: Duration = Duration::from_millis(200);

/// How long a deletion of messages waits until all in-sync replicas have done it: a broker that is gone
/// leaves the in-sync set much sooner.
pub const DELETED_BY_ALL_WAIT: Duration = Duration::from_secs(10);

/// How often it is looked whether they have.
pub const DELETED_LOOK_EVERY: Duration = Duration::from_millis(10);

/// How often a reader that follows all of a topic looks for partitions that it got.
pub const NEW_PARTITIONS_CHECK: Duration = Duration::from_secs(1);

/// Fetch answer size where the request names none.
pub const DEFAULT_FETCH_BYTES: i32 = 8 << 20;

/// Bytes of messages in one ReadResponse: small enough to flow, large enough to be cheap.
pub const READ_RESPONSE_BYTES: usize = 512 << 10;

/// What records of one batch may decompress to when the broker itself decodes them (for
/// `Read` and for re-encoding): a bomb ends here.
pub const MAX_DECOMPRESSED_BYTES: usize = 64 << 20;

/// Large batches that codecs work on at once, also where there are more cores: each may hold
/// [`MAX_DECOMPRESSED_BYTES`], and three times that while its topic's codec encodes it anew.
pub const CODEC_TURNS: usize = 8;

/// An uncompressed batch up to this is checked on the thread that serves its call: the checksum and a walk over
/// usual records take some tenths of a millisecond, and over the smallest ones three milliseconds.
pub const CHECKED_IN_PLACE_BYTES: usize = 2 << 20;

/// Records of this size, uncompressed, are compressed and decompressed on the thread that serves their call: gzip,
/// which is the slowest, takes about three milliseconds for them.
pub const CODED_IN_PLACE_BYTES: usize = 128 << 10;

/// A compressed batch up to this may well have no more than [`CODED_IN_PLACE_BYTES`] of records: it is tried, as
/// what it tells of its size proves nothing.
pub const TRIED_IN_PLACE_BYTES: usize = 32 << 10;

/// What compressing one batch costs beside its bytes, as so many bytes: a codec sets up its tables.
pub const CODED_BATCH_BYTES: usize = 8 << 10;

/// After a step that worked on so many bytes a request lets other tasks run before the next one.
pub const PAUSE_BYTES: usize = 128 << 10;

/// The longest a fetch may wait for data.
pub const MAX_FETCH_WAIT: Duration = Duration::from_secs(60);

/// A fetch's wait where the request names none.
pub const DEFAULT_FETCH_WAIT: Duration = Duration::from_millis(500);

/// The longest a produce may wait for its acknowledgement.
pub const MAX_PRODUCE_TIMEOUT: Duration = Duration::from_secs(300);

/// A produce's wait where the request names none.
pub const DEFAULT_PRODUCE_TIMEOUT: Duration = Duration::from_secs(30);

/// Publish streams remembered for resumption; beyond it the longest unused are forgotten
/// (their requests are then recognised by the log alone), and where all are served no more are begun.
pub const MAX_PUBLISH_SESSIONS: usize = 2_000;

/// Answers remembered for each publish stream; the log finds those of older requests.
pub const REMEMBERED_ANSWERS: usize = 64;

/// Answers with more positions than this are not remembered: they are found in the log.
pub const REMEMBERED_POSITIONS: usize = 8;

/// Messages of one PublishStream that wait for their acknowledgement: each will be a position
/// in an answer. One request may go beyond it.
pub const MAX_PUBLISH_MESSAGES_IN_FLIGHT: usize = 100_000;

/// Answers of one PublishStream that wait to be taken.
pub const PUBLISH_ANSWERS_AHEAD: usize = 4;

/// Searches for a time at once: each may wait for the disk and then decompress a batch.
pub const TIME_LOOKUPS: usize = 8;

/// Threads that look up the times of batches for lags at once: nobody waits for them but dashboards.
pub const BATCH_TIME_LOOKUPS: usize = 2;

/// How far back in a partition a repeated request is searched for when it is not
/// remembered, in bytes.
pub const DUPLICATE_SEARCH_BYTES: u64 = 64 << 20;

/// Such searches at once: each reads from the disk for a while.
pub const DUPLICATE_SEARCHES: usize = 2;

/// Such searches that wait for their turn; each holds a thread.
pub const DUPLICATE_SEARCHES_WAITING: usize = 32;

/// The longest that one waits for its turn, after which its sender is asked to come again.
pub const DUPLICATE_SEARCH_WAIT: Duration = Duration::from_secs(5);

/// A resume token's validity after the stream's last request: the time for which a
/// partition remembers a producer.
pub const PUBLISH_SESSION_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Threads that force data to the disk: enough for many partitions' fdatasyncs to share
/// the device's flushes.
pub const FLUSH_THREADS: usize = 8;

/// Topics in one page of a list.
pub const MAX_PAGE_SIZE: usize = 1_000;

/// How long a change of metadata may take to be visible at this broker before the call
/// that made it is answered with an error.
pub const METADATA_WAIT: Duration = Duration::from_secs(30);

/// A write of so many bytes leaves the thread that serves its call: to copy them takes some 100 µs, and to leave 5 µs.
pub const WRITTEN_ASIDE_BYTES: usize = 256 << 10;

/// A write that takes longer waits for the disk: the page cache takes usual ones in a fraction of it.
pub const SLOW_WRITE: Duration = Duration::from_millis(5);

/// How long after a slow write small ones leave their threads, too.
pub const SLOW_WRITE_REMEMBERED: Duration = Duration::from_secs(1);

/// How often retention, rolling and expiry are looked after: of all partitions, or of a share of them where there are
/// more than [`HOUSEKEEPING_PARTITIONS`].
pub const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(5);

/// So many partitions at least are looked after in a round.
pub const HOUSEKEEPING_PARTITIONS: usize = 1_000;

/// In so many rounds all partitions are looked after, however many there are: with [`HOUSEKEEPING_INTERVAL`] half a
/// minute. Apache Kafka looks for what retention takes every five minutes (`log.retention.check.interval.ms`).
pub const HOUSEKEEPING_ROUNDS: usize = 6;

/// Partitions that are to be woken after [`TIMER_EXACT_WITHIN`] or later are woken together, so much later at most: a
/// broker of ten thousand idle ones would otherwise be woken hundreds of times a second.
pub const TIMER_GRAIN: Duration = Duration::from_millis(250);

/// What is due within this is exact to the millisecond.
pub const TIMER_EXACT_WITHIN: Duration = Duration::from_secs(2);

/// From this many waiting readers of a partition on it is looked, at each doubling, which of them
/// wait no more.
pub const READERS_LOOKED_THROUGH: usize = 64;

/// Whether a collection that has `length` entries now is looked through for those that are not needed any more, which
/// grow unnoticed: from `least` on, whenever it has doubled.
#[must_use]
pub const fn is_looked_through(length: usize, least: usize) -> bool {
    length >= least && length.is_power_of_two()
}

/// Within this time a message whose memory is taken must bring [`MESSAGE_LEAST_BYTES`] more, or end:
/// what was announced and does not come must not keep others from that memory.
pub const MESSAGE_STALL: Duration = Duration::from_secs(10);

/// Of the answer of a call that has one, and of what writes are answered with, the caller must take
/// [`MESSAGE_LEAST_BYTES`], or what is left, within this time.
pub const ANSWER_STALL: Duration = Duration::from_secs(30);

/// See [`MESSAGE_STALL`] and [`ANSWER_STALL`].
pub const MESSAGE_LEAST_BYTES: usize = 64 << 10;

/// The lowest bound on a move, in bytes a second: one answer of the usual size is then paid for within
/// half a minute.
pub const LEAST_THROTTLE: u64 = 64 << 10;

/// How often it is looked whether a partition with `flush=interval` is due.
pub const INTERVAL_FLUSH_LOOK_EVERY: Duration = Duration::from_millis(100);

/// How many bytes of reading and writing a step of a compaction is: little enough to be paced and to end soon, and as much as
/// a disk reads at once.
pub const COMPACTION_STEP_BYTES: u64 = 4 << 20;

/// How long a log is left alone after its compaction failed once; twice as long after each further time. What is damaged
/// is mended from another replica within seconds, or not at all.
pub const COMPACTION_RETRY_FIRST: Duration = Duration::from_secs(60);

/// The longest such time.
pub const COMPACTION_RETRY_LONGEST: Duration = Duration::from_secs(3_600);

/// How often it is recorded up to where logs are on disk, if that has changed: a start after a
/// crash reads from the disk what was written since.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// The same, after so many flushed bytes: what a slow disk (500 MiB/s) reads in half a second.
/// Recording costs a few fsyncs.
pub const CHECKPOINT_BYTES: u64 = 256 << 20;

/// How often it is looked whether there are so many.
pub const CHECKPOINT_POLL: Duration = Duration::from_millis(100);

/// Metadata entries between two snapshots of the metadata.
pub const METADATA_SNAPSHOT_EVERY: u64 = 10_000;

/// An answer's records where memory is short: outside of the budget, so that each reader
/// gets on.
pub const SMALL_ANSWER_BYTES: usize = 64 << 10;

/// Where memory is short, a batch larger than that goes out whole all the same; all such
/// answers together hold at most this, or one of them.
pub const LARGE_ANSWERS_BYTES: usize = 32 << 20;

/// A fetch that can't have its one batch within this time is ended: readers that do not take
/// their answers hold all memory there is for large ones.
pub const LARGE_ANSWER_WAIT: Duration = Duration::from_secs(5);

/// A message that does not get its bytes of the memory budget within this time is refused, so
/// that calls of one connection that wait for each other's bytes end.
pub const REQUEST_MEMORY_WAIT: Duration = Duration::from_secs(20);

/// How often the metadata quorum's leader tells its followers that it lives.
pub const METADATA_HEARTBEAT: Duration = Duration::from_millis(60);

/// The metadata quorum's election timeout. A follower stands for election when it has heard nothing
/// for three to four times this (openraft adds the leader's lease, which is twice as long, to a
/// random time between one and two of them): 360 to 480 ms. The time counts towards the session of who
/// led, of which at least half is left then (`controller::leases`): with a session of 500 ms, what such
/// a broker led beside the quorum is replaced within about three quarters of a second. No disk is
/// waited for in a heartbeat, so a disk that stalls costs no leader; a process that stands still for a
/// third of a second costs the quorum's leader, but no partition's.
pub const METADATA_ELECTION: Duration = Duration::from_millis(120);

/// How long a starting broker waits for the metadata quorum's leader before it says so.
pub const METADATA_LEADER_LOOK: Duration = Duration::from_secs(1);

/// How often a process registers anew because the metadata it went by was behind: lives of one broker
/// follow each other, so that one look at the newest metadata is enough.
pub const REGISTER_ATTEMPTS: usize = 5;

/// How often leases are looked at: a broker is fenced at most so much of a session late.
pub const LOOKS_PER_SESSION: u32 = 20;
/// See [`LOOKS_PER_SESSION`]: no more often, for the processor's sake.
pub const LEASE_LOOK_MIN: Duration = Duration::from_millis(5);
/// See [`LOOKS_PER_SESSION`]: no more seldom, where sessions are long.
pub const LEASE_LOOK_MAX: Duration = Duration::from_millis(250);

/// How long a call waits to learn whether this broker knows all metadata.
pub const METADATA_CONFIRMED_WITHIN: Duration = Duration::from_secs(3);

/// How often it is looked which partitions their preferred replicas do not lead.
pub const PREFERRED_LEADERS_LOOK_EVERY: Duration = Duration::from_secs(1);

/// A broker that has been in service for so long takes back what it should lead.
pub const PREFERRED_LEADER_AFTER: Duration = Duration::from_secs(30);

/// Leaderships that move at once: clients notice each.
pub const PREFERRED_LEADERS_AT_ONCE: usize = 200;

/// How often it is looked whether a broker should become a voter. Nobody waits for it.
pub const VOTERS_LOOK_EVERY: Duration = Duration::from_millis(250);

/// A learner that lacks no more entries than this follows closely: as many are sent in one request.
pub const VOTER_LAG_ENTRIES: u64 = 256;

/// A learner that was heard of within this time is there.
pub const VOTER_HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Signs of life on their way at a time: one is late, others follow; more would only queue.
pub const MAX_HEARTBEATS_IN_FLIGHT: usize = 4;

/// How often a small write proves that the disk still takes them.
pub const DISK_WRITE_EVERY: Duration = Duration::from_secs(1);

/// A disk that took no write for so long costs the lease: above the interval by what a healthy disk
/// stalls for at worst, and ten times what must not cost a leadership (300 ms).
pub const DISK_SILENCE: Duration = Duration::from_secs(4);

/// How soon logs that could not be opened are tried again.
pub const UNOPENED_AGAIN: Duration = Duration::from_secs(5);

/// How often a broker looks whether it is in service, besides at each change of the metadata.
pub const SERVICE_LOOK_EVERY: Duration = Duration::from_millis(500);

/// How soon a broker that was not put into service asks again.
pub const UNFENCE_AGAIN: Duration = Duration::from_millis(200);

/// Pauses while a starting broker waits for others: the first, and the longest.
pub const START_PAUSE_FIRST: Duration = Duration::from_millis(20);
/// See [`START_PAUSE_FIRST`].
pub const START_PAUSE_LONGEST: Duration = Duration::from_secs(1);

/// What a starting broker waits for is logged if it lasts for so long: brokers that start at the
/// same time wait for each other a little.
pub const START_TOLD_FIRST: Duration = Duration::from_secs(1);

/// What a starting broker waits for is logged again after this time, or sooner if it is another
/// thing.
pub const START_TOLD_AGAIN: Duration = Duration::from_secs(30);
/// See [`START_TOLD_AGAIN`].
pub const START_TOLD_APART: Duration = Duration::from_secs(2);

/// Connecting to another broker takes no longer, or it counts as not there.
pub const INTERNAL_CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// A connection between brokers without a sign of life for this long is asked for one.
pub const INTERNAL_PING_EVERY: Duration = Duration::from_secs(2);

/// It is given up if none comes within this time.
pub const INTERNAL_PING_WITHIN: Duration = Duration::from_secs(2);

/// Streams at once on a connection between brokers: each use has a few, and each application that reads at
/// one broker what another one leads has one while it waits for news.
pub const INTERNAL_STREAMS_PER_CONNECTION: u32 = 16_384;

/// Streams that a broker gave up before this one looked at them, which a connection takes. A broker that stood still for
/// some seconds finds one for each heartbeat of the quorum, and must not end what else uses the connection for that:
/// h2 does so at 20 (against CVE-2023-44487, which is not to be feared from brokers).
pub const INTERNAL_RESET_STREAMS: usize = 1024;

/// What one stream between brokers may send ahead of being read: records of many partitions.
pub const INTERNAL_STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// The same for one connection.
pub const INTERNAL_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How long calls of other brokers may take to end when this one stops.
pub const INTERNAL_STOP_WAIT: Duration = Duration::from_millis(200);

/// When a broker that finds no leader of its cluster first asks others whether it was removed: an
/// election is over by then.
pub const REMOVED_ASK_FIRST: Duration = Duration::from_secs(2);
/// When it asks again: it may take long until anyone can tell.
pub const REMOVED_ASK_EVERY: Duration = Duration::from_secs(10);

/// A seed that does not answer within this time is asked again later: longer than it waits for the
/// quorum itself would be of no use.
pub const SEED_WITHIN: Duration = Duration::from_secs(5);

/// How long the broker of `begin.node` looks for a cluster before it begins one. Who is in one answers
/// at once, by its disk, and needs no leader for it; brokers that wait for this one do not answer, and a
/// new cluster is not to wait long for them.
pub const BEGIN_LOOK: Duration = Duration::from_secs(2);

/// Addresses that one seed's name may stand for; any broker answers, so that a few are enough.
pub const ADDRESSES_PER_SEED: usize = 64;

/// How long a stopping broker waits for one answer of the metadata quorum.
pub const LEAVE_ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// How often it asks whether others have taken over.
pub const LEAVE_ASK_EVERY: Duration = Duration::from_millis(20);

/// A quorum that has no leader for so long while this broker stops is likely stopping too.
pub const LEAVE_LEADER_WAIT: Duration = Duration::from_secs(2);

/// How long it waits for calls in flight once no other broker is in service that could confirm their
/// writes: what needs only this broker's disk has ended by then.
pub const LEAVE_ALONE_WAIT: Duration = Duration::from_secs(2);

/// How long it waits until all others know of the new leaders; they tell with their signs of life.
pub const LEAVE_APPLIED_WAIT: Duration = Duration::from_secs(1);

/// How long the first call about a group waits for further brokers where nobody has said how many there will be: pods and
/// machines that are started together come within this time. Only a broker that begins a cluster by itself waits for nobody.
pub const GROUPS_TOPIC_BROKERS_WAIT: Duration = Duration::from_secs(30);

/// How often it is looked which partitions of groups this broker leads, besides at each change of the metadata.
pub const COORDINATORS_LOOK_EVERY: Duration = Duration::from_millis(200);

/// How often a coordinator counts its groups for the metrics: with ten thousand of them it takes a millisecond.
pub const GROUPS_COUNTED_EVERY: Duration = Duration::from_secs(5);

/// Requests that wait for one coordinator: what it does in a few tenths of a second. Each holds what it takes of the
/// memory budget.
pub const GROUP_QUEUE: usize = 16_384;

/// Requests that a coordinator takes before it writes: their records share batches.
pub const GROUP_REQUESTS_AT_ONCE: usize = 256;

/// About how many bytes of records share a batch: below the usual largest one of 1 MiB.
pub const GROUP_BATCH_BYTES: usize = 768 << 10;

/// What a beginning coordinator reads at once.
pub const GROUP_LOAD_BYTES: usize = 1 << 20;

/// So many of these wait to be taken.
pub const GROUP_LOAD_PARTS_AHEAD: usize = 2;

/// How soon a coordinator whose records could not be read is begun anew.
pub const GROUP_LOAD_AGAIN: Duration = Duration::from_secs(1);

/// Topics at once of which a coordinator looks up where reading begins; others are looked up when they are asked for
/// again.
pub const GROUP_LOOKUPS: usize = 64;

/// How long partitions' leaders are asked where reading begins, as long as none has told, before who wants to know has
/// to ask again.
pub const START_LOOKUP_WITHIN: Duration = Duration::from_secs(2);

/// The pause in between.
pub const START_LOOKUP_PAUSE: Duration = Duration::from_millis(50);

/// What a pattern of topics may take compiled: some thousand times its longest text.
pub const PATTERN_BYTES: usize = 256 << 10;

/// Patterns that are matched at once: the others of the processor's cores are for the rest.
pub const PATTERNS_AT_ONCE: usize = 1;

/// Lists of groups at once, and brokers that one asks at once.
pub const GROUP_LISTS: usize = 8;

/// How deep its parentheses may go.
pub const PATTERN_DEPTH: u32 = 64;

/// How long a call about a group looks for its coordinator: an election and a short log. Who waits for longer asks
/// again.
pub const COORDINATOR_WAIT: Duration = Duration::from_millis(500);

/// The same for a heartbeat: within a third of the usual session, after which its client tries another broker.
pub const HEARTBEAT_COORDINATOR_WAIT: Duration = Duration::from_millis(1_500);

/// How long a coordinator that is none any more has to answer what it was asked before: it may be stopped without a
/// word.
pub const DEPOSED_COORDINATOR_WAIT: Duration = Duration::from_millis(250);

/// Streams by which one member may be connected: a client has one, and for a moment those that it has just left. Of
/// more, the oldest are told nothing, and their ends tell nothing.
pub const STREAMS_OF_A_MEMBER: usize = 8;

/// For how long a member's stream that has ended looks whether its client's connection ends, too.
pub const CLIENT_GONE_WITHIN: Duration = Duration::from_millis(500);

/// Answers of one member's stream that wait to be taken.
pub const HEARTBEAT_ANSWERS_AHEAD: usize = 4;

/// How long a heartbeat waits for its answer from another broker, before its stream there is given up.
pub const HEARTBEAT_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How long the lag of a group waits for what partitions' leaders tell of their ends, and offsets to be set for where
/// they should be set to.
pub const GROUP_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// How long it waits for the times of records after that.
pub const GROUP_TIMES_WITHIN: Duration = Duration::from_secs(5);

/// How long after a broker's start the lag of groups is looked up for the metrics, and how often from then on: as often as
/// is usual for scrapes.
pub const GROUP_LAG_FIRST: Duration = Duration::from_secs(1);
/// See [`GROUP_LAG_FIRST`].
pub const GROUP_LAG_EVERY: Duration = Duration::from_secs(15);

/// How long one question of it to a coordinator may take: all are answered from memory, once what they tell is stored.
pub const GROUP_LAG_ASK_WITHIN: Duration = Duration::from_secs(1);

/// How soon a coordinator that has too many questions is asked again within that.
pub const GROUP_LAG_ASK_AGAIN: Duration = Duration::from_millis(100);

/// So many questions without an answer, and a look asks this coordinator no more.
pub const GROUP_LAG_UNANSWERED: usize = 3;

/// How long one look at it asks coordinators for offsets.
pub const GROUP_LAG_OFFSETS_WITHIN: Duration = Duration::from_secs(5);

/// How long it waits for the ends of partitions then, and how long for the times of records: in all less than from
/// one look to the next.
pub const GROUP_LAG_LEADERS_WITHIN: Duration = Duration::from_secs(4);

/// How long a time that was looked up stands for a group that does not go on: what compaction takes away waits no more.
pub const GROUP_LAG_TIME_KEPT: Duration = Duration::from_secs(5 * 60);

/// Partitions of groups whose lag a broker's metrics tell, the largest first; two series each, which are about 1 MB of
/// text. Also how many times are looked up for one look at most.
pub const GROUP_LAG_SERIES: usize = 5_000;

/// A partition whose lag is told goes on to be told until one that is not has a lag of more than twice as many records, where
/// fewer than this count as this many: a series that comes and goes with each look is of no use to anybody.
pub const GROUP_LAG_ALIKE: i64 = 100;

/// Partitions of groups that one look takes into account: about 10 MB.
pub const GROUP_LAG_LOOKED_AT: usize = 100_000;

/// How long a call about a group waits for the broker's lease to hold again: for a few signs of life.
pub const GROUP_LEASE_WAIT: Duration = Duration::from_secs(1);

/// Responses of one subscriber that wait to be taken, beside those that it is to be told yet.
pub const SUBSCRIBE_ANSWERS_AHEAD: usize = 2;

/// While a subscriber has so many responses that wait, no command of it is read.
pub const SUBSCRIBE_ANSWERS_WAITING: usize = 16;

/// A subscriber that has more that wait does not take them: rebalances of hours.
pub const SUBSCRIBE_NEWS_WAITING: usize = 256;

/// What a subscriber takes of the memory for streams: its state, and its deliveries that are not processed.
pub const SUBSCRIBER_BYTES: usize = 128 << 10;

/// What it takes for each partition: it stands in the member's sets, in what was sent and processed, and where it is read.
pub const SUBSCRIBED_PARTITION_BYTES: usize = 1 << 10;

/// Deliveries that a subscriber may leave unprocessed, of 24 bytes each here: more messages come once it says something.
pub const MAX_UNPROCESSED_DELIVERIES: usize = 4_096;

/// Messages that may be allowed to a subscriber at a time: beyond it a credit is a mistake.
pub const MAX_SUBSCRIBER_CREDIT: u64 = 1_000_000;

/// Bytes that may be allowed to it at a time.
pub const MAX_SUBSCRIBER_CREDIT_BYTES: u64 = 1 << 30;

/// How long a subscriber may keep what it is to give back, if nothing else is asked for.
pub const SUBSCRIBER_REVOKE_TIMEOUT: Duration = Duration::from_secs(30);

/// The least: with [`REVOKE_MARGIN`] above the least of groups.
pub const LEAST_REVOKE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest: with [`REVOKE_MARGIN`] below the longest of groups.
pub const LONGEST_REVOKE_TIMEOUT: Duration = Duration::from_secs(12 * 60 * 60);

/// How much longer than a subscriber may take the coordinator waits: what comes too late is taken from it, and the
/// report of that is a heartbeat, or two as an answer gets lost.
pub const REVOKE_MARGIN: Duration = Duration::from_secs(5);

/// How long a subscriber may let wait what is its turn, if nothing else is asked for: Kafka's `max.poll.interval.ms`.
pub const SUBSCRIBER_PROCESSING_TIMEOUT: Duration = Duration::from_secs(300);

/// The least and the longest.
pub const LEAST_PROCESSING_TIMEOUT: Duration = Duration::from_secs(1);
/// See [`LEAST_PROCESSING_TIMEOUT`].
pub const LONGEST_PROCESSING_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How often what a subscriber has processed is committed: so much comes again at most when its broker is killed.
pub const AUTO_COMMIT_EVERY: Duration = Duration::from_secs(1);

/// The pause before a commit that failed is tried again.
pub const COMMIT_AGAIN: Duration = Duration::from_millis(100);

/// How long a stream that ends waits for its last commit.
pub const LAST_COMMIT_WITHIN: Duration = Duration::from_secs(1);

/// How long it waits until its reader takes the reason.
pub const SUBSCRIBE_END_WITHIN: Duration = Duration::from_secs(2);

/// The pause before a subscriber's partitions that can't be read yet are looked for again, and the longest.
pub const SUBSCRIBER_LOOK_AGAIN: Duration = Duration::from_millis(20);
/// See [`SUBSCRIBER_LOOK_AGAIN`].
pub const SUBSCRIBER_LOOK_AGAIN_LONGEST: Duration = Duration::from_secs(1);
