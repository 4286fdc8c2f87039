//! Partitions that come and go, and where each is read from.

use std::{collections::BTreeSet, time::Instant};

use millrace_member::PartitionId;
use millrace_proto::v1::{self, ErrorReason, group_offset};

use super::{
    GroupConsumer, GroupEvent,
    driver::{Command, Told, coordinator},
};
use crate::{
    consumer::Placed,
    error::{Error, Result},
    limits,
    offsets::{TopicPartition, within},
    record::Start,
};

impl GroupConsumer {
    /// Takes what the member's task told.
    pub(super) fn take_told(&mut self) {
        let Told {
            lost, release, used, ..
        } = {
            let mut told = self.shared.told.lock();
            let failed = told.failed.clone();
            std::mem::replace(
                &mut *told,
                Told {
                    failed,
                    ..Told::default()
                },
            )
        };
        if !lost.is_empty() {
            self.beginning.retain(|id| !lost.contains(id));
            self.releasing.retain(|id, _| !lost.contains(id));
            self.to_release.retain(|id, _| !lost.contains(id));
            let held: Vec<TopicPartition> = lost.iter().filter_map(|id| self.held.get(id).cloned()).collect();
            self.stop_reading(lost.iter());
            if !held.is_empty() {
                self.events.push_back(GroupEvent::Lost(held));
            }
        }
        if !used.is_empty() {
            self.beginning.extend(used);
            self.backoff = limits::MIN_BACKOFF;
            self.begin_at = Instant::now();
        }
        let mut revoking = Vec::new();
        for (id, until) in release {
            match self.held.get(&id) {
                Some(key) => {
                    self.current.take_if(|current| current.is_of(&key.0, key.1));
                    // Held, so it is assigned: it can be paused.
                    let _ = self.consumer.pause(&key.0, key.1);
                    revoking.push(key.clone());
                    self.to_release.insert(id, until);
                }
                // Not begun yet.
                None => {
                    self.beginning.retain(|beginning| *beginning != id);
                    self.releasing.insert(id, until);
                }
            }
        }
        if !revoking.is_empty() {
            self.events.push_back(GroupEvent::Revoking(revoking));
        }
    }

