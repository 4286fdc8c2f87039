//! Offsets for times and ends, asked for at the partitions' leaders.

use std::{collections::HashMap, sync::Arc, time::Duration};

use millrace_proto::v1::{self, ErrorReason};
use tokio::time::Instant;

use crate::{
    client::Client,
    error::{Error, ErrorKind, Result},
    limits,
    record::{Isolation, Start, timestamp_ms},
};

/// An offset that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// The partition's number.
    pub partition: i32,
    /// The offset; where nothing is as late as the time asked for, the readable end.
    pub offset: i64,
    /// The time of the record there, in milliseconds since 1970, if the broker looked at it.
    pub timestamp: Option<i64>,
    /// The leader epoch of that record, or the present one.
    pub leader_epoch: i32,
}

/// A partition by topic and number.
pub(crate) type TopicPartition = (Arc<str>, i32);

/// Looks `starts` up, at each partition's leader. Answers are in the order of `starts`; what a
/// leader refuses for a passing reason is asked again until the client's request timeout.
pub(crate) async fn list_offsets(
    client: &Client,
    starts: &[(TopicPartition, Start)],
    isolation: Isolation,
) -> Result<Vec<ListedOffset>> {
    let deadline = Instant::now() + client.inner.request_timeout;
    let mut found: Vec<Option<ListedOffset>> = vec![None; starts.len()];
    let mut backoff = limits::MIN_BACKOFF;
    loop {
        let mut last = None;
        for (address, wanted) in by_leader(client, starts, &found, &mut last)? {
            for wanted in wanted.chunks(limits::MAX_PARTITIONS_PER_REQUEST) {
                if let Err(error) = ask(client, &address, starts, wanted, isolation, deadline, &mut found).await {
                    if !error.is_retriable() {
                        return Err(error);
                    }
                    last = Some(error);
                }
            }
        }
        if found.iter().all(Option::is_some) {
            return Ok(found.into_iter().flatten().collect());
        }
        if Instant::now() + backoff >= deadline {
            return Err(
                last.unwrap_or_else(|| Error::new(ErrorKind::TimedOut, "No leader answered in time: try again."))
            );
        }
        client.inner.refresh.notify_one();
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(limits::MAX_BACKOFF);
    }
}

type Wanted = HashMap<Arc<str>, Vec<usize>>;

/// What is not found yet, by the leader to ask.
fn by_leader(
    client: &Client,
    starts: &[(TopicPartition, Start)],
    found: &[Option<ListedOffset>],
    last: &mut Option<Error>,
) -> Result<Wanted> {
    let cluster = client.cluster();
    let mut wanted = Wanted::new();
    for (at, ((topic, partition), _)) in starts.iter().enumerate() {
        if found[at].is_some() {
            continue;
        }
        let known = cluster.topics.get(topic).ok_or_else(|| Error::unknown_topic(topic))?;
        if known.partition(*partition).is_none() {
            return Err(Error::unknown_partition(topic, *partition, known.partitions.len()));
        }
        match cluster.leader(topic, *partition) {
            Some((address, _)) => wanted.entry(address).or_default().push(at),
            None => *last = Some(no_leader(topic, *partition)),
        }
    }
    Ok(wanted)
}

pub(crate) fn no_leader(topic: &str, partition: i32) -> Error {
    Error::server(
        ErrorReason::LeaderNotAvailable,
        format!("Partition {partition} of topic {topic:?} has no leader: wait, or look at its brokers."),
    )
}

