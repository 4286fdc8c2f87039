//! One partition on one broker: roles, and which rule an event belongs to.

use std::time::Duration;

use super::{
    effect::{Alarm, Effect, OfflineReason},
    epochs::EpochView,
    event::Event,
    fetch::{Counted, FetchRefusal, FetchRequest, FetchVerdict},
    follower::{Follower, Matched},
    isr::{ProposalAnswer, ProposalError, ProposalTiming},
    leader::Leader,
    log_state::LogPositions,
    metadata::{Known, PartitionView},
    progress::Progress,
    watermark::Clock,
};
use crate::cluster::{BrokerId, CommittedFloor};

/// What a replica is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaConfig {
    /// This broker.
    pub id: BrokerId,
    /// Its life: metadata that does not know of it yet gives no lead (KIP-631, KIP-903).
    pub broker_epoch: i64,
    /// How long a follower may lag before it leaves the in-sync set
    /// (`replica.lag.time.max.ms`).
    pub replica_lag_time_max: Duration,
    /// A proposal without an answer is sent again after this.
    pub proposal_timeout: Duration,
    /// A fetch without an answer is given up after this; longer than a leader lets one wait.
    pub fetch_timeout: Duration,
    /// How long to wait after a refusal.
    pub retry_backoff: Duration,
}

impl ReplicaConfig {
    /// Kafka's default of `replica.lag.time.max.ms`, and time-outs that suit a fail-over within
    /// a second.
    #[must_use]
    pub fn new(id: BrokerId, broker_epoch: i64) -> Self {
        Self {
            id,
            broker_epoch,
            replica_lag_time_max: Duration::from_secs(30),
            proposal_timeout: Duration::from_secs(1),
            fetch_timeout: Duration::from_secs(5),
            retry_backoff: Duration::from_millis(50),
        }
    }

    fn timing(&self) -> ProposalTiming {
        ProposalTiming {
            timeout: self.proposal_timeout,
            backoff: self.retry_backoff,
        }
    }
}

/// What a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Apart, as it is much larger than a follower, of which a broker has more.
    Leader(Box<Leader>),
    Follower(Follower),
    Offline(OfflineReason),
}

/// What the log was asked to do and has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Busy {
    /// To append an answer's records; and what else the answer told.
    Appending {
        leader_epoch: i32,
        high_watermark: i64,
        log_start: i64,
    },
    Truncating,
}

/// One partition on one broker.
///
/// `log.start ≤ high_watermark ≤ log.end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    pub(super) config: ReplicaConfig,
    pub(super) role: Role,
    pub(super) log: LogPositions,
    /// While this replica leads, a copy of the leader's.
    pub(super) high_watermark: i64,
    pub(super) known: Known,
    /// Below this all is committed, by the controller's record; void after an unclean election.
    pub(super) floor: CommittedFloor,
    /// Where the log's damage begins; `None`: it has none, as far as known.
    pub(super) damaged_from: Option<i64>,
    pub(super) busy: Option<Busy>,
    pub(super) matched: Option<Matched>,
    /// The number of the last request sent.
    pub(super) sequence: u64,
    pub(super) last_proposal: u64,
    pub(super) generation: u64,
    ticked_at: Duration,
    /// Metadata that came while the log was busy.
    pub(super) deferred: Option<Box<PartitionView>>,
    /// Followers that lost data, and in which life: remembered over this replica's leaderships.
    pub(super) lost_data: Vec<(BrokerId, i64)>,
}

impl Replica {
    /// A replica whose log was just opened. `high_watermark` is what was known to be committed
    /// when the log was last closed. It serves nothing before the first
    /// `Event::MetadataChanged`.
    #[must_use]
    pub fn new(config: ReplicaConfig, log: LogPositions, high_watermark: i64) -> Self {
        let log = log.normalised();
        Self {
            config,
            role: Role::Offline(OfflineReason::AwaitingMetadata),
            log,
            high_watermark: high_watermark.clamp(log.start, log.end),
            known: Known::NOTHING,
            floor: CommittedFloor::default(),
            damaged_from: None,
            busy: None,
            matched: None,
            sequence: 0,
            last_proposal: 0,
            generation: 0,
            ticked_at: Duration::ZERO,
            deferred: None,
            lost_data: Vec::new(),
        }
    }