    fn stop_reading<'a>(&mut self, ids: impl Iterator<Item = &'a PartitionId>) {
        for id in ids {
            if let Some(key) = self.held.remove(id) {
                self.current.take_if(|current| current.is_of(&key.0, key.1));
                self.consumer.unassign([(&*key.0, key.1)]);
                self.positions.forget(&key);
            }
        }
    }

    /// Gives back what the application has been told of: commits it, then tells the coordinator that it is free.
    pub(super) async fn give_back(&mut self) {
        // What is lost by now is not committed any more.
        self.take_told();
        if self.releasing.is_empty() {
            return;
        }
        if self.config.commit_interval.is_some() {
            let keys: Vec<TopicPartition> = self
                .releasing
                .keys()
                .filter_map(|id| self.held.get(id).cloned())
                .collect();
            // As long as the coordinator waits: who gets it next begins where this member was.
            let now = Instant::now();
            let until = self.releasing.values().min().copied().unwrap_or(now);
            if !keys.is_empty() {
                self.auto_commit(Some(&keys), until.saturating_duration_since(now))
                    .await;
            }
        }
        // Its place first: from here on nothing waits, so that a future that is dropped loses nothing.
        let place = self.commands.clone().reserve_owned().await;
        let ids: Vec<PartitionId> = std::mem::take(&mut self.releasing).into_keys().collect();
        self.stop_reading(ids.iter());
        if let Ok(place) = place {
            place.send(Command::Released(ids));
        }
    }

    /// Begins with partitions whose offsets are known now; the others stay in `beginning`.
    pub(super) async fn start_reading(&mut self) -> Result<Vec<TopicPartition>> {
        self.begin_at = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(limits::MAX_BACKOFF);
        let asked: Vec<PartitionId> = self
            .beginning
            .iter()
            .take(limits::MAX_PARTITIONS_PER_COMMIT)
            .cloned()
            .collect();
        let offsets = match self.fetch_offsets(asked.into_iter().collect()).await {
            Ok(offsets) => offsets,
            Err(error) => {
                let is_known_soon = matches!(
                    error.reason(),
                    Some(ErrorReason::StaleMemberEpoch | ErrorReason::FencedMember | ErrorReason::UnknownMember)
                );
                if !is_known_soon && !error.is_retriable() {
                    return Err(error);
                }
                if is_known_soon {
                    self.shared.member.lock().want_heartbeat();
                    self.shared.wake.notify_one();
                }
                self.shared.client.inner.note_retry(&error);
                return Ok(Vec::new());
            }
        };
        let cluster = self.shared.client.cluster();
        let mut begun = Vec::new();
        for offset in offsets {
            let id = (offset.topic_id, offset.partition);
            let known = cluster.topics.values().find(|topic| topic.id == id.0);
            // What metadata does not name yet is asked for again.
            let (Some(topic), Some(at)) = (known, self.beginning.iter().position(|beginning| *beginning == id)) else {
                continue;
            };
            let (start, leader_epoch) = match offset.position {
                Some(group_offset::Position::Committed(committed)) => {
                    (Start::Offset(committed.offset), committed.leader_epoch)
                }
                Some(group_offset::Position::BeginsAt(edge)) if edge == i32::from(v1::Edge::End) => (Start::End, None),
                Some(group_offset::Position::BeginsAt(_)) => (Start::Beginning, None),
                Some(group_offset::Position::Pending(_)) | None => continue,
            };
            let key = (topic.name.clone(), id.1);
            let committed = match start {
                Start::Offset(offset) => Some(offset),
                _ => None,
            };
            self.beginning.swap_remove(at);
            self.positions.begin(key.clone(), committed);
            self.consumer.place([Placed {
                key: key.clone(),
                topic_id: id.0.clone(),
                start,
                leader_epoch,
            }]);
            self.held.insert(id, key.clone());
            begun.push(key);
        }
        if !begun.is_empty() {
            self.backoff = limits::MIN_BACKOFF;
        }
        begun.sort_unstable();
        Ok(begun)
    }

    async fn fetch_offsets(&self, partitions: BTreeSet<PartitionId>) -> Result<Vec<v1::GroupOffset>> {
        let Some((member_id, member_epoch)) = self.shared.member.lock().identity() else {
            return Ok(Vec::new());
        };
        let request = v1::FetchOffsetsRequest {
            group: self.config.group.clone(),
            member_id,
            member_epoch,
            topics: millrace_member::by_topic(&partitions),
            ..v1::FetchOffsetsRequest::default()
        };
        let address = coordinator(&self.shared).await;
        let mut groups = self.shared.client.inner.connections.groups(&address)?;
        let deadline = tokio::time::Instant::now() + self.config.session_timeout;
        let answer = within(deadline, async {
            Ok(groups.fetch_offsets(request).await?.into_inner())
        })
        .await;
        Ok(answer.inspect_err(|_| self.shared.moved())?.offsets)
    }

    /// Ends a [`pause`](Self::pause).
    ///
    /// # Errors
    /// The partition is not assigned.
    pub fn resume(&mut self, topic: &str, partition: i32) -> Result<()> {
        if self.is_given_back(topic, partition) {
            // It is being given back.
            return Ok(());
        }
        self.consumer.resume(topic, partition)
    }

    /// Goes on elsewhere in a partition of its own; a start other than an offset is looked up meanwhile. What was fetched
    /// is thrown away. What the group has committed stays until it is passed: it does not go back by itself.
    ///
    /// # Errors
    /// The partition is not assigned, or a negative offset.
    pub fn seek(&mut self, topic: &str, partition: i32, start: Start) -> Result<()> {
        if let Start::Offset(offset) = start
            && offset < 0
        {
            return Err(Error::invalid(format!(
                "Offset {offset} is negative: offsets begin at 0."
            )));
        }
        self.consumer.status(topic, partition)?;
        if self.is_given_back(topic, partition) {
            return Ok(());
        }
        let held = self.held.iter().find(|(_, key)| &*key.0 == topic && key.1 == partition);
        if let Some((id, key)) = held {
            self.current.take_if(|current| current.is_of(topic, partition));
            self.consumer.place([Placed {
                key: key.clone(),
                topic_id: id.0.clone(),
                start,
                leader_epoch: None,
            }]);
        }
        Ok(())
    }

    fn is_given_back(&self, topic: &str, partition: i32) -> bool {
        let mut leaving = self.to_release.keys().chain(self.releasing.keys());
        leaving.any(|id| {
            let held = self.held.get(id);
            held.is_some_and(|key| &*key.0 == topic && key.1 == partition)
        })
    }
}
