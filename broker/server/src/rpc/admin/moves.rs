//! Moves that placement has planned: which of them the rules take, and having them made.

use std::num::NonZeroU64;

use millrace_engine::{Cluster, Command, Rejection, cluster::Move};
use millrace_placement::Plan;
use millrace_proto::v1;

use super::{AdminService, placement};
use crate::{
    error::{ApiError, sentence},
    limits,
};

/// Moves in one command: those of a plan do not depend on each other, and small commands leave
/// room for others between them.
const MOVES_PER_COMMAND: usize = 1_000;

/// Refused moves that an answer explains: what a person reads.
const MAX_REFUSALS: usize = 20;

/// The bound of a move's speed that a request asks for, in bytes a second; `None` for 0, which means none.
///
/// # Errors
/// What is wrong with it, to be said behind the field's name.
pub fn throttle(bytes_per_second: i64) -> Result<Option<NonZeroU64>, String> {
    u64::try_from(bytes_per_second)
        .ok()
        .filter(|rate| *rate == 0 || *rate >= limits::LEAST_THROTTLE)
        .map(NonZeroU64::new)
        .ok_or_else(|| format!("must be {} or more, or 0", limits::LEAST_THROTTLE))
}

/// The same for a field of the request itself.
///
/// # Errors
/// It is out of bounds.
pub fn throttle_field(bytes_per_second: i64) -> Result<Option<NonZeroU64>, ApiError> {
    throttle(bytes_per_second).map_err(|problem| ApiError::field("throttle_bytes_per_second", problem))
}

/// Moves to begin, and what their reader should know.
#[derive(Debug)]
pub struct Settled {
    /// Those that can be made now.
    pub moves: Vec<Move>,
    /// Sentences.
    pub notices: Vec<String>,
}

impl Settled {
    /// A plan's moves, each at this speed at most.
    pub fn of(cluster: &Cluster, plan: &Plan, throttle: Option<NonZeroU64>) -> Self {
        let planned = placement::moves(cluster, plan, throttle);
        let mut notices = placement::notices(cluster, plan);
        let settled = Self::of_moves(cluster, planned);
        notices.extend(settled.notices);
        Self {
            moves: settled.moves,
            notices,
        }
    }

    /// Parts the moves that can be made now from those that the rules refuse: one of them stops no
    /// other here, unlike in a request that names its moves.
    pub fn of_moves(cluster: &Cluster, moves: Vec<Move>) -> Self {
        let mut then = cluster.clone();
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        for one in moves {
            let version = then.version.saturating_add(1);
            let command = Command::ReassignPartitions {
                moves: vec![one.clone()],
            };
            match then.apply(version, &command) {
                Ok(_) => accepted.push(one),
                Err(Rejection::Move(reason)) => {
                    refused.push(format!(
                        "Partition {reason}; it is left out: ask again when that has changed."
                    ));
                }
                Err(other) => refused.push(sentence(other)),
            }
        }
        let left_out = refused.len();
        if left_out > MAX_REFUSALS {
            refused.truncate(MAX_REFUSALS);
            refused.push(format!("{} more partitions are left out.", left_out - MAX_REFUSALS));
        }
        Self {
            moves: accepted,
            notices: refused,
        }
    }

    /// As an answer names them.
    pub fn planned(&self, cluster: &Cluster) -> v1::PlannedMoves {
        placement::planned(cluster, &self.moves, self.notices.clone())
    }
}

/// Has moves made, in parts; each part's command as `wrap` makes it, in an owner's name, say.
///
/// # Errors
/// The metadata quorum refuses a part, or does not answer: what was begun before goes on, and
/// the same request plans the rest.
pub async fn carry_out(
    service: &AdminService,
    moves: Vec<Move>,
    wrap: impl Fn(Command) -> Result<Command, ApiError>,
) -> Result<(), ApiError> {
    for part in moves.chunks(MOVES_PER_COMMAND) {
        let command = wrap(Command::ReassignPartitions { moves: part.to_vec() })?;
        service.submit(command).await?;
    }
    service.0.wait_until_current().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_is_none_or_enough_to_get_on() {
        assert_eq!(throttle(0), Ok(None));
        assert_eq!(throttle(65_536), Ok(NonZeroU64::new(65_536)));
        assert_eq!(throttle(i64::MAX).unwrap().map(NonZeroU64::get), Some(i64::MAX as u64));
        for bad in [-1, i64::MIN, 1, 65_535] {
            let problem = throttle(bad).unwrap_err();
            assert_eq!(problem, "must be 65536 or more, or 0", "{bad}");
        }
    }
}
