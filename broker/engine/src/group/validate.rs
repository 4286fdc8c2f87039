//! What requests may hold.

use std::time::Duration;

use super::{
    limits::{
        GroupConfig, MAX_GROUP_ID_BYTES, MAX_OWNED_PARTITIONS, MAX_PARTITIONS_PER_REQUEST, MAX_PATTERN_BYTES,
        MAX_SUBSCRIBED_TOPICS, MAX_TEXT_BYTES,
    },
    rejection::GroupRejection,
    request::Heartbeat,
    types::MemberDetails,
};
use crate::names::check_topic_name;

/// Checks a group's id: any text that people can tell apart.
///
/// # Errors
/// The rule that it breaks.
pub fn check_group_id(group: &str) -> Result<(), GroupRejection> {
    let invalid = |reason: String| Err(GroupRejection::InvalidGroupId { reason });
    if group.is_empty() {
        return invalid("a group's id must not be empty".to_owned());
    }
    if group.len() > MAX_GROUP_ID_BYTES {
        return invalid(format!(
            "a group's id has at most {MAX_GROUP_ID_BYTES} bytes; this one has {}",
            group.len()
        ));
    }
    if let Some(position) = group.find(char::is_control) {
        return invalid(format!(
            "a group's id has no control characters; there is one at byte {position}"
        ));
    }
    Ok(())
}

/// A step's time-outs fit the record's field.
fn fits(duration: Duration) -> bool {
    u32::try_from(duration.as_millis()).is_ok()
}

fn invalid(field: &'static str, reason: impl Into<String>) -> GroupRejection {
    GroupRejection::InvalidRequest {
        field,
        reason: reason.into(),
    }
}

fn check_text(field: &'static str, text: &str, may_be_empty: bool) -> Result<(), GroupRejection> {
    if text.is_empty() && !may_be_empty {
        return Err(invalid(field, "must not be empty"));
    }
    if text.len() > MAX_TEXT_BYTES {
        return Err(invalid(
            field,
            format!("has at most {MAX_TEXT_BYTES} bytes, not {}", text.len()),
        ));
    }
    Ok(())
}

pub(super) fn check_partitions(count: usize) -> Result<(), GroupRejection> {
    if count > MAX_PARTITIONS_PER_REQUEST {
        return Err(GroupRejection::TooManyPartitions);
    }
    Ok(())
}

pub(super) fn check_heartbeat(config: &GroupConfig, beat: &Heartbeat) -> Result<(), GroupRejection> {
    check_text("member_id", &beat.member, false)?;
    if let Some(instance) = &beat.instance {
        check_text("instance_id", instance, false)?;
    }
    if beat.epoch < 0 {
        return Err(invalid("member_epoch", "must be 0 to join, or the last answer's"));
    }
    let owned = beat.owned.as_ref().map_or(0, Vec::len);
    if owned > MAX_OWNED_PARTITIONS {
        return Err(invalid(
            "owned",
            format!("a member owns at most {MAX_OWNED_PARTITIONS} partitions, not {owned}: name each once"),
        ));
    }
    match &beat.details {
        Some(details) => check_details(config, details),
        None if beat.epoch == 0 => Err(invalid("details", "are needed to join")),
        None => Ok(()),
    }
}

fn check_details(config: &GroupConfig, details: &MemberDetails) -> Result<(), GroupRejection> {
    check_text("client_id", &details.client_id, true)?;
    check_text("client_host", &details.client_host, true)?;
    check_text("rack", details.rack.as_deref().unwrap_or_default(), true)?;
    let (min, max) = (config.min_session_timeout, config.max_session_timeout);
    if details.session_timeout < min || details.session_timeout > max || !fits(details.session_timeout) {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        return Err(GroupRejection::InvalidSessionTimeout {
            min_ms: ms(min),
            max_ms: ms(max),
        });
    }
    if details.reconnect_timeout > details.session_timeout {
        return Err(invalid("reconnect_timeout", "must not be above session_timeout"));
    }
    let (min, max) = (config.min_rebalance_timeout, config.max_rebalance_timeout);
    if details.rebalance_timeout < min || details.rebalance_timeout > max || !fits(details.rebalance_timeout) {
        let (least, most) = (min.as_millis(), max.as_millis());
        return Err(invalid(
            "rebalance_timeout",
            format!("must be from {least} ms to {most} ms"),
        ));
    }
    if details.topics.len() > MAX_SUBSCRIBED_TOPICS {
        return Err(invalid(
            "topics",
            format!("a member names at most {MAX_SUBSCRIBED_TOPICS}: use a pattern"),
        ));
    }
    for topic in &details.topics {
        check_topic_name(topic).map_err(|error| invalid("topics", error.to_string()))?;
    }
    match &details.pattern {
        Some(pattern) if pattern.is_empty() || pattern.len() > MAX_PATTERN_BYTES => Err(invalid(
            "topic_pattern",
            format!("has from 1 to {MAX_PATTERN_BYTES} bytes"),
        )),
        None if details.topics.is_empty() => Err(invalid("topics", "name at least one, or a pattern")),
        _ => Ok(()),
    }
}
