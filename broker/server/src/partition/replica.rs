//! The engine's replica over a log on disk: one lock, and what each effect of a step does.
//!
//! A step and the change of the log that it is about happen under the same lock
//! ([`ReplicaCell`]). Appends of producers are the exception: they only look at it before and
//! after, and hold [`Partition::roles`] in between, so that the role can't change meanwhile.

use std::{
    collections::VecDeque,
    num::NonZeroU64,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use millrace_engine::{
    BrokerId,
    config::FlushPolicy,
    partition::{
        Alarm, Effect, EpochEnd, EpochView, Event, FetchReply, FetchRequest, FetchVerdict, OfflineReason,
        PartitionView, ProposalAnswer, Replica, ReplicaError,
    },
};
use millrace_log::{AppendError, ChangeError, Log, producer::ProducerState};

use super::{Partition, errors, writes::write};
use crate::{
    broker::now_ms,
    error::ApiError,
    replication::{Outlet, Ready, WATERMARK_NEWS_AFTER, coalesced},
};

/// What stands under a partition's lock.
#[derive(Debug)]
pub struct ReplicaCell {
    pub(super) replica: Replica,
    /// The answer that the step in progress was given.
    fetched: Bytes,
    /// What that answer told of producers, for a log that has to begin anew.
    producers: Option<ProducerState>,
    /// Fetches that wait for something to tell: at most one of each follower.
    parked: Vec<Parked>,
    /// When the timer will come by: two or three times at most, as one is added only where it is
    /// due before all others.
    timer_at: Vec<Duration>,
    /// When followers are to be told of the high watermark, if no records come before.
    news_at: Option<Duration>,
    /// At most so many bytes a second go to each replica that a move adds.
    throttle: Option<NonZeroU64>,
    /// What the log is to do after the step in progress.
    jobs: VecDeque<Job>,
    /// Kept, so that steps do not allocate.
    effects: Vec<Effect>,
}

#[derive(Debug)]
struct Parked {
    request: FetchRequest,
    outlet: Arc<Outlet>,
}

/// What a step asks of the log; its outcome is an event of its own.
#[derive(Debug)]
enum Job {
    Append { leader_epoch: i32 },
    Truncate { to: i64 },
    TruncateFully { start: i64 },
    AdvanceLogStart { to: i64 },
    CountWritten,
    DirectoryFailed,
}

impl ReplicaCell {
    pub(super) fn new(replica: Replica) -> Self {
        Self {
            replica,
            fetched: Bytes::new(),
            producers: None,
            parked: Vec::new(),
            timer_at: Vec::new(),
            news_at: None,
            throttle: None,
            jobs: VecDeque::new(),
            effects: Vec::new(),
        }
    }

    /// Whether a follower waits for something to tell.
    pub(super) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }
}

/// A log's table of epochs, as the rules look at it.
struct Epochs<'a>(&'a Log);

impl EpochView for Epochs<'_> {
    fn last_record_epoch(&self) -> Option<i32> {
        if self.0.log_start_offset() == self.0.log_end_offset() {
            return None;
        }
        self.0.last_record_epoch()
    }

    fn end_of_epoch(&self, epoch: i32) -> Option<EpochEnd> {
        let (epoch, end_offset) = self.0.end_offset_for_epoch(epoch)?;
        Some(EpochEnd { epoch, end_offset })
    }

    fn ends_with_empty_epoch(&self) -> bool {
        let end = self.0.log_end_offset();
        self.0.latest_epoch().is_some_and(|latest| latest.start_offset >= end)
    }
}

impl Partition {
    /// Gives the replica an event, and has done what it asks for.
    pub(super) fn step(self: &Arc<Self>, cell: &mut ReplicaCell, event: Event<'_>) {
        self.one_step(cell, event);
        self.finish(cell);
    }

    fn one_step(self: &Arc<Self>, cell: &mut ReplicaCell, event: Event<'_>) {
        let now = self.replication.now();
        let mut effects = std::mem::take(&mut cell.effects);
        cell.replica.step(now, event, &Epochs(&self.log), &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(cell, now, effect);
        }
        cell.effects = effects;
    }

    /// Copies what is read without the lock.
    fn mirror(&self, cell: &ReplicaCell) {
        self.high_watermark
            .store(cell.replica.high_watermark(), Ordering::Release);
        self.leader_epoch.store(cell.replica.leader_epoch(), Ordering::Release);
        let leads = cell.replica.leader().is_some() && !self.is_gone();
        self.leads.store(leads, Ordering::Release);
        if cell.replica.damaged_from().is_some() {
            self.replication.note_damage();
        }
    }

