//! Between the client's messages and the rules' requests, as the server converts them.

use std::time::Duration;

use millrace_engine::group::{GroupRejection, HeartbeatAnswer, MemberDetails, Start, TopicPartition};
use millrace_proto::v1::{self, ErrorReason};

use millrace_member::by_topic;

use super::id_of;
use crate::error::Error;

pub(super) fn details(settings: v1::MemberSettings) -> MemberDetails {
    let time = |time: Option<_>| time.and_then(|time| Duration::try_from(time).ok()).unwrap_or_default();
    let from_end = settings.start.and_then(|start| start.at) == Some(v1::start::At::Edge(v1::Edge::End.into()));
    MemberDetails {
        client_id: settings.client_id,
        client_host: "host".to_owned(),
        rack: None,
        session_timeout: time(settings.session_timeout),
        reconnect_timeout: time(settings.reconnect_timeout),
        rebalance_timeout: time(settings.rebalance_timeout),
        assignor: None,
        topics: settings.topics,
        pattern: None,
        start: if from_end { Start::End } else { Start::Beginning },
    }
}

pub(super) fn answer_out(answer: HeartbeatAnswer) -> v1::HeartbeatAnswer {
    let partitions = |told: Vec<TopicPartition>| {
        let ids = told.iter().map(id_of).collect();
        by_topic(&ids)
    };
    v1::HeartbeatAnswer {
        member_epoch: answer.epoch,
        assignment_version: answer.version,
        heartbeat_interval: answer.heartbeat_interval.try_into().ok(),
        assignment: answer.assignment.map(|told| v1::MemberAssignment {
            assigned: partitions(told.assigned),
            revoking: partitions(told.revoking),
            revoke_within: told.revoke_within.and_then(|within| within.try_into().ok()),
        }),
    }
}

/// The server's errors for what the rules refuse.
pub(super) fn error_of(rejection: &GroupRejection) -> Error {
    use GroupRejection as R;
    let reason = match rejection {
        R::Loading | R::NotStored => ErrorReason::CoordinatorNotAvailable,
        R::NotCoordinator { .. } => ErrorReason::NotCoordinator,
        R::CoordinatorFailed { .. } | R::GroupUnreadable { .. } => ErrorReason::GroupUnreadable,
        R::Overloaded => ErrorReason::Overloaded,
        R::UnknownMember { .. } | R::MemberLeft { .. } => ErrorReason::UnknownMember,
        R::FencedMemberEpoch { .. } => ErrorReason::FencedMember,
        R::StaleMemberEpoch { .. } => ErrorReason::StaleMemberEpoch,
        R::UnreleasedInstanceId { retry_after_ms, .. } => {
            let error = Error::server(ErrorReason::InstanceInUse, rejection.to_string());
            return error.with_retry_after_ms(*retry_after_ms);
        }
        R::FencedInstanceId { .. } => ErrorReason::FencedInstance,
        _ => ErrorReason::InvalidRequest,
    };
    Error::server(reason, rejection.to_string())
}
