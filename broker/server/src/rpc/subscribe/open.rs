//! What a subscriber opens its stream with, checked.

use std::{collections::HashSet, time::Duration};

use millrace_engine::{
    group::{MAX_SUBSCRIBED_TOPICS, MAX_TEXT_BYTES, check_group_id},
    names::check_topic_name,
};
use millrace_member::MemberConfig;
use millrace_proto::v1::{self, CommitMode, ErrorReason};
use uuid::Uuid;

use super::token::decode_token;
use crate::{
    broker::Broker,
    error::ApiError,
    groups::check_pattern,
    limits,
    rpc::{
        convert::whole_ms_duration,
        groups::{SESSION_TIMEOUT, start},
    },
};

/// A stream that may begin.
#[derive(Debug)]
pub struct Opening {
    /// The member that the broker will be.
    pub member: MemberConfig,
    /// Who it goes on as, and an epoch that it had.
    pub resumed: Option<(Uuid, i32)>,
    /// Where it goes on in partitions that it still has.
    pub positions: Vec<v1::TopicOffset>,
    /// Only the subscriber commits.
    pub manual: bool,
    /// How long the subscriber may let wait what is its turn.
    pub processing_timeout: Duration,
    /// The first credit.
    pub credit: v1::SubscribeCredit,
}

/// Checks the first request of a stream.
///
/// # Errors
/// The first field that is wrong.
pub fn check(broker: &Broker, open: v1::SubscribeOpen) -> Result<Opening, ApiError> {
    check_group_id(&open.group)?;
    check_topics(&open)?;
    if let Some(instance) = &open.instance_id
        && !(1..=MAX_TEXT_BYTES).contains(&instance.len())
    {
        return Err(field("instance_id", format!("must have 1 to {MAX_TEXT_BYTES} bytes")));
    }
    for (name, text) in [("client_id", &open.client_id), ("rack", &open.rack)] {
        if text.len() > MAX_TEXT_BYTES {
            return Err(field(name, format!("must have at most {MAX_TEXT_BYTES} bytes")));
        }
    }
    start("open.start", open.start)?;
    let resumed = match &open.resume_token {
        Some(token) => Some(decode_token(&broker.cluster_id(), &open.group, token)?),
        None => None,
    };
    check_positions(&open)?;
    let manual = match CommitMode::try_from(open.commit_mode) {
        Ok(CommitMode::Unspecified | CommitMode::Auto) => false,
        Ok(CommitMode::Manual) => true,
        Err(_) => return Err(field("commit_mode", "is not one of the enum's values")),
    };
    let groups = &broker.config.groups;
    let session_timeout = within(
        "session_timeout",
        open.session_timeout,
        SESSION_TIMEOUT,
        groups.min_session_timeout..=groups.max_session_timeout,
    )?;
    let reconnect_timeout = match open.reconnect_timeout {
        None => None,
        asked => Some(whole_ms_duration(
            "open.reconnect_timeout",
            asked,
            session_timeout,
            session_timeout,
        )?),
    };
    let revoke_timeout = within(
        "revoke_timeout",
        open.revoke_timeout,
        limits::SUBSCRIBER_REVOKE_TIMEOUT,
        limits::LEAST_REVOKE_TIMEOUT..=limits::LONGEST_REVOKE_TIMEOUT,
    )?;
    let processing_timeout = within(
        "processing_timeout",
        open.processing_timeout,
        limits::SUBSCRIBER_PROCESSING_TIMEOUT,
        limits::LEAST_PROCESSING_TIMEOUT..=limits::LONGEST_PROCESSING_TIMEOUT,
    )?;
    let settings = v1::MemberSettings {
        client_id: open.client_id,
        rack: open.rack,
        topics: open.topics,
        topic_pattern: open.topic_pattern,
        start: open.start,
        session_timeout: session_timeout.try_into().ok(),
        reconnect_timeout: reconnect_timeout.and_then(|timeout| timeout.try_into().ok()),
        // The subscriber's time is over before the coordinator's: what it does not give back is taken from it alone.
        rebalance_timeout: (revoke_timeout + limits::REVOKE_MARGIN).try_into().ok(),
        assignor: v1::GroupAssignor::Unspecified.into(),
    };
    Ok(Opening {
        member: MemberConfig {
            group: open.group,
            instance_id: open.instance_id,
            settings,
            session_timeout,
            rebalance_timeout: revoke_timeout,
        },
        resumed,
        positions: open.positions,
        manual,
        processing_timeout,
        credit: open.credit.unwrap_or_default(),
    })
}

fn field(name: &str, problem: impl Into<String>) -> ApiError {
    ApiError::field(format!("open.{name}"), problem)
}

/// Checks a topic's name before anything is said about it.
///
/// # Errors
/// It can't be one.
pub fn check_name(field: &str, name: &str) -> Result<(), ApiError> {
    check_topic_name(name).map_err(|error| ApiError::from(error).with("field", field))
}

fn check_topics(open: &v1::SubscribeOpen) -> Result<(), ApiError> {
    if open.topics.is_empty() && open.topic_pattern.is_empty() {
        return Err(field("topics", "must name at least one, or set a pattern"));
    }
    if open.topics.len() > MAX_SUBSCRIBED_TOPICS {
        return Err(field(
            "topics",
            format!("must name at most {MAX_SUBSCRIBED_TOPICS}: use a pattern"),
        ));
    }
    for name in &open.topics {
        check_name("open.topics", name)?;
    }
    if !open.topic_pattern.is_empty() {
        check_pattern(&open.topic_pattern).map_err(|problem| {
            ApiError::new(
                ErrorReason::InvalidTopicPattern,
                format!("The pattern of topics can't be used: {problem}."),
            )
            .with("field", "open.topic_pattern")
        })?;
    }
    Ok(())
}

fn check_positions(open: &v1::SubscribeOpen) -> Result<(), ApiError> {
    if open.resume_token.is_none() && !open.positions.is_empty() {
        return Err(field("positions", "may be set only with a resume token"));
    }
    check_count("open.positions", open.positions.len(), 0)?;
    let mut seen = HashSet::new();
    for position in &open.positions {
        check_name("open.positions", &position.topic)?;
        if position.offset < 0 || position.partition < 0 {
            return Err(field("positions", "must have numbers and offsets of 0 or more"));
        }
        if !seen.insert((position.topic.as_str(), position.partition)) {
            return Err(field("positions", "names a partition for the second time"));
        }
    }
    Ok(())
}

/// Checks how many partitions a command names.
///
/// # Errors
/// Too few or too many.
pub fn check_count(field: &str, count: usize, least: usize) -> Result<(), ApiError> {
    let most = limits::MAX_PARTITIONS_PER_REQUEST;
    if (least..=most).contains(&count) {
        return Ok(());
    }
    Err(ApiError::field(
        field,
        format!("must name {least} to {most} partitions"),
    ))
}

fn within(
    name: &str,
    value: Option<prost_types::Duration>,
    default: Duration,
    bounds: std::ops::RangeInclusive<Duration>,
) -> Result<Duration, ApiError> {
    let value = whole_ms_duration(&format!("open.{name}"), value, default, *bounds.end())?;
    // A cluster that allows less has other defaults.
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(field(
        name,
        format!("must be from {:?} to {:?}", bounds.start(), bounds.end()),
    ))
}
