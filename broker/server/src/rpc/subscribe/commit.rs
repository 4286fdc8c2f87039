//! A subscriber's commits: one at a time, so that they arrive in their order.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use millrace_member::PartitionId;
use millrace_proto::v1::{self, ErrorReason, subscribe_response::Response};

use super::{flow::Flow, session::Session};
use crate::{broker::Broker, error::ApiError, limits, rpc::groups::commit_offsets};

type Answer = Result<v1::CommitOffsetsResponse, ApiError>;

/// A commit that is on its way.
struct UnderWay {
    /// The subscriber's command; none: an automatic one.
    command: Option<u64>,
    offsets: Vec<(Option<PartitionId>, i64)>,
    answer: BoxFuture<'static, Answer>,
}

/// The commits of one subscriber.
pub struct Commits {
    under_way: Option<UnderWay>,
    /// A command that waits for the one before.
    waiting: Option<(u64, v1::SubscribeCommit)>,
    /// When the next automatic one is due.
    due: Instant,
    /// No automatic one is tried before.
    again: Instant,
}

impl Commits {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self {
            under_way: None,
            waiting: None,
            due: now + limits::AUTO_COMMIT_EVERY,
            again: now,
        }
    }

    /// Whether a command of the subscriber is to be done before its next one.
    pub fn has_command(&self) -> bool {
        self.waiting.is_some() || self.under_way.as_ref().is_some_and(|commit| commit.command.is_some())
    }

    /// The subscriber commits; after what is on its way.
    pub fn command(&mut self, id: u64, commit: v1::SubscribeCommit) {
        self.waiting = Some((id, commit));
    }

    /// The answer to what is on its way; never, if nothing is. Dropping the future loses nothing.
    pub async fn answered(&mut self) -> Answer {
        match &mut self.under_way {
            Some(commit) => (&mut commit.answer).await,
            None => std::future::pending().await,
        }
    }

    /// When an automatic one is due.
    pub fn wake_at(&self, flow: &Flow) -> Option<Instant> {
        if self.under_way.is_some() || !flow.has_to_commit() {
            return None;
        }
        Some(self.due_at(flow))
    }

    fn due_at(&self, flow: &Flow) -> Instant {
        if flow.is_commit_urgent() {
            self.again
        } else {
            self.due.max(self.again)
        }
    }
}

impl Session {
    /// Begins the next commit, if one is due and none is on its way. `at_once`: whatever is due when.
    pub fn begin_commit(&mut self, now: Instant, at_once: bool) {
        if self.commits.under_way.is_some() {
            return;
        }
        if let Some((id, commit)) = self.commits.waiting.take() {
            return self.begin_command(id, commit);
        }
        if !self.flow.has_to_commit() || (!at_once && now < self.commits.due_at(&self.flow)) {
            return;
        }
        let Some(member) = self.member.identity() else { return };
        let due = self.flow.to_commit();
        let topics = due
            .iter()
            .map(|(id, offset)| self.topic_offset(Some(id), "", id.1, *offset))
            .collect();
        let offsets = due.into_iter().map(|(id, offset)| (Some(id), offset)).collect();
        self.send_commit(None, member, topics, offsets);
    }

    fn begin_command(&mut self, id: u64, commit: v1::SubscribeCommit) {
        let Some(member) = self.member.identity() else {
            let error = ApiError::new(
                ErrorReason::UnknownMember,
                "The subscriber is no member of its group at the moment: what it had is read again by whoever gets it.",
            );
            return self.refuse(id, &error);
        };
        let (mut topics, mut offsets) = (Vec::new(), Vec::new());
        for position in &commit.offsets {
            let known = self.flow.named(&position.topic, position.partition);
            topics.push(self.topic_offset(known.as_ref(), &position.topic, position.partition, position.offset));
            offsets.push((known, position.offset));
        }
        self.send_commit(Some(id), member, topics, offsets);
    }

