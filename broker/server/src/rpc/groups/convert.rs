//! Between the contract's messages and the rules' requests.

use std::time::Duration;

use millrace_engine::group::{Assignor, MAX_TEXT_BYTES, MemberDetails, Start};
use millrace_proto::v1::{self, ErrorReason, start::At};

use super::refusals::{REBALANCE_TIMEOUT, RECONNECT_TIMEOUT, SESSION_TIMEOUT};
use crate::{
    error::ApiError,
    groups::check_pattern,
    rpc::convert::{timestamp_to_ms, whole_ms_duration},
};

/// The longest time that a message may give; the rules are stricter.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Checks the id of a member or an instance.
///
/// # Errors
/// Empty or too long.
pub fn check_id(field: &str, id: &str) -> Result<(), ApiError> {
    if (1..=MAX_TEXT_BYTES).contains(&id.len()) {
        return Ok(());
    }
    Err(ApiError::field(field, format!("must have 1 to {MAX_TEXT_BYTES} bytes")))
}

/// A partition's number.
///
/// # Errors
/// Negative.
pub fn partition_number(field: &str, number: i32) -> Result<u32, ApiError> {
    u32::try_from(number).map_err(|_| ApiError::field(field, "a partition's number must be 0 or more"))
}

/// What a member says of itself. `is_static`: whether it has an instance id; `host`: where it is connected from.
///
/// # Errors
/// A field that is out of bounds.
pub fn details(settings: v1::MemberSettings, is_static: bool, host: &str) -> Result<MemberDetails, ApiError> {
    let session_timeout = whole_ms_duration(
        "settings.session_timeout",
        settings.session_timeout,
        SESSION_TIMEOUT,
        LONGEST,
    )?;
    let reconnect_default = match is_static {
        true => session_timeout,
        false => RECONNECT_TIMEOUT.min(session_timeout),
    };
    let pattern = Some(settings.topic_pattern).filter(|pattern| !pattern.is_empty());
    if let Some(pattern) = &pattern {
        check_pattern(pattern).map_err(|problem| {
            ApiError::new(
                ErrorReason::InvalidTopicPattern,
                format!("The pattern of topics can't be used: {problem}."),
            )
            .with("field", "settings.topic_pattern")
        })?;
    }
    Ok(MemberDetails {
        client_id: settings.client_id,
        client_host: host.to_owned(),
        rack: Some(settings.rack).filter(|rack| !rack.is_empty()),
        session_timeout,
        reconnect_timeout: whole_ms_duration(
            "settings.reconnect_timeout",
            settings.reconnect_timeout,
            reconnect_default,
            session_timeout,
        )?,
        rebalance_timeout: whole_ms_duration(
            "settings.rebalance_timeout",
            settings.rebalance_timeout,
            REBALANCE_TIMEOUT,
            LONGEST,
        )?,
        assignor: match v1::GroupAssignor::try_from(settings.assignor) {
            Ok(v1::GroupAssignor::Unspecified) => None,
            Ok(v1::GroupAssignor::Uniform) => Some(Assignor::Uniform),
            Ok(v1::GroupAssignor::Range) => Some(Assignor::Range),
            Err(_) => return Err(ApiError::field("settings.assignor", "is not one of the enum's values")),
        },
        topics: settings.topics,
        pattern,
        start: start("settings.start", settings.start)?,
    })
}

/// Where a group begins in a topic.
///
/// # Errors
/// An offset, or nothing that a start can be.
pub fn start(field: &str, start: Option<v1::Start>) -> Result<Start, ApiError> {
    match start.and_then(|start| start.at) {
        None => Ok(Start::Beginning),
        Some(At::Edge(edge)) => match v1::Edge::try_from(edge) {
            Ok(v1::Edge::Unspecified | v1::Edge::Beginning) => Ok(Start::Beginning),
            Ok(v1::Edge::End) => Ok(Start::End),
            Err(_) => Err(ApiError::field(field, "is not one of the enum's values")),
        },
        Some(At::Time(time)) => Ok(Start::Time(timestamp_to_ms(field, &time)?)),
        Some(At::Offset(_)) => Err(ApiError::field(
            field,
            "must be a time or an end, as one offset means nothing to several partitions",
        )),
    }
}

/// A duration as it is sent.
pub fn duration_out(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

#[cfg(test)]
mod tests {
    use millrace_engine::group::{Fact, MemberRecord, Record};

    use super::*;

    /// A coordinator that takes over goes by the records: it must not know other times than the one before.
    #[test]
    fn a_member_is_the_same_to_the_next_coordinator_whatever_parts_of_a_millisecond_it_asks_for() {
        let asked = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
        let settings = v1::MemberSettings {
            topics: vec!["t".into()],
            session_timeout: asked(1, 500_000),
            reconnect_timeout: asked(1, 499_999),
            rebalance_timeout: asked(2, 1),
            ..v1::MemberSettings::default()
        };
        let details = details(settings, false, "host").unwrap();
        assert_eq!(details.session_timeout, Duration::from_millis(1_001));
        let live = Record {
            group: "g".into(),
            fact: Fact::Member(
                "m".into(),
                Some(MemberRecord {
                    instance_id: None,
                    details,
                }),
            ),
        };
        let stored = live.encode();
        assert_eq!(Record::decode(&stored.key, stored.value.as_deref()), Ok(live));
    }
}
