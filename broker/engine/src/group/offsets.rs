//! Committed offsets: who may commit, where to read on, and how long they are kept.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use uuid::Uuid;

use super::{
    budget::{GROUP_BYTES, offset_bytes, position_bytes},
    coordinator::{Coordinator, Turn},
    event::Effect,
    limits::{MAX_ANSWER_BYTES, MAX_OFFSET_METADATA_BYTES, MAX_PARTITIONS_PER_REQUEST},
    record::{CurrentRecord, Fact, OffsetRecord},
    rejection::{GroupRejection, OffsetRejection},
    request::{Answer, Commit, CommitOffset, FetchOffsets, Position, ResetOffsets},
    state::Group,
    topics::Topics,
    types::{GroupId, MemberId, MemberState, Start, TopicPartition},
    validate::check_partitions,
};

impl Coordinator {
    pub(super) fn commit(&mut self, turn: &mut Turn, commit: Commit) -> Result<Answer, GroupRejection> {
        check_partitions(commit.offsets.len())?;
        let topics = self.topics.clone().ok_or(GroupRejection::Loading)?;
        match &commit.member {
            Some((id, epoch)) => _ = self.committer(&commit.group, id, *epoch)?,
            None => self.check_unmanaged(&commit.group)?,
        }
        let mut results = Vec::with_capacity(commit.offsets.len());
        for offset in commit.offsets {
            let at = offset.at;
            let group = self.groups.get(&commit.group);
            // Looked up for each: what a member has may be large, and is not copied.
            let member = commit.member.as_ref();
            let member = member.and_then(|(id, epoch)| Some((&group?.members.get(id)?.current, *epoch)));
            let mut result = judge(group, &topics, member, commit.rewind, &offset);
            if result.is_ok() {
                let record = OffsetRecord {
                    offset: offset.offset,
                    leader_epoch: offset.leader_epoch,
                    metadata: offset.metadata,
                    committed_at_ms: turn.now.unix_ms,
                };
                result = self.write_offset(turn, &commit.group, at, record);
            }
            results.push((at, result));
        }
        Ok(Answer::Offsets(results))
    }

    /// Stores an offset, if there is room for it: there is for one that takes no more than before.
    fn write_offset(
        &mut self,
        turn: &mut Turn,
        id: &GroupId,
        at: TopicPartition,
        record: OffsetRecord,
    ) -> Result<(), OffsetRejection> {
        let had = self.groups.get(id).and_then(|group| group.offsets.get(&at));
        let growth = offset_bytes(&record).saturating_sub(had.map_or(0, offset_bytes));
        if !self.has_room(growth) {
            return Err(OffsetRejection::CoordinatorFull);
        }
        self.write(turn, id, Fact::Offset(at, Some(record)));
        Ok(())
    }

    /// What a member has, if it may speak with this epoch. Also with one from before an
    /// assignment that it has not heard of: that is judged by partition (KAFKA-19779).
    fn committer(&self, group: &str, id: &MemberId, epoch: i32) -> Result<&CurrentRecord, GroupRejection> {
        let member = self.groups.get(group).and_then(|group| group.members.get(id));
        let Some(current) = member.map(|member| &member.current) else {
            return Err(GroupRejection::UnknownMember { member: id.to_string() });
        };
        match current.state {
            MemberState::Active if epoch <= current.epoch => Ok(current),
            MemberState::Left => Err(GroupRejection::MemberLeft { member: id.to_string() }),
            MemberState::Active | MemberState::Fenced => Err(GroupRejection::FencedMemberEpoch {
                member: id.to_string(),
                given: epoch,
                current: current.epoch,
            }),
        }
    }

