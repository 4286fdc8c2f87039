//! From and to what crosses the wire.

use millrace_proto::{
    internal::v1::{self, forward_describe_partition::Start},
    v1::{Edge, ErrorReason, start::At},
};
use uuid::Uuid;

use crate::{
    error::ApiError,
    partition::Offsets,
    replication::Key,
    rpc::convert::{ms_to_timestamp, timestamp_to_ms},
};

/// An error on its way to the broker that asked.
pub fn error_out(error: &ApiError) -> v1::ForwardError {
    v1::ForwardError {
        reason: error.reason().into(),
        message: error.message().to_owned(),
        metadata: error.metadata().clone().into_iter().collect(),
        fields: error
            .fields()
            .iter()
            .map(|(field, problem)| v1::ForwardWrongField {
                field: field.clone(),
                problem: problem.clone(),
            })
            .collect(),
    }
}

/// An error from a leader; a reason that this version does not know is the broker's own fault.
pub fn error_in(error: v1::ForwardError) -> ApiError {
    let reason = ErrorReason::try_from(error.reason).unwrap_or(ErrorReason::Internal);
    let fields = error.fields.into_iter().map(|wrong| (wrong.field, wrong.problem));
    error
        .metadata
        .iter()
        .fold(ApiError::new(reason, error.message), |known, (key, value)| {
            known.with(key, value)
        })
        .with_fields(fields.collect())
}

/// Where a partition stands.
pub fn offsets_out(offsets: &Offsets) -> v1::ForwardOffsets {
    v1::ForwardOffsets {
        log_start: offsets.log_start,
        last_stable: offsets.last_stable,
        high_watermark: offsets.high_watermark,
        log_end: offsets.log_end,
        leader_epoch: offsets.leader_epoch,
    }
}

/// The same from a leader.
pub fn offsets_in(offsets: &v1::ForwardOffsets) -> Offsets {
    Offsets {
        log_start: offsets.log_start,
        last_stable: offsets.last_stable,
        high_watermark: offsets.high_watermark,
        log_end: offsets.log_end,
        leader_epoch: offsets.leader_epoch,
    }
}

/// Which partition is meant.
///
/// # Errors
/// The id does not have 16 bytes.
pub fn key_in(topic_id: &[u8], partition: u32) -> Result<Key, ApiError> {
    let id = Uuid::from_slice(topic_id).map_err(|_| ApiError::field("topic_id", "must have 16 bytes"))?;
    Ok((id, partition))
}

/// Where reading begins, for the leader to find.
///
/// # Errors
/// A negative offset or a time out of bounds.
pub fn start_out(at: &At) -> Result<Start, ApiError> {
    Ok(match at {
        At::Offset(offset) if *offset < 0 => return Err(ApiError::field("offset", "must be 0 or more")),
        At::Offset(offset) => Start::Offset(*offset),
        At::Time(time) => Start::TimeMs(timestamp_to_ms("time", time)?),
        At::Edge(edge) => match Edge::try_from(*edge) {
            Ok(Edge::Unspecified | Edge::Beginning) => Start::Edge(v1::ForwardEdge::Beginning.into()),
            Ok(Edge::End) => Start::Edge(v1::ForwardEdge::End.into()),
            Err(_) => return Err(ApiError::field("edge", "is not one of the enum's values")),
        },
    })
}

/// The same from a broker that asks.
pub fn start_in(start: &Start) -> At {
    match start {
        Start::Offset(offset) => At::Offset(*offset),
        Start::TimeMs(ms) => At::Time(ms_to_timestamp(*ms).unwrap_or_default()),
        Start::Edge(edge) => At::Edge(match v1::ForwardEdge::try_from(*edge) {
            Ok(v1::ForwardEdge::End) => Edge::End.into(),
            _ => Edge::Beginning.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::WriteOutcome;

    #[test]
    fn errors_keep_reason_text_facts_and_advice() {
        let error = ApiError::new(ErrorReason::OffsetMismatch, "The log ends at 7.")
            .with("end_offset", 7)
            .outcome(WriteOutcome::NotWritten);
        assert_eq!(error_in(error_out(&error)), error);
        let wrong = ApiError::field("topics", "must name one");
        assert_eq!(error_in(error_out(&wrong)), wrong);
        let unknown = v1::ForwardError {
            reason: 9_999,
            ..v1::ForwardError::default()
        };
        assert_eq!(error_in(unknown).reason(), ErrorReason::Internal);
    }

    #[test]
    fn starts_mean_the_same_on_both_sides() {
        let time = ms_to_timestamp(1_700_000_000_123).unwrap();
        for at in [
            At::Offset(7),
            At::Time(time),
            At::Edge(Edge::Beginning.into()),
            At::Edge(Edge::End.into()),
        ] {
            assert_eq!(start_in(&start_out(&at).unwrap()), at);
        }
        assert!(start_out(&At::Offset(-1)).is_err());
        assert!(start_out(&At::Edge(99)).is_err());
    }
}
