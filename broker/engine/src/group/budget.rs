//! How much memory a coordinator's state takes, and what is let in. Each count has its own bound, but
//! those multiply: members by names, groups by partitions, offsets by texts. The bound is one for all
//! coordinators of a broker, however many partitions of groups it leads.
//!
//! ```text
//!  0 ----- groups, members, subscriptions ----- 7/8 ----- offsets ----- max_state_bytes
//! ```
//!
//! What is there goes on beyond: heartbeats and commits that need no more than before, and what
//! assignments need that the growth of topics asks for.

use super::{
    coordinator::Coordinator,
    record::{Fact, MemberRecord, OffsetRecord, Record},
    rejection::GroupRejection,
    request::{Answer, MemberDescription, Position},
    types::{GroupId, MemberDetails},
};

/// Of a group apart from what it has: maps, timers, hints.
pub(super) const GROUP_BYTES: usize = 1_024;
/// Of a member apart from its texts: its maps, timers, and that it is remembered.
const MEMBER_BYTES: usize = 1_024;
/// Of a partition that is assigned: in its member's target and present assignment, and in the
/// group's maps of both.
pub(super) const PARTITION_BYTES: usize = 256;
const OFFSET_BYTES: usize = 128;
/// An offset's text counts in steps, so that a text of varying length does not become too large.
const TEXT_STEP_BYTES: usize = 64;
const TOPIC_BYTES: usize = 128;
const PATTERN_BYTES: usize = 128;
/// Of each text apart from its length.
const TEXT_BYTES: usize = 32;

/// About how many bytes what is said takes.
pub(super) fn fact_bytes(fact: &Fact) -> usize {
    match fact {
        // What a member has at present counts with its target.
        Fact::Group(_) | Fact::Current(..) => 0,
        Fact::Member(_, record) => record.as_ref().map_or(0, member_bytes),
        Fact::Target(_, target) => target.as_ref().map_or(0, |target| target.len() * PARTITION_BYTES),
        Fact::Offset(_, offset) => offset.as_ref().map_or(0, offset_bytes),
        Fact::Topic(_, topic) => topic.as_ref().map_or(0, |_| TOPIC_BYTES),
        Fact::Pattern(pattern, topics) => topics.as_ref().map_or(0, |topics| pattern_bytes(pattern, topics)),
    }
}

fn texts_bytes(texts: &[String]) -> usize {
    texts.iter().map(|text| TEXT_BYTES + text.len()).sum()
}

fn details_bytes(details: &MemberDetails) -> usize {
    let options = [details.rack.as_ref(), details.pattern.as_ref()];
    let options: usize = options.into_iter().flatten().map(String::len).sum();
    details.client_id.len() + details.client_host.len() + options + texts_bytes(&details.topics)
}

pub(super) fn member_bytes(record: &MemberRecord) -> usize {
    let instance = record.instance_id.as_ref().map_or(0, |id| 2 * id.len());
    MEMBER_BYTES + instance + details_bytes(&record.details)
}

pub(super) fn pattern_bytes(pattern: &str, topics: &[String]) -> usize {
    PATTERN_BYTES + pattern.len() + texts_bytes(topics)
}

pub(super) fn offset_bytes(offset: &OffsetRecord) -> usize {
    OFFSET_BYTES
        + offset
            .metadata
            .len()
            .next_multiple_of(TEXT_STEP_BYTES)
            .max(TEXT_STEP_BYTES)
}

/// About how many bytes an answer takes while it waits.
pub(super) fn answer_bytes(answer: &Result<Answer, GroupRejection>) -> usize {
    const ANSWER: usize = 256;
    const PLACE: usize = 20;
    ANSWER
        + match answer {
            Ok(Answer::Heartbeat(answer)) => answer
                .assignment
                .as_ref()
                .map_or(0, |told| PLACE * (told.assigned.len() + told.revoking.len())),
            Ok(Answer::Offsets(results) | Answer::Reset { results, .. }) => {
                results.len() * size_of::<(PlaceKey, OffsetResult)>()
            }
            Ok(Answer::Fetched(positions) | Answer::OffsetPage { positions, .. }) => {
                positions.iter().map(|(_, position)| position_bytes(position)).sum()
            }
            Ok(Answer::Group(group)) => {
                PLACE * 2 * group.topics.len() + group.members.iter().map(description_bytes).sum::<usize>()
            }
            Ok(Answer::Groups { groups, .. }) => {
                groups.len() * TEXT_BYTES + groups.iter().map(|of| of.group.len()).sum::<usize>()
            }
            Ok(Answer::Done) | Err(_) => 0,
        }
}

type PlaceKey = super::types::TopicPartition;
type OffsetResult = Result<(), super::rejection::OffsetRejection>;

pub(super) fn position_bytes(position: &Position) -> usize {
    let text = match position {
        Position::Committed { metadata, .. } => metadata.len(),
        _ => 0,
    };
    size_of::<(PlaceKey, Position)>() + text
}

pub(super) fn description_bytes(member: &MemberDescription) -> usize {
    let places = member.assigned.len() + member.revoking.len() + member.target.len();
    size_of::<MemberDescription>() + details_bytes(&member.details) + places * size_of::<PlaceKey>()
}

/// About how many bytes it takes that these can be taken back.
pub(super) fn undo_bytes(undo: &[Record]) -> usize {
    undo.iter()
        .map(|record| size_of::<Record>() + fact_bytes(&record.fact))
        .sum()
}

impl Coordinator {
    fn used_bytes(&self) -> usize {
        self.state_bytes().saturating_add(self.bytes_elsewhere)
    }

    /// Lets a group, a member or a subscription in that needs so much more.
    pub(super) fn admit_growth(&self, bytes: usize) -> Result<(), GroupRejection> {
        let max_bytes = self.config.max_state_bytes;
        if bytes > 0 && self.used_bytes().saturating_add(bytes) > max_bytes / 8 * 7 {
            return Err(GroupRejection::CoordinatorFull { max_bytes });
        }
        Ok(())
    }

    /// Whether there is room for offsets that need so much more.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        bytes == 0 || self.used_bytes().saturating_add(bytes) <= self.config.max_state_bytes
    }

    /// How much the assignment of topics by these names will take that the group does not have yet.
    pub(super) fn assignment_growth<'a>(&self, id: &str, names: impl Iterator<Item = &'a String>) -> usize {
        let Some(topics) = &self.topics else { return 0 };
        let group = self.groups.get(id);
        let has = |topic: &uuid::Uuid| {
            let record = group.and_then(|group| group.topics.get(topic));
            record.is_some_and(|record| record.unsubscribed_since_ms.is_none())
        };
        names
            .filter_map(|name| topics.named(name))
            .filter(|topic| !has(&topic.id))
            .map(|topic| TOPIC_BYTES + PARTITION_BYTES.saturating_mul(topic.partitions as usize))
            .fold(0, usize::saturating_add)
    }

    /// Sets memory aside for an assignment that is yet to be computed.
    pub(super) fn reserve(&mut self, id: &GroupId, bytes: usize) {
        if bytes > 0 {
            self.hints.entry(id.clone()).or_default().reserved_bytes += bytes;
            self.reserved_bytes += bytes;
        }
    }

    /// It is computed, or there is none to come.
    pub(super) fn release(&mut self, id: &GroupId) {
        if let Some(hints) = self.hints.get_mut(id) {
            self.reserved_bytes -= std::mem::take(&mut hints.reserved_bytes);
        }
    }
}
