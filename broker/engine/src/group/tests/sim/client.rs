//! A member as a client would be it, and what it believes.

use std::{collections::BTreeMap, time::Duration};

use super::super::{super::*, support::*};

/// How long a member of these runs may keep what it must give back.
pub(super) const REVOKE_WITHIN: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_millis(1_500);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) instance: Option<String>,
    /// Rises with each id that it draws: tells answers to a former life.
    pub(super) life: u32,
    pub(super) epoch: i32,
    version: u32,
    /// What it uses: each with its number of the acquisition, and the next offset it will commit.
    pub(super) owned: BTreeMap<TopicPartition, u64>,
    revoking: Vec<TopicPartition>,
    /// When it sent the last heartbeat that was answered: from then on its session is counted.
    answered: Option<Duration>,
    pub(super) outstanding: Option<(u64, Duration)>,
    due: Duration,
    pub(super) frozen_until: Duration,
    pub(super) running: bool,
    pub(super) topics: Vec<String>,
    /// Whether it repeats its details with the next heartbeat.
    changed: bool,
    /// The topics that the heartbeat named whose answer it waits for.
    told: Vec<String>,
}

/// What a client learns of an answer.
pub(super) enum Learnt {
    Acquired(Vec<TopicPartition>),
    Rejoins(&'static str),
    Nothing,
}

impl Client {
    pub(super) fn new(number: usize, instance: Option<String>) -> Self {
        Self {
            number,
            instance,
            life: 0,
            epoch: 0,
            version: 0,
            owned: BTreeMap::new(),
            revoking: Vec::new(),
            answered: None,
            outstanding: None,
            due: Duration::ZERO,
            frozen_until: Duration::ZERO,
            running: true,
            topics: vec!["t1".into(), "t2".into()],
            changed: true,
            told: Vec::new(),
        }
    }

    pub(super) fn id(&self) -> MemberId {
        format!("m{}-{}", self.number, self.life).into()
    }

    pub(super) fn acts(&self, now: Duration) -> bool {
        self.running && now >= self.frozen_until
    }

    /// Whether it may still use what it was told: also while it is frozen, as it does not know.
    pub(super) fn owns(&self, at: &TopicPartition, now: Duration) -> bool {
        self.running && self.owned.contains_key(at) && self.within_session(now)
    }

    pub(super) fn within_session(&self, now: Duration) -> bool {
        self.answered.is_some_and(|answered| now < answered + SESSION)
    }

    /// Begins anew, under another id.
    pub(super) fn restart(&mut self, now: Duration) {
        *self = Self {
            life: self.life + 1,
            due: now,
            topics: std::mem::take(&mut self.topics),
            ..Self::new(self.number, self.instance.take())
        };
    }

    pub(super) fn subscribe(&mut self, topics: Vec<String>) {
        self.topics = topics;
        self.changed = true;
        self.due = Duration::ZERO;
    }

    pub(super) fn hurry(&mut self) {
        self.due = Duration::ZERO;
    }

    /// Stops to use what it must give back.
    pub(super) fn give_back(&mut self) -> bool {
        let before = self.owned.len();
        for at in std::mem::take(&mut self.revoking) {
            self.owned.remove(&at);
        }
        if self.owned.len() < before {
            self.due = Duration::ZERO;
        }
        self.owned.len() < before
    }

    /// The heartbeat that it sends now, if one is due.
    pub(super) fn heartbeat(&mut self, now: Duration, request: u64, full: bool) -> Option<Heartbeat> {
        if self.outstanding.is_some_and(|(_, sent)| now < sent + REQUEST_TIMEOUT) || now < self.due {
            return None;
        }
        self.outstanding = Some((request, now));
        self.due = now + HEARTBEAT_INTERVAL;
        let tells = self.epoch == 0 || self.changed;
        self.told = if tells { self.topics.clone() } else { Vec::new() };
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        Some(Heartbeat {
            group: "g".into(),
            member: self.id(),
            instance: self.instance.clone(),
            epoch: self.epoch,
            version: self.version,
            details: tells.then(|| MemberDetails {
                rebalance_timeout: REVOKE_WITHIN,
                ..details(&topics)
            }),
            owned: full.then(|| self.owned.keys().copied().collect()),
            subscriber: None,
        })
    }

    /// An answer to the heartbeat that waits for one.
    pub(super) fn answered(
        &mut self,
        answer: Result<HeartbeatAnswer, GroupRejection>,
        now: Duration,
        acquisitions: &mut u64,
    ) -> Learnt {
        let Some((_, sent)) = self.outstanding.take() else {
            return Learnt::Nothing;
        };
        match answer {
            Ok(answer) => {
                self.answered = Some(sent);
                self.epoch = answer.epoch;
                if answer.version == self.version && self.told == self.topics {
                    self.changed = false;
                }
                self.version = answer.version;
                let Some(told) = answer.assignment else {
                    return Learnt::Nothing;
                };
                self.owned
                    .retain(|at, _| told.assigned.contains(at) || told.revoking.contains(at));
                let new: Vec<TopicPartition> = told
                    .assigned
                    .iter()
                    .filter(|at| !self.owned.contains_key(at))
                    .copied()
                    .collect();
                for at in &new {
                    *acquisitions += 1;
                    self.owned.insert(*at, *acquisitions);
                }
                self.revoking = told.revoking;
                Learnt::Acquired(new)
            }
            Err(GroupRejection::UnknownMember { .. }) => {
                self.restart(now);
                Learnt::Rejoins("unknown member")
            }
            Err(GroupRejection::FencedMemberEpoch { .. }) => {
                self.restart(now);
                Learnt::Rejoins("fenced")
            }
            Err(GroupRejection::FencedInstanceId { .. } | GroupRejection::MemberLeft { .. }) => {
                self.restart(now);
                Learnt::Rejoins("instance taken over")
            }
            Err(_) => Learnt::Nothing,
        }
    }
}