    /// Whether offsets may be set without membership.
    fn check_unmanaged(&self, id: &str) -> Result<(), GroupRejection> {
        match self.groups.get(id) {
            Some(group) if !group.members.is_empty() => Err(GroupRejection::GroupNotEmpty {
                group: id.to_owned(),
                members: group.members.len(),
            }),
            None if self.groups.len() >= self.config.max_groups => Err(GroupRejection::TooManyGroups {
                max: self.config.max_groups,
            }),
            None => self.admit_growth(GROUP_BYTES),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn fetch_offsets(&mut self, turn: &mut Turn, fetch: FetchOffsets) -> Result<Answer, GroupRejection> {
        check_partitions(fetch.partitions.as_ref().map_or(0, Vec::len))?;
        let group = self.groups.get(&fetch.group);
        if let Some((id, epoch)) = &fetch.member {
            let current = self.committer(&fetch.group, id, *epoch)?;
            if *epoch < current.previous_epoch {
                return Err(GroupRejection::StaleMemberEpoch {
                    member: id.to_string(),
                    given: *epoch,
                    current: current.epoch,
                });
            }
        }
        let asked = match fetch.partitions {
            Some(asked) => asked,
            None => {
                check_partitions(group.map_or(0, |group| group.offsets.len()))?;
                group
                    .map(|group| group.offsets.keys().copied().collect())
                    .unwrap_or_default()
            }
        };
        let mut pending: BTreeMap<(Uuid, Start), Vec<u32>> = BTreeMap::new();
        let mut positions = Vec::with_capacity(asked.len());
        let mut bytes = 0;
        for at in asked {
            let position = group.map_or(Position::None, |group| position(group, at));
            bytes += position_bytes(&position);
            if bytes > MAX_ANSWER_BYTES {
                return Err(GroupRejection::TooManyPartitions);
            }
            if position == Position::Pending
                && let Some(topic) = group.and_then(|group| group.topics.get(&at.topic))
            {
                pending.entry((at.topic, topic.start)).or_default().push(at.partition);
            }
            positions.push((at, position));
        }
        turn.effects.extend(
            pending
                .into_iter()
                .map(|((topic, start), partitions)| Effect::ResolveStart {
                    group: fetch.group.clone(),
                    topic,
                    partitions,
                    start,
                }),
        );
        Ok(Answer::Fetched(positions))
    }

    pub(super) fn offset_page(
        &self,
        id: &str,
        after: Option<TopicPartition>,
        limit: usize,
    ) -> Result<Answer, GroupRejection> {
        let group = self.known(id)?;
        let limit = limit.clamp(1, MAX_PARTITIONS_PER_REQUEST);
        let from = after.map_or(Unbounded, Excluded);
        let mut left = group
            .offsets
            .range((from, Unbounded))
            .map(|(at, _)| (*at, position(group, *at)))
            .peekable();
        let (mut positions, mut bytes) = (Vec::new(), 0);
        while let Some((at, position)) =
            left.next_if(|(_, next)| bytes == 0 || bytes + position_bytes(next) <= MAX_ANSWER_BYTES)
        {
            bytes += position_bytes(&position);
            positions.push((at, position));
            if positions.len() == limit {
                break;
            }
        }
        let more = left.next().is_some();
        Ok(Answer::OffsetPage { positions, more })
    }

    /// Where a group begins is found out once, and stored as if it were committed: another owner
    /// would find another end, and skip what lies between.
    pub(super) fn start_resolved(&mut self, turn: &mut Turn, group: &str, topic: Uuid, offsets: &[(u32, i64)]) {
        let id: GroupId = group.into();
        for &(partition, offset) in offsets {
            let at = TopicPartition { topic, partition };
            let open = self
                .groups
                .get(group)
                .is_some_and(|group| position(group, at) == Position::Pending);
            if open && offset >= 0 {
                let record = OffsetRecord {
                    offset,
                    leader_epoch: None,
                    metadata: String::new(),
                    committed_at_ms: turn.now.unix_ms,
                };
                self.write(turn, &id, Fact::Offset(at, Some(record)));
            }
        }
    }

    pub(super) fn reset_offsets(&mut self, turn: &mut Turn, reset: ResetOffsets) -> Result<Answer, GroupRejection> {
        check_partitions(reset.offsets.len())?;
        let topics = self.topics.clone().ok_or(GroupRejection::Loading)?;
        if self.groups.get(&reset.group).is_none() {
            self.check_unmanaged(&reset.group)?;
        }
        let before = self.groups.get(&reset.group);
        let is_new = before.is_none();
        if reset
            .expected_version
            .is_some_and(|expected| expected != version(before))
        {
            let group = reset.group.to_string();
            return Err(GroupRejection::GroupChanged { group });
        }
        let mut results = Vec::with_capacity(reset.offsets.len());
        for (at, offset) in reset.offsets {
            let group = self.groups.get(&reset.group);
            let mut result = judge_reset(group, &topics, at, offset);
            let known = group.is_some_and(|group| group.offsets.contains_key(&at));
            if result.is_ok() && !reset.validate_only && (known || offset.is_some()) {
                match offset {
                    None => self.write(turn, &reset.group, Fact::Offset(at, None)),
                    Some(offset) => {
                        let record = OffsetRecord {
                            offset,
                            leader_epoch: None,
                            metadata: String::new(),
                            committed_at_ms: turn.now.unix_ms,
                        };
                        result = self.write_offset(turn, &reset.group, at, record);
                    }
                }
            }
            results.push((at, result));
        }
        Ok(Answer::Reset {
            is_new,
            version: version(self.groups.get(&reset.group)),
            results,
        })
    }

    /// Drops offsets that nobody has had a use for as long as they are kept: of groups without
    /// members, and of topics that no member of their group subscribes to (KIP-211). While members
    /// come and go an offset is in use (KAFKA-13636).
    pub(super) fn expire_offsets(&mut self, turn: &mut Turn) {
        let kept_ms = i64::try_from(self.config.offset_retention.as_millis()).unwrap_or(i64::MAX);
        let now_ms = turn.now.unix_ms;
        let over = |since_ms: i64| since_ms.saturating_add(kept_ms) <= now_ms;
        for id in self.served_groups() {
            let Some(group) = self.groups.get(&id) else { continue };
            let expired = |at: &TopicPartition, offset: &OffsetRecord| {
                unused_since(group, at).is_some_and(|since| over(since.max(offset.committed_at_ms)))
            };
            let mut facts: Vec<Fact> = group
                .offsets
                .iter()
                .filter(|(at, offset)| expired(at, offset))
                .map(|(at, _)| Fact::Offset(*at, None))
                .collect();
            if !group.members.is_empty() {
                let unused = group
                    .topics
                    .iter()
                    .filter(|(_, topic)| topic.unsubscribed_since_ms.is_some_and(over));
                facts.extend(unused.map(|(topic, _)| Fact::Topic(*topic, None)));
            }
            for fact in facts {
                self.write(turn, &id, fact);
            }
            // Also one whose offsets have gone otherwise, as an operator has them forgotten.
            if self
                .groups
                .get(&id)
                .is_some_and(|group| group.members.is_empty() && group.offsets.is_empty())
            {
                self.erase(turn, &id);
            }
        }
    }
}

/// Since when an offset is of no use, apart from its commit; `None`: it is in use.
fn unused_since(group: &Group, at: &TopicPartition) -> Option<i64> {
    if group.members.is_empty() {
        return Some(group.epochs().empty_since_ms.unwrap_or(i64::MIN));
    }
    match group.topics.get(&at.topic) {
        Some(topic) => topic.unsubscribed_since_ms,
        // Committed without membership; no member has ever had the topic.
        None => Some(i64::MIN),
    }
}

/// Where the group reads on.
fn position(group: &Group, at: TopicPartition) -> Position {
    if let Some(offset) = group.offsets.get(&at) {
        return Position::Committed {
            offset: offset.offset,
            leader_epoch: offset.leader_epoch,
            metadata: offset.metadata.clone(),
            committed_at_ms: offset.committed_at_ms,
        };
    }
    match group.topics.get(&at.topic) {
        None => Position::None,
        // What was added since the group has the topic was never "the end" to it (KAFKA-20742).
        Some(topic) if at.partition >= topic.known_partitions => Position::Beginning,
        Some(topic) if topic.start == Start::Beginning => Position::Beginning,
        Some(_) => Position::Pending,
    }
}

fn exists(topics: &Topics, at: TopicPartition) -> Result<(), OffsetRejection> {
    match topics.partitions(at.topic) {
        Some(partitions) if at.partition < partitions => Ok(()),
        _ => Err(OffsetRejection::UnknownPartition),
    }
}

/// Whether an offset is taken over; of a member only for what was its own in the epoch that it
/// commits in (KIP-1251).
fn judge(
    group: Option<&Group>,
    topics: &Topics,
    member: Option<(&CurrentRecord, i32)>,
    rewind: bool,
    commit: &CommitOffset,
) -> Result<(), OffsetRejection> {
    if commit.offset < 0 {
        return Err(OffsetRejection::InvalidOffset { offset: commit.offset });
    }
    if commit.metadata.len() > MAX_OFFSET_METADATA_BYTES {
        return Err(OffsetRejection::MetadataTooLarge {
            length: commit.metadata.len(),
        });
    }
    exists(topics, commit.at)?;
    if let Some((current, given)) = member {
        let assigned = current
            .assigned
            .get(&commit.at)
            .or_else(|| current.revoking.get(&commit.at));
        match assigned.copied() {
            None => return Err(OffsetRejection::NotAssigned),
            Some(assigned) if given < assigned => return Err(OffsetRejection::StaleAssignment { assigned, given }),
            Some(_) => {}
        }
    }
    let committed = group
        .and_then(|group| group.offsets.get(&commit.at))
        .map(|offset| offset.offset);
    match committed {
        Some(committed) if commit.offset < committed && !rewind => Err(OffsetRejection::OffsetBehind { committed }),
        _ => Ok(()),
    }
}

/// Names a group's offsets and members. The same for all coordinators, as it is made of what is stored.
fn version(group: Option<&Group>) -> u64 {
    let mut hash = Fnv::default();
    let Some(group) = group else { return hash.0 };
    hash.add(&[1]);
    for member in group.members.keys() {
        hash.add(member.as_bytes());
        // A byte that no id has.
        hash.add(&[0]);
    }
    for (at, offset) in &group.offsets {
        hash.add(at.topic.as_bytes());
        hash.add(&at.partition.to_be_bytes());
        hash.add(&offset.offset.to_be_bytes());
        hash.add(&offset.committed_at_ms.to_be_bytes());
    }
    hash.0
}

/// FNV-1a: nobody gains anything by two groups of one version.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn judge_reset(
    group: Option<&Group>,
    topics: &Topics,
    at: TopicPartition,
    offset: Option<i64>,
) -> Result<(), OffsetRejection> {
    if let Some(offset) = offset.filter(|offset| *offset < 0) {
        return Err(OffsetRejection::InvalidOffset { offset });
    }
    if let Some(owner) = group.and_then(|group| group.owner(&at)) {
        return Err(OffsetRejection::Owned {
            member: owner.to_string(),
        });
    }
    // What is not there any more can be forgotten.
    if offset.is_some() { exists(topics, at) } else { Ok(()) }
}
