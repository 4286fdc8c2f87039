//! What the committed records of groups say, and what they must never say: by the log alone, in its order.

use std::collections::{BTreeMap, BTreeSet};

use millrace_engine::group::{
    Answer, Fact, GroupId, GroupRejection, Groups as State, MemberId, MemberState, Position, Record, Request,
    TopicPartition,
};

use super::PARTITION;
use crate::world::World;

/// What was committed for a partition, from which place of the log on.
type History = Vec<(i64, Option<i64>)>;

/// The state that the committed records make.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// All below this offset is in it.
    end: i64,
    state: State,
    /// What of each partition's offset was ever said.
    offsets: BTreeMap<(GroupId, TopicPartition), History>,
    /// Commits of members that are stored, by the text beside the offset: each has its own.
    commits: BTreeSet<String>,
    epochs: BTreeMap<GroupId, i32>,
    /// In which epoch each member has joined.
    joined: BTreeMap<(GroupId, MemberId), i32>,
}

/// What an answer is judged by.
#[derive(Debug)]
pub(crate) enum Told {
    Nothing,
    /// Commits, with the texts beside their offsets.
    Commits(Vec<(TopicPartition, String)>),
    /// A fetch of offsets, asked for when so much was committed.
    Fetch {
        group: GroupId,
        since: i64,
    },
}

/// The text beside a member's offset: whose it is, in which epoch, and a number that no other has.
pub(super) fn beside(member: &str, epoch: i32, number: u64) -> String {
    format!("{member}|{epoch}|{number}")
}

fn whose(text: &str) -> Option<(&str, i32)> {
    let mut parts = text.split('|');
    Some((parts.next()?, parts.next()?.parse().ok()?))
}

