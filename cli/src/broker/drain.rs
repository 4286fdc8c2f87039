//! `millrace broker drain`.

use std::time::Instant;

use millrace_client::{Admin, v1::Reassignment};
use serde::Serialize;

use crate::{
    args::Throttle,
    limits,
    moves::Planned,
    output::{OutputFormat, ids, plural, tell},
    progress::{Left, Unit},
};

/// Move all replicas away from brokers, which get no new ones from then on.
///
/// Name all brokers that leave at once: drained one after another, they would hand replicas to the
/// next one that leaves. When it is done, stop the broker and `millrace broker remove` it, or take
/// it back with --cancel.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// The brokers' ids.
    #[arg(required = true, value_name = "BROKER")]
    brokers: Vec<i32>,
    /// Return when nothing is on them any more. Interrupting that does not end the drain.
    #[arg(long, conflicts_with_all = ["cancel", "dry_run"])]
    wait: bool,
    /// End the drain: moves under way are cancelled, what has moved stays where it is.
    #[arg(long, conflicts_with = "throttle")]
    cancel: bool,
    #[command(flatten)]
    throttle: Throttle,
    /// Show what would move, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Drained {
    broker_ids: Vec<i32>,
    draining: bool,
    /// Replicas that are still on them; absent unless waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas_left: Option<i64>,
    #[serde(flatten)]
    moves: Planned,
    dry_run: bool,
}

/// Drains them.
pub async fn run(args: DrainArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().throttle(args.throttle.bytes_per_second());
    let changing = admin.clone().validate_only(args.dry_run);
    let moves: Planned = if args.cancel {
        changing.cancel_drain(args.brokers.clone()).await?.into()
    } else {
        changing.drain_brokers(args.brokers.clone()).await?.into()
    };
    let mut drained = Drained {
        broker_ids: args.brokers,
        draining: !args.cancel,
        replicas_left: None,
        moves,
        dry_run: args.dry_run,
    };
    if args.wait {
        wait(&admin, &drained.broker_ids).await?;
        drained.replicas_left = Some(0);
    }
    tell(format, &text(&drained, args.wait), &drained)
}

fn text(drained: &Drained, waited: bool) -> String {
    let dry_run = if drained.dry_run { " (dry run)" } else { "" };
    let brokers = match drained.broker_ids[..] {
        [one] => format!("broker/{one}"),
        _ => format!("brokers {}", ids(&drained.broker_ids)),
    };
    if waited {
        let them = if drained.broker_ids.len() == 1 { "it" } else { "them" };
        return format!("{brokers} drained: nothing is on {them} any more\n");
    }
    let what = match (drained.draining, drained.moves.is_empty()) {
        (true, _) => format!("draining: {}", drained.moves.summary()),
        (false, true) => "not drained any more: no move was under way".to_owned(),
        (false, false) => format!("not drained any more: {} back", drained.moves.summary()),
    };
    format!("{brokers} {what}{dry_run}\n{}", drained.moves.details())
}

/// Whether any of the moves under way takes a replica away from these brokers.
fn is_taken_from(brokers: &[i32], moves: &[Reassignment]) -> bool {
    let mut removed = moves.iter().flat_map(|one| &one.removing_replicas);
    removed.any(|id| brokers.contains(id))
}

/// Waits until no replica is on the brokers. Where replicas stay and none is on its way, whatever moves
/// elsewhere, the drain is planned anew now and then: partitions may have been created, or could not move
/// at first.
async fn wait(admin: &Admin, brokers: &[i32]) -> anyhow::Result<()> {
    let mut bar = Left::new(Unit::Things("replicas"));
    let mut planned_at = Instant::now();
    loop {
        let cluster = admin.describe_cluster().await?;
        let left: i64 = cluster
            .brokers
            .iter()
            .filter(|broker| brokers.contains(&broker.broker_id))
            .map(|broker| i64::from(broker.partitions))
            .sum();
        if left == 0 {
            return Ok(());
        }
        let moving = cluster
            .health
            .and_then(|health| health.moving)
            .map_or(0, |moving| moving.count);
        let message = format!(
            "{} left on {}; {} under way in the cluster",
            plural(left.unsigned_abs(), "replica"),
            ids(brokers),
            plural(moving.unsigned_abs(), "move"),
        );
        bar.show(left.unsigned_abs(), &message);
        if planned_at.elapsed() >= limits::DRAIN_AGAIN {
            if !is_taken_from(brokers, &admin.list_reassignments(None).await?) {
                admin.drain_brokers(brokers.to_vec()).await?;
            }
            planned_at = Instant::now();
        }
        tokio::time::sleep(limits::MOVE_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::PlannedMoves;

    use super::*;

    fn drained(draining: bool, partitions: i32) -> Drained {
        Drained {
            broker_ids: vec![1, 2],
            draining,
            replicas_left: None,
            moves: PlannedMoves {
                partitions,
                replicas_to_copy: partitions,
                ..PlannedMoves::default()
            }
            .into(),
            dry_run: false,
        }
    }

    #[test]
    fn others_moves_are_not_waited_for() {
        let one = |adding: i32, removing: i32| Reassignment {
            adding_replicas: vec![adding],
            removing_replicas: vec![removing],
            ..Reassignment::default()
        };
        assert!(is_taken_from(&[1, 2], &[one(2, 3), one(3, 1)]));
        assert!(!is_taken_from(&[1, 2], &[one(1, 3), one(3, 4)]));
        assert!(!is_taken_from(&[1, 2], &[]));
    }

    #[test]
    fn it_says_what_begins_and_what_ends() {
        assert!(text(&drained(true, 2), false).starts_with("brokers [1,2] draining: 2 partitions move, 2 replicas"));
        assert_eq!(
            text(&drained(true, 0), false),
            "brokers [1,2] draining: nothing to move\n"
        );
        assert_eq!(
            text(&drained(false, 0), false),
            "brokers [1,2] not drained any more: no move was under way\n"
        );
        let one = Drained {
            broker_ids: vec![2],
            ..drained(true, 2)
        };
        assert_eq!(text(&one, true), "broker/2 drained: nothing is on it any more\n");
        assert_eq!(
            text(&drained(true, 2), true),
            "brokers [1,2] drained: nothing is on them any more\n"
        );
    }
}
