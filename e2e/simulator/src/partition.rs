//! One step of one replica on one broker, and what its log does for it.

use std::time::Duration;

use bytes::Bytes;
use millrace_engine::partition::{
    Effect, Event as Step, FetchOutcome, FetchRefusal, FetchReply, FetchRequest, FetchedBatch, PartitionView,
};
use millrace_log::{AppendError, producer::ProducerState};
use millrace_proto::batch::batches;

use crate::{
    broker::Epochs,
    message::{Body, FetchPayload, Node},
    shadow::{end_of, records_of},
    slots::{TOPIC, number_of, required, topic_of},
    world::{Event, World, flush_policy},
};

/// How long a follower's fetch waits at the leader for something to tell.
const FETCH_WAIT: Duration = Duration::from_millis(400);

/// Something that is due at a partition in one process life.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    Tick,
    /// The log is flushed.
    Flush,
    /// The replica hears of the flush.
    Flushed {
        durable_end: i64,
        generation: u64,
    },
    /// What is written counts as it is.
    CountWritten,
    Append {
        bytes: Bytes,
        leader_epoch: i32,
    },
    Truncate {
        to: i64,
    },
    TruncateFully {
        start: i64,
        producers: Option<ProducerState>,
    },
    /// A parked fetch has waited long enough.
    FetchWaited {
        sequence: u64,
    },
}

impl World {
    /// Gives a replica an event and carries out what it asks for.
    pub(crate) fn step(&mut self, at: usize, partition: u32, event: Step<'_>) {
        let now = self.now;
        let mut effects = Vec::new();
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        hosted.replica.step(now, event, &Epochs(&hosted.log), &mut effects);
        for effect in effects {
            self.carry_out(at, partition, effect);
        }
        self.schedule_tick(at, partition);
    }

    fn schedule_tick(&mut self, at: usize, partition: u32) {
        let now = self.now;
        let Some(process) = self.brokers[at].process.as_mut() else {
            return;
        };
        let life = process.life;
        let Some(hosted) = process.hosted.get_mut(&partition) else {
            return;
        };
        let Some(deadline) = hosted.replica.next_deadline() else {
            return;
        };
        // A deadline that has passed means now; a little later, so that time goes on.
        let deadline = deadline.max(now + Duration::from_millis(1));
        if hosted.tick_at.is_none_or(|known| known > deadline || known <= now) {
            hosted.tick_at = Some(deadline);
            self.schedule(
                deadline - now,
                Event::Partition {
                    at,
                    life,
                    partition,
                    due: Due::Tick,
                },
            );
        }
    }

    pub(crate) fn on_due(&mut self, at: usize, life: u64, partition: u32, due: Due) {
        if !self.brokers[at].is_life(life) || self.brokers[at].hosted(partition).is_none() {
            return;
        }
        match due {
            Due::Tick => {
                let now = self.now;
                if let Some(hosted) = self.brokers[at].hosted_mut(partition)
                    && hosted.tick_at.is_some_and(|tick| tick <= now)
                {
                    hosted.tick_at = None;
                    self.step(at, partition, Step::Tick);
                }
            }
            Due::Flush => self.flush(at, partition),
            Due::Flushed {
                durable_end,
                generation,
            } => self.flushed(at, partition, durable_end, generation),
            Due::CountWritten => self.flush_or_count(at, partition),
            Due::Append { bytes, leader_epoch } => self.append_fetched(at, partition, &bytes, leader_epoch),
            Due::Truncate { to } => self.truncate(at, partition, to),
            Due::TruncateFully { start, producers } => self.truncate_fully(at, partition, start, producers),
            Due::FetchWaited { sequence } => self.wake_parked(at, partition, Some(sequence)),
        }
    }

    pub(crate) fn due(&mut self, at: usize, partition: u32, due: Due) {
        if let Some(life) = self.brokers[at].life() {
            let delay = self.up_to(self.settings.disk_delay_max) + Duration::from_micros(20);
            self.schedule(
                delay,
                Event::Partition {
                    at,
                    life,
                    partition,
                    due,
                },
            );
        }
    }

