//! What people ask of groups.

use millrace_engine::group::{
    Answer, Assignor, GroupDescription, GroupState, MAX_DESCRIBED_MEMBERS, MAX_TEXT_BYTES, MemberDescription,
    MemberState, Request as Asked,
};
use millrace_proto::{internal::v1::GroupsCall, v1};

use super::{
    Origin,
    named::partitions_out,
    route::{Call, ask},
    unexpected,
};
use crate::{
    broker::Broker,
    error::ApiError,
    groups::{Coordinator, Snapshot},
};

/// How many entries a page has.
///
/// # Errors
/// Negative.
pub fn page_size(asked: i32, most: usize) -> Result<usize, ApiError> {
    match usize::try_from(asked) {
        Ok(0) => Ok(most),
        Ok(size) => Ok(size.min(most)),
        Err(_) => Err(ApiError::field("page_size", "must be 0 or more")),
    }
}

/// A page is asked for by what was never the token of one.
pub fn invalid_token() -> ApiError {
    ApiError::field("page_token", "must be that of the last answer, or empty")
}

impl Call for v1::DescribeGroupRequest {
    const CALL: GroupsCall = GroupsCall::Describe;
    const READS: bool = true;
    type Answer = v1::DescribeGroupResponse;

    fn group(&self) -> &str {
        &self.group
    }

    async fn here(self, broker: &Broker, coordinator: &Coordinator, origin: &Origin) -> Result<Self::Answer, ApiError> {
        // It is a member's id.
        if self.page_token.len() > MAX_TEXT_BYTES {
            return Err(invalid_token());
        }
        let asked = Asked::DescribePage {
            group: self.group.as_str().into(),
            after: self.page_token,
            limit: page_size(self.page_size, MAX_DESCRIBED_MEMBERS)?,
        };
        match ask(broker, coordinator, asked, origin).await? {
            Answer::Group(described) => Ok(group_out(broker, self.group, *described)),
            other => Err(unexpected(&other)),
        }
    }
}

fn group_out(broker: &Broker, group: String, described: GroupDescription) -> v1::DescribeGroupResponse {
    let snapshot = broker.groups.topics(broker);
    let target_epoch = described.target_epoch;
    let next_page_token = match described.members.last() {
        Some(last) if described.more => last.member.to_string(),
        _ => String::new(),
    };
    let members = described.members.into_iter();
    v1::DescribeGroupResponse {
        group,
        state: state_out(Some(described.state)).into(),
        group_epoch: described.epoch,
        assignment_epoch: target_epoch,
        assignor: match described.assignor {
            Assignor::Uniform => v1::GroupAssignor::Uniform,
            Assignor::Range => v1::GroupAssignor::Range,
        }
        .into(),
        coordinator_id: broker.config.node_id,
        members: members
            .map(|member| member_out(&snapshot, member, target_epoch))
            .collect(),
        member_count: i32::try_from(described.member_count).unwrap_or(i32::MAX),
        next_page_token,
        last_rebalance_reason: described.last_rebalance.map_or_else(String::new, |last| last.reason),
    }
}

/// A state as it is sent; `None`: the group can't be read.
pub fn state_out(state: Option<GroupState>) -> v1::GroupState {
    match state {
        Some(GroupState::Empty) => v1::GroupState::Empty,
        Some(GroupState::Assigning) => v1::GroupState::Assigning,
        Some(GroupState::Reconciling) => v1::GroupState::Reconciling,
        Some(GroupState::Stable) => v1::GroupState::Stable,
        None => v1::GroupState::Unreadable,
    }
}

fn member_out(snapshot: &Snapshot, member: MemberDescription, target_epoch: i32) -> v1::GroupMember {
    let has_all = member.epoch == target_epoch && member.assigned.len() == member.target.len();
    let state = match member.state {
        MemberState::Left => v1::GroupMemberState::Left,
        MemberState::Fenced => v1::GroupMemberState::Fenced,
        MemberState::Active if !member.revoking.is_empty() => v1::GroupMemberState::Revoking,
        MemberState::Active if has_all => v1::GroupMemberState::Stable,
        MemberState::Active => v1::GroupMemberState::Waiting,
    };
    v1::GroupMember {
        member_id: member.member.to_string(),
        instance_id: member.instance,
        client_id: member.details.client_id,
        client_host: member.details.client_host,
        rack: member.details.rack.unwrap_or_default(),
        member_epoch: member.epoch,
        assigned: partitions_out(snapshot, &member.assigned),
        revoking: partitions_out(snapshot, &member.revoking),
        target: partitions_out(snapshot, &member.target),
        state: state.into(),
    }
}