    /// Whether this broker leads in this epoch, by the rules rather than by their mirror.
    pub(super) fn leads_in(&self, leader_epoch: i32) -> bool {
        let cell = self.cell.lock();
        let led = cell
            .replica
            .leader()
            .map(millrace_engine::partition::Leader::leader_epoch);
        led == Some(leader_epoch) && !self.is_gone()
    }

    /// It is gone: followers that wait must ask elsewhere.
    pub(super) fn retire(&self, cell: &mut ReplicaCell) {
        self.mirror(cell);
        self.fail_parked(cell, "this broker does not hold the partition any more");
    }

    fn schedule(self: &Arc<Self>, cell: &mut ReplicaCell) {
        let deadline = match (cell.replica.next_deadline(), cell.news_at) {
            (Some(deadline), Some(news)) => deadline.min(news),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => return,
        };
        let now = self.replication.now();
        // A time that has passed means now; a little later, so that others get their turn.
        let deadline = coalesced(deadline.max(now + Duration::from_millis(1)), now);
        // One that comes too early finds out what is due later.
        if cell.timer_at.iter().all(|at| *at > deadline) {
            cell.timer_at.push(deadline);
            self.replication.wake_at(deadline, Arc::downgrade(self));
        }
    }

    fn carry_out(self: &Arc<Self>, cell: &mut ReplicaCell, now: Duration, effect: Effect) {
        match effect {
            Effect::BecameLeader {
                leader_epoch,
                epoch_start,
            } => {
                tracing::debug!(
                    topic = self.topic,
                    partition = self.number,
                    leader_epoch,
                    epoch_start,
                    "leading"
                );
            }
            Effect::AssignEpoch { leader_epoch, .. } => self.assign_epoch(cell, leader_epoch),
            Effect::BecameFollower { leader, leader_epoch } => {
                tracing::debug!(
                    topic = self.topic,
                    partition = self.number,
                    ?leader,
                    leader_epoch,
                    "following"
                );
                self.fail_parked(cell, "this broker does not lead any more");
                // Those who wait for records must ask the new leader.
                self.wake_readers();
            }
            Effect::GoOffline(reason) => self.went_offline(cell, reason),
            Effect::HighWatermark(to) => {
                self.high_watermark
                    .store(cell.replica.high_watermark(), Ordering::Release);
                if cell.replica.leader().is_some() {
                    self.waiters.complete(to);
                    if cell.has_parked() && cell.news_at.is_none() {
                        cell.news_at = Some(now + WATERMARK_NEWS_AFTER);
                    }
                }
                self.wake_readers();
            }
            Effect::FailWaiters(_) => self.fail_waiters(&errors::lead_lost(self, cell.replica.leader_epoch())),
            Effect::Flush => self.flush_or_count(cell),
            Effect::ProposeIsr(proposal) => {
                self.replication.propose(self.clone(), proposal);
            }
            Effect::AnswerFetch {
                replica,
                sequence,
                verdict,
            } => self.answer(cell, replica, sequence, verdict),
            Effect::Fetch { to, request } => self.replication.fetch(to, self, request, true),
            Effect::Acknowledge { to, request } => self.replication.fetch(to, self, request, false),
            Effect::Append { leader_epoch, .. } => cell.jobs.push_back(Job::Append { leader_epoch }),
            Effect::Truncate { to } => cell.jobs.push_back(Job::Truncate { to }),
            Effect::TruncateFully { start } => cell.jobs.push_back(Job::TruncateFully { start }),
            Effect::AdvanceLogStart { to } => cell.jobs.push_back(Job::AdvanceLogStart { to }),
            Effect::Alarm(alarm) => self.alarm(alarm),
        }
    }

    /// The epoch in which this broker leads begins at the log's end.
    fn assign_epoch(&self, cell: &mut ReplicaCell, leader_epoch: i32) {
        match self.log.assign_epoch(leader_epoch) {
            Ok(true) => {}
            Ok(false) => {
                let latest = self.log.latest_epoch().map(|entry| entry.epoch);
                if latest.is_some_and(|latest| latest > leader_epoch) {
                    tracing::error!(
                        topic = self.topic,
                        partition = self.number,
                        leader_epoch,
                        ?latest,
                        "the log knows a later leader epoch than the metadata: records are refused here; one of the two was restored from an older copy"
                    );
                }
            }
            Err(error) => self.log_failed(cell, &error),
        }
    }

