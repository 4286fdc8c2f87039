//! Who is a member: joining, heartbeats, static members, leaving, and who is fenced (KIP-848,
//! KIP-345).

use std::time::Duration;

use super::{
    budget::{GROUP_BYTES, member_bytes},
    cause::Cause,
    coordinator::{Coordinator, Turn},
    event::Effect,
    record::{CurrentRecord, Fact, GroupRecord, MemberRecord},
    rejection::GroupRejection,
    request::{Answer, Heartbeat, Leave, Rebalance},
    state::Member,
    timers::Timer,
    types::{GroupId, MemberDetails, MemberId, MemberState, Now},
    validate::check_heartbeat,
};

impl Coordinator {
    pub(super) fn heartbeat(&mut self, turn: &mut Turn, mut beat: Heartbeat) -> Result<Answer, GroupRejection> {
        check_heartbeat(&self.config, &beat)?;
        if let Some(details) = &mut beat.details {
            details.topics.sort_unstable();
            details.topics.dedup();
        }
        let member = self
            .groups
            .get(&beat.group)
            .and_then(|group| group.members.get(&beat.member));
        match member {
            Some(member) => {
                check_beat(&beat, member)?;
                self.check_subscriber(&beat)?;
            }
            // A join of one whose life has ended is a late copy: who comes back draws another id.
            None if beat.epoch == 0 && !self.ended.contains(&beat.group, &beat.member, turn.now.monotonic) => {}
            None => return Err(self.unknown_member(&beat.group, &beat.member, beat.instance.as_deref())),
        }
        // Nothing is assigned before the topics are known, and a member that has no epoch yet can't
        // be given one: 0 would tell it to join. Who has one goes on with what it has.
        if self.topics.is_none() && member.is_none_or(|member| member.current.epoch == 0) {
            return Err(GroupRejection::Loading);
        }
        let mut changed = false;
        if member.is_some() {
            changed = self.update_details(turn, &beat)?;
        } else {
            self.join(turn, &beat)?;
        }
        // A first member has its partitions with its first answer.
        self.settle(turn, &beat.group);
        self.extend_session(turn, &beat.group, &beat.member);
        self.note_subscriber(&beat);
        self.reconcile(turn, &beat, changed);
        Ok(Answer::Heartbeat(self.heartbeat_answer(turn, &beat)))
    }

    /// Whether a heartbeat comes by the stream that is the member. A coordinator that takes over knows none: the
    /// first that it hears of is the one.
    fn check_subscriber(&self, beat: &Heartbeat) -> Result<(), GroupRejection> {
        let Some(subscriber) = beat.subscriber.filter(|subscriber| !subscriber.takes_over) else {
            return Ok(());
        };
        let known = self
            .hints
            .get(&beat.group)
            .and_then(|hints| hints.subscribers.get(&beat.member));
        match known {
            Some(known) if *known != subscriber.stream => Err(GroupRejection::TakenOver {
                member: beat.member.to_string(),
            }),
            _ => Ok(()),
        }
    }

    fn note_subscriber(&mut self, beat: &Heartbeat) {
        let is_member = self
            .groups
            .get(&beat.group)
            .is_some_and(|group| group.members.contains_key(&beat.member));
        if let Some(subscriber) = beat.subscriber.filter(|_| is_member) {
            let hints = self.hints.entry(beat.group.clone()).or_default();
            hints.subscribers.insert(beat.member.clone(), subscriber.stream);
        }
    }

    /// Why a member that is not known is refused.
    fn unknown_member(&self, group: &str, member: &str, instance: Option<&str>) -> GroupRejection {
        let taken_over = instance.filter(|instance| {
            self.groups
                .get(group)
                .is_some_and(|group| group.instance(instance).is_some())
        });
        match taken_over {
            Some(instance) => GroupRejection::FencedInstanceId {
                instance: instance.to_owned(),
            },
            None => GroupRejection::UnknownMember {
                member: member.to_owned(),
            },
        }
    }