async fn ask(
    client: &Client,
    address: &str,
    starts: &[(TopicPartition, Start)],
    wanted: &[usize],
    isolation: Isolation,
    deadline: Instant,
    found: &mut [Option<ListedOffset>],
) -> Result<()> {
    let request = v1::ListOffsetsRequest {
        isolation: isolation.to_proto().into(),
        partitions: wanted
            .iter()
            .map(|at| {
                let ((topic, partition), start) = &starts[*at];
                v1::ListOffsetsPartition {
                    topic: topic.to_string(),
                    partition: *partition,
                    current_leader_epoch: None,
                    at: Some(start.to_proto()),
                }
            })
            .collect(),
    };
    let mut log = client.inner.connections.log(address)?;
    let reach = &client.inner.connections.reach;
    let answer = within(deadline, async { Ok(log.list_offsets(request).await?.into_inner()) })
        .await
        .inspect(|_| reach.reached(address))
        .inspect_err(|error| reach.failed(address, error))
        .map_err(|error| match error.kind() {
            ErrorKind::Connection => Error::connection(address, error),
            _ => error,
        })?;
    if answer.partitions.len() != wanted.len() {
        return Err(Error::new(
            ErrorKind::Connection,
            "The broker answered for other partitions: update the client.",
        ));
    }
    let mut failed: Option<Error> = None;
    for (at, listed) in wanted.iter().zip(answer.partitions) {
        let ((topic, partition), start) = &starts[*at];
        match listed.error {
            None => {
                found[*at] = Some(ListedOffset {
                    partition: *partition,
                    offset: listed.offset,
                    timestamp: listed.timestamp.as_ref().map(timestamp_ms),
                    leader_epoch: listed.leader_epoch,
                });
            }
            Some(error) => {
                let error = Error::from_item(error).context(format_args!("{topic}-{partition}"));
                let error = match start {
                    Start::Offset(position) => out_of_range(error, topic, *partition, *position),
                    _ => error,
                };
                // An error that waiting does not mend is told first.
                if failed.as_ref().is_none_or(Error::is_retriable) {
                    failed = Some(error);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// OFFSET_OUT_OF_RANGE as the typed kind with what a consumer needs; other errors as they are.
pub(crate) fn out_of_range(error: Error, topic: &Arc<str>, partition: i32, position: i64) -> Error {
    if error.reason() != Some(ErrorReason::OffsetOutOfRange) {
        return error;
    }
    let number = |key| error.metadata(key).and_then(|value| value.parse().ok());
    let (log_start, high_watermark): (Option<i64>, Option<i64>) = (number("log_start"), number("high_watermark"));
    let shown = |value: Option<i64>| value.map_or("?".to_owned(), |value| value.to_string());
    Error::new(
        ErrorKind::OffsetOutOfRange {
            topic: topic.clone(),
            partition,
            position,
            log_start,
            high_watermark,
        },
        format!(
            "Offset {position} of {topic}-{partition} is not there (it has {} to {}): seek to one of these, or set a reset policy.",
            shown(log_start),
            shown(high_watermark),
        ),
    )
}

/// The call's answer, unless `deadline` is earlier.
pub(crate) async fn within<T>(deadline: Instant, call: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout_at(deadline, call)
        .await
        .unwrap_or_else(|_| Err(Error::no_answer(None)))
}

/// How long to wait before another attempt: as the error asks for, at least `backoff`. `None` if the deadline is over
/// by then.
pub(crate) fn wait_before(deadline: Instant, backoff: Duration, error: &Error) -> Option<Duration> {
    let wait = backoff.max(error.retry_after().unwrap_or_default());
    (wait < deadline.saturating_duration_since(Instant::now())).then_some(wait)
}

/// Calls until it succeeds, fails for good, or `timeout` is over: for what does no harm when it is done twice.
pub(crate) async fn retrying<T, F>(client: &Client, timeout: Duration, call: impl FnMut(Arc<str>) -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    retrying_while(client, timeout, Error::is_retriable, call).await
}

/// Calls until it succeeds, fails with what does not pass by itself, or `timeout` is over. Metadata is asked for between
/// two attempts: who answers may be another one by then.
pub(crate) async fn retrying_while<T, F>(
    client: &Client,
    timeout: Duration,
    passes: impl Fn(&Error) -> bool,
    mut call: impl FnMut(Arc<str>) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + timeout;
    let mut backoff = limits::MIN_BACKOFF;
    let mut last = None;
    loop {
        let answer = within(deadline, call(client.contact())).await;
        let passing = answer.as_ref().err().filter(|error| passes(error));
        let wait = passing.and_then(|error| wait_before(deadline, backoff, error));
        match (answer, wait) {
            (Err(error), Some(wait)) => {
                client.inner.note_retry(&error);
                client.inner.refresh.notify_one();
                tokio::time::sleep(wait).await;
                backoff = (backoff * 2).min(limits::MAX_BACKOFF);
                last = Some(error);
            }
            (Err(error), None) if *error.kind() == ErrorKind::TimedOut && last.is_some() => {
                return Err(Error::no_answer(last.as_ref()));
            }
            (other, _) => return other,
        }
    }
}
