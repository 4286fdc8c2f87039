//! One member of a group, as a step: what comes from the coordinator and from the application goes in, and what is to
//! be sent, used and given up comes out. No IO, no clock, no randomness here; the driver has them.
//!
//! ```text
//!  told to use ⊇ …            owned: what the application may use at this moment
//!  owned ⊇ releasing          releasing: to be given back, once it is processed and committed
//! ```
//! The rules are those of KIP-848's members, with the partitions themselves reported and not the epochs alone.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millrace_proto::v1::{self, ErrorReason};

use crate::limits;

/// An error of a stream to a coordinator, as a member judges it.
pub trait Refusal {
    /// The contract's reason, if there is one.
    fn reason(&self) -> Option<ErrorReason>;

    /// Whether the same request may succeed later.
    fn is_retriable(&self) -> bool;

    /// How long to wait before, if that was said.
    fn retry_after(&self) -> Option<Duration>;

    /// A fact for programs.
    fn metadata(&self, key: &str) -> Option<&str>;
}

/// A partition by its topic's id and its number.
pub type PartitionId = (Bytes, i32);

/// What does not change in a member's life.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// The group's id.
    pub group: String,
    /// For a static member (KIP-345).
    pub instance_id: Option<String>,
    /// What it says of itself.
    pub settings: v1::MemberSettings,
    /// For how long it may use its partitions without an answer: that of the settings.
    pub session_timeout: Duration,
    /// For how long it may keep what it is to give back: at most that of the settings.
    pub rebalance_timeout: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum Event<E> {
    /// A new member id was drawn: join under it.
    MemberId(String),
    /// An answer on a stream of this number.
    Answer(u64, Box<v1::HeartbeatAnswer>),
    /// There is news on a stream.
    HeartbeatNow(u64),
    /// A stream ended.
    Broken(u64, E),
    /// The application is done with partitions that it was to release.
    Released(Vec<PartitionId>),
    /// The application leaves; it uses nothing any more.
    Leave,
    /// Time has passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<E> {
    /// Draw a member id at random and tell it with [`Event::MemberId`].
    DrawMemberId,
    /// Open a stream of this number with its first request. The one before is closed.
    Open(u64, Box<v1::HeartbeatRequest>),
    /// Send on the present stream.
    Send(Box<v1::HeartbeatRequest>),
    /// Close the present stream.
    Close,
    /// The application may use these.
    Use(Vec<PartitionId>),
    /// The application shall stop to fetch these, process and commit what it has, then tell
    /// [`Event::Released`]. The time is when the coordinator stops to wait for it.
    Release(Vec<PartitionId>, Instant),
    /// These are somebody else's now, or may be: stop at once, commit nothing.
    Lose(Vec<PartitionId>),
    /// Tell the coordinator that this member leaves.
    Leave(String),
    /// The member has ended.
    Fail(E),
}

/// How the connection to the coordinator is.
#[derive(Debug, PartialEq, Eq)]
enum Stream {
    /// Not open; opened at this time.
    Closed(Instant),
    /// Open, with the time at which a request was sent that is not answered.
    Open(Option<Instant>),
}

/// A member.
#[derive(Debug)]
pub struct Member {
    config: MemberConfig,
    /// None: yet to be drawn.
    member_id: Option<String>,
    member_epoch: i32,
    assignment_version: u32,
    heartbeat_interval: Duration,
    /// What the last assignment lets it use.
    assigned: BTreeSet<PartitionId>,
    owned: BTreeSet<PartitionId>,
    releasing: BTreeSet<PartitionId>,
    /// What was last reported on this stream.
    reported: Option<BTreeSet<PartitionId>>,
    /// The coordinator did not take that, and waits for it.
    is_report_due: bool,
    stream: Stream,
    stream_number: u64,
    /// A request is wanted before the interval is over.
    is_wanted: bool,
    /// When the last request that was answered had been sent.
    answered: Option<Instant>,
    /// How often it gave all up.
    losses: u64,
    backoff: Duration,
    /// It goes on as a member, and was not answered yet.
    is_resuming: bool,
    has_ended: bool,
}

