//! One partition as the sender sees it: its buffer, its sequencer, its leader.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_proto::v1;

use super::{
    Shared,
    buffer::{Collected, EndedBatch, PartitionBuffer, TopicBuffers},
    delivery::Stored,
    sequencer::{Answer, BatchId, Done, Identity, Sequencer},
};
use crate::{
    cluster::Cluster,
    error::{Error, ErrorKind, WriteOutcome},
};

/// One partition.
#[derive(Debug)]
pub struct Slot {
    pub topic: Arc<TopicBuffers>,
    buffer: Arc<PartitionBuffer>,
    sequencer: Sequencer<EndedBatch>,
    /// Address and leader epoch.
    pub leader: Option<(Arc<str>, i32)>,
    /// A new identity was asked for and did not come yet.
    pub identity_asked: bool,
    /// When the slot is looked at next, if that is planned.
    pub timer: Option<Instant>,
}

/// What is to be done for a slot.
#[derive(Debug)]
pub enum Next {
    /// Send this.
    Send { id: BatchId, part: v1::ProducePartition },
    /// Ask for an identity.
    NeedsIdentity,
    /// Nothing before this time, unless something happens.
    Wait(Instant),
    /// Nothing, until something happens.
    Nothing,
}

impl Slot {
    pub fn new(topic: Arc<TopicBuffers>, at: usize, shared: &Shared) -> Self {
        Self {
            buffer: topic.partitions[at].clone(),
            sequencer: Sequencer::new(shared.config.rules, shared.identity),
            leader: None,
            identity_asked: false,
            timer: None,
            topic,
        }
    }

    /// Takes what ended in the buffer over to the sequencer.
    fn collect(&mut self, delivery_timeout: Duration) -> Collected {
        let sequencer = &mut self.sequencer;
        self.buffer.collect(|ended| {
            for batch in ended {
                let (records, deadline) = (batch.records, batch.opened_at + delivery_timeout);
                sequencer.push(batch, records, deadline);
            }
            sequencer.predicted()
        })
    }

    /// What to do now. `connected`: whether a batch could be sent to the leader.
    pub fn next(&mut self, now: Instant, connected: bool, shared: &Shared) -> Next {
        let config = &shared.config;
        let found = self.collect(config.delivery_timeout);
        let mut due = None;
        if let Some(since) = found.open_since {
            // More may come while nothing can be sent.
            let ready = since + config.linger;
            let hurry = found.flush || shared.is_closing() || shared.memory.is_short();
            if !hurry && ready > now {
                due = Some(ready);
            } else if connected && self.sequencer.would_send(now) {
                self.buffer.end_open(&shared.memory);
                self.topic.batch_ended(&config.partitioner, self.buffer.partition());
                self.collect(config.delivery_timeout);
            }
        }
        if self.sequencer.needs_identity() && !self.identity_asked {
            return Next::NeedsIdentity;
        }
        if connected
            && let Some((_, leader_epoch)) = self.leader
            && let Some(order) = self.sequencer.next_to_send(now)
        {
            order.batch.stamp(order.producer);
            let part = v1::ProducePartition {
                topic: self.topic.name.to_string(),
                topic_id: self.topic.id.clone(),
                partition: self.buffer.partition(),
                leader_epoch: Some(leader_epoch),
                expected_offset: None,
                records: order.batch.bytes.clone(),
            };
            return Next::Send { id: order.id, part };
        }
        let retry = self.sequencer.retry_at().filter(|at| *at > now);
        match (due, retry) {
            (Some(due), Some(retry)) => Next::Wait(due.min(retry)),
            (Some(at), None) | (None, Some(at)) => Next::Wait(at),
            (None, None) => Next::Nothing,
        }
    }

    pub fn answer(&mut self, now: Instant, id: BatchId, answer: Answer, shared: &Shared) {
        if let Answer::Failed(error) = &answer
            && let Some(limit) = error.metadata("limit_bytes").and_then(|limit| limit.parse().ok())
        {
            self.buffer.limit(limit);
        }
        let done = self.sequencer.answer(now, id, answer);
        finish(done, shared);
    }

    pub fn set_identity(&mut self, identity: Identity) {
        self.sequencer.set_identity(identity);
        self.identity_asked = false;
    }

    /// Gives up what took too long; whether anything is left.
    pub fn expire(&mut self, now: Instant, shared: &Shared) -> bool {
        let timeout = shared.config.delivery_timeout;
        let found = self.collect(timeout);
        let mut open = found.open_since.is_some();
        if found.open_since.is_some_and(|since| since + timeout <= now) {
            self.buffer.end_open(&shared.memory);
            self.collect(timeout);
            open = false;
        }
        finish(self.sequencer.expire(now), shared);
        open || !self.sequencer.is_empty()
    }

    /// Takes over what metadata says. False: the topic is gone, and with it all that waited.
    pub fn follow(&mut self, cluster: &Cluster, shared: &Shared) -> bool {
        let (name, partition) = (&self.topic.name, self.buffer.partition());
        let same = cluster.topics.get(name).is_some_and(|topic| topic.id == self.topic.id);
        if same {
            self.leader = cluster.leader(name, partition);
            return true;
        }
        let error = Error::server(
            v1::ErrorReason::UnknownTopic,
            format!("Topic {name:?} was deleted: create it, or stop sending to it."),
        );
        self.abandon(&error, shared);
        false
    }

    /// Fails all that waits and refuses what comes.
    pub fn abandon(&mut self, error: &Error, shared: &Shared) {
        abandon(&self.buffer, error, shared);
        let error = error.clone().with_outcome(WriteOutcome::NotWritten);
        finish(self.sequencer.fail_all(&error), shared);
    }
}

/// Refuses what comes and fails what was never sent.
pub fn abandon(buffer: &PartitionBuffer, error: &Error, shared: &Shared) {
    let error = error.clone().with_outcome(WriteOutcome::NotWritten);
    let unsent = buffer.kill(error.clone(), &shared.memory);
    let failed = unsent.into_iter().map(|batch| Done::Failed {
        batch,
        error: error.clone(),
    });
    finish(failed.collect(), shared);
}

/// Tells those who wait, and gives the memory back.
fn finish(done: Vec<Done<EndedBatch>>, shared: &Shared) {
    for done in done {
        let (batch, result) = match done {
            Done::Stored {
                batch,
                base_offset,
                log_append_time,
            } => (
                batch,
                Ok(Stored {
                    base_offset,
                    log_append_time,
                }),
            ),
            Done::Failed { batch, error } => {
                if *error.kind() != ErrorKind::Closed {
                    tracing::debug!(%error, records = batch.records, "a batch was not stored");
                }
                shared.note_failure(&error);
                (batch, Err(error))
            }
        };
        shared.memory.release(batch.reserved);
        batch.state.complete(result);
    }
}
