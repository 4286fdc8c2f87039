//! Carrying out what a replica asks for.

use std::time::Duration;

use millrace_engine::{
    Command,
    cluster::AlterPartitions,
    partition::{
        Alarm, Effect, Event as Step, FetchRefusal, FetchRequest, FetchVerdict, Proposal, ProposalAnswer, ProposalError,
    },
};
use millrace_log::producer::snapshot;
use millrace_proto::v1::ErrorReason;

use crate::{
    error::{Error, WriteOutcome},
    message::{Body, Call, FetchPayload, Node},
    quorum::index_of,
    shadow::records_of,
    slots::{record_of, reference},
    world::World,
};

/// In how much time a broker notices that it leads, or does not any more, for what depends on it.
const LEAD_NOTICED: Duration = Duration::from_millis(20);

impl World {
    pub(crate) fn carry_out(&mut self, at: usize, partition: u32, effect: Effect) {
        if !matches!(
            effect,
            Effect::Fetch { .. } | Effect::Acknowledge { .. } | Effect::AnswerFetch { .. }
        ) {
            self.note([20, at as u64, u64::from(partition)], || {
                format!("broker {at} partition {partition}: {effect:?}")
            });
        }
        match effect {
            Effect::BecameLeader { leader_epoch, .. } => {
                self.became_leader(at, partition, leader_epoch);
                self.coordinate_soon(at, LEAD_NOTICED);
            }
            Effect::AssignEpoch { leader_epoch, .. } => {
                let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
                    return;
                };
                if hosted.log.assign_epoch(leader_epoch).is_err() {
                    self.directory_failed(at);
                }
            }
            Effect::BecameFollower { .. } => {
                self.fail_parked(at, partition);
                self.coordinate_soon(at, LEAD_NOTICED);
            }
            Effect::GoOffline(reason) => {
                self.seen("replica offline");
                self.note([23, at as u64, 0], || {
                    format!("broker {at} partition {partition} offline: {reason:?}")
                });
                self.fail_parked(at, partition);
                self.coordinate_soon(at, LEAD_NOTICED);
            }
            Effect::HighWatermark(to) => self.watermark(at, partition, to),
            Effect::FailWaiters(_) => self.fail_waiters(at, partition),
            Effect::Flush => self.flush_or_count_later(at, partition),
            Effect::ProposeIsr(proposal) => self.send_proposal(at, partition, &proposal),
            Effect::AnswerFetch {
                replica,
                sequence,
                verdict,
            } => {
                self.answer_follower(at, partition, replica, sequence, verdict);
            }
            Effect::Fetch { to, request } => self.send_fetch(at, partition, to, request, true),
            Effect::Acknowledge { to, request } => self.send_fetch(at, partition, to, request, false),
            Effect::AdvanceLogStart { to } => self.advance_log_start(at, partition, to),
            Effect::Alarm(alarm) => self.alarm(at, partition, alarm),
            Effect::Append { .. } | Effect::Truncate { .. } | Effect::TruncateFully { .. } => {
                self.asked_of_log(at, partition, &effect);
            }
        }
    }

    fn became_leader(&mut self, at: usize, partition: u32, leader_epoch: i32) {
        let cluster = self.quorum.cluster();
        let record = record_of(cluster, partition);
        let newest = record.is_some_and(|record| record.leader_epoch == leader_epoch);
        let unclean = record.is_some_and(|record| record.recovering);
        let (id, life) = (self.brokers[at].id, self.brokers[at].life().unwrap_or(0));
        let shadow = self.brokers[at].disk.shadow(partition).clone();
        self.observer
            .leads(partition, leader_epoch, (id, life), newest && !unclean, &shadow);
        self.check_compacted(at, partition);
    }

    fn watermark(&mut self, at: usize, partition: u32, to: i64) {
        let id = self.brokers[at].id;
        let Some(hosted) = self.brokers[at].hosted(partition) else {
            return;
        };
        let epoch = hosted.replica.leader_epoch();
        let leads = hosted.replica.leader().is_some();
        let enough = hosted
            .replica
            .leader()
            .is_none_or(|leader| leader.isr().len() >= leader.required());
        let required = hosted
            .replica
            .leader()
            .map_or(0, millrace_engine::partition::Leader::required);
        let before = self.observer.tracks[partition as usize].end();
        // Taken out and put back: the observer looks at it while it changes itself.
        let shadow = self.brokers[at].disk.shadows[partition as usize]
            .take()
            .unwrap_or_default();
        self.observer.watermark(partition, (id, epoch), leads, to, &shadow);
        self.brokers[at].disk.shadows[partition as usize] = Some(shadow);
        self.advance_oracle();
        // Of a topic that is deleted nothing is promised any more.
        if leads && to > before && self.may_be_there(partition) {
            if !enough {
                self.observer
                    .violate("a high watermark moves only while enough are in sync", || {
                        format!("partition {partition}: broker {id} moves to {to}")
                    });
            }
            let track = &self.observer.tracks[partition as usize];
            let written = self.written_counts;
            let holders = self.brokers.iter().filter(|broker| {
                let shadow = broker.disk.shadows[partition as usize].as_ref();
                // It may have lost what it had told of.
                (written && broker.was_unclean) || shadow.is_some_and(|shadow| track.is_held_by(shadow, written))
            });
            let holders = holders.count();
            if holders + self.losses < required {
                self.observer.violate("what is committed is on enough disks", || {
                    format!("partition {partition}: {holders} hold all below {to}, {required} must")
                });
            }
            self.check_members();
        }
        self.complete_waiters(at, partition);
        if leads {
            self.coordinate_soon(at, Duration::ZERO);
            self.wake_parked(at, partition, None);
        }
    }

    fn complete_waiters(&mut self, at: usize, partition: u32) {
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        let high_watermark = hosted.replica.high_watermark();
        let (done, waiting) = std::mem::take(&mut hosted.waiters)
            .into_iter()
            .partition(|waiter| waiter.end_offset <= high_watermark);
        hosted.waiters = waiting;
        for waiter in done {
            self.acknowledge(at, partition, waiter);
        }
    }

    pub(crate) fn fail_waiters(&mut self, at: usize, partition: u32) {
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        for waiter in std::mem::take(&mut hosted.waiters) {
            let error = Error::server(ErrorReason::NotLeader, "the lead was lost").with_outcome(WriteOutcome::Unknown);
            self.answer_produce(at, partition, waiter.producer, waiter.batch, waiter.attempt, Err(error));
        }
    }

    pub(crate) fn fail_parked(&mut self, at: usize, partition: u32) {
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        for (request, life, _) in std::mem::take(&mut hosted.parked) {
            self.answer_fetch(at, partition, &request, life, FetchPayload::Failed);
        }
    }

    fn send_fetch(&mut self, at: usize, partition: u32, to: i32, request: FetchRequest, wants_records: bool) {
        let life = self.brokers[at].life().unwrap_or(0);
        let body = Body::Fetch {
            partition,
            life,
            request,
            wants_records,
        };
        self.send(Node::Broker(at), Node::Broker(index_of(to)), body);
    }

    fn answer_follower(&mut self, at: usize, partition: u32, replica: i32, sequence: u64, verdict: FetchVerdict) {
        let now = self.now;
        let fetch_bytes = self.settings.fetch_bytes;
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        let place = hosted
            .parked
            .iter()
            .position(|(known, _, _)| known.replica == replica && known.sequence == sequence);
        let Some(place) = place else { return };
        let mut failed = None;
        let payload = match verdict {
            FetchVerdict::Serve { at_once: false, .. } if hosted.parked[place].2 > now => return,
            FetchVerdict::Serve {
                up_to,
                high_watermark,
                log_start,
                ..
            } => {
                let offset = hosted.parked[place].0.offset;
                match hosted.log.read(offset, fetch_bytes, true, up_to) {
                    Ok(data) => FetchPayload::Records {
                        bytes: data.bytes,
                        high_watermark,
                        log_start,
                    },
                    Err(error) => {
                        failed = Some(error);
                        FetchPayload::Failed
                    }
                }
            }
            FetchVerdict::Diverged(end) => FetchPayload::Diverged(end),
            FetchVerdict::Refused(FetchRefusal::OffsetOutOfRange { log_end, .. }) => {
                match hosted.log.producers_at_start(hosted.replica.high_watermark()) {
                    Ok((log_start, producers)) => FetchPayload::OutOfRange {
                        log_start,
                        log_end: log_end.max(log_start),
                        producers: snapshot::decode(&snapshot::encode(&producers))
                            .expect("what was just encoded can be decoded"),
                    },
                    Err(error) => {
                        failed = Some(error);
                        FetchPayload::Failed
                    }
                }
            }
            FetchVerdict::Refused(refusal) => FetchPayload::Refused(refusal),
        };
        let (request, life, _) = hosted.parked.remove(place);
        if let Some(error) = failed {
            self.read_failed(at, partition, &error);
        }
        if let FetchPayload::Records { bytes, .. } = &payload {
            self.check_sent(at, partition, bytes);
        }
        if let FetchPayload::Diverged(_) = payload {
            self.seen("logs diverged");
        }
        self.answer_fetch(at, partition, &request, life, payload);
    }

    /// What a disk with flipped bits gives to others is sound.
    fn check_sent(&mut self, at: usize, partition: u32, bytes: &bytes::Bytes) {
        let (id, damaged) = (self.brokers[at].id, self.brokers[at].disk.damaged);
        if damaged && let Err(error) = records_of(bytes) {
            self.observer.sent_damaged(partition, id, &error.to_string());
        }
    }

    pub(crate) fn advance_log_start(&mut self, at: usize, partition: u32, to: i64) {
        let id = self.brokers[at].id;
        self.observer.starts_at(partition, id, to);
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        if hosted.log.advance_log_start(to).is_err() {
            if hosted.log.offline().is_some() {
                // It may have come so far that the next opening finds it done.
                self.change_failed(at, partition);
            }
            return;
        }
        let log_start = hosted.log.log_start_offset();
        self.brokers[at].disk.shadow(partition).advance_start(log_start);
        self.step(at, partition, Step::LogStartMoved { log_start });
    }

    fn alarm(&mut self, at: usize, partition: u32, alarm: Alarm) {
        match alarm {
            Alarm::ReplicaLostData { replica, .. } => {
                self.seen("a follower was found to have lost data");
                let broker = &self.brokers[index_of(replica)];
                let truly = broker.lost_data
                    || broker.disk.damaged
                    || broker.process.as_ref().is_some_and(|process| process.failed);
                if !truly {
                    self.observer
                        .violate("nobody is said to have lost data who has not", || {
                            format!("partition {partition}: broker {at} says it of {replica}")
                        });
                }
            }
            Alarm::DamagedReplica { .. } => {
                self.seen("damage found");
                let hosted = self.brokers[at].hosted(partition);
                if hosted.is_none_or(|hosted| hosted.log.damage().is_empty()) {
                    self.observer.violate("no false alarm", || {
                        format!("partition {partition}: broker {at}: {alarm:?}")
                    });
                }
            }
            // Each would be true only after an unclean election or with a disk that lies.
            Alarm::CutBelowFloor { .. }
            | Alarm::CutBelowHighWatermark { .. }
            | Alarm::LogBelowFloor { .. }
            | Alarm::ContradictoryMetadata { .. }
            | Alarm::InvalidAnswer { .. }
            | Alarm::SuspectLeader { .. } => {
                self.alarms.push((at, partition, alarm));
                if !self.expects_alarms {
                    self.observer.violate("no false alarm", || {
                        format!("partition {partition}: broker {at}: {alarm:?}")
                    });
                }
            }
        }
    }

    fn send_proposal(&mut self, at: usize, partition: u32, proposal: &Proposal) {
        let Some(process) = &self.brokers[at].process else {
            return;
        };
        let (life, broker_epoch) = (process.life, proposal.broker_epoch);
        if proposal.supersedes {
            self.seen("superseding proposal");
        }
        let change = proposal.change(reference(partition));
        let command = Command::AlterPartitions(AlterPartitions {
            broker_id: proposal.leader,
            broker_epoch,
            changes: vec![change],
        });
        let call = Call::Proposal {
            partition,
            id: proposal.id,
        };
        let to = Node::Broker(self.quorum.leader);
        self.send(Node::Broker(at), to, Body::Command { life, call, command });
    }

    /// The controller's answer to a proposal.
    pub(crate) fn on_proposal_answer(
        &mut self,
        at: usize,
        partition: u32,
        id: u64,
        result: Result<millrace_engine::Outcome, millrace_engine::Rejection>,
    ) {
        use millrace_engine::cluster::IsrError as E;
        let failed = ProposalAnswer::Failed;
        match result.map(Self::altered) {
            Ok(Some(Ok(altered))) => {
                let answer = ProposalAnswer::Applied {
                    partition: &altered.partition,
                    required: altered.required,
                };
                self.step(at, partition, Step::ProposalAnswered { id, answer });
            }
            Ok(Some(Err(error))) => {
                let error = match error {
                    E::Partition(_) => ProposalError::UnknownPartition,
                    E::StateBehind => ProposalError::NotController,
                    E::FencedLeaderEpoch { .. } => ProposalError::FencedLeaderEpoch,
                    E::NotLeader { .. } => ProposalError::NotLeader,
                    E::InvalidUpdateVersion { .. } => ProposalError::InvalidUpdateVersion,
                    E::InvalidIsr { .. } | E::InvalidRecovery { .. } => ProposalError::InvalidRequest,
                    E::IneligibleReplica { .. } => ProposalError::IneligibleReplica,
                };
                self.seen("proposal refused");
                self.step(
                    at,
                    partition,
                    Step::ProposalAnswered {
                        id,
                        answer: failed(error),
                    },
                );
            }
            Ok(None) | Err(_) => {
                let answer = failed(ProposalError::StaleBrokerEpoch);
                self.step(at, partition, Step::ProposalAnswered { id, answer });
            }
        }
    }
}