    fn send_commit(
        &mut self,
        command: Option<u64>,
        (member_id, member_epoch): (String, i32),
        topics: Vec<v1::CommitTopicOffsets>,
        offsets: Vec<(Option<PartitionId>, i64)>,
    ) {
        let request = v1::CommitOffsetsRequest {
            group: self.group.clone(),
            member_id,
            member_epoch,
            topics,
            rewind: false,
        };
        let broker: Arc<Broker> = self.broker.clone();
        let answer = async move { commit_offsets(&broker, request).await }.boxed();
        self.commits.under_way = Some(UnderWay {
            command,
            offsets,
            answer,
        });
    }

    /// What became of the commit that was on its way.
    pub fn committed(&mut self, now: Instant, answer: Answer) {
        let Some(UnderWay { command, offsets, .. }) = self.commits.under_way.take() else {
            return;
        };
        let answer = match answer {
            Ok(answer) if answer.partitions.len() == offsets.len() => answer,
            Ok(_) => {
                return self.not_committed(now, command, &ApiError::internal("a commit", &"answers something else"));
            }
            Err(error) => return self.not_committed(now, command, &error),
        };
        if command.is_none() {
            self.commits.due = now + limits::AUTO_COMMIT_EVERY;
        }
        for ((id, offset), outcome) in offsets.into_iter().zip(&answer.partitions) {
            let Some(id) = id else { continue };
            match &outcome.error {
                None => self.flow.committed(&id, offset),
                Some(error) if command.is_none() => {
                    let reason = ErrorReason::try_from(error.reason).unwrap_or_default();
                    tracing::warn!(
                        group = self.group,
                        partition = id.1,
                        ?reason,
                        "an offset was not committed"
                    );
                    if reason.is_retriable() {
                        self.commits.again = now + limits::COMMIT_AGAIN;
                    } else {
                        // It is read again by whoever has the partition then.
                        self.flow.committed(&id, offset);
                    }
                }
                Some(_) => {}
            }
        }
        if let Some(id) = command {
            let partitions = answer
                .partitions
                .into_iter()
                .map(|outcome| v1::SubscribeCommittedPartition {
                    topic: outcome.topic,
                    partition: outcome.partition,
                    error: outcome.error,
                });
            let partitions = partitions.collect();
            self.tell(Response::Committed(v1::SubscribeCommitted { id, partitions }));
        }
    }

    fn not_committed(&mut self, now: Instant, command: Option<u64>, error: &ApiError) {
        if matches!(
            error.reason(),
            ErrorReason::UnknownMember | ErrorReason::FencedMember | ErrorReason::StaleMemberEpoch
        ) {
            // The next heartbeat is told so as well.
            self.member.want_heartbeat();
        }
        match command {
            Some(id) => self.refuse(id, error),
            None => {
                tracing::debug!(group = self.group, %error, "offsets are not committed yet");
                self.commits.again = now + limits::COMMIT_AGAIN;
            }
        }
    }

    /// Commits what is known to be processed before the stream ends, if the coordinator answers soon.
    pub async fn commit_last(&mut self, within: Duration) {
        let committing = async {
            loop {
                self.begin_commit(Instant::now(), true);
                if self.commits.under_way.is_none() {
                    return;
                }
                let answer = self.commits.answered().await;
                let is_over = answer.is_err();
                self.committed(Instant::now(), answer);
                if is_over {
                    return;
                }
            }
        };
        // What is not committed comes again.
        let _ = tokio::time::timeout(within, committing).await;
    }

    /// One partition to a topic, so that the answers are in the same order.
    fn topic_offset(
        &self,
        id: Option<&PartitionId>,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> v1::CommitTopicOffsets {
        v1::CommitTopicOffsets {
            topic: topic.to_owned(),
            topic_id: id.map(|id| id.0.clone()).unwrap_or_default(),
            partitions: vec![v1::CommitPartitionOffset {
                partition,
                offset,
                leader_epoch: id.and_then(|id| self.flow.leader_epoch(id, offset)),
                ..v1::CommitPartitionOffset::default()
            }],
        }
    }
}