    fn join(&mut self, turn: &mut Turn, beat: &Heartbeat) -> Result<(), GroupRejection> {
        let Some(details) = beat.details.clone() else {
            return Ok(());
        };
        let group = self.groups.get(&beat.group);
        if let Some((instance, holder)) = beat
            .instance
            .as_deref()
            .and_then(|instance| Some((instance, group?.instance(instance)?.clone())))
        {
            return self.join_as_instance(turn, beat, instance, &holder, details);
        }
        if group.is_none() && self.groups.len() >= self.config.max_groups {
            return Err(GroupRejection::TooManyGroups {
                max: self.config.max_groups,
            });
        }
        if group.is_some_and(|group| group.members.len() >= self.config.max_members) {
            return Err(GroupRejection::GroupMaxSizeReached {
                group: beat.group.to_string(),
                max: self.config.max_members,
            });
        }
        let record = MemberRecord {
            instance_id: beat.instance.clone(),
            details,
        };
        let of_group = if group.is_none() { GROUP_BYTES } else { 0 };
        self.admit_member(&beat.group, of_group + member_bytes(&record), &record)?;
        self.bump(turn, &beat.group, &Cause::Joined(&beat.member));
        self.write_member(turn, &beat.group, &beat.member, record);
        Ok(())
    }

    /// A new process of a static member: it takes over what the former one had, if that one has
    /// left. One that may live is not fenced by it, or two processes with the same instance id
    /// would fence each other for ever (KAFKA-8225); but once its session has ended, its
    /// partitions wait for the new one.
    fn join_as_instance(
        &mut self,
        turn: &mut Turn,
        beat: &Heartbeat,
        instance: &str,
        holder: &MemberId,
        details: MemberDetails,
    ) -> Result<(), GroupRejection> {
        let now = turn.now.monotonic;
        let Some(before) = self
            .groups
            .get(&beat.group)
            .and_then(|group| group.members.get(holder))
            .cloned()
        else {
            return Ok(());
        };
        if before.current.state != MemberState::Left {
            let ends = self.timers.get(&Timer::Session(beat.group.clone(), holder.clone()));
            let hints = self.hints.entry(beat.group.clone()).or_default();
            hints.successors.insert(instance.to_owned(), now);
            let wait = ends.unwrap_or(now).saturating_sub(now);
            return Err(GroupRejection::UnreleasedInstanceId {
                instance: instance.to_owned(),
                retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            });
        }
        let record = MemberRecord {
            instance_id: Some(instance.to_owned()),
            details,
        };
        let had = before.record.as_ref().map_or(0, member_bytes);
        self.admit_member(&beat.group, member_bytes(&record).saturating_sub(had), &record)?;
        // One batch: there is no moment at which nobody, or both, are the instance (KAFKA-10284).
        self.forget(turn, &beat.group, holder);
        let current = CurrentRecord {
            previous_epoch: before.current.epoch,
            version: 1,
            state: MemberState::Active,
            ..before.current
        };
        let changed = before
            .record
            .is_none_or(|old| subscription_changed(&old.details, &record.details));
        let member = &beat.member;
        self.write_member(turn, &beat.group, member, record);
        if !before.target.is_empty() {
            self.write(turn, &beat.group, Fact::Target(member.clone(), Some(before.target)));
        }
        self.write(turn, &beat.group, Fact::Current(member.clone(), Some(current)));
        if changed {
            self.bump(turn, &beat.group, &Cause::Subscribed(member));
        }
        Ok(())
    }

    /// Takes what a member says of itself, if it is news; tells whether it was. Only of a member that
    /// has seen the version of its assignment: each news makes another version, so that a late copy
    /// of a heartbeat from before does not set the former subscription back.
    fn update_details(&mut self, turn: &mut Turn, beat: &Heartbeat) -> Result<bool, GroupRejection> {
        let Some(details) = &beat.details else { return Ok(false) };
        let member = self
            .groups
            .get(&beat.group)
            .and_then(|group| group.members.get(&beat.member))
            .filter(|member| member.current.version == beat.version);
        let Some(record) = member.and_then(|member| member.record.as_ref()) else {
            return Ok(false);
        };
        if record.details == *details {
            return Ok(false);
        }
        let changed = subscription_changed(&record.details, details);
        let had = member_bytes(record);
        let record = MemberRecord {
            instance_id: record.instance_id.clone(),
            details: details.clone(),
        };
        // Which of its topics are there now, and which come later, decides where it begins.
        if changed && self.topics.is_none() {
            return Err(GroupRejection::Loading);
        }
        self.admit_member(&beat.group, member_bytes(&record).saturating_sub(had), &record)?;
        self.write_member(turn, &beat.group, &beat.member, record);
        if changed {
            self.bump(turn, &beat.group, &Cause::Subscribed(&beat.member));
        }
        Ok(true)
    }