impl Oracle {
    /// The state, if it is that of the log up to this offset.
    pub(super) fn state_at(&self, end: i64) -> Option<&State> {
        (self.end == end).then_some(&self.state)
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Whether a member has joined since it was told this epoch: a late copy of its join may have come when its session
    /// was over, and made another member of the same name.
    pub(super) fn joined_since(&self, group: &GroupId, member: &MemberId, epoch: i32) -> bool {
        let joined = self.joined.get(&(group.clone(), member.clone()));
        joined.is_none_or(|joined| epoch < *joined)
    }

    /// Notes what is to be looked at when a request is answered.
    pub(super) fn asked(&self, request: &Request) -> Told {
        match request {
            Request::Commit(commit) => {
                let texts = commit.offsets.iter().map(|one| (one.at, one.metadata.clone()));
                Told::Commits(texts.collect())
            }
            Request::FetchOffsets(fetch) => Told::Fetch {
                group: fetch.group.clone(),
                since: self.end,
            },
            _ => Told::Nothing,
        }
    }

    /// What is wrong with an answer.
    pub(super) fn judge_answer(&self, told: &Told, answer: &Result<Answer, GroupRejection>) -> Option<String> {
        match (told, answer) {
            (Told::Commits(commits), Ok(Answer::Offsets(results))) => {
                let stored = commits.iter().zip(results).filter(|(_, result)| result.1.is_ok());
                let lost = stored
                    .map(|(commit, _)| commit)
                    .find(|one| !self.commits.contains(&one.1));
                lost.map(|one| format!("the commit {} of {} was acknowledged and is not stored", one.1, one.0))
            }
            (Told::Fetch { group, since }, Ok(Answer::Fetched(positions))) => {
                positions.iter().find_map(|(at, position)| {
                    let told = match position {
                        Position::Committed { offset, .. } => Some(*offset),
                        Position::Beginning | Position::Pending | Position::None => None,
                    };
                    let history = self.offsets.get(&(group.clone(), *at)).map_or(&[][..], Vec::as_slice);
                    let before = history.iter().rposition(|(place, _)| place < since);
                    let possible = &history[before.unwrap_or(0)..];
                    let is_right =
                        possible.iter().any(|(_, known)| *known == told) || (before.is_none() && told.is_none());
                    (!is_right).then(|| format!("{position:?} of {at}, committed since {since}: {possible:?}"))
                })
            }
            _ => None,
        }
    }

    /// Takes the next committed record. What is wrong with it, if something is.
    fn take(&mut self, record: Record, is_reset: bool) -> Option<(&'static str, String)> {
        let place = self.end;
        self.end += 1;
        let problem = self.judge(&record, is_reset);
        match &record.fact {
            Fact::Offset(at, offset) => {
                let history = self.offsets.entry((record.group.clone(), *at)).or_default();
                history.push((place, offset.as_ref().map(|offset| offset.offset)));
                if let Some(offset) = offset {
                    self.commits.insert(offset.metadata.clone());
                }
            }
            Fact::Group(None) => _ = self.epochs.remove(&record.group),
            Fact::Current(member, current) => {
                let key = (record.group.clone(), member.clone());
                match current {
                    Some(current) => _ = self.joined.entry(key).or_insert(current.epoch),
                    None => _ = self.joined.remove(&key),
                }
            }
            _ => {}
        }
        self.state.apply(record);
        problem
    }

    fn judge(&self, record: &Record, is_reset: bool) -> Option<(&'static str, String)> {
        let group = self.state.get(&record.group);
        match &record.fact {
            Fact::Offset(at, offset) => {
                let before = group
                    .and_then(|group| group.offsets.get(at))
                    .map(|offset| offset.offset);
                let after = offset.as_ref().map(|offset| offset.offset);
                if after < before && !is_reset {
                    return Some((
                        "a committed offset falls only when it is reset",
                        format!("{at} of {}: from {before:?} to {after:?}", record.group),
                    ));
                }
                if let Some(owner) = group.and_then(|group| group.owner(at)).filter(|_| is_reset) {
                    return Some((
                        "an offset is reset only while nobody has the partition",
                        format!("{at} of {}, which {owner} has", record.group),
                    ));
                }
                let (member, epoch) = whose(&offset.as_ref()?.metadata)?;
                let current = group
                    .and_then(|group| group.members.get(member))
                    .map(|member| &member.current);
                let assigned =
                    current.and_then(|current| current.assigned.get(at).or_else(|| current.revoking.get(at)));
                let is_its_own = current.is_some_and(|current| {
                    current.state == MemberState::Active
                        && epoch <= current.epoch
                        && assigned.is_some_and(|assigned| *assigned <= epoch)
                });
                (!is_its_own).then(|| {
                    (
                        "a commit is taken only of the member that has the partition, in an epoch in which it had it",
                        format!("{at} by {member} in epoch {epoch}, which has {current:?}"),
                    )
                })
            }
            Fact::Topic(topic, Some(now)) => {
                let before = group.and_then(|group| group.topics.get(topic))?;
                let moved = before.known_partitions != now.known_partitions || before.start != now.start;
                moved.then(|| {
                    (
                        "where a group begins in a topic is decided once",
                        format!("{topic}: {now:?}, before {before:?}"),
                    )
                })
            }
            _ => None,
        }
    }

    /// What must hold after each batch.
    fn check(&mut self) -> Option<(&'static str, String)> {
        for (id, group) in self.state.iter() {
            if let Err(problem) = group.validate() {
                return Some(("what is stored of a group is valid", format!("{id}: {problem}")));
            }
            let Some(record) = &group.record else { continue };
            let before = self.epochs.insert(id.clone(), record.epoch).unwrap_or(0);
            if record.epoch < before || record.target_epoch > record.epoch {
                return Some((
                    "a group's epoch never falls, and its target's is not beyond",
                    format!("{id}: {record:?}, epoch {before} before"),
                ));
            }
            let ahead = group
                .members
                .iter()
                .find(|(_, member)| member.current.epoch > record.target_epoch);
            if let Some((member, of)) = ahead {
                return Some((
                    "no member's epoch is beyond its target's",
                    format!("{member} of {id}: {:?}, the group has {record:?}", of.current),
                ));
            }
        }
        None
    }
}

impl World {
    /// Takes what was committed since.
    pub(crate) fn advance_oracle(&mut self) {
        let end = self.observer.tracks[PARTITION as usize].end();
        if !self.has_groups() || self.groups.oracle.end >= end {
            return;
        }
        while self.groups.oracle.end < end {
            let entry = self.observer.tracks[PARTITION as usize]
                .committed_at(self.groups.oracle.end)
                .copied();
            let stored = entry.and_then(|entry| self.groups.records.get(&entry.value));
            let read = stored.and_then(|stored| Record::decode(&stored.key, stored.value.as_deref()).ok());
            let Some(record) = read else {
                let at = self.groups.oracle.end;
                return self
                    .observer
                    .violate("what is committed of groups was appended by a coordinator", || {
                        format!("{entry:?} at {at}")
                    });
            };
            let is_reset = match &record.fact {
                Fact::Offset(at, offset) => {
                    let to = offset.as_ref().map_or(-1, |offset| offset.offset);
                    let by_member = offset.as_ref().is_some_and(|offset| !offset.metadata.is_empty());
                    // Where a group begins is stored the same way, but only where nothing is.
                    let group = self.groups.oracle.state.get(&record.group);
                    let is_known = group.is_some_and(|group| group.offsets.contains_key(at));
                    !by_member && is_known && self.groups.resets.contains(&(record.group.clone(), *at, to))
                }
                _ => false,
            };
            if is_reset {
                self.seen("offset reset");
            }
            if let Some((rule, problem)) = self.groups.oracle.take(record, is_reset) {
                return self.observer.violate(rule, || problem);
            }
        }
        if let Some((rule, problem)) = self.groups.oracle.check() {
            self.observer.violate(rule, || problem);
        }
    }

    /// A coordinator has loaded the log up to `end`.
    pub(super) fn check_loaded(&mut self, at: usize, end: i64, loaded: &State) {
        if let Some(known) = self.groups.oracle.state_at(end).cloned() {
            if known != *loaded {
                if self.deleted_came_back(at, PARTITION) {
                    // What groups do then nobody has promised.
                    self.seen("deleted records of groups came back");
                    self.cut_short = true;
                    return;
                }
                self.observer
                    .violate("each replica's log of groups makes the same state", || {
                        format!("broker {at} up to {end}: {loaded:?}, committed is {known:?}")
                    });
            }
            self.seen("state of groups rebuilt");
        }
    }
}
