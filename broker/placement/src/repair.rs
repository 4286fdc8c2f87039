//! Mending partitions whose replicas are not spread over racks as they could be.

use crate::{
    BrokerState, Cluster, Options, Plan, PlanError,
    fill::{Before, check_racks, mend, refuse_blocked, spread_blocks},
    replicas::Replicas,
    shares::planned,
    state::State,
    topology::Topology,
};

/// Rounds of mending and evening out. The second one finds nothing to mend unless what went to another broker to
/// even out loads opened a way that was closed before.
const MAX_ROUNDS: usize = 8;

/// Spreads replicas over racks as evenly as the racks' sizes allow, after brokers changed their rack, racks were
/// added, or a drain had to do with less.
///
/// Each move brings its partition one step nearer to even, so no plan with fewer moves exists.
/// Which broker of the right rack a replica goes to evens out loads. Only replicas on active and cordoned
/// brokers move, those on fenced ones stay. Partitions with replicas on leaving brokers are left to a
/// [drain](crate::drain_brokers), which spreads them too.
///
/// # Errors
/// Only where each replica is to have its own rack: [`PlanError::TooFewRacks`], or [`PlanError::Blocked`] with the
/// partitions that can't be mended. Else those are told in a [`Notice`](crate::Notice::NotSpread).
pub fn repair_racks(cluster: &Cluster, options: &Options) -> Result<Plan, PlanError> {
    let topology = Topology::new(cluster.brokers(), options);
    let factors = cluster.partitions().iter().map(|partition| partition.replicas.len());
    check_racks(&topology, factors, options)?;
    let mut state = State::of(cluster, &topology, options, |partition| partition.replicas.len());
    let targets = topology.targets();
    let may_go = |state: &State<'_>, slot: u32| {
        let state_of = |at: usize| state.topology.states[at];
        let broker = state.broker(slot).map(state_of);
        matches!(broker, Some(BrokerState::Active | BrokerState::Cordoned))
    };
    let broken: Vec<u32> = (0..state.parts() as u32)
        .filter(|part| !state.spread(*part).is_even() && !is_leaving(&state, *part))
        .collect();
    for _ in 0..MAX_ROUNDS {
        let mut mended = false;
        for part in &broken {
            while let Some(slot) = mend(&mut state, *part, &targets, may_go) {
                state.set_movable(slot);
                mended = true;
            }
        }
        if !mended {
            break;
        }
        Replicas::new(&mut state, &targets).even_out();
    }
    let parts: Vec<Before> = broken.into_iter().map(Before::without_bound).collect();
    refuse_blocked(cluster, spread_blocks(&state, &parts, options))?;
    Ok(planned(cluster, &state, options))
}

/// Whether a drain will move the partition.
fn is_leaving(state: &State<'_>, part: u32) -> bool {
    let states = &state.topology.states;
    state
        .replicas(part)
        .into_iter()
        .any(|broker| states[broker].is_leaving())
}