    /// Whether there is room for what a member asks for: so much more of its own, and what its topics
    /// will take when they are assigned.
    fn admit_member(&self, group: &GroupId, bytes: usize, record: &MemberRecord) -> Result<(), GroupRejection> {
        let of_topics = self.assignment_growth(group, record.details.topics.iter());
        self.admit_growth(bytes.saturating_add(of_topics))
    }

    /// Stores a member, and before it where its topics begin; asks what its pattern matches.
    fn write_member(&mut self, turn: &mut Turn, group: &GroupId, member: &MemberId, record: MemberRecord) {
        let of_topics = self.assignment_growth(group, record.details.topics.iter());
        self.reserve(group, of_topics);
        self.note_subscription(turn, group, &record.details);
        if let Some(pattern) = &record.details.pattern {
            turn.effects.push(Effect::ResolvePattern {
                group: group.clone(),
                pattern: pattern.clone(),
            });
        }
        self.write(turn, group, Fact::Member(member.clone(), Some(record)));
    }

    /// Something changed that asks for another assignment. While one is due already, the epoch need
    /// not rise again: nobody has been told anything of it.
    pub(super) fn bump(&mut self, turn: &mut Turn, id: &GroupId, cause: &Cause<'_>) {
        let epochs = self.groups.get(id).map(super::state::Group::epochs).unwrap_or_default();
        if epochs.epoch == epochs.target_epoch {
            let record = GroupRecord {
                epoch: epochs.epoch.saturating_add(1),
                empty_since_ms: None,
                ..epochs
            };
            self.write(turn, id, Fact::Group(Some(record)));
        }
        self.tell_why(turn, id, cause);
        turn.unsettled.insert(id.clone());
    }

    /// Notes for people why a group is assigned anew.
    pub(super) fn tell_why(&mut self, turn: &Turn, id: &GroupId, cause: &Cause<'_>) {
        let epoch = self.groups.get(id).map_or(0, |group| group.epochs().epoch);
        self.hints.entry(id.clone()).or_default().last_rebalance = Some(Rebalance {
            epoch,
            reason: cause.text(),
            at_ms: turn.now.unix_ms,
        });
    }

    fn extend_session(&mut self, turn: &Turn, group: &GroupId, id: &MemberId) {
        let member = self.groups.get(group).and_then(|group| group.members.get(id));
        let Some(timeout) = member.and_then(session_timeout) else {
            return;
        };
        let timer = Timer::Session(group.clone(), id.clone());
        self.timers.set(timer, turn.now.monotonic + timeout);
    }

    /// The member's session ends sooner, if it has longer: a process that was killed closes its
    /// connection, and one that lives opens another one. One that has left for a restart has its whole
    /// session time for it; who is fenced goes on with its partitions until its session ends by the time
    /// that it knows of.
    pub(super) fn connection_lost(&mut self, now: Now, group: &str, id: &str) {
        let (group, id) = (GroupId::from(group), MemberId::from(id));
        let member = self.groups.get(&group).and_then(|group| group.members.get(&id));
        let Some(member) = member.filter(|member| member.current.state == MemberState::Active) else {
            return;
        };
        let Some(record) = &member.record else { return };
        let at = now.monotonic + record.details.reconnect_timeout;
        let timer = Timer::Session(group, id);
        if self.timers.get(&timer).is_some_and(|ends| at < ends) {
            self.timers.set(timer, at);
        }
    }