    /// What a follower fetched goes into its log.
    fn append_fetched(&mut self, at: usize, partition: u32, bytes: &Bytes, leader_epoch: i32) {
        let now_ms = self.now_ms();
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        match hosted.log.append_as_follower(bytes, leader_epoch, now_ms) {
            Ok(appended) => {
                self.remember(at, partition, bytes);
                self.step(
                    at,
                    partition,
                    Step::Appended {
                        log_end: appended.log_end,
                    },
                );
                self.flush_or_count(at, partition);
            }
            Err(AppendError::Offline(_)) => {
                self.remember(at, partition, bytes);
                self.directory_failed(at);
            }
            Err(AppendError::DiskFull(full)) => {
                let end = hosted.log.log_end_offset();
                let told = hosted.replica.log().end;
                self.seen("follower's disk full");
                self.note([22, at as u64, 0], || {
                    format!("broker {at} partition {partition}: {full}; the log ends at {end}, at {told} before")
                });
                if end > told {
                    // Room for the first batches, none for the segment that the next one needed.
                    self.seen("follower's disk full half-way");
                    self.remember(at, partition, &prefix(bytes, end));
                    self.step(at, partition, Step::Appended { log_end: end });
                    self.flush_soon(at, partition);
                } else {
                    self.step(at, partition, Step::LogRefused { damaged: false });
                }
            }
            Err(error) => {
                self.seen("follower refused batches");
                self.note([21, at as u64, 0], || format!("broker {at} refuses batches: {error}"));
                self.step(at, partition, Step::LogRefused { damaged: true });
            }
        }
    }

    /// Notes records that are now in a log, perhaps.
    pub(crate) fn remember(&mut self, at: usize, partition: u32, bytes: &Bytes) {
        let Ok(records) = records_of(bytes) else { return };
        let shadow = self.brokers[at].disk.shadow(partition);
        if let Some(first) = records.first().filter(|first| first.0 < shadow.start) {
            // An empty log begins lower, with a batch that reaches beyond its start, and so does what is recorded.
            shadow.recorded = shadow.recorded.min(first.0);
        }
        let end = self.is_compacted().then(|| end_of(bytes));
        for (offset, epoch, value) in records {
            if end.is_some() {
                self.fill_gap(at, partition, offset);
            }
            let shadow = self.brokers[at].disk.shadow(partition);
            if offset != shadow.end() {
                // A log that begins within a batch.
                continue;
            }
            let before = self.observer.tracks[partition as usize].chain_before(shadow.start);
            let last_epoch = shadow.entries.last().map_or(0, |last| last.epoch);
            let entry = shadow.push(epoch, value, before);
            self.observer.appended(partition, offset, entry, last_epoch);
        }
        if let Some(end) = end {
            self.fill_gap(at, partition, end);
        }
    }

    pub(crate) fn truncate(&mut self, at: usize, partition: u32, to: i64) {
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        match hosted.log.truncate_to(to) {
            Ok(_) => {
                let (log_start, log_end) = (hosted.log.log_start_offset(), hosted.log.log_end_offset());
                self.is_cut(at, partition, log_end);
                let shadow = self.brokers[at].disk.shadow(partition);
                if log_end < shadow.end() {
                    self.seen("log cut");
                }
                let shadow = self.brokers[at].disk.shadow(partition);
                if log_start > shadow.start {
                    shadow.begin_anew(log_start);
                } else {
                    shadow.truncate(log_end);
                }
                self.check_members();
                self.check_compacted(at, partition);
                self.step(at, partition, Step::Truncated { log_start, log_end });
            }
            Err(_) => self.change_failed(at, partition),
        }
    }

