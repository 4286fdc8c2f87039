//! Brokers, controller and network: carries out effects and delivers messages.

use std::time::Duration;

use super::{
    basics::{Io, Message, Payload, Random, Record, Seen},
    broker::Broker,
    controller::Controller,
};
use crate::{
    cluster::{BrokerId, Partition},
    partition::{
        BrokerView, Effect, Event, FetchOutcome, FetchRefusal, FetchReply, FetchVerdict, FetchedBatch, LogPositions,
        ProposalAnswer, ProposalError, Replica, ReplicaConfig, epochs::tests::Table,
    },
};

#[derive(Clone)]
pub(super) struct World {
    pub brokers: Vec<Broker>,
    pub(super) controller: Controller,
    pub messages: Vec<Message>,
    pub(super) now: Duration,
    /// What was ever below a leader's high watermark, by offset.
    pub(super) committed: Vec<Record>,
    pub(super) next_payload: u32,
    /// The lowest number of replicas that ever had to be in sync.
    pub(super) least_required: usize,
    /// How many disks may still be lost, and how many were.
    pub(super) lossy_left: usize,
    pub(super) lost: usize,
    pub(super) trace: bool,
}

pub(super) const IDS: [BrokerId; 3] = [0, 1, 2];

pub(super) fn config(id: BrokerId, life: i64) -> ReplicaConfig {
    ReplicaConfig {
        replica_lag_time_max: Duration::from_millis(100),
        proposal_timeout: Duration::from_millis(20),
        fetch_timeout: Duration::from_millis(30),
        retry_backoff: Duration::from_millis(5),
        ..ReplicaConfig::new(id, life)
    }
}

impl World {
    pub(super) fn new(required: usize, bumps_when_leaderless: bool) -> Self {
        let mut controller = Controller {
            partition: Partition::new(IDS.to_vec(), |_| true),
            brokers: IDS
                .iter()
                .map(|id| BrokerView {
                    id: *id,
                    broker_epoch: i64::from(*id) + 1,
                    fenced: false,
                    shutting_down: false,
                })
                .collect(),
            required,
            images: Vec::new(),
            bumps_when_leaderless,
            next_life: 3,
        };
        controller.publish();
        let brokers = IDS
            .iter()
            .map(|id| Broker {
                id: *id,
                life: i64::from(*id) + 1,
                replica: Replica::new(config(*id, i64::from(*id) + 1), LogPositions::default(), 0),
                records: Vec::new(),
                table: Table::default(),
                io: None,
                fetched: Vec::new(),
                image: 0,
                checkpoint: 0,
            })
            .collect();
        Self {
            brokers,
            controller,
            messages: Vec::new(),
            now: Duration::ZERO,
            committed: Vec::new(),
            next_payload: 0,
            least_required: required,
            lossy_left: required - 1,
            lost: 0,
            trace: std::env::var_os("MILLRACE_PARTITION_TRACE").is_some(),
        }
    }

    pub(super) fn step(&mut self, at: usize, event: Event<'_>, seen: &mut Seen) {
        let mut out = Vec::new();
        let broker = &mut self.brokers[at];
        broker.replica.step(self.now, event, &broker.table, &mut out);
        if self.trace {
            eprintln!("{:?} broker {at} {event:?}\n    -> {out:?}", self.now);
        }
        let log = broker.replica.log();
        let high_watermark = broker.replica.high_watermark();
        assert!(log.start <= high_watermark && high_watermark <= log.end);
        assert!(log.durable_end <= log.end && log.end == broker.table.end);
        for effect in out {
            self.carry_out(at, effect, seen);
        }
    }

