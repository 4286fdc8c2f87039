//! Commits, made until they are decided.

use std::time::Duration;

use millrace_proto::v1::{self, ErrorReason};
use tokio::time::{Instant, sleep};

use super::{
    driver::{Shared, coordinator},
    positions::Position,
};
use crate::{
    error::{Error, Result},
    limits,
    offsets::{TopicPartition, wait_before, within},
};

/// A partition's offset to commit; the topic's id tells it from another topic of that name.
#[derive(Clone, Debug)]
pub struct ToCommit {
    pub key: TopicPartition,
    pub topic_id: bytes::Bytes,
    pub position: Position,
}

/// What became of a commit.
#[derive(Debug, Default)]
pub struct Committed {
    pub done: Vec<(TopicPartition, i64)>,
    /// What was refused for good.
    pub refused: Vec<(TopicPartition, Error)>,
}

/// Commits offsets. What is refused for a passing reason is tried again for as long as `patience`; repeating
/// a commit does no harm.
///
/// # Errors
/// Nothing more can be committed as this member, or no coordinator answered in time. What was decided before is in
/// `outcome`.
pub async fn commit(
    shared: &Shared,
    mut left: Vec<ToCommit>,
    patience: Duration,
    outcome: &mut Committed,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    let mut backoff = limits::MIN_BACKOFF;
    // Only as long as it is the member that it was: what it had before a loss is not its own any more.
    let losses = shared.member.lock().losses();
    while !left.is_empty() {
        let identity = {
            let member = shared.member.lock();
            let is_over = member.losses() != losses || member.is_over(Instant::now().into_std());
            member.identity().filter(|_| !is_over)
        };
        let Some((member_id, member_epoch)) = identity else {
            return Err(Error::server(
                ErrorReason::UnknownMember,
                "This consumer is no member of its group at the moment: what it had is read again by whoever gets it.",
            ));
        };
        let batch = left.split_off(left.len().saturating_sub(limits::MAX_PARTITIONS_PER_COMMIT));
        let request = v1::CommitOffsetsRequest {
            group: shared.group.clone(),
            member_id,
            member_epoch,
            topics: batch.iter().map(topic_offset).collect(),
            rewind: false,
        };
        let address = coordinator(shared).await;
        let mut groups = shared.client.inner.connections.groups(&address)?;
        let answer = within(deadline, async {
            Ok(groups.commit_offsets(request).await?.into_inner())
        })
        .await;
        let again = match answer {
            Ok(answer) if answer.partitions.len() == batch.len() => sort(batch, answer.partitions, outcome),
            Ok(_) => {
                return Err(Error::invalid(
                    "The broker answered for other partitions: update the client.",
                ));
            }
            Err(error) if is_passing(&error) => {
                shared.moved();
                Some((batch, error))
            }
            Err(error) => {
                if matches!(
                    error.reason(),
                    Some(ErrorReason::UnknownMember | ErrorReason::FencedMember)
                ) {
                    // The next heartbeat is told so as well, and then it joins anew.
                    shared.member.lock().want_heartbeat();
                    shared.wake.notify_one();
                }
                return Err(error);
            }
        };
        let Some((again, error)) = again else { continue };
        left.extend(again);
        let Some(wait) = wait_before(deadline, backoff, &error) else {
            return Err(error);
        };
        if error.reason() == Some(ErrorReason::StaleMemberEpoch) {
            shared.member.lock().want_heartbeat();
            shared.wake.notify_one();
        }
        shared.client.inner.note_retry(&error);
        sleep(wait).await;
        backoff = (backoff * 2).min(limits::MAX_BACKOFF);
    }
    Ok(())
}

/// Whether the same commit may be taken later: also with the epoch that the next heartbeat tells.
fn is_passing(error: &Error) -> bool {
    error.is_retriable() || error.reason() == Some(ErrorReason::StaleMemberEpoch)
}

/// Notes what was decided, and answers with what is to be tried again, and why.
fn sort(
    batch: Vec<ToCommit>,
    answers: Vec<v1::PartitionOutcome>,
    outcome: &mut Committed,
) -> Option<(Vec<ToCommit>, Error)> {
    let (mut again, mut why) = (Vec::new(), None);
    for (asked, answer) in batch.into_iter().zip(answers) {
        match answer.error.map(Error::from_item) {
            None => outcome.done.push((asked.key, asked.position.offset)),
            Some(error) if is_passing(&error) => {
                again.push(asked);
                why = Some(error);
            }
            Some(error) => outcome.refused.push((asked.key, error)),
        }
    }
    why.map(|why| (again, why))
}

/// One partition to a topic, so that the answers are in the same order.
fn topic_offset(one: &ToCommit) -> v1::CommitTopicOffsets {
    v1::CommitTopicOffsets {
        topic: one.key.0.to_string(),
        topic_id: one.topic_id.clone(),
        partitions: vec![v1::CommitPartitionOffset {
            partition: one.key.1,
            offset: one.position.offset,
            leader_epoch: one.position.leader_epoch,
            metadata: String::new(),
        }],
    }
}
