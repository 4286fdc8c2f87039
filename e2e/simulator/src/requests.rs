//! What brokers answer to producers and consumers.

use bytes::Bytes;
use millrace_engine::partition::{
    Acknowledgement, Acknowledgements, Event as Step, FetchBound, LeaderError, OffsetQuery, ReplicaError,
};
use millrace_log::{AppendError, AppendOptions, Appended, Log};
use millrace_proto::{batch::BatchView, v1::ErrorReason};

use crate::{
    broker::Waiter,
    error::{Error, WriteOutcome},
    message::{Body, Node, ProduceRequest, ReadRequest},
    sequencer::BatchId,
    shadow::records_of,
    world::World,
};

impl World {
    pub(crate) fn on_produce(&mut self, at: usize, request: &ProduceRequest) {
        let partition = request.partition;
        let now_ms = self.now_ms();
        let acks = if request.acks_all {
            Acknowledgements::All
        } else {
            Acknowledgements::Leader
        };
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return self.refuse(at, request, ErrorReason::BrokerNotReady);
        };
        let epoch = match hosted.replica.check_append(request.leader_epoch, request.acks_all) {
            Ok(epoch) => epoch,
            Err(error) => return self.refuse(at, request, reason_of(&error)),
        };
        let appended = hosted
            .log
            .append_as_leader(&request.bytes, epoch, now_ms, &AppendOptions::default());
        let (base_offset, end_offset) = match appended {
            Ok(Appended::New {
                base_offset,
                last_offset,
                ..
            }) => {
                self.remember_produced(at, partition, epoch, &request.values);
                self.step(
                    at,
                    partition,
                    Step::Appended {
                        log_end: last_offset + 1,
                    },
                );
                self.flush_or_count(at, partition);
                self.wake_parked(at, partition, None);
                (base_offset, last_offset + 1)
            }
            Ok(Appended::Duplicate {
                base_offset,
                last_offset,
                ..
            }) => {
                self.seen("duplicate recognised");
                (base_offset, last_offset + 1)
            }
            Err(AppendError::DuplicateSequence { .. }) => {
                let found = find_stored(&hosted.log, &request.bytes);
                let all_committed = hosted.replica.high_watermark() >= hosted.log.log_end_offset();
                self.seen("duplicate of long ago");
                match found {
                    Some(found) => found,
                    // It was stored, and is deleted. Known once all that is here is committed.
                    None if all_committed => {
                        self.observer.acknowledged_somewhere(partition, &request.values);
                        return self.refuse_unsure(at, request, ErrorReason::DuplicateSequence);
                    }
                    None => return self.refuse_unsure(at, request, ErrorReason::TimedOut),
                }
            }
            Err(AppendError::OutOfOrderSequence { .. }) => {
                return self.refuse(at, request, ErrorReason::OutOfOrderSequence);
            }
            Err(AppendError::InvalidProducerEpoch { .. }) => {
                return self.refuse(at, request, ErrorReason::FencedProducer);
            }
            Err(AppendError::DiskFull(_)) => {
                self.seen("leader's disk full");
                return self.refuse(at, request, ErrorReason::DiskFull);
            }
            Err(AppendError::Offline(_)) => {
                self.remember_produced(at, partition, epoch, &request.values);
                self.directory_failed(at);
                return self.refuse_unsure(at, request, ErrorReason::StorageFailed);
            }
            Err(_) => return self.refuse(at, request, ErrorReason::NotLeader),
        };
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        let Ok(leader) = hosted.replica.as_leader() else {
            return self.refuse_unsure(at, request, ErrorReason::NotLeader);
        };
        let waiter = Waiter {
            producer: request.producer,
            batch: request.batch,
            attempt: request.attempt,
            base_offset,
            end_offset,
            values: request.values.clone(),
        };
        match leader.acknowledgement(acks, end_offset) {
            Acknowledgement::Now if request.acks_all => self.acknowledge(at, partition, waiter),
            Acknowledgement::Now => {
                self.answer_produce(
                    at,
                    partition,
                    waiter.producer,
                    waiter.batch,
                    waiter.attempt,
                    Ok(base_offset),
                );
            }
            Acknowledgement::AtHighWatermark(_) => hosted.waiters.push(waiter),
        }
    }

    pub(crate) fn remember_produced(&mut self, at: usize, partition: u32, epoch: i32, values: &[u64]) {
        for value in values {
            let shadow = self.brokers[at].disk.shadow(partition);
            let before = self.observer.tracks[partition as usize].chain_before(shadow.start);
            let last_epoch = shadow.entries.last().map_or(0, |last| last.epoch);
            let offset = shadow.end();
            let entry = shadow.push(epoch, *value, before);
            self.observer.appended(partition, offset, entry, last_epoch);
        }
    }

    /// All that the producer asked for holds.
    pub(crate) fn acknowledge(&mut self, at: usize, partition: u32, waiter: Waiter) {
        self.observer
            .acknowledged(partition, waiter.base_offset, &waiter.values);
        self.answer_produce(
            at,
            partition,
            waiter.producer,
            waiter.batch,
            waiter.attempt,
            Ok(waiter.base_offset),
        );
    }

    fn refuse(&mut self, at: usize, request: &ProduceRequest, reason: ErrorReason) {
        self.fail(at, request, reason, WriteOutcome::NotWritten);
    }

    fn refuse_unsure(&mut self, at: usize, request: &ProduceRequest, reason: ErrorReason) {
        self.fail(at, request, reason, WriteOutcome::Unknown);
    }

    fn fail(&mut self, at: usize, request: &ProduceRequest, reason: ErrorReason, outcome: WriteOutcome) {
        let error = Error::server(reason, reason.as_str_name()).with_outcome(outcome);
        self.answer_produce(
            at,
            request.partition,
            request.producer,
            request.batch,
            request.attempt,
            Err(error),
        );
    }

    pub(crate) fn answer_produce(
        &mut self,
        at: usize,
        partition: u32,
        producer: usize,
        batch: BatchId,
        attempt: u64,
        answer: Result<i64, Error>,
    ) {
        let body = Body::ProduceAnswer {
            producer,
            partition,
            batch,
            attempt,
            answer,
        };
        self.send(Node::Broker(at), Node::Client, body);
    }

    pub(crate) fn on_read(&mut self, at: usize, request: &ReadRequest) {
        let partition = request.partition;
        let fetch_bytes = self.settings.fetch_bytes;
        let Some(hosted) = self.brokers[at].hosted(partition) else {
            return;
        };
        let (epoch, high_watermark) = (hosted.replica.leader_epoch(), hosted.replica.high_watermark());
        let leads = hosted.replica.leader().is_some();
        let (mut records, mut next, mut failed, mut skipped) = (Vec::new(), request.offset, None, false);
        match hosted
            .replica
            .check_read(request.offset, request.leader_epoch, i64::MAX)
        {
            Ok(FetchBound::UpTo(bound)) => match hosted.log.read(request.offset, fetch_bytes, true, bound) {
                Ok(data) => match records_of(&data.bytes) {
                    Ok(found) => {
                        let wanted = found.iter().filter(|record| record.0 >= request.offset);
                        records.extend(wanted.map(|record| (record.0, record.2)));
                        next = data.next_offset.max(request.offset);
                    }
                    Err(error) => {
                        let id = self.brokers[at].id;
                        self.observer.sent_damaged(partition, id, &error.to_string());
                    }
                },
                Err(error) => failed = Some(error),
            },
            Ok(FetchBound::Nothing) => {}
            Err(ReplicaError::Leader(LeaderError::OffsetOutOfRange { offset, log_start, .. }))
                if offset >= log_start =>
            {
                let end = self.observer.tracks[partition as usize].end();
                self.observer.violate("a consumer is never told to start over", || {
                    format!("partition {partition}: broker {at} does not know {offset}, {end} records are committed")
                });
            }
            // It goes on where the log begins: what it had not read is deleted.
            Err(ReplicaError::Leader(LeaderError::OffsetOutOfRange { log_start, .. })) => {
                let id = self.brokers[at].id;
                self.observer.starts_at(partition, id, log_start);
                (next, skipped) = (log_start, true);
            }
            Err(_) => {}
        }
        let told = leads && hosted.replica.check_offset_query(OffsetQuery::EndOrTime).is_ok();
        if told {
            self.observer.exposed(partition, epoch, high_watermark);
        }
        self.observer.read(partition, &records);
        if !skipped {
            self.check_read(partition, (request.offset, next), &records);
        }
        if skipped {
            self.seen("a reader's records were deleted");
        }
        if let Some(error) = failed {
            self.read_failed(at, partition, &error);
        }
        let (consumer, attempt) = (request.consumer, request.attempt);
        let body = Body::ReadAnswer {
            consumer,
            partition,
            attempt,
            records,
            next,
            epoch,
        };
        self.send(Node::Broker(at), Node::Client, body);
    }
}