    pub(super) fn carry_out(&mut self, at: usize, effect: Effect, seen: &mut Seen) {
        let broker = &mut self.brokers[at];
        match effect {
            Effect::AssignEpoch {
                leader_epoch,
                start_offset,
            } => {
                assert_eq!(start_offset, broker.table.end);
                broker.table.assign(leader_epoch);
            }
            Effect::BecameLeader { .. } => {
                seen.note("became leader");
                self.check_leader(at);
            }
            Effect::HighWatermark(to) => self.check_watermark(at, to),
            Effect::Fetch { to, request } => self.messages.push(Message::Fetch(to, request)),
            Effect::Acknowledge { to, request } => {
                seen.note("acknowledged");
                self.messages.push(Message::Acknowledge(to, request));
            }
            Effect::ProposeIsr(proposal) => self.messages.push(Message::Proposal(proposal)),
            Effect::AnswerFetch {
                replica,
                sequence,
                verdict,
            } => self.answer(at, replica, sequence, verdict, seen),
            Effect::Append {
                next_offset,
                leader_epoch,
            } => {
                let records = std::mem::take(&mut broker.fetched);
                assert_eq!(records.last().map(|record| record.0 + 1), Some(next_offset));
                assert!(records.iter().all(|record| record.1.0 <= leader_epoch));
                broker.io = Some(Io::Append(records));
            }
            Effect::Truncate { to } => {
                seen.note("cut");
                broker.io = Some(Io::Truncate(to));
            }
            Effect::TruncateFully { start } => {
                seen.note("begun anew");
                broker.io = Some(Io::TruncateFully(start));
            }
            Effect::AdvanceLogStart { to } => {
                broker.advance_start(to);
                self.step(at, Event::LogStartMoved { log_start: to }, seen);
            }
            // Nobody lost data within a life, and all elections are clean: each would be false.
            Effect::Alarm(alarm) => panic!("false alarm at broker {at}: {alarm:?}"),
            Effect::BecameFollower { .. } | Effect::GoOffline(_) | Effect::FailWaiters(_) | Effect::Flush => {}
        }
    }

    pub(super) fn answer(
        &mut self,
        at: usize,
        replica: BrokerId,
        sequence: u64,
        verdict: FetchVerdict,
        seen: &mut Seen,
    ) {
        let broker = &self.brokers[at];
        let payload = match verdict {
            FetchVerdict::Serve {
                up_to,
                high_watermark,
                log_start,
                ..
            } => Payload::Records {
                // From where, only the request says; filled in by the caller.
                records: (broker.table.start..up_to.min(broker.table.end))
                    .filter_map(|offset| broker.record_at(offset).map(|record| (offset, record)))
                    .collect(),
                high_watermark,
                log_start,
            },
            FetchVerdict::Diverged(end) => {
                seen.note("diverged");
                Payload::Diverged(end)
            }
            FetchVerdict::Refused(refusal) => {
                if matches!(refusal, FetchRefusal::OffsetOutOfRange { .. }) {
                    seen.note("out of range");
                }
                Payload::Refused(refusal)
            }
        };
        self.messages.push(Message::Answer {
            to: replica,
            life: 0,
            from: broker.id,
            leader_epoch: 0,
            sequence,
            payload,
        });
    }

    pub(super) fn finish_io(&mut self, at: usize, seen: &mut Seen) {
        let broker = &mut self.brokers[at];
        match broker.io.take() {
            None => {}
            Some(Io::Append(records)) => {
                for (offset, record) in records {
                    assert_eq!(offset, broker.table.end, "no compaction here");
                    broker.table.append(record.0);
                    broker.records.push(record);
                }
                let log_end = broker.table.end;
                self.step(at, Event::Appended { log_end }, seen);
            }
            Some(Io::Truncate(to)) => {
                broker.truncate(to);
                let (log_start, log_end) = (broker.table.start, broker.table.end);
                self.step(at, Event::Truncated { log_start, log_end }, seen);
            }
            Some(Io::TruncateFully(start)) => {
                broker.records.clear();
                broker.table = Table {
                    entries: Vec::new(),
                    start,
                    end: start,
                };
                self.step(
                    at,
                    Event::Truncated {
                        log_start: start,
                        log_end: start,
                    },
                    seen,
                );
            }
        }
    }

    pub(super) fn deliver(&mut self, message: Message, limit: usize, seen: &mut Seen) {
        let at = |id: BrokerId| usize::try_from(id).unwrap();
        match message {
            Message::Fetch(to, request) => {
                let before = self.messages.len();
                self.step(at(to), Event::ReplicaFetch(request), seen);
                for sent in &mut self.messages[before..] {
                    if let Message::Answer {
                        life,
                        leader_epoch,
                        payload,
                        ..
                    } = sent
                    {
                        (*life, *leader_epoch) = (request.broker_epoch, request.leader_epoch);
                        if let Payload::Records { records, .. } = payload {
                            records.retain(|record| record.0 >= request.offset);
                            records.truncate(limit);
                        }
                    }
                }
            }
            Message::Acknowledge(to, request) => self.step(at(to), Event::ReplicaAcknowledged(request), seen),
            Message::Answer {
                to,
                life,
                from,
                leader_epoch,
                sequence,
                payload,
            } => {
                let broker = &mut self.brokers[at(to)];
                // Connections end with the process.
                if broker.life != life {
                    return;
                }
                let batches: Vec<FetchedBatch>;
                let outcome = match payload {
                    Payload::Records {
                        records,
                        high_watermark,
                        log_start,
                    } => {
                        batches = records
                            .iter()
                            .map(|(offset, record)| FetchedBatch {
                                base_offset: *offset,
                                next_offset: offset + 1,
                                leader_epoch: record.0,
                            })
                            .collect();
                        if broker.io.is_none() {
                            broker.fetched = records;
                        }
                        FetchOutcome::Records {
                            batches: &batches,
                            high_watermark,
                            log_start,
                        }
                    }
                    Payload::Diverged(end) => FetchOutcome::Diverged(end),
                    Payload::Refused(refusal) => FetchOutcome::Refused(refusal),
                };
                let reply = FetchReply {
                    from,
                    leader_epoch,
                    sequence,
                    outcome,
                };
                self.step(at(to), Event::FetchAnswered(reply), seen);
            }
            Message::Proposal(proposal) => {
                let answer = self.controller.alter(&proposal, seen);
                self.messages.push(Message::Verdict {
                    to: proposal.leader,
                    life: proposal.broker_epoch,
                    id: proposal.id,
                    answer,
                });
            }
            Message::Verdict { to, life, id, answer } => {
                if self.brokers[at(to)].life != life {
                    return;
                }
                let answer = match &answer {
                    Ok((partition, required)) => ProposalAnswer::Applied {
                        partition,
                        required: *required,
                    },
                    Err(error) => ProposalAnswer::Failed(*error),
                };
                self.step(at(to), Event::ProposalAnswered { id, answer }, seen);
            }
        }
    }