impl Member {
    /// One that has not joined. Begins with [`Event::MemberId`].
    pub fn new(config: MemberConfig, now: Instant) -> Self {
        Self {
            config,
            member_id: None,
            member_epoch: 0,
            assignment_version: 0,
            heartbeat_interval: limits::FIRST_HEARTBEAT_INTERVAL,
            assigned: BTreeSet::new(),
            owned: BTreeSet::new(),
            releasing: BTreeSet::new(),
            reported: None,
            is_report_due: false,
            stream: Stream::Closed(now),
            stream_number: 0,
            is_wanted: false,
            answered: None,
            losses: 0,
            backoff: limits::MIN_BACKOFF,
            is_resuming: false,
            has_ended: false,
        }
    }

    /// One that goes on where another stream was: under its id and an epoch that it had, with what its application still
    /// uses. What of that it has is told anew, with [`Effect::Use`]; if it is no member any more, it ends.
    pub fn resumed(
        config: MemberConfig,
        member_id: String,
        member_epoch: i32,
        owned: Vec<PartitionId>,
        now: Instant,
    ) -> Self {
        Self {
            member_id: Some(member_id),
            member_epoch,
            owned: owned.into_iter().collect(),
            is_resuming: true,
            ..Self::new(config, now)
        }
    }

    /// Under which id and epoch it may commit now; none before it has joined.
    pub fn identity(&self) -> Option<(String, i32)> {
        let joined = (self.member_epoch > 0).then_some(self.member_epoch)?;
        Some((self.member_id.clone()?, joined))
    }

    /// How often it gave all up: what was begun before another loss is not its own any more.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// Whether it must use nothing any more and has not said so yet: a process that was stopped notices it here.
    pub fn is_over(&self, now: Instant) -> bool {
        !self.owned.is_empty() && self.session_end().is_some_and(|end| now >= end)
    }

    /// Asks for a heartbeat before the interval is over: an epoch turned out to be stale.
    pub fn want_heartbeat(&mut self) {
        self.is_wanted = true;
    }