    /// What is written is forced to the disk, or counts as it is: as the topic wants.
    fn flush_or_count(self: &Arc<Self>, cell: &mut ReplicaCell) {
        if self.config.read().flush == FlushPolicy::Ack {
            self.queue_flush();
        } else {
            cell.jobs.push_back(Job::CountWritten);
        }
    }

    fn went_offline(&self, cell: &mut ReplicaCell, reason: OfflineReason) {
        let (topic, partition) = (&self.topic, self.number);
        match reason {
            OfflineReason::AwaitingMetadata | OfflineReason::NotAReplica => {}
            OfflineReason::Superseded => {
                tracing::error!(
                    topic,
                    partition,
                    "a newer process runs under this broker's number: this one must stop"
                );
            }
            OfflineReason::DirectoryFailed => {
                tracing::error!(topic, partition, "not served any more: the disk has failed");
            }
            OfflineReason::CommittedAtRisk => tracing::error!(
                topic,
                partition,
                "kept from its leader, which asked to cut what is known to be committed: this copy is the better one; elect its broker, or look at the leader's disk"
            ),
            OfflineReason::BelowFloor => tracing::error!(
                topic,
                partition,
                "can't be led here: the log ends below what is known to be committed; its disk is older than it should be"
            ),
            OfflineReason::Damaged => tracing::error!(
                topic,
                partition,
                "not led here: the log is damaged, and other brokers should have the records"
            ),
        }
        self.fail_parked(cell, "this broker does not serve the partition");
        self.wake_readers();
    }

    fn alarm(&self, alarm: Alarm) {
        tracing::error!(
            topic = self.topic,
            partition = self.number,
            ?alarm,
            "what should not happen"
        );
    }

    fn answer(self: &Arc<Self>, cell: &mut ReplicaCell, replica: BrokerId, sequence: u64, verdict: FetchVerdict) {
        let place = cell
            .parked
            .iter()
            .position(|parked| parked.request.replica == replica && parked.request.sequence == sequence);
        let Some(place) = place else { return };
        if matches!(verdict, FetchVerdict::Serve { at_once: false, .. }) {
            return;
        }
        let parked = cell.parked.swap_remove(place);
        let leader = cell.replica.leader();
        let throttle = cell
            .throttle
            .filter(|_| leader.is_some_and(|leader| leader.is_being_copied_to(replica)));
        let is_copy = !cell.replica.waits_for(replica, self.replication.now());
        parked
            .outlet
            .push(Ready::of(self, &parked.request, verdict, is_copy, throttle));
    }

    fn fail_parked(&self, cell: &mut ReplicaCell, why: &str) {
        for parked in cell.parked.drain(..) {
            parked.outlet.push(Ready::refused(self.key(), &parked.request, why));
        }
    }

    /// Asks again about fetches that wait: there may be something to tell now.
    pub(super) fn wake_parked(self: &Arc<Self>, cell: &mut ReplicaCell) {
        cell.news_at = None;
        let requests: Vec<FetchRequest> = cell.parked.iter().map(|parked| parked.request).collect();
        for request in requests {
            self.step(cell, Event::ReplicaFetch(request));
        }
    }

    fn work(self: &Arc<Self>, cell: &mut ReplicaCell, job: &Job) {
        match job {
            Job::Append { leader_epoch } => self.append_fetched(cell, *leader_epoch),
            Job::Truncate { to } => match self.log.truncate_to(*to) {
                Ok(_) => self.truncated(cell),
                Err(error) => self.change_refused(cell, &error),
            },
            Job::TruncateFully { start } => {
                let begun = match cell.producers.take() {
                    Some(producers) => self.log.truncate_fully_and_start_at(*start, producers),
                    // Below its start, where the logs part: what it knows of producers below there it keeps.
                    None => self.log.truncate_to(*start).map(|_| ()),
                };
                match begun {
                    Ok(()) => self.truncated(cell),
                    Err(error) => self.change_refused(cell, &error),
                }
            }
            Job::AdvanceLogStart { to } => match self.log.advance_log_start(*to) {
                Ok(_) => {
                    let log_start = self.log.log_start_offset();
                    self.one_step(cell, Event::LogStartMoved { log_start });
                }
                Err(error) => self.log_failed(cell, &error),
            },
            Job::CountWritten => self.count_written(cell),
            Job::DirectoryFailed => self.one_step(cell, Event::DirectoryFailed),
        }
    }