/// Where a batch is that was stored longer ago than producers' last batches are remembered.
fn find_stored(log: &Log, bytes: &Bytes) -> Option<(i64, i64)> {
    let header = *BatchView::parse(bytes).ok()?.header();
    let (id, epoch) = (header.producer_id, header.producer_epoch);
    let (first, last) = (header.base_sequence, header.last_sequence());
    let found = log.find_batch(id, epoch, first, last, u64::MAX).ok()??;
    Some((found.base_offset, found.last_offset + 1))
}

fn reason_of(error: &ReplicaError) -> ErrorReason {
    match error {
        ReplicaError::NotLeader { .. } | ReplicaError::AskLeader { .. } => ErrorReason::NotLeader,
        ReplicaError::Leader(error) => match error {
            LeaderError::FencedLeaderEpoch { .. } => ErrorReason::FencedLeaderEpoch,
            LeaderError::UnknownLeaderEpoch { .. } => ErrorReason::UnknownLeaderEpoch,
            LeaderError::NotEnoughReplicas { .. } => ErrorReason::NotEnoughReplicas,
            LeaderError::OffsetNotAvailable => ErrorReason::OffsetNotAvailable,
            LeaderError::OffsetOutOfRange { .. } => ErrorReason::OffsetOutOfRange,
        },
    }
}