    /// When time alone changes something next; `None` if it does not.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.has_ended || self.member_id.is_none() {
            return None;
        }
        let next = match self.stream {
            Stream::Closed(at) => at,
            Stream::Open(Some(sent)) => sent + self.patience(),
            Stream::Open(None) if self.is_wanted || self.is_unreported() => return self.answered,
            Stream::Open(None) => self.answered? + self.heartbeat_interval,
        };
        Some(self.session_end().map_or(next, |end| end.min(next)))
    }

    /// What follows of an event.
    pub fn step<E: Refusal>(&mut self, now: Instant, event: Event<E>) -> Vec<Effect<E>> {
        let mut effects = Vec::new();
        if self.has_ended {
            return effects;
        }
        // First, whatever happened: an answer that comes after the end of the session comes too late, since others
        // may have begun with the partitions.
        if self.session_end().is_some_and(|end| now >= end) {
            self.lose_all(&mut effects);
            self.answered = None;
            self.close(now, &mut effects);
        }
        match event {
            Event::MemberId(id) => self.member_id = Some(id),
            Event::Answer(stream, answer) if self.is_present(stream) => self.answered(now, *answer, &mut effects),
            Event::HeartbeatNow(stream) if self.is_present(stream) => self.is_wanted = true,
            Event::Broken(stream, error) if self.is_present(stream) => self.broken(now, error, &mut effects),
            Event::Answer(..) | Event::HeartbeatNow(_) | Event::Broken(..) | Event::Tick => {}
            Event::Released(partitions) => self.released(&partitions, &mut effects),
            Event::Leave => {
                self.has_ended = true;
                self.owned.clear();
                if matches!(self.stream, Stream::Open(_)) {
                    effects.push(Effect::Close);
                }
                if let (Some(id), true) = (self.member_id.take(), self.stream_number > 0) {
                    effects.push(Effect::Leave(id));
                }
                return effects;
            }
        }
        self.go_on(now, &mut effects);
        effects
    }

    fn is_present(&self, stream: u64) -> bool {
        stream == self.stream_number && matches!(self.stream, Stream::Open(_))
    }

    /// From here on it must use nothing. That its connection is gone says nothing of how long its coordinator waits: where
    /// that is gone with it, the next one begins a whole session, and has to be found first.
    fn session_end(&self) -> Option<Instant> {
        Some(self.answered? + self.config.session_timeout)
    }

    /// How long an answer may take before another broker is tried: so that there is time for that.
    fn patience(&self) -> Duration {
        self.config.session_timeout / 3
    }

    fn is_unreported(&self) -> bool {
        self.is_report_due || self.reported.as_ref() != Some(&self.owned)
    }

    /// Opens a stream or sends a request, if it is time.
    fn go_on<E>(&mut self, now: Instant, effects: &mut Vec<Effect<E>>) {
        if self.has_ended || self.member_id.is_none() {
            return;
        }
        if let Stream::Open(Some(sent)) = self.stream
            && now >= sent + self.patience()
        {
            self.close(now, effects);
        }
        match self.stream {
            Stream::Closed(at) if now >= at => {
                self.stream_number += 1;
                self.reported = None;
                let request = self.request(now);
                effects.push(Effect::Open(self.stream_number, Box::new(request)));
            }
            Stream::Open(None) => {
                let due = self.answered.is_none_or(|sent| now >= sent + self.heartbeat_interval);
                if due || self.is_wanted || self.is_unreported() {
                    let request = self.request(now);
                    effects.push(Effect::Send(Box::new(request)));
                }
            }
            Stream::Closed(_) | Stream::Open(Some(_)) => {}
        }
    }

    /// The request to send now.
    fn request(&mut self, now: Instant) -> v1::HeartbeatRequest {
        self.stream = Stream::Open(Some(now));
        self.is_wanted = false;
        // The first one of a stream has all: a coordinator that took over knows neither.
        let is_first = self.reported.is_none();
        let owned = self.is_unreported().then(|| v1::OwnedPartitions {
            topics: by_topic(&self.owned),
        });
        self.reported = Some(self.owned.clone());
        self.is_report_due = false;
        v1::HeartbeatRequest {
            group: self.config.group.clone(),
            member_id: self.member_id.clone().unwrap_or_default(),
            instance_id: self.config.instance_id.clone(),
            member_epoch: self.member_epoch,
            assignment_version: self.assignment_version,
            settings: is_first.then(|| self.config.settings.clone()),
            owned,
        }
    }

    fn answered<E>(&mut self, now: Instant, answer: v1::HeartbeatAnswer, effects: &mut Vec<Effect<E>>) {
        let Stream::Open(Some(sent)) = self.stream else {
            return;
        };
        self.stream = Stream::Open(None);
        self.answered = Some(sent);
        self.backoff = limits::MIN_BACKOFF;
        self.member_epoch = answer.member_epoch;
        // What such a request reports is passed over: it may be a late copy.
        let was_stale = self.assignment_version != answer.assignment_version;
        self.assignment_version = answer.assignment_version;
        if let Some(interval) = answer.heartbeat_interval.and_then(|interval| interval.try_into().ok()) {
            // Not so often that it is all that is done, nor so seldom that the session ends.
            self.heartbeat_interval = Duration::clamp(
                interval,
                limits::LEAST_HEARTBEAT_INTERVAL,
                self.config.session_timeout / 2,
            );
        }
        let Some(assignment) = answer.assignment else { return };
        self.assigned = ids(&assignment.assigned);
        let revoking = ids(&assignment.revoking);
        let may_use = |id: &PartitionId| self.assigned.contains(id) || revoking.contains(id);
        let lost: Vec<PartitionId> = self.owned.iter().filter(|id| !may_use(id)).cloned().collect();
        for id in &lost {
            self.owned.remove(id);
            self.releasing.remove(id);
        }
        if !lost.is_empty() {
            effects.push(Effect::Lose(lost));
        }
        if std::mem::take(&mut self.is_resuming) && !self.owned.is_empty() {
            effects.push(Effect::Use(self.owned.iter().cloned().collect()));
        }
        let release: Vec<PartitionId> = self
            .owned
            .intersection(&revoking)
            .filter(|id| !self.releasing.contains(*id))
            .cloned()
            .collect();
        if !release.is_empty() {
            self.releasing.extend(release.iter().cloned());
            let within = assignment
                .revoke_within
                .and_then(|within| Duration::try_from(within).ok())
                .filter(|within| !within.is_zero())
                .unwrap_or(limits::LEAST_REVOKE_WAIT);
            effects.push(Effect::Release(
                release,
                now + within.min(self.config.rebalance_timeout),
            ));
        }
        // It waits for the release of what is not in use: nothing else would bring another report.
        self.is_report_due |= was_stale && !revoking.is_subset(&self.owned);
        self.take_up(effects);
    }

    /// Begins to use what is assigned. What is being given back is used again only after that: its reader has
    /// stopped already.
    fn take_up<E>(&mut self, effects: &mut Vec<Effect<E>>) {
        let new: Vec<PartitionId> = self.assigned.difference(&self.owned).cloned().collect();
        if !new.is_empty() {
            self.owned.extend(new.iter().cloned());
            effects.push(Effect::Use(new));
        }
    }

    fn released<E>(&mut self, partitions: &[PartitionId], effects: &mut Vec<Effect<E>>) {
        for id in partitions {
            // Not what was lost meanwhile and is used anew.
            if self.releasing.remove(id) {
                self.owned.remove(id);
            }
        }
        self.take_up(effects);
    }

    fn broken<E: Refusal>(&mut self, now: Instant, error: E, effects: &mut Vec<Effect<E>>) {
        self.stream = Stream::Closed(now + self.backoff);
        self.backoff = (self.backoff * 2).min(limits::MAX_BACKOFF);
        let wait = error.retry_after().unwrap_or_default();
        match error.reason() {
            // The group was assigned anew since the epoch that it knows: the stream before may have been told, and its
            // application not.
            Some(ErrorReason::FencedMember) if self.is_resuming && present_epoch(&error) > self.member_epoch => {
                self.member_epoch = present_epoch(&error);
                self.stream = Stream::Closed(now);
            }
            Some(ErrorReason::FencedMember | ErrorReason::UnknownMember) if !self.is_resuming => {
                self.lose_all(effects);
                self.member_epoch = 0;
                self.answered = None;
                self.member_id = None;
                effects.push(Effect::DrawMemberId);
            }
            // The process that had it may be gone: its session ends, and then the instance is free (KIP-345).
            Some(ErrorReason::InstanceInUse) => {
                let told = error.metadata("retry_after_ms").and_then(|ms| ms.parse().ok());
                let wait = told
                    .map_or(wait, Duration::from_millis)
                    .min(self.config.session_timeout);
                self.stream = Stream::Closed(now + wait.max(limits::MIN_BACKOFF));
            }
            // Heartbeats are taken in the order of the epochs: the next one says what is the present one.
            Some(ErrorReason::StaleMemberEpoch) => {}
            _ if error.is_retriable() => {
                let at = now + wait.min(self.patience());
                if let Stream::Closed(planned) = &mut self.stream {
                    *planned = at.max(*planned);
                }
            }
            _ => {
                self.lose_all(effects);
                self.has_ended = true;
                effects.push(Effect::Fail(error));
            }
        }
    }

    fn close<E>(&mut self, now: Instant, effects: &mut Vec<Effect<E>>) {
        if matches!(self.stream, Stream::Open(_)) {
            self.stream = Stream::Closed(now);
            effects.push(Effect::Close);
        }
    }

    /// Gives all up; what it may use is to be told anew.
    fn lose_all<E>(&mut self, effects: &mut Vec<Effect<E>>) {
        self.losses += 1;
        self.releasing.clear();
        self.assigned.clear();
        self.assignment_version = 0;
        let lost: Vec<PartitionId> = std::mem::take(&mut self.owned).into_iter().collect();
        if !lost.is_empty() {
            effects.push(Effect::Lose(lost));
        }
    }
}

/// The epoch that a coordinator says a fenced member has.
fn present_epoch(error: &impl Refusal) -> i32 {
    let told = error.metadata("member_epoch").and_then(|epoch| epoch.parse().ok());
    told.unwrap_or_default()
}

fn ids(topics: &[v1::TopicPartitions]) -> BTreeSet<PartitionId> {
    let all = topics.iter().flat_map(|topic| {
        let of = |partition: &i32| (topic.topic_id.clone(), *partition);
        topic.partitions.iter().map(of)
    });
    all.collect()
}

/// Partitions by their topics, named by id alone.
pub fn by_topic(partitions: &BTreeSet<PartitionId>) -> Vec<v1::TopicPartitions> {
    let mut topics: Vec<v1::TopicPartitions> = Vec::new();
    for (topic_id, partition) in partitions {
        match topics.last_mut().filter(|topic| topic.topic_id == *topic_id) {
            Some(topic) => topic.partitions.push(*partition),
            None => topics.push(v1::TopicPartitions {
                topic: String::new(),
                topic_id: topic_id.clone(),
                partitions: vec![*partition],
            }),
        }
    }
    topics
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