    fn append_fetched(self: &Arc<Self>, cell: &mut ReplicaCell, leader_epoch: i32) {
        let bytes = std::mem::take(&mut cell.fetched);
        let appended = write(bytes.len(), || {
            self.log.append_as_follower(&bytes, leader_epoch, now_ms())
        });
        match appended {
            Ok(appended) => {
                self.metrics.replicated_bytes.inc_by(bytes.len() as u64);
                self.one_step(
                    cell,
                    Event::Appended {
                        log_end: appended.log_end,
                    },
                );
                self.flush_or_count(cell);
            }
            Err(AppendError::Offline(_)) => self.one_step(cell, Event::DirectoryFailed),
            Err(AppendError::Closed) => {}
            Err(AppendError::DiskFull(full)) => {
                tracing::warn!(
                    topic = self.topic,
                    partition = self.number,
                    ?full,
                    "can't take in what the leader has: the disk is full"
                );
                let (end, told) = (self.log.log_end_offset(), cell.replica.log().end);
                if end > told {
                    self.one_step(cell, Event::Appended { log_end: end });
                    self.queue_flush();
                } else {
                    self.one_step(cell, Event::LogRefused { damaged: false });
                }
            }
            Err(error) => {
                tracing::warn!(topic = self.topic, partition = self.number, %error, "fetched records are refused");
                self.one_step(cell, Event::LogRefused { damaged: true });
            }
        }
    }

    fn truncated(self: &Arc<Self>, cell: &mut ReplicaCell) {
        let (log_start, log_end) = (self.log.log_start_offset(), self.log.log_end_offset());
        tracing::info!(
            topic = self.topic,
            partition = self.number,
            log_start,
            log_end,
            "cut to the leader's log"
        );
        self.one_step(cell, Event::Truncated { log_start, log_end });
        // A flush that began before the cut is not believed: the disk is asked again.
        self.queue_flush();
    }

    fn change_refused(self: &Arc<Self>, cell: &mut ReplicaCell, error: &ChangeError) {
        match error {
            ChangeError::Offline(_) => self.one_step(cell, Event::DirectoryFailed),
            ChangeError::Closed => {}
            error => {
                tracing::warn!(topic = self.topic, partition = self.number, %error, "a log can't be cut now");
                self.one_step(cell, Event::LogRefused { damaged: false });
            }
        }
    }

    /// A change of the log failed on which nothing waits.
    fn log_failed(&self, cell: &mut ReplicaCell, error: &ChangeError) {
        match error {
            ChangeError::Offline(_) => cell.jobs.push_back(Job::DirectoryFailed),
            ChangeError::Closed => {}
            error => {
                tracing::error!(topic = self.topic, partition = self.number, %error, "a change of the log failed");
            }
        }
    }

    /// Where the topic does not wait for the disk, what is written counts.
    fn count_written(self: &Arc<Self>, cell: &mut ReplicaCell) {
        let event = Event::Flushed {
            durable_end: self.log.log_end_offset(),
            generation: cell.replica.generation(),
        };
        self.one_step(cell, event);
    }

    /// A producer's records are in the log.
    pub(super) fn on_appended(self: &Arc<Self>) {
        let counts_written = self.config.read().flush != FlushPolicy::Ack;
        let mut cell = self.cell.lock();
        let log_end = self.log.log_end_offset();
        self.step(&mut cell, Event::Appended { log_end });
        if counts_written {
            cell.jobs.push_back(Job::CountWritten);
            self.finish(&mut cell);
        }
        if cell.has_parked() {
            self.wake_parked(&mut cell);
        }
    }

    fn finish(self: &Arc<Self>, cell: &mut ReplicaCell) {
        while let Some(job) = cell.jobs.pop_front() {
            self.work(cell, &job);
        }
        self.mirror(cell);
        self.schedule(cell);
    }

    /// The disk holds the log up to `durable_end`, by a flush that began in `generation`.
    pub(super) fn on_flushed(self: &Arc<Self>, durable_end: i64, generation: u64) {
        let mut cell = self.cell.lock();
        let log_end = self.log.log_end_offset();
        // A flush may be faster than the producer's thread that wrote what it flushed.
        if cell.replica.leader().is_some() && log_end > cell.replica.log().end {
            self.step(&mut cell, Event::Appended { log_end });
        }
        let durable_end = match self.config.read().flush {
            FlushPolicy::Ack => durable_end,
            FlushPolicy::Interval | FlushPolicy::Os => log_end,
        };
        self.step(
            &mut cell,
            Event::Flushed {
                durable_end,
                generation,
            },
        );
    }

