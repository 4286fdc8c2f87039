//! `millrace cluster rebalance`.

use anyhow::bail;
use millrace_client::{
    Admin,
    v1::{PlannedMoves, Reassignment},
};
use serde::Serialize;

use crate::{
    args::{Brokers, Throttle, brokers},
    limits,
    moves::Planned,
    output::{OutputFormat, plural, tell},
    progress::{Left, Unit},
};

/// Spread replicas and leaders evenly over racks and brokers.
///
/// Moves as few replicas as that takes: it spreads those of each partition over racks, gives brokers
/// that were added their share, and lets each broker be the preferred leader of as many
/// partitions as the others. Look at the plan with --dry-run first. Asked again, it finds nothing
/// to do.
#[derive(Debug, clap::Args)]
pub struct RebalanceArgs {
    /// Only these brokers get replicas for balance, such as 4,5: those that were added.
    #[arg(long, value_name = "BROKER,...", value_parser = brokers)]
    onto: Option<Brokers>,
    #[command(flatten)]
    throttle: Throttle,
    /// Return when all that moves has moved. Interrupting that does not end the moves.
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Show what would move, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Rebalanced {
    /// Whether all is where it should be.
    done: bool,
    #[serde(flatten)]
    moves: Planned,
    dry_run: bool,
}

/// Evens it out.
pub async fn run(args: RebalanceArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let onto = args.onto.map(|Brokers(ids)| ids).unwrap_or_default();
    let planning = admin.clone().throttle(args.throttle.bytes_per_second());
    let planned = planning.validate_only(args.dry_run).rebalance(onto.clone()).await?;
    if args.wait {
        wait(admin, &planned).await?;
        check_even(admin, onto).await?;
    }
    let moves = Planned::from(planned);
    let rebalanced = Rebalanced {
        done: args.wait || moves.is_empty(),
        moves,
        dry_run: args.dry_run,
    };
    tell(format, &text(&rebalanced, args.wait), &rebalanced)
}

/// Moves that end may have been cancelled or replaced, and some may not have begun.
async fn check_even(admin: &Admin, onto: Vec<i32>) -> anyhow::Result<()> {
    let left = Planned::from(admin.clone().validate_only(true).rebalance(onto).await?);
    if !left.is_empty() {
        bail!(
            "the cluster is not even yet ({}): moves were left out, cancelled or replaced, or it has changed; ask again\n{}",
            left.summary(),
            left.notices()
        );
    }
    Ok(())
}

fn text(rebalanced: &Rebalanced, waited: bool) -> String {
    let moves = &rebalanced.moves;
    let what = match (moves.is_empty(), waited) {
        (true, _) => return format!("cluster is even: nothing to move\n{}", moves.notices()),
        (false, true) => "rebalanced",
        (false, false) => "rebalancing",
    };
    let dry_run = if rebalanced.dry_run { " (dry run)" } else { "" };
    format!("cluster {what}: {}{dry_run}\n{}", moves.summary(), moves.details())
}

/// Waits until none of the plan's moves is under way. Of a plan that is longer than an answer names, all moves in
/// the cluster are waited for.
async fn wait(admin: &Admin, planned: &PlannedMoves) -> anyhow::Result<()> {
    let mut bar = Left::new(Unit::Things("partitions"));
    loop {
        let left = left(planned, &admin.list_reassignments(None).await?);
        if left == 0 {
            return Ok(());
        }
        bar.show(
            left as u64,
            &format!("{} on their way", plural(left as u64, "partition")),
        );
        tokio::time::sleep(limits::MOVE_POLL).await;
    }
}

fn left(planned: &PlannedMoves, under_way: &[Reassignment]) -> usize {
    let is_all_named = usize::try_from(planned.partitions) == Ok(planned.first.len());
    let is_planned = |one: &&Reassignment| {
        let mut named = planned.first.iter();
        !is_all_named || named.any(|planned| planned.topic == one.topic && planned.partition == one.partition)
    };
    under_way.iter().filter(is_planned).count()
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::PlannedMove;

    use super::*;

    fn planned(partitions: i32, named: &[(&str, i32)]) -> PlannedMoves {
        let first = named.iter().map(|(topic, partition)| PlannedMove {
            topic: (*topic).to_owned(),
            partition: *partition,
            from: vec![1],
            to: vec![2],
        });
        PlannedMoves {
            partitions,
            replicas_to_copy: partitions,
            first: first.collect(),
            notices: Vec::new(),
        }
    }

    #[test]
    fn only_moves_of_the_plan_are_waited_for_where_all_are_named() {
        let under_way = |topic: &str, partition| Reassignment {
            topic: topic.into(),
            partition,
            ..Reassignment::default()
        };
        let moves = [under_way("a", 0), under_way("a", 1), under_way("b", 0)];
        assert_eq!(left(&planned(2, &[("a", 0), ("b", 1)]), &moves), 1);
        assert_eq!(left(&planned(1, &[("c", 0)]), &moves), 0);
        assert_eq!(left(&planned(3, &[("c", 0)]), &moves), 3, "the others are not known");
    }

    #[test]
    fn it_says_what_moves_and_whether_it_has() {
        let told = |planned: PlannedMoves, waited, dry_run| {
            let rebalanced = Rebalanced {
                done: waited,
                moves: planned.into(),
                dry_run,
            };
            text(&rebalanced, waited)
        };
        let one = || planned(1, &[("a", 0)]);
        assert_eq!(
            told(planned(0, &[]), false, false),
            "cluster is even: nothing to move\n"
        );
        let begun = told(one(), false, true);
        assert!(
            begun.starts_with("cluster rebalancing: 1 partition moves, 1 replica is copied (dry run)\n"),
            "{begun}"
        );
        assert!(begun.contains("[1]") && begun.contains("[2]"), "{begun}");
        assert!(told(one(), true, false).starts_with("cluster rebalanced: 1 partition moves"));
    }
}
