//! What a subscriber asks for once its stream is open.

use std::{collections::HashSet, time::Instant};

use millrace_member::PartitionId;
use millrace_proto::v1::{self, ErrorReason, subscribe_request::Request};

use super::{
    open::{check_count, check_name},
    session::Session,
};
use crate::error::ApiError;

impl Session {
    /// Does a command, or says what is wrong with it; the stream goes on.
    pub fn command(&mut self, now: Instant, command: v1::SubscribeRequest) {
        let id = command.id;
        self.flow.works(now);
        let done = match command.request {
            None => Err(ApiError::field("request", "must be set")),
            Some(Request::Open(_)) => Err(ApiError::field("open", "may be the first request only")),
            Some(Request::Credit(credit)) => self.flow.credit(&credit),
            Some(Request::Commit(commit)) => self.commit(id, commit),
            Some(Request::Pause(pause)) => self.pause("pause.partitions", &pause.partitions, true),
            Some(Request::Resume(resume)) => self.pause("resume.partitions", &resume.partitions, false),
            Some(Request::Release(release)) => self.release(&release.partitions),
            Some(Request::Leave(leave)) if leave.temporary && !self.is_static => Err(ApiError::field(
                "leave.temporary",
                "only a member with an instance id can leave for a restart",
            )),
            Some(Request::Leave(leave)) => {
                self.leaving = Some(leave.temporary);
                Ok(())
            }
        };
        if let Err(error) = done {
            self.refuse(id, &error);
        }
    }

    fn commit(&mut self, id: u64, commit: v1::SubscribeCommit) -> Result<(), ApiError> {
        check_count("commit.offsets", commit.offsets.len(), 1)?;
        let mut seen = HashSet::new();
        for position in &commit.offsets {
            check_name("commit.offsets", &position.topic)?;
            if position.partition < 0 || position.offset < 0 {
                return Err(ApiError::field(
                    "commit.offsets",
                    "must have numbers and offsets of 0 or more",
                ));
            }
            if !seen.insert((position.topic.as_str(), position.partition)) {
                return Err(ApiError::field(
                    "commit.offsets",
                    "names a partition for the second time",
                ));
            }
        }
        self.commits.command(id, commit);
        Ok(())
    }

    fn pause(&mut self, field: &str, partitions: &[v1::TopicPartition], paused: bool) -> Result<(), ApiError> {
        for id in self.ids(field, partitions)? {
            if self.flow.pause(&id, paused) {
                if paused {
                    self.close(&id);
                } else {
                    self.read_again(id);
                }
            }
        }
        Ok(())
    }

    fn release(&mut self, partitions: &[v1::TopicPartition]) -> Result<(), ApiError> {
        check_count("release.partitions", partitions.len(), 1)?;
        // What is not the subscriber's any more is given back, or lost, already.
        let named = partitions.iter();
        let ids: Vec<PartitionId> = named
            .filter_map(|named| self.flow.named(&named.topic, named.partition))
            .collect();
        // One may be the subscriber's again by now: the others are released all the same.
        let (revoking, kept): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| self.flow.is_revoking(id));
        revoking.iter().for_each(|id| self.flow.release(id));
        if !kept.is_empty() {
            return Err(ApiError::field(
                "release.partitions",
                "names partitions that are not to be given back: these stay the member's, the others are released",
            ));
        }
        Ok(())
    }

    /// The subscriber's partitions by their names.
    fn ids(&self, field: &str, partitions: &[v1::TopicPartition]) -> Result<Vec<PartitionId>, ApiError> {
        check_count(field, partitions.len(), 1)?;
        let named = partitions.iter().map(|named| {
            check_name(field, &named.topic)?;
            let id = self.flow.named(&named.topic, named.partition);
            id.ok_or_else(|| {
                ApiError::new(
                    ErrorReason::PartitionNotAssigned,
                    format!(
                        "{}-{} is not this member's: stop to process it.",
                        named.topic, named.partition
                    ),
                )
                .with("field", field)
            })
        });
        named.collect()
    }
}