    fn truncate_fully(&mut self, at: usize, partition: u32, start: i64, producers: Option<ProducerState>) {
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        let begun = match producers {
            Some(producers) => hosted.log.truncate_fully_and_start_at(start, producers),
            None => hosted.log.truncate_to(start).map(|_| ()),
        };
        match begun {
            Ok(()) => {
                self.seen("log begun anew");
                self.is_cut(at, partition, i64::MIN);
                self.brokers[at].disk.shadow(partition).begin_anew(start);
                self.check_members();
                self.step(
                    at,
                    partition,
                    Step::Truncated {
                        log_start: start,
                        log_end: start,
                    },
                );
            }
            Err(_) => self.change_failed(at, partition),
        }
    }

    /// A log is cut, and its shadow is about to be.
    fn is_cut(&mut self, at: usize, partition: u32, to: i64) {
        self.end_scans(at, partition);
        let broker = &mut self.brokers[at];
        if !broker.disk.damaged && !broker.lost_data {
            let id = broker.id;
            let epoch = broker
                .hosted(partition)
                .map_or(i32::MAX, |hosted| hosted.replica.leader_epoch());
            let shadow = broker.disk.shadow(partition);
            self.observer.cut(partition, (id, epoch), shadow, to);
        }
    }

    /// A cut did not happen: refused for want of room, or the directory failed in the midst.
    pub(crate) fn change_failed(&mut self, at: usize, partition: u32) {
        let failed = self.brokers[at]
            .hosted(partition)
            .is_some_and(|hosted| hosted.log.offline().is_some());
        if failed {
            self.brokers[at].disk.shadow(partition).unsure = true;
            self.directory_failed(at);
        } else {
            // The flushed point goes back before the log does.
            self.brokers[at].disk.shadow(partition).recorded = 0;
            self.step(at, partition, Step::LogRefused { damaged: false });
        }
    }