    pub(super) fn leave(&mut self, turn: &mut Turn, leave: &Leave) -> Result<Answer, GroupRejection> {
        let group = self.groups.get(&leave.group);
        let Some(member) = group.and_then(|group| group.members.get(&leave.member)) else {
            return Err(self.unknown_member(&leave.group, &leave.member, None));
        };
        match (leave.temporary, member.current.state) {
            (true, _) if member.instance_id().is_none() => {
                return Err(GroupRejection::InvalidRequest {
                    field: "temporary",
                    reason: "only a member with an instance id can leave for a restart".to_owned(),
                });
            }
            (true, MemberState::Left) => {}
            (true, MemberState::Active) => {
                self.keep_for_restart(turn, &leave.group, &leave.member);
            }
            // A fenced member has nothing to come back to.
            (true, MemberState::Fenced) | (false, _) => {
                self.remove(turn, &leave.group, &leave.member, &Cause::Left(&leave.member));
            }
        }
        Ok(Answer::Done)
    }

    /// The process of a static member is gone; what it shall have is kept for the next one, for
    /// a session time.
    fn keep_for_restart(&mut self, turn: &mut Turn, group: &GroupId, id: &MemberId) {
        let Some(member) = self.groups.get(group).and_then(|group| group.members.get(id)) else {
            return;
        };
        let mut current = CurrentRecord {
            state: MemberState::Left,
            version: member.current.version + 1,
            ..member.current.clone()
        };
        current.revoking.clear();
        current.assigned.retain(|at, _| member.wants(at));
        self.change_current(turn, group, id, Some(current));
        self.timers.clear(&Timer::Rebalance(group.clone(), id.clone()));
        self.extend_session(turn, group, id);
    }

    /// A member was not heard of for its session time: it must have stopped by itself.
    pub(super) fn session_ended(&mut self, turn: &mut Turn, group: &GroupId, id: &MemberId) {
        let Some(member) = self.groups.get(group).and_then(|group| group.members.get(id)) else {
            return;
        };
        let awaited = member
            .instance_id()
            .zip(self.hints.get(group))
            .and_then(|(instance, hints)| hints.successors.get(instance));
        let timeout = session_timeout(member).unwrap_or_default();
        let recently = awaited.is_some_and(|asked| *asked + timeout >= turn.now.monotonic);
        if member.current.state == MemberState::Active && recently {
            self.keep_for_restart(turn, group, id);
        } else {
            self.remove(turn, group, id, &Cause::SessionEnded(id));
        }
    }

    /// A member has not given back in time what it was told to: it is fenced. Until its session
    /// has ended, without it being able to prolong it, it may not know that.
    pub(super) fn rebalance_ended(&mut self, turn: &mut Turn, group: &GroupId, id: &MemberId) {
        let Some(member) = self.groups.get(group).and_then(|group| group.members.get(id)) else {
            return;
        };
        if member.current.state != MemberState::Active || member.current.revoking.is_empty() {
            return;
        }
        let current = CurrentRecord {
            state: MemberState::Fenced,
            version: member.current.version + 1,
            ..member.current.clone()
        };
        let had_target = !member.target.is_empty();
        self.change_current(turn, group, id, Some(current));
        if had_target {
            self.write(turn, group, Fact::Target(id.clone(), None));
        }
        turn.wake(group, id.clone());
        self.bump(turn, group, &Cause::KeptPartitions(id));
    }

    /// Removes a member; what it had is free.
    fn remove(&mut self, turn: &mut Turn, group: &GroupId, id: &MemberId, cause: &Cause<'_>) {
        let Some(known) = self.groups.get(group) else { return };
        let shared = known
            .members
            .get(id)
            .is_some_and(|member| member.current.state != MemberState::Fenced);
        self.forget(turn, group, id);
        match self.groups.get(group) {
            Some(left) if left.members.is_empty() => {
                self.emptied(turn, group);
                self.tell_why(turn, group, cause);
            }
            Some(_) if shared => self.bump(turn, group, cause),
            _ => {}
        }
    }

