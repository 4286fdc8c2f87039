//! Evening out the cluster: replicas over racks, onto brokers that were added, and preferred leaders.

use std::num::NonZeroU64;

use millrace_engine::{BrokerId, Cluster};
use millrace_placement::{Options, Plan, add_brokers, balance_leaders, repair_racks};
use millrace_proto::v1;

use super::{
    AdminService, drain, moves,
    moves::{Settled, throttle_field},
    placement, untold,
};
use crate::{
    error::ApiError,
    forward::{Inventories, take_inventories},
};

/// Plans moves that even out the cluster, and has them made.
///
/// # Errors
/// An unknown broker or one that takes no replicas, a throttle out of bounds, or as of the metadata quorum.
pub async fn rebalance(
    service: &AdminService,
    request: v1::RebalanceRequest,
) -> Result<v1::RebalanceResponse, ApiError> {
    let cluster = service.latest().await?;
    throttle_field(request.throttle_bytes_per_second)?;
    drain::check_brokers(&cluster, &request.broker_ids)?;
    let told = take_inventories(&service.0, &cluster, &[]).await;
    rebalance_told(service, request, &*service.latest().await?, &told).await
}

/// The same by what the brokers have told.
pub async fn rebalance_told(
    service: &AdminService,
    request: v1::RebalanceRequest,
    cluster: &Cluster,
    told: &Inventories,
) -> Result<v1::RebalanceResponse, ApiError> {
    let throttle = throttle_field(request.throttle_bytes_per_second)?;
    let settled = settled(cluster, &request.broker_ids, throttle, told)?;
    let planned = settled.planned(cluster);
    if !request.validate_only {
        moves::carry_out(service, settled.moves, Ok).await?;
    }
    Ok(v1::RebalanceResponse { moves: Some(planned) })
}

fn settled(
    cluster: &Cluster,
    onto: &[BrokerId],
    throttle: Option<NonZeroU64>,
    told: &Inventories,
) -> Result<Settled, ApiError> {
    let plan = plan(cluster, onto, told)?;
    let mut settled = Settled::of(cluster, &plan, throttle);
    settled.notices.extend(untold::notices(cluster, &[], told));
    if !settled.moves.is_empty() {
        settled.notices.extend(not_in_sync(cluster));
    }
    Ok(settled)
}

/// In one plan, so that no replica is copied for one purpose and moved on for another.
fn plan(cluster: &Cluster, onto: &[BrokerId], told: &Inventories) -> Result<Plan, ApiError> {
    let onto = match onto {
        [] => {
            let in_use = placement::in_use(cluster).into_iter();
            in_use.filter(|id| told.contains_key(id)).collect()
        }
        named => {
            drain::check_brokers(cluster, named)?;
            named.to_vec()
        }
    };
    let options = Options::default();
    let now = placement::view(cluster, &[], told)?;
    let refused = |error| untold::refused(cluster, &[], told, error);
    let spread = repair_racks(&now, &options).map_err(refused)?;
    let then = now.after(&spread);
    let filled = spread.then(add_brokers(&then, &onto, &options).map_err(refused)?);
    let notices = filled.notices.clone();
    let led = balance_leaders(&now.after(&filled));
    Ok(Plan {
        notices,
        ..filled.then(led)
    })
}

