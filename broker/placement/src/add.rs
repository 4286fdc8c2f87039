//! Giving brokers that were added their share.

use crate::{
    BrokerState, Cluster, Options, Plan, PlanError, Reassignment,
    replicas::Replicas,
    shares::{Shares, notices},
    state::{State, reassign},
    topology::Topology,
};

/// Rounds of planning over what is planned. The second one finds nothing unless replicas of one partition got
/// in each other's way in the first.
const MAX_ROUNDS: usize = 8;

/// Moves replicas onto `new` brokers until no broker is further from its fair share than
/// [`Options::tolerance_percent`] allows; without a tolerance, until no move onto a new broker makes loads more
/// even.
///
/// Replicas move only onto the brokers in `new`, never between others, and from active brokers only; naming all
/// active brokers evens out the whole cluster (Cruise Control's `ReplicaDistributionGoal`). No partition
/// ends up worse spread over racks, and where two moves even out the same, the one that spreads
/// better is taken. Where racks allow, the number of moves is the fewest possible: the greater of what
/// the new brokers lack and what the others have too much. With [`ByteGoal::Share`](crate::ByteGoal::Share)
/// they come to about the new brokers' share of bytes. Replicas that move keep their place in the
/// list; of equal ones, followers move.
///
/// # Errors
/// A broker in `new` that is not known or not active.
pub fn add_brokers(cluster: &Cluster, new: &[i32], options: &Options) -> Result<Plan, PlanError> {
    let topology = Topology::new(cluster.brokers(), options);
    let mut targets = Vec::new();
    for id in new {
        let at = topology.index(*id).ok_or(PlanError::UnknownBroker { id: *id })?;
        match topology.states[at] {
            BrokerState::Active => targets.push(at),
            state => return Err(PlanError::NotActive { id: *id, state }),
        }
    }
    targets.sort_unstable();
    targets.dedup();
    let mut after = cluster.clone();
    let mut steps = 0;
    for _ in 0..MAX_ROUNDS {
        let (moved, looked_at) = round(cluster, &after, &topology, &targets, options);
        steps += looked_at;
        if moved.is_empty() {
            break;
        }
        after = after.after(&Plan {
            reassignments: moved,
            ..Plan::default()
        });
    }
    let both = cluster.partitions().iter().zip(after.partitions());
    Ok(Plan {
        reassignments: both
            .filter_map(|(before, after)| reassign(before, after.replicas.clone()))
            .collect(),
        notices: notices(&after, options),
        steps,
    })
}

/// What moves in `cluster`, which is what the rounds so far made of `origin`; and how much was looked at.
fn round(
    origin: &Cluster,
    cluster: &Cluster,
    topology: &Topology,
    targets: &[usize],
    options: &Options,
) -> (Vec<Reassignment>, u64) {
    let mut state = State::of(cluster, topology, options, |partition| partition.replicas.len());
    for part in 0..state.parts() as u32 {
        for slot in state.slots(part) {
            if state.broker(slot).is_some_and(|at| topology.states[at].is_target()) {
                state.set_movable(slot);
            }
        }
    }
    // What left in an earlier round is still there until the plan is carried out.
    for (before, now) in origin.partitions().iter().zip(cluster.partitions()) {
        let left = before.replicas.iter().filter(|id| !now.replicas.contains(id));
        left.filter_map(|id| topology.index(*id))
            .for_each(|broker| state.reserve(broker, before.bytes));
    }
    let shares = Shares::new(cluster, topology, &state, options);
    Replicas::new(&mut state, targets)
        .within(&shares, options.bytes)
        .even_out();
    (state.changes(cluster), state.steps)
}