    /// The same with a log that is damaged from an offset on: what lies behind counts as not there
    /// until it was fetched again. A leader that is alone with its partition has nobody to fetch it
    /// from, and serves what is sound.
    #[must_use]
    pub fn with_damage(mut self, from: Option<i64>) -> Self {
        self.damaged_from = from.map(|from| from.clamp(self.log.start, self.log.end));
        self.log.durable_end = self.log.durable_end.min(self.damaged_from.unwrap_or(i64::MAX));
        self
    }

    /// Where the log's damage begins, while it waits to be fetched again.
    #[must_use]
    pub fn damaged_from(&self) -> Option<i64> {
        self.damaged_from
    }

    /// Whether this replica leads, and producers wait for what `replica` holds: what it asks for goes before what others
    /// only copy.
    #[must_use]
    pub fn waits_for(&self, replica: BrokerId, now: Duration) -> bool {
        self.leader().is_some_and(|leader| {
            let follower = leader.followers.iter().find(|follower| follower.id == replica);
            follower.is_some_and(|follower| leader.counts(follower, Some(self.clock(now)), self.log))
        })
    }

    /// Whether the controller is to be asked to do without this replica: its log is damaged, others have the records,
    /// and it may lead or be chosen to. Once others lead it fetches again what it lacks.
    ///
    /// A leader that is alone in sync stays: who follows may not have what lies behind the damage.
    #[must_use]
    pub fn is_to_be_replaced(&self) -> bool {
        let may_be_done_without = match &self.role {
            Role::Leader(leader) => leader.isr.committed.len() > 1,
            Role::Follower(_) | Role::Offline(_) => self.known.may_be_chosen,
        };
        self.damaged_from.is_some() && self.known.replicated && may_be_done_without
    }

    /// A leader goes on until another one leads: it serves what is sound.
    fn on_damage_found(&mut self, from: i64) {
        let from = from.clamp(self.log.start, self.log.end);
        self.damaged_from = Some(self.damaged_from.map_or(from, |known| known.min(from)));
        if !matches!(self.role, Role::Leader(_)) {
            self.log.durable_end = self.log.durable_end.min(from);
        }
    }

    /// Takes one event and adds to `out` what is to be done about it. `now` is the time since
    /// an arbitrary start and never goes back; `epochs` is the log's table as of this event.
    pub fn step(&mut self, now: Duration, event: Event<'_>, epochs: &impl EpochView, out: &mut Vec<Effect>) {
        match event {
            Event::ReplicaFetch(request) => self.on_replica_request(now, &request, true, epochs, out),
            Event::ReplicaAcknowledged(request) => self.on_replica_request(now, &request, false, epochs, out),
            _ if self.is_dead() => {}
            Event::Flushed {
                durable_end,
                generation,
            } => self.on_flushed(now, durable_end, generation, epochs, out),
            Event::Appended { log_end } => self.on_appended(now, log_end, epochs, out),
            Event::Truncated { log_start, log_end } => self.on_truncated(now, log_start, log_end, epochs, out),
            Event::LogStartMoved { log_start } => self.on_log_start(log_start, out),
            Event::LogRefused { damaged } => {
                self.on_log_refused(now, damaged, out);
                self.resume(now, epochs, out);
            }
            Event::DamageFound { from } => self.on_damage_found(from),
            Event::DirectoryFailed => self.go_offline(OfflineReason::DirectoryFailed, out),
            Event::MetadataChanged(view) => self.on_metadata(now, view, epochs, out),
            Event::ProposalAnswered { id, answer } => self.on_proposal_answered(now, id, answer, out),
            Event::FetchAnswered(reply) => self.on_fetch_answered(now, &reply, epochs, out),
            Event::Tick => self.on_tick(now, epochs, out),
        }
    }

