//! Taking all replicas away from brokers that leave.

use crate::{
    BrokerState, Cluster, Options, Plan, PlanError,
    fill::{Before, check_racks, fill, refuse_blocked, spread_blocks},
    shares::planned,
    state::State,
    topology::Topology,
};

/// Gives every replica on a [draining](BrokerState::Draining) or [gone](BrokerState::Gone) broker a new
/// place, all of them in one plan: drained one after another, brokers would hand replicas to the
/// next one that leaves.
///
/// Exactly the replicas on leaving brokers move, each into the position of the one it replaces.
/// They go where their partition is spread best, then where loads come out most even; brokers are filled to
/// no more than [`Options::max_disk_percent`].
///
/// # Errors
/// [`PlanError::Blocked`] with every partition that has too few brokers left, finds no disk with room, or
/// would be spread worse over racks only because brokers are cordoned, fenced or full. Replicas of gone
/// brokers are placed even so, unless each is to have its own rack: a worse spread beats a missing
/// replica. [`PlanError::TooFewRacks`] if each is, and too few racks stay.
pub fn drain_brokers(cluster: &Cluster, options: &Options) -> Result<Plan, PlanError> {
    let topology = Topology::new(cluster.brokers(), options);
    let mut state = State::of(cluster, &topology, options, |partition| partition.replicas.len());
    let mut slots = Vec::new();
    let mut parts = Vec::new();
    for part in 0..state.parts() as u32 {
        let before = slots.len();
        let mut gone = false;
        for slot in state.slots(part) {
            let Some(broker) = state.broker(slot) else { continue };
            if topology.states[broker].is_leaving() {
                slots.push(slot);
                gone |= topology.states[broker] == BrokerState::Gone;
            }
        }
        if slots.len() > before {
            parts.push(if gone {
                Before::without_bound(part)
            } else {
                Before::of(&state, part)
            });
        }
    }
    let affected = parts.iter().map(|before| state.slots(before.part).len());
    check_racks(&topology, affected, options)?;
    let mut blocked = fill(&mut state, slots, None);
    blocked.extend(spread_blocks(&state, &parts, options));
    refuse_blocked(cluster, blocked)?;
    Ok(planned(cluster, &state, options))
}