    pub(crate) fn asked_of_log(&mut self, at: usize, partition: u32, effect: &Effect) {
        match effect {
            Effect::Append { leader_epoch, .. } => {
                let leader_epoch = *leader_epoch;
                let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
                    return;
                };
                let bytes = std::mem::take(&mut hosted.fetched);
                self.due(at, partition, Due::Append { bytes, leader_epoch });
            }
            Effect::Truncate { to } => self.due(at, partition, Due::Truncate { to: *to }),
            Effect::TruncateFully { start } => {
                let hosted = self.brokers[at].hosted_mut(partition);
                let producers = hosted.and_then(|hosted| hosted.producers.take());
                let start = *start;
                self.due(at, partition, Due::TruncateFully { start, producers });
            }
            _ => {}
        }
    }

    /// A version of the metadata reaches all partitions of a broker.
    pub(crate) fn give_metadata(&mut self, at: usize) {
        let Some(process) = &self.brokers[at].process else {
            return;
        };
        let image = std::sync::Arc::clone(&process.image);
        let numbers: Vec<u32> = process.hosted.keys().copied().collect();
        for number in numbers {
            if let Some(flush) = flush_policy(&image) {
                self.set_flush_policy(at, number, flush);
            }
            if topic_of(&image, number).is_none() {
                continue;
            }
            let enough = required(&image, number);
            let view = PartitionView::of(&image, TOPIC, number_of(number), enough, |id| {
                image
                    .brokers
                    .get(&id)
                    .is_some_and(|broker| broker.shutting_down_at.is_some())
            });
            if let Some(view) = view {
                self.step(at, number, Step::MetadataChanged(&view));
            }
        }
    }

    pub(crate) fn on_fetch(&mut self, at: usize, partition: u32, life: u64, request: FetchRequest, wants: bool) {
        if self.brokers[at].hosted(partition).is_none() {
            return;
        }
        if !wants {
            self.step(at, partition, Step::ReplicaAcknowledged(request));
            return;
        }
        let until = self.now + FETCH_WAIT;
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        // Parked first: the verdict decides whether it stays.
        hosted.parked.retain(|(known, _, _)| known.replica != request.replica);
        hosted.parked.push((request, life, until));
        self.step(at, partition, Step::ReplicaFetch(request));
        let parked = self.brokers[at].hosted(partition).is_some_and(|hosted| {
            hosted
                .parked
                .iter()
                .any(|(known, _, _)| known.sequence == request.sequence)
        });
        if parked && let Some(leader_life) = self.brokers[at].life() {
            let due = Due::FetchWaited {
                sequence: request.sequence,
            };
            self.schedule(
                FETCH_WAIT,
                Event::Partition {
                    at,
                    life: leader_life,
                    partition,
                    due,
                },
            );
        }
    }

    /// Asks again about fetches that wait: there may be something to tell now.
    pub(crate) fn wake_parked(&mut self, at: usize, partition: u32, waited: Option<u64>) {
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        let now = self.now;
        for (request, _, until) in &mut hosted.parked {
            if waited == Some(request.sequence) {
                *until = now;
            }
        }
        let requests: Vec<FetchRequest> = hosted.parked.iter().map(|parked| parked.0).collect();
        for request in requests {
            self.step(at, partition, Step::ReplicaFetch(request));
        }
    }

    pub(crate) fn on_fetch_answer(&mut self, at: usize, body: Body) {
        let Body::FetchAnswer {
            partition,
            life,
            leader,
            leader_epoch,
            sequence,
            payload,
        } = body
        else {
            return;
        };
        if !self.brokers[at].is_life(life) {
            return;
        }
        let mut fetched: Vec<FetchedBatch> = Vec::new();
        let outcome = match payload {
            FetchPayload::Records {
                bytes,
                high_watermark,
                log_start,
            } => {
                for batch in batches(&bytes) {
                    let Ok(batch) = batch else { return };
                    let header = batch.header();
                    fetched.push(FetchedBatch {
                        base_offset: header.base_offset,
                        next_offset: header.next_offset(),
                        leader_epoch: header.partition_leader_epoch,
                    });
                }
                if let Some(hosted) = self.brokers[at].hosted_mut(partition) {
                    hosted.fetched = bytes;
                }
                FetchOutcome::Records {
                    batches: &fetched,
                    high_watermark,
                    log_start,
                }
            }
            FetchPayload::Diverged(end) => FetchOutcome::Diverged(end),
            FetchPayload::OutOfRange {
                log_start,
                log_end,
                producers,
            } => {
                if let Some(hosted) = self.brokers[at].hosted_mut(partition) {
                    hosted.producers = Some(producers);
                }
                FetchOutcome::Refused(FetchRefusal::OffsetOutOfRange {
                    offset: log_start,
                    log_start,
                    log_end,
                })
            }
            FetchPayload::Refused(refusal) => FetchOutcome::Refused(refusal),
            FetchPayload::Failed => FetchOutcome::Failed,
        };
        let reply = FetchReply {
            from: leader,
            leader_epoch,
            sequence,
            outcome,
        };
        self.step(at, partition, Step::FetchAnswered(reply));
        if let Some(hosted) = self.brokers[at].hosted_mut(partition) {
            hosted.producers = None;
        }
    }

    pub(crate) fn answer_fetch(
        &mut self,
        at: usize,
        partition: u32,
        request: &FetchRequest,
        life: u64,
        payload: FetchPayload,
    ) {
        let body = Body::FetchAnswer {
            partition,
            life,
            leader: self.brokers[at].id,
            leader_epoch: request.leader_epoch,
            sequence: request.sequence,
            payload,
        };
        self.send(
            Node::Broker(at),
            Node::Broker(crate::quorum::index_of(request.replica)),
            body,
        );
    }
}

/// The batches that end at or below `end`.
fn prefix(bytes: &Bytes, end: i64) -> Bytes {
    let mut iterator = batches(bytes);
    let mut len = 0;
    while let Some(Ok(batch)) = iterator.next() {
        if batch.header().next_offset() > end {
            break;
        }
        len = iterator.position();
    }
    bytes.slice(..len)
}
