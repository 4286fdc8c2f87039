//! What operators ask: which groups there are, what one is in, and to delete one.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use super::{
    budget::description_bytes,
    coordinator::{Coordinator, Turn},
    limits::{MAX_ANSWER_BYTES, MAX_DESCRIBED_MEMBERS, MAX_LISTED_GROUPS},
    rejection::GroupRejection,
    request::{Answer, GroupDescription, GroupListing, GroupState, MemberDescription},
    state::{Group, Member},
    types::{GroupId, MemberId},
};

impl Group {
    /// What the group is in.
    #[must_use]
    pub fn state(&self) -> GroupState {
        let epochs = self.epochs();
        if self.members.is_empty() {
            GroupState::Empty
        } else if epochs.epoch > epochs.target_epoch {
            GroupState::Assigning
        } else if self
            .members
            .values()
            .all(|member| member.is_settled(epochs.target_epoch))
        {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }
}

impl Coordinator {
    pub(super) fn describe(&self, id: &str, after: &str, limit: usize) -> Result<Answer, GroupRejection> {
        let group = self.known(id)?;
        let epochs = group.epochs();
        let limit = limit.clamp(1, MAX_DESCRIBED_MEMBERS);
        let mut left = group
            .members
            .range::<str, _>((Excluded(after), Unbounded))
            .filter_map(|(id, member)| describe_member(id, member))
            .peekable();
        let (mut members, mut bytes) = (Vec::new(), 0);
        while let Some(member) = left.next_if(|next| bytes == 0 || bytes + description_bytes(next) <= MAX_ANSWER_BYTES)
        {
            bytes += description_bytes(&member);
            members.push(member);
            if members.len() == limit {
                break;
            }
        }
        Ok(Answer::Group(Box::new(GroupDescription {
            state: group.state(),
            epoch: epochs.epoch,
            target_epoch: epochs.target_epoch,
            assignor: epochs.assignor,
            topics: group.topics.iter().map(|(id, topic)| (*id, topic.start)).collect(),
            member_count: group.members.len(),
            members,
            more: left.next().is_some(),
            last_rebalance: self.hints.get(id).and_then(|hints| hints.last_rebalance.clone()),
        })))
    }

    pub(super) fn list(&self, after: &str, limit: usize) -> Answer {
        let limit = limit.clamp(1, MAX_LISTED_GROUPS);
        let listing = |id: &GroupId, group: &Group| GroupListing {
            group: id.clone(),
            state: Some(group.state()),
            members: group.members.len(),
        };
        let mut page: BTreeMap<GroupId, GroupListing> = self
            .groups
            .after(after)
            .take(limit + 1)
            .map(|(id, group)| (id.clone(), listing(id, group)))
            .collect();
        // What is known of these is not all: no state is told.
        page.extend(
            self.stopped_groups()
                .filter(|id| &***id > after)
                .take(limit + 1)
                .map(|id| {
                    let stopped = GroupListing {
                        group: id.clone(),
                        state: None,
                        members: 0,
                    };
                    (id.clone(), stopped)
                }),
        );
        let more = page.len() > limit;
        Answer::Groups {
            groups: page.into_values().take(limit).collect(),
            more,
        }
    }

    pub(super) fn delete_group(&mut self, turn: &mut Turn, id: &GroupId) -> Result<Answer, GroupRejection> {
        let members = self.known(id)?.members.len();
        if members > 0 {
            return Err(GroupRejection::GroupNotEmpty {
                group: id.to_string(),
                members,
            });
        }
        self.erase(turn, id);
        Ok(Answer::Done)
    }
}

fn describe_member(id: &MemberId, member: &Member) -> Option<MemberDescription> {
    let record = member.record.as_ref()?;
    Some(MemberDescription {
        member: id.clone(),
        instance: record.instance_id.clone(),
        details: record.details.clone(),
        state: member.current.state,
        epoch: member.current.epoch,
        assigned: member.current.assigned.keys().copied().collect(),
        revoking: member.current.revoking.keys().copied().collect(),
        target: member.target.clone(),
    })
}