    /// When `Event::Tick` is due next; a time that has passed means now. `None`: nothing is
    /// waited for, so an idle partition costs nothing.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        match &self.role {
            Role::Offline(_) => None,
            Role::Follower(follower) => self.follower_deadline(follower),
            Role::Leader(leader) => {
                let pending = leader.isr.deadline();
                let lags = leader
                    .followers
                    .iter()
                    .filter_map(|follower| self.lag_deadline(leader, follower));
                lags.chain(pending).min()
            }
        }
    }

    /// When it must be looked at again whether a follower lags: a member leaves then, another is
    /// not waited for any more.
    fn lag_deadline(&self, leader: &Leader, follower: &Progress) -> Option<Duration> {
        let at = follower.lags_after(self.log.end, self.config.replica_lag_time_max)?;
        // It may lag for all of the allowance, and not for a moment longer.
        let at = at.saturating_add(Duration::from_nanos(1));
        if leader.isr.committed.contains(&follower.id) {
            // A proposal under way has its own deadline, and so has the wait after a refusal.
            (leader.isr.deadline().is_none()).then_some(at)
        } else {
            Some(at).filter(|at| *at > self.ticked_at)
        }
    }

    /// The leader's rules, if this broker leads.
    #[must_use]
    pub fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    /// Whom it follows; the inner `None`: nobody leads.
    #[must_use]
    pub fn following(&self) -> Option<Option<BrokerId>> {
        match &self.role {
            Role::Follower(follower) => Some(follower.leader),
            _ => None,
        }
    }

    /// Why it serves nothing, if so.
    #[must_use]
    pub fn offline(&self) -> Option<OfflineReason> {
        match &self.role {
            Role::Offline(reason) => Some(*reason),
            _ => None,
        }
    }

    /// All below is committed, as far as this replica knows.
    #[must_use]
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// The log's ends, as told.
    #[must_use]
    pub fn log(&self) -> LogPositions {
        self.log
    }

    /// The newest leader epoch; -1 before any was told.
    #[must_use]
    pub fn leader_epoch(&self) -> i32 {
        self.known.leader_epoch
    }

    /// How many times the log was cut: for `Event::Flushed`.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn clock(&self, now: Duration) -> Clock {
        Clock {
            now,
            lag_max: self.config.replica_lag_time_max,
        }
    }

    /// No event brings it back in this process's life.
    pub(super) fn is_dead(&self) -> bool {
        matches!(
            self.role,
            Role::Offline(OfflineReason::DirectoryFailed | OfflineReason::Superseded)
        )
    }

    pub(super) fn raise_high_watermark(&mut self, to: i64, out: &mut Vec<Effect>) {
        if to > self.high_watermark {
            self.high_watermark = to;
            out.push(Effect::HighWatermark(to));
        }
    }

    /// Moves the leader's watermark as far as it may.
    pub(super) fn advance(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let clock = self.clock(now);
        if let Role::Leader(leader) = &mut self.role
            && leader.advance_watermark(Some(clock), self.log)
        {
            let to = leader.high_watermark();
            self.raise_high_watermark(to, out);
        }
    }

    pub(super) fn propose(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let clock = self.clock(now);
        let timing = self.config.timing();
        if let Role::Leader(leader) = &mut self.role
            && let Some(proposal) = leader.propose(clock, self.log, timing, &mut self.last_proposal)
        {
            out.push(Effect::ProposeIsr(proposal));
        }
    }

    fn on_replica_request(
        &mut self,
        now: Duration,
        request: &FetchRequest,
        wants_records: bool,
        epochs: &impl EpochView,
        out: &mut Vec<Effect>,
    ) {
        let answer = |out: &mut Vec<Effect>, verdict| {
            if wants_records {
                out.push(Effect::AnswerFetch {
                    replica: request.replica,
                    sequence: request.sequence,
                    verdict,
                });
            }
        };
        let Role::Leader(leader) = &mut self.role else {
            answer(out, FetchVerdict::Refused(self.refusal(request.leader_epoch)));
            return;
        };
        let (mut verdict, counted) = leader.on_fetch(now, request, self.log, epochs);
        match counted {
            Counted::No => {}
            Counted::LostData { acknowledged } => {
                let replica = request.replica;
                self.lost_data.retain(|known| known.0 != replica);
                self.lost_data.push((replica, request.broker_epoch));
                out.push(Effect::Alarm(Alarm::ReplicaLostData {
                    replica,
                    acknowledged,
                    offset: request.offset,
                }));
                self.propose(now, out);
            }
            Counted::Yes => {
                self.advance(now, out);
                let clock = self.clock(now);
                if let Role::Leader(leader) = &self.role {
                    let joins = !leader.isr.has_pending()
                        && !leader.isr.committed.contains(&request.replica)
                        && leader.followers.iter().any(|follower| {
                            follower.id == request.replica && leader.may_join(follower, clock, self.log)
                        });
                    // With the watermark that this very request has moved.
                    verdict = leader.serve(request, self.log);
                    if joins {
                        self.propose(now, out);
                    }
                }
            }
        }
        answer(out, verdict);
    }

    /// Why a replica that does not lead gives no records.
    fn refusal(&self, requested: i32) -> FetchRefusal {
        let current = self.known.leader_epoch;
        match &self.role {
            Role::Follower(_) if requested < current => FetchRefusal::FencedLeaderEpoch { requested, current },
            Role::Follower(_) if requested > current => FetchRefusal::UnknownLeaderEpoch { requested, current },
            _ => FetchRefusal::NotLeader {
                leader: self.known.leader.filter(|id| *id != self.config.id),
                leader_epoch: current,
            },
        }
    }

    fn on_flushed(
        &mut self,
        now: Duration,
        durable_end: i64,
        generation: u64,
        epochs: &impl EpochView,
        out: &mut Vec<Effect>,
    ) {
        let mut durable_end = durable_end.min(self.log.end);
        if let Some(from) = self.damaged_from
            && !matches!(self.role, Role::Leader(_))
        {
            durable_end = durable_end.min(from);
        }
        // A flush that began before a cut tells of records that are gone.
        if generation != self.generation || durable_end <= self.log.durable_end {
            return;
        }
        self.log.durable_end = durable_end;
        self.advance(now, out);
        self.acknowledge_if_new(epochs, out);
    }

    fn on_appended(&mut self, now: Duration, log_end: i64, epochs: &impl EpochView, out: &mut Vec<Effect>) {
        // A log that grew although nothing was asked of it: a producer's append that began
        // while this replica led. The next fetch finds out where it belongs.
        self.log.end = self.log.end.max(log_end);
        if let Some(told @ Busy::Appending { .. }) = self.busy {
            self.busy = None;
            self.finish_answer(told, out);
            self.resume(now, epochs, out);
        }
    }

    fn on_truncated(
        &mut self,
        now: Duration,
        log_start: i64,
        log_end: i64,
        epochs: &impl EpochView,
        out: &mut Vec<Effect>,
    ) {
        self.log = LogPositions {
            start: log_start,
            durable_end: self.log.durable_end.min(log_end),
            end: log_end,
        }
        .normalised();
        self.generation += 1;
        if self.damaged_from.is_some_and(|from| log_end <= from) || log_start >= log_end {
            self.damaged_from = None;
        }
        self.high_watermark = self.high_watermark.clamp(self.log.start, self.log.end);
        if let Some(known) = &mut self.matched {
            known.end = known.end.min(log_end);
        }
        self.busy = None;
        // A flush that was under way is not believed after the cut, and perhaps nothing more is
        // written: nobody else would ask for one, and the leader would wait for this disk.
        if self.log.durable_end < self.log.end {
            out.push(Effect::Flush);
        }
        self.resume(now, epochs, out);
    }

    fn on_log_start(&mut self, log_start: i64, out: &mut Vec<Effect>) {
        let log_start = log_start.min(self.log.end);
        if log_start > self.log.start {
            self.log.start = log_start;
            self.log = self.log.normalised();
            // What is deleted was committed.
            if let Role::Leader(leader) = &mut self.role {
                leader.high_watermark = leader.high_watermark.max(log_start);
            }
            self.raise_high_watermark(log_start, out);
        }
    }

    /// The log is free: first what the metadata said meanwhile, then the next fetch.
    fn resume(&mut self, now: Duration, epochs: &impl EpochView, out: &mut Vec<Effect>) {
        if let Some(view) = self.deferred.take() {
            self.on_metadata(now, &view, epochs, out);
        }
        self.fetch_if_ready(now, epochs, out);
    }

    fn on_tick(&mut self, now: Duration, epochs: &impl EpochView, out: &mut Vec<Effect>) {
        let timing = self.config.timing();
        self.ticked_at = now;
        if let Role::Leader(leader) = &mut self.role {
            if let Some(proposal) = leader.resend(now, timing) {
                out.push(Effect::ProposeIsr(proposal));
            }
            // Who was waited for and has fallen behind is not waited for any more.
            self.advance(now, out);
            self.propose(now, out);
        } else {
            self.fetch_if_ready(now, epochs, out);
        }
    }

    fn on_proposal_answered(&mut self, now: Duration, id: u64, answer: ProposalAnswer<'_>, out: &mut Vec<Effect>) {
        let timing = self.config.timing();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        match answer {
            ProposalAnswer::Failed(error) => {
                leader.proposal_failed(now, id, error, timing);
            }
            ProposalAnswer::Applied { partition, required } => {
                if leader.believes(id, partition) {
                    self.adopt(partition);
                    if let Role::Leader(leader) = &mut self.role {
                        leader.required = required;
                    }
                } else {
                    leader.proposal_failed(now, id, ProposalError::Unknown, timing);
                }
            }
        }
        // After every answer, not only after one that applied (KAFKA-13091).
        self.advance(now, out);
        self.propose(now, out);
    }
}
