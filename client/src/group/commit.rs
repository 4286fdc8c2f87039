//! Commits, made until they are decided.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_proto::v1::{self, ErrorReason};
use tokio::time::{Instant, sleep};

use super::{
    GroupConsumer,
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
struct ToCommit {
    key: TopicPartition,
    topic_id: Bytes,
    position: Position,
}

/// What became of a commit.
#[derive(Debug, Default)]
struct Committed {
    done: Vec<(TopicPartition, i64)>,
    /// What was refused for good.
    refused: Vec<(TopicPartition, Error)>,
}

impl GroupConsumer {
    /// Commits what is processed. What fails is told in the log. Where no answer came it is tried again with the next
    /// commit; what was refused for good is not, and is read again by whoever has the partition then.
    pub(super) async fn auto_commit(&mut self, of: Option<&[TopicPartition]>, patience: Duration) {
        let due = self.positions.to_commit(of);
        let due = self.named(due);
        let (outcome, result) = self.commit_all(due, patience).await;
        for (key, error) in &outcome.refused {
            tracing::warn!(topic = %key.0, partition = key.1, %error, "an offset was not committed");
        }
        if let Err(error) = result {
            tracing::warn!(group = self.config.group, %error, "offsets were not committed");
        }
    }

    fn named(&self, positions: Vec<(TopicPartition, Position)>) -> Vec<ToCommit> {
        let ids: HashMap<&TopicPartition, &Bytes> = self.held.iter().map(|(id, key)| (key, &id.0)).collect();
        let named = positions.into_iter().filter_map(|(key, position)| {
            Some(ToCommit {
                topic_id: (*ids.get(&key)?).clone(),
                key,
                position,
            })
        });
        named.collect()
    }

    async fn commit_all(&mut self, due: Vec<ToCommit>, patience: Duration) -> (Committed, Result<()>) {
        let mut outcome = Committed::default();
        let tried: HashMap<TopicPartition, i64> =
            due.iter().map(|one| (one.key.clone(), one.position.offset)).collect();
        let result = commit(&self.shared, due, patience, &mut outcome).await;
        for (key, offset) in &outcome.done {
            self.positions.committed(key, *offset);
        }
        for (key, _) in &outcome.refused {
            // Not tried again and again.
            if let Some(offset) = tried.get(key) {
                self.positions.committed(key, *offset);
            }
        }
        (outcome, result)
    }

    /// Commits that the group goes on at these offsets: the next ones to read. Answers with the partitions that were
    /// refused, and why: PARTITION_NOT_ASSIGNED if it is not this member's any more, OFFSET_BEHIND_COMMITTED if the
    /// group is farther. The others are committed.
    ///
    /// # Errors
    /// This consumer is no member at the moment, or no coordinator answered within the client's request timeout: what
    /// was committed is not known.
    pub async fn commit<T: AsRef<str>>(
        &mut self,
        positions: impl IntoIterator<Item = (T, i32, i64)>,
    ) -> Result<Vec<(Arc<str>, i32, Error)>> {
        self.take_told();
        let (mut due, mut refused) = (Vec::new(), Vec::new());
        for (topic, partition, offset) in positions {
            let key: TopicPartition = (topic.as_ref().into(), partition);
            if !self.positions.has(&key) {
                let error = Error::server(
                    ErrorReason::PartitionNotAssigned,
                    format!("{}-{partition} is not this member's: stop to process it.", key.0),
                );
                refused.push((key.0, partition, error));
                continue;
            }
            let leader_epoch = self.positions.leader_epoch(&key, offset);
            due.push((key, Position { offset, leader_epoch }));
        }
        let due = self.named(due);
        let patience = self.shared.client.inner.request_timeout;
        let (outcome, result) = self.commit_all(due, patience).await;
        result?;
        refused.extend(outcome.refused.into_iter().map(|(key, error)| (key.0, key.1, error)));
        Ok(refused)
    }

    /// Commits all that was handed out: it is processed.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub async fn commit_consumed(&mut self) -> Result<Vec<(Arc<str>, i32, Error)>> {
        self.take_told();
        self.positions.processed();
        let due = self.positions.to_commit(None);
        let due = due.into_iter().map(|(key, position)| (key.0, key.1, position.offset));
        self.commit(due.collect::<Vec<_>>()).await
    }
}

/// Commits offsets. What is refused for a passing reason is tried again for as long as `patience`; repeating
/// a commit does no harm.
///
/// # Errors
/// Nothing more can be committed as this member, or no coordinator answered in time. What was decided before is in
/// `outcome`.
async fn commit(shared: &Shared, mut left: Vec<ToCommit>, patience: Duration, outcome: &mut Committed) -> Result<()> {
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