    /// Takes back all that is said of a member, last that it is one: whatever part of it is
    /// stored makes a valid state.
    fn forget(&mut self, turn: &mut Turn, group: &GroupId, id: &MemberId) {
        let Some(member) = self.groups.get(group).and_then(|group| group.members.get(id)) else {
            return;
        };
        let had_target = !member.target.is_empty();
        // Who waited for its instance id waits no more.
        if let Some((instance, hints)) = member.instance_id().zip(self.hints.get_mut(group)) {
            hints.successors.remove(instance);
        }
        if let Some(hints) = self.hints.get_mut(group) {
            hints.subscribers.remove(id);
        }
        self.change_current(turn, group, id, None);
        if had_target {
            self.write(turn, group, Fact::Target(id.clone(), None));
        }
        self.write(turn, group, Fact::Member(id.clone(), None));
        self.timers.clear_member(group, id);
        let now = turn.now.monotonic;
        self.ended.note(group, id, now, now + self.config.max_session_timeout);
    }

    /// The last member has gone. A group without offsets leaves nothing behind.
    pub(super) fn emptied(&mut self, turn: &mut Turn, id: &GroupId) {
        let Some(group) = self.groups.get(id) else { return };
        if group.offsets.is_empty() {
            return self.erase(turn, id);
        }
        let patterns: Vec<String> = group.patterns.keys().cloned().collect();
        let epochs = group.epochs();
        let epoch = epochs.epoch.saturating_add(1);
        for pattern in patterns {
            self.write(turn, id, Fact::Pattern(pattern, None));
        }
        let record = GroupRecord {
            epoch,
            target_epoch: epoch,
            empty_since_ms: Some(turn.now.unix_ms),
            ..epochs
        };
        self.write(turn, id, Fact::Group(Some(record)));
    }

    /// Takes back all that is said of a group without members; what makes it a group goes last.
    pub(super) fn erase(&mut self, turn: &mut Turn, id: &GroupId) {
        let Some(group) = self.groups.get(id) else { return };
        let offsets = group.offsets.keys().map(|at| Fact::Offset(*at, None));
        let patterns = group
            .patterns
            .keys()
            .map(|pattern| Fact::Pattern(pattern.clone(), None));
        let topics = group.topics.keys().map(|topic| Fact::Topic(*topic, None));
        let record = group.record.as_ref().map(|_| Fact::Group(None));
        let all: Vec<Fact> = offsets.chain(patterns).chain(topics).chain(record).collect();
        for fact in all {
            self.write(turn, id, fact);
        }
    }
}

fn session_timeout(member: &Member) -> Option<Duration> {
    Some(member.record.as_ref()?.details.session_timeout)
}

fn subscription_changed(before: &MemberDetails, after: &MemberDetails) -> bool {
    before.topics != after.topics
        || before.pattern != after.pattern
        || before.assignor != after.assignor
        || before.rack != after.rack
}

/// Whether a heartbeat is one of this member in its present life.
fn check_beat(beat: &Heartbeat, member: &Member) -> Result<(), GroupRejection> {
    let current = &member.current;
    let fenced = GroupRejection::FencedMemberEpoch {
        member: beat.member.to_string(),
        given: beat.epoch,
        current: current.epoch,
    };
    let other_instance = match &beat.instance {
        Some(instance) => member.instance_id() != Some(instance),
        None => beat.epoch == 0 && member.instance_id().is_some(),
    };
    if other_instance {
        return Err(GroupRejection::InvalidRequest {
            field: "instance_id",
            reason: "a member keeps its instance id, or has none, for its life: join under a new member id".to_owned(),
        });
    }
    match current.state {
        MemberState::Fenced => return Err(fenced),
        MemberState::Left => {
            return Err(GroupRejection::MemberLeft {
                member: beat.member.to_string(),
            });
        }
        MemberState::Active => {}
    }
    // A join that is repeated, as its answer was lost, is answered as it was. A heartbeat may come
    // with any epoch that the member may still believe to have.
    let possible = current.previous_epoch..=current.epoch;
    if beat.epoch != 0 && !possible.contains(&beat.epoch) {
        return Err(fenced);
    }
    Ok(())
}