    /// The disk failed.
    pub(super) fn on_directory_failed(self: &Arc<Self>) {
        self.step(&mut self.cell.lock(), Event::DirectoryFailed);
    }

    /// The oldest records were deleted.
    pub(super) fn on_log_start(self: &Arc<Self>) {
        let mut cell = self.cell.lock();
        let log_start = self.log.log_start_offset();
        self.step(&mut cell, Event::LogStartMoved { log_start });
        if cell.has_parked() {
            self.wake_parked(&mut cell);
        }
    }

    /// How far the disk of another replica holds the log, if this broker leads and has heard it.
    pub fn durable_end_of(&self, replica: BrokerId) -> Option<i64> {
        self.cell.lock().replica.leader()?.durable_end_of(replica)
    }

    /// The metadata has a later version.
    pub(super) fn on_metadata(self: &Arc<Self>, view: &PartitionView) {
        // No producer's append spans a change of role.
        let _roles = self.roles.write();
        let mut cell = self.cell.lock();
        cell.throttle = view.partition.throttle;
        self.step(&mut cell, Event::MetadataChanged(view));
        if cell.has_parked() {
            self.wake_parked(&mut cell);
        }
    }

    /// A leader answered a fetch; `bytes` are the batches of an answer with records.
    pub fn on_fetch_answer(self: &Arc<Self>, reply: &FetchReply<'_>, bytes: &Bytes) {
        if self.is_gone() {
            return;
        }
        let mut cell = self.cell.lock();
        cell.fetched = bytes.clone();
        self.step(&mut cell, Event::FetchAnswered(*reply));
        cell.fetched = Bytes::new();
    }

    /// The leader has nothing for a log that ends where this one does: it begins elsewhere, and what is known of
    /// producers there came with its answer.
    pub fn on_out_of_range(self: &Arc<Self>, reply: &FetchReply<'_>, producers: ProducerState) {
        if self.is_gone() {
            return;
        }
        let mut cell = self.cell.lock();
        cell.producers = Some(producers);
        self.step(&mut cell, Event::FetchAnswered(*reply));
        cell.producers = None;
    }

    /// The controller answered a proposal.
    pub fn on_proposal_answer(self: &Arc<Self>, id: u64, answer: ProposalAnswer<'_>) {
        let mut cell = self.cell.lock();
        self.step(&mut cell, Event::ProposalAnswered { id, answer });
        if cell.has_parked() {
            self.wake_parked(&mut cell);
        }
    }

    /// A follower asks for records; the answer goes to `outlet`, at once or when there is one.
    pub fn on_replica_fetch(self: &Arc<Self>, request: FetchRequest, outlet: &Arc<Outlet>) {
        let mut cell = self.cell.lock();
        if self.is_gone() {
            let why = "this broker does not hold the partition any more";
            outlet.push(Ready::refused(self.key(), &request, why));
            return;
        }
        let age = |of: &FetchRequest| (of.broker_epoch, of.sequence);
        let newer = |parked: &Parked| parked.request.replica == request.replica && age(&parked.request) > age(&request);
        if cell.parked.iter().any(newer) {
            // A stream that broke may bring its last requests after those of the next one.
            outlet.push(Ready::refused(self.key(), &request, "a later fetch waits already"));
            return;
        }
        cell.parked.retain(|parked| parked.request.replica != request.replica);
        // Parked first: the verdict decides whether it stays.
        cell.parked.push(Parked {
            request,
            outlet: outlet.clone(),
        });
        self.step(&mut cell, Event::ReplicaFetch(request));
    }

    /// A follower tells what its disk holds.
    pub fn on_acknowledged(self: &Arc<Self>, request: FetchRequest) {
        self.step(&mut self.cell.lock(), Event::ReplicaAcknowledged(request));
    }

    /// A time has come that the replica, or a follower's news, waited for.
    pub fn on_timer(self: &Arc<Self>) {
        if self.is_gone() {
            return;
        }
        let mut cell = self.cell.lock();
        let now = self.replication.now();
        cell.timer_at.retain(|at| *at > now);
        if cell.news_at.is_some_and(|at| at <= now) {
            self.wake_parked(&mut cell);
        }
        if cell.replica.next_deadline().is_some_and(|at| at <= now) {
            self.step(&mut cell, Event::Tick);
        }
        self.schedule(&mut cell);
    }

    /// The replica's refusal as the caller's error.
    pub(super) fn refused(&self, error: ReplicaError) -> ApiError {
        if let Some(offline) = self.log.offline() {
            return errors::offline(&offline);
        }
        errors::replica(self, error)
    }
}