    /// The call of a message that is dropped fails at its sender.
    pub(super) fn fail_call(&mut self, message: &Message, seen: &mut Seen) {
        let (at, event) = match message {
            Message::Fetch(to, request) => (
                request.replica,
                Event::FetchAnswered(FetchReply {
                    from: *to,
                    leader_epoch: request.leader_epoch,
                    sequence: request.sequence,
                    outcome: FetchOutcome::Failed,
                }),
            ),
            Message::Proposal(proposal)
                if self.brokers[usize::try_from(proposal.leader).unwrap()].life == proposal.broker_epoch =>
            {
                (
                    proposal.leader,
                    Event::ProposalAnswered {
                        id: proposal.id,
                        answer: ProposalAnswer::Failed(ProposalError::Unknown),
                    },
                )
            }
            _ => return,
        };
        self.step(usize::try_from(at).unwrap(), event, seen);
    }

    pub(super) fn produce(&mut self, at: usize, seen: &mut Seen) -> bool {
        let broker = &mut self.brokers[at];
        let Ok(epoch) = broker.replica.check_append(None, true) else {
            return false;
        };
        broker.table.append(epoch);
        broker.records.push((epoch, self.next_payload));
        self.next_payload += 1;
        let log_end = broker.table.end;
        self.step(at, Event::Appended { log_end }, seen);
        true
    }

    pub(super) fn flush(&mut self, at: usize, seen: &mut Seen) {
        let broker = &self.brokers[at];
        let (durable_end, generation) = (broker.table.end, broker.replica.generation());
        self.step(
            at,
            Event::Flushed {
                durable_end,
                generation,
            },
            seen,
        );
    }

    pub(super) fn give_image(&mut self, at: usize, image: usize, seen: &mut Seen) {
        self.brokers[at].image = image;
        let view = self.controller.images[image].clone();
        self.step(at, Event::MetadataChanged(&view), seen);
    }

    pub(super) fn latest_image(&self) -> usize {
        self.controller.images.len() - 1
    }

    /// Loses what was not flushed, or all, and starts anew.
    pub(super) fn restart(&mut self, at: usize, random: &mut Random, seen: &mut Seen) {
        let lost_disk = self.lossy_left > 0 && random.one_in(3);
        let known = self.latest_image();
        let broker = &mut self.brokers[at];
        let durable = broker.replica.log().durable_end;
        let unflushed = usize::try_from(broker.table.end - durable).unwrap();
        let kept = durable + i64::try_from(random.below(unflushed + 1)).unwrap();
        if lost_disk {
            seen.note("disk lost");
            self.lossy_left -= 1;
            self.lost += 1;
            broker.records.clear();
            broker.table = Table::default();
            broker.checkpoint = 0;
        } else {
            broker.truncate(kept);
        }
        broker.io = None;
        broker.fetched = Vec::new();
        broker.life = self.controller.register(broker.id, lost_disk, seen);
        let log = LogPositions {
            start: broker.table.start,
            durable_end: broker.table.end,
            end: broker.table.end,
        };
        broker.replica = Replica::new(config(broker.id, broker.life), log, broker.checkpoint);
        // It may read its log of metadata from an earlier point on.
        broker.image = known.saturating_sub(random.below(4));
        let image = broker.image;
        self.give_image(at, image, seen);
    }
}
