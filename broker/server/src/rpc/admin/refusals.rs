//! What the metadata quorum refuses to operators, as the contract's errors: the reason by which
//! a program decides, and a sentence that says what to do.

use millrace_engine::cluster::{
    BrokerError, ElectionError, MaintenanceError, MoveError, PartitionError, PartitionList, RefusedMove, VoterError,
};
use millrace_proto::v1::ErrorReason;

use crate::error::{ApiError, sentence, unknown_topic};

/// Something is needed by partitions.
fn still_needed(message: String, partitions: &PartitionList) -> ApiError {
    ApiError::new(ErrorReason::StillNeeded, message).with("partitions", partitions.count)
}

impl From<PartitionError> for ApiError {
    fn from(error: PartitionError) -> Self {
        let message = sentence(&error);
        match error {
            PartitionError::UnknownTopic { topic } => unknown_topic(&topic),
            PartitionError::OtherTopicId { .. } => Self::new(ErrorReason::UnknownTopic, message),
            PartitionError::UnknownPartition { count, .. } => {
                Self::new(ErrorReason::UnknownPartition, message).with("partitions", count)
            }
        }
    }
}

impl From<RefusedMove> for ApiError {
    fn from(refused: RefusedMove) -> Self {
        let partition = refused.partition.to_string();
        // The name of a topic stays as it is, also at the beginning of a sentence.
        let message = format!("Partition {refused}.");
        match refused.error {
            MoveError::Partition(error) => error.into(),
            error @ (MoveError::InvalidTarget { .. } | MoveError::Repeated) => {
                Self::field("reassignments", format!("{partition}: {error}"))
            }
            MoveError::NoMove => Self::new(ErrorReason::NoReassignmentInProgress, message),
            MoveError::OnlyCandidates | MoveError::TooFewClean { .. } | MoveError::TooFewInSync { .. } => {
                Self::new(ErrorReason::StillNeeded, message)
            }
        }
    }
}

impl From<ElectionError> for ApiError {
    fn from(error: ElectionError) -> Self {
        let message = sentence(&error);
        match error {
            ElectionError::Partition(error) => error.into(),
            ElectionError::Repeated => Self::field("partitions", "names a partition twice"),
            ElectionError::NotNeeded { .. } => Self::new(ErrorReason::ElectionNotNeeded, message),
            ElectionError::HasLeader { .. } => Self::new(ErrorReason::NotSupported, message),
            ElectionError::NotReplica { .. } | ElectionError::NotInSync { .. } | ElectionError::NotAvailable { .. } => {
                Self::new(ErrorReason::EligibleLeaderNotAvailable, message)
            }
        }
    }
}

impl From<BrokerError> for ApiError {
    fn from(error: BrokerError) -> Self {
        let message = sentence(&error);
        match error {
            BrokerError::HoldsReplicas { replicas, .. } => still_needed(message, &replicas),
            BrokerError::OnlyCleanReplica { partitions, .. } => still_needed(message, &partitions),
            BrokerError::Votes { voter_id, .. } => {
                Self::new(ErrorReason::StillNeeded, message).with("voter_id", voter_id)
            }
            BrokerError::InService { .. } | BrokerError::NotRemoved { .. } => {
                Self::new(ErrorReason::BrokerState, message)
            }
            BrokerError::UnderMaintenance { id, holder } => Self::new(ErrorReason::MaintenanceTaken, message)
                .with("holder", holder)
                .with("broker_id", id),
            BrokerError::DirectoryTaken { .. } => Self::field("directory_id", error.to_string()),
        }
    }
}

impl From<MaintenanceError> for ApiError {
    fn from(error: MaintenanceError) -> Self {
        let message = sentence(&error);
        match error {
            MaintenanceError::Taken { holder, broker_id } | MaintenanceError::AcquiredAgain { holder, broker_id } => {
                Self::new(ErrorReason::MaintenanceTaken, message)
                    .with("holder", holder)
                    .with("broker_id", broker_id)
            }
            MaintenanceError::Needed { partitions, .. } => still_needed(message, &partitions),
            MaintenanceError::InvalidTime { .. } => Self::field("ttl", error.to_string()),
            MaintenanceError::InvalidHolder => Self::field("holder", error.to_string()),
            // Someone else has it: to give back what one does not have is a mistake, not a wish to wait.
            MaintenanceError::NotHeld {
                present_holder,
                present_broker_id,
                ..
            } => Self::new(ErrorReason::MaintenanceTaken, message)
                .with("holder", present_holder)
                .with("broker_id", present_broker_id),
        }
    }
}

impl From<VoterError> for ApiError {
    fn from(error: VoterError) -> Self {
        let message = sentence(&error);
        match error {
            VoterError::Unknown { .. } => Self::new(ErrorReason::UnknownVoter, message),
            VoterError::OtherDirectory { .. } => Self::new(ErrorReason::BrokerState, message),
            VoterError::TooMany | VoterError::Exhausted => Self::new(ErrorReason::LimitReached, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_engine::cluster::{ListedPartition, PartitionRef};
    use uuid::Uuid;

    use super::*;

    fn partition() -> PartitionRef {
        PartitionRef {
            topic: "t".into(),
            topic_id: Uuid::nil(),
            partition: 3,
        }
    }

    fn refused(error: MoveError) -> ApiError {
        let partition = partition();
        RefusedMove { partition, error }.into()
    }

    #[test]
    fn a_refused_move_names_its_partition() {
        let error = refused(MoveError::TooFewInSync {
            in_sync: 1,
            required: 2,
        });
        assert_eq!(error.reason(), ErrorReason::StillNeeded);
        assert!(
            error.to_string().contains("Partition t-3: without the replicas"),
            "{error}"
        );
        let error = refused(MoveError::InvalidTarget {
            reason: "broker 9 is not registered".into(),
        });
        assert_eq!(error.reason(), ErrorReason::InvalidRequest);
        assert!(error.to_string().contains("t-3: broker 9 is not registered"), "{error}");
        assert_eq!(
            refused(MoveError::NoMove).reason(),
            ErrorReason::NoReassignmentInProgress
        );
    }

    #[test]
    fn what_needs_a_broker_is_counted() {
        let partitions = PartitionList {
            count: 25,
            first: vec![ListedPartition {
                partition: partition(),
                reason: "1 in sync without it, 2 needed".into(),
            }],
        };
        let message = ApiError::from(MaintenanceError::Needed { id: 1, partitions }).to_message();
        assert_eq!(message.metadata.get("partitions").map(String::as_str), Some("25"));
        assert!(
            message.message.contains("t-3 (1 in sync without it"),
            "{}",
            message.message
        );
        assert!(message.message.contains("and 24 more"), "{}", message.message);
    }

    #[test]
    fn an_election_that_changes_nothing_is_told_from_one_that_can_not_be() {
        let reason = |error: ElectionError| ApiError::from(error).reason();
        assert_eq!(
            reason(ElectionError::NotNeeded { replica: 1 }),
            ErrorReason::ElectionNotNeeded
        );
        assert_eq!(
            reason(ElectionError::NotInSync { replica: 1 }),
            ErrorReason::EligibleLeaderNotAvailable
        );
    }
}
