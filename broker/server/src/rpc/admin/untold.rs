//! Brokers that have not told what they hold, and what their silence means for a plan: they keep what they have and get
//! nothing, as they may be full.

use millrace_engine::{BrokerId, Cluster};
use millrace_placement::{BlockReason, BrokerState, PlanError};
use millrace_proto::v1::ErrorReason;

use super::{
    id_list,
    placement::{plan_error, state},
};
use crate::{error::ApiError, forward::Inventories};

/// The brokers that would get replicas if they had told what they hold.
pub fn silent(cluster: &Cluster, leaving: &[BrokerId], told: &Inventories) -> Vec<BrokerId> {
    let brokers = cluster.brokers.values();
    brokers
        .filter(|known| state(known, leaving.contains(&known.id)) == BrokerState::Active)
        .map(|known| known.id)
        .filter(|id| !told.contains_key(id))
        .collect()
}

/// What a plan's reader should know of brokers that have not told what they hold, in sentences.
pub fn notices(cluster: &Cluster, leaving: &[BrokerId], told: &Inventories) -> Vec<String> {
    let mut sentences: Vec<String> = silent(cluster, leaving, told).into_iter().map(gets_nothing).collect();
    let unheard = |replicas: &[BrokerId]| !replicas.iter().any(|id| told.contains_key(id));
    let partitions = cluster.partitions();
    match partitions.filter(|(_, _, record)| unheard(&record.replicas)).count() {
        0 => {}
        many => sentences.push(format!(
            "No broker that holds them tells how large {many} of the partitions are: they count as empty."
        )),
    }
    sentences
}

fn gets_nothing(broker: BrokerId) -> String {
    format!("Broker {broker} is in service but does not tell how full its disk is: it gets nothing.")
}

/// Why there is no plan by what brokers have told. Where it may be because some in service have not, these are named, and
/// the same call may succeed once they answer.
pub fn refused(cluster: &Cluster, leaving: &[BrokerId], told: &Inventories, error: PlanError) -> ApiError {
    let silent = silent(cluster, leaving, told);
    if !lacks(&error, &silent) {
        return plan_error(cluster, error);
    }
    let message = plan_error(cluster, error).message().to_owned();
    let named: Vec<String> = silent.iter().copied().map(gets_nothing).collect();
    ApiError::new(
        ErrorReason::BrokerNotReady,
        format!(
            "{message} {} Try again, or see why it does not answer.",
            named.join(" ")
        ),
    )
    .with("broker_ids", id_list(&silent))
}

/// Whether there might be a plan if these brokers, which get nothing, could get replicas.
fn lacks(error: &PlanError, silent: &[BrokerId]) -> bool {
    if silent.is_empty() {
        return false;
    }
    let suffice = |wanted: usize, usable: usize| usable.saturating_add(silent.len()) >= wanted;
    match error {
        PlanError::TooFewBrokers { wanted, usable } => suffice(*wanted, *usable),
        PlanError::Blocked(blocked) => blocked.iter().all(|one| match one.reason {
            BlockReason::TooFewBrokers { wanted, usable } => suffice(wanted, usable),
            BlockReason::DiskFull { .. } | BlockReason::RackSpread => true,
        }),
        PlanError::NotActive { id, .. } => silent.contains(id),
        PlanError::RacksUnavailable => true,
        PlanError::NoReplicas
        | PlanError::TooFewRacks { .. }
        | PlanError::UnknownTopic { .. }
        | PlanError::UnknownBroker { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{cluster_of, roomy, with_topic},
        *,
    };

    fn too_few(wanted: usize) -> PlanError {
        PlanError::TooFewBrokers { wanted, usable: 2 }
    }

    #[test]
    fn only_who_would_get_replicas_is_missed() {
        let mut cluster = cluster_of(&[1, 2, 3, 4]);
        let mut told = roomy(&cluster);
        told.retain(|id, _| *id == 1);
        cluster.brokers.get_mut(&2).unwrap().cordoned = true;
        cluster.brokers.get_mut(&3).unwrap().fenced = true;
        assert_eq!(silent(&cluster, &[], &told), [4]);
        assert!(silent(&cluster, &[4], &told).is_empty());
    }

    #[test]
    fn a_refusal_that_silence_may_have_caused_names_the_silent_and_may_be_asked_again() {
        let cluster = cluster_of(&[1, 2, 3]);
        let mut told = roomy(&cluster);
        let final_one = refused(&cluster, &[], &told, too_few(3));
        assert_eq!(final_one.reason(), ErrorReason::NotEnoughBrokers);
        told.remove(&3);
        let passing = refused(&cluster, &[], &told, too_few(3));
        assert_eq!(passing.reason(), ErrorReason::BrokerNotReady);
        assert_eq!(passing.metadata()["broker_ids"], "3");
        assert!(passing.message().contains("Broker 3 is in service"), "{passing}");
        let four = refused(&cluster, &[], &told, too_few(4));
        assert_eq!(four.reason(), ErrorReason::NotEnoughBrokers, "it would not help");
        let other = PlanError::NotActive {
            id: 2,
            state: BrokerState::Cordoned,
        };
        assert_eq!(
            refused(&cluster, &[], &told, other).reason(),
            ErrorReason::PlacementBlocked
        );
    }

    #[test]
    fn partitions_of_unknown_size_are_counted() {
        let cluster = with_topic(&[1, 2, 3, 4], vec![vec![1, 2], vec![2, 4], vec![3, 4]]);
        let mut told = roomy(&cluster);
        assert!(notices(&cluster, &[], &told).is_empty());
        told.retain(|id, _| [1, 3].contains(id));
        let said = notices(&cluster, &[2, 4], &told);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("1 of the partitions"), "{said:?}");
    }
}