/// Copies for balance take disk and network from those that restore what was promised.
fn not_in_sync(cluster: &Cluster) -> Option<String> {
    let behind = cluster
        .partitions()
        .filter(|(_, _, record)| record.adding.is_empty() && record.isr.len() < record.replicas.len())
        .count();
    (behind > 0).then(|| {
        format!("{behind} partitions have replicas that are not in sync: let these catch up first, or set a throttle.")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millrace_proto::v1::ErrorReason;

    use super::{
        super::testing::{roomy, with_topic},
        *,
    };

    /// The replicas of each partition once the moves are done.
    fn then(cluster: &Cluster, settled: &Settled) -> Vec<Vec<i32>> {
        let target = |number: u32| {
            let named = settled.moves.iter().find(|one| one.partition.partition == number);
            named.and_then(|one| one.target.clone())
        };
        (0u32..)
            .zip(&cluster.topics["t"].partitions)
            .map(|(number, record)| target(number).unwrap_or_else(|| record.target()))
            .collect()
    }

    fn loads(replicas: &[Vec<i32>]) -> BTreeMap<i32, usize> {
        let mut loads = BTreeMap::new();
        for id in replicas.iter().flatten() {
            *loads.entry(*id).or_default() += 1;
        }
        loads
    }

    #[test]
    fn a_broker_that_was_added_gets_its_share_and_leads_its_share() {
        let cluster = with_topic(
            &[1, 2, 3],
            vec![vec![1, 2], vec![2, 1], vec![1, 2], vec![2, 1], vec![1, 2], vec![2, 1]],
        );
        let rate = NonZeroU64::new(1 << 20);
        for onto in [&[3][..], &[]] {
            let settled = settled(&cluster, onto, rate, &roomy(&cluster)).unwrap();
            let then = then(&cluster, &settled);
            assert_eq!(loads(&then), BTreeMap::from([(1, 4), (2, 4), (3, 4)]));
            let first: Vec<Vec<i32>> = then.iter().map(|replicas| vec![replicas[0]]).collect();
            assert_eq!(loads(&first), BTreeMap::from([(1, 2), (2, 2), (3, 2)]));
            assert!(settled.moves.iter().all(|one| one.throttle == rate));
            let copied: i32 = settled.planned(&cluster).replicas_to_copy;
            assert_eq!(copied, 4, "no more than the new broker lacks");
        }
    }

    #[test]
    fn an_even_cluster_is_left_alone() {
        let cluster = with_topic(&[1, 2, 3], vec![vec![1, 2], vec![2, 3], vec![3, 1]]);
        let settled = settled(&cluster, &[], None, &roomy(&cluster)).unwrap();
        assert!(settled.moves.is_empty(), "{settled:?}");
        assert!(settled.notices.is_empty(), "{settled:?}");
    }

    #[test]
    fn replicas_in_one_rack_are_spread() {
        let mut cluster = with_topic(&[1, 2, 3, 4], vec![vec![1, 2], vec![2, 1], vec![3, 4], vec![4, 3]]);
        for broker in cluster.brokers.values_mut() {
            broker.rack = if broker.id < 3 { "a".into() } else { "b".into() };
        }
        let settled = settled(&cluster, &[], None, &roomy(&cluster)).unwrap();
        for replicas in then(&cluster, &settled) {
            let in_a = replicas.iter().filter(|id| **id < 3).count();
            assert_eq!(in_a, 1, "{replicas:?}");
        }
        assert_eq!(settled.planned(&cluster).replicas_to_copy, 4);
    }

    #[test]
    fn brokers_that_take_nothing_are_neither_used_nor_accepted() {
        let mut cluster = with_topic(&[1, 2, 3], vec![vec![1], vec![1], vec![1]]);
        cluster.brokers.get_mut(&3).unwrap().cordoned = true;
        let even = settled(&cluster, &[], None, &roomy(&cluster)).unwrap();
        assert!(then(&cluster, &even).iter().all(|replicas| replicas != &[3]));
        let reason = |onto: &[i32]| plan(&cluster, onto, &roomy(&cluster)).unwrap_err().reason();
        assert_eq!(reason(&[3]), ErrorReason::PlacementBlocked);
        assert_eq!(reason(&[9]), ErrorReason::UnknownBroker);
        assert_eq!(reason(&[2, 2]), ErrorReason::InvalidRequest);
    }

    #[test]
    fn a_broker_that_does_not_tell_how_full_its_disk_is_gets_nothing() {
        let cluster = with_topic(&[1, 2, 3], vec![vec![1], vec![1], vec![1]]);
        let mut told = roomy(&cluster);
        told.remove(&3);
        let even = settled(&cluster, &[], None, &told).unwrap();
        assert_eq!(loads(&then(&cluster, &even)), BTreeMap::from([(1, 2), (2, 1)]));
        assert!(
            even.notices.iter().any(|notice| notice.contains("Broker 3")),
            "{even:?}"
        );
        assert_eq!(
            plan(&cluster, &[3], &told).unwrap_err().reason(),
            ErrorReason::BrokerNotReady
        );
    }

    #[test]
    fn replicas_that_lack_data_are_told_of() {
        let mut cluster = with_topic(&[1, 2, 3], vec![vec![1, 2], vec![1, 2], vec![2, 1]]);
        let named = std::sync::Arc::make_mut(cluster.topics.get_mut("t").unwrap());
        named.partitions[0].isr = vec![1];
        let settled = settled(&cluster, &[3], None, &roomy(&cluster)).unwrap();
        assert!(
            settled
                .notices
                .iter()
                .any(|notice| notice.starts_with("1 partitions have replicas"))
        );
    }
}
