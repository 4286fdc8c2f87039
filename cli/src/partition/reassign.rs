//! `millrace partition move`.

use anyhow::bail;
use millrace_client::{Admin, PartitionMove};
use serde::Serialize;

use crate::{
    args::{Brokers, Throttle, brokers},
    moves::{self, Move},
    output::{OutputFormat, ids, tell},
};

/// Move a partition to other brokers, or cancel that.
///
/// The new replicas copy the data while the old ones serve, and take over once they are in sync.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub struct MoveArgs {
    /// The topic.
    topic: String,
    /// The partition's number.
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    partition: i32,
    /// The brokers that shall hold it, preferred leader first, such as 1,2,3.
    #[arg(long, value_name = "BROKER,...", value_parser = brokers, group = "what")]
    to: Option<Brokers>,
    /// Cancel the move under way: the partition stays where it was.
    #[arg(long, group = "what", conflicts_with = "throttle")]
    cancel: bool,
    #[command(flatten)]
    throttle: Throttle,
    /// Return when the move is done. Interrupting that does not end the move.
    #[arg(long, conflicts_with_all = ["cancel", "dry_run"])]
    wait: bool,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Moved {
    done: bool,
    dry_run: bool,
    #[serde(flatten)]
    state: Option<Move>,
}

/// Moves it.
pub async fn run(args: MoveArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let wish = match &args.to {
        Some(Brokers(to)) => {
            PartitionMove::to(&args.topic, args.partition, to.clone()).throttle(args.throttle.bytes_per_second())
        }
        None => PartitionMove::cancel(&args.topic, args.partition),
    };
    let changing = admin.clone().validate_only(args.dry_run);
    let mut begun = changing.reassign_partitions([wish]).await?.into_iter().map(Move::from);
    let state = begun.next();
    let mut done = state.as_ref().is_some_and(|state| !state.is_under_way());
    if args.wait
        && !done
        && let Some(Brokers(to)) = &args.to
    {
        moves::wait(admin, &args.topic, Some(args.partition)).await?;
        check_arrived(admin, &args.topic, args.partition, to).await?;
        done = true;
    }
    let moved = Moved {
        done,
        dry_run: args.dry_run,
        state,
    };
    tell(format, &text(&args, &moved), &moved)
}

/// A move that ends may have been cancelled or replaced by another one.
async fn check_arrived(admin: &Admin, topic: &str, number: i32, to: &[i32]) -> anyhow::Result<()> {
    let described = admin.describe_topic(topic).await?;
    let partition = described
        .partitions
        .iter()
        .find(|partition| partition.partition == number);
    match partition {
        Some(partition) if partition.replicas == to => Ok(()),
        Some(partition) => bail!(
            "the move was cancelled or replaced: {topic}-{number} is on {} now",
            ids(&partition.replicas)
        ),
        None => bail!("the topic was deleted and created anew: {topic} has no partition {number} now"),
    }
}

fn text(args: &MoveArgs, moved: &Moved) -> String {
    let what = match (&args.to, moved.done) {
        (Some(Brokers(to)), true) => format!("is on {}", ids(to)),
        (Some(Brokers(to)), false) => {
            format!("moves to {}: `millrace partition moves` shows how far it is", ids(to))
        }
        (None, _) => "stays where it was: the move is cancelled".to_owned(),
    };
    let dry_run = if moved.dry_run { " (dry run)" } else { "" };
    format!("partition/{}-{} {what}{dry_run}\n", args.topic, args.partition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_that_has_nothing_to_copy_is_done() {
        let args = |to: Option<Vec<i32>>| MoveArgs {
            topic: "t".into(),
            partition: 2,
            cancel: to.is_none(),
            to: to.map(Brokers),
            throttle: Throttle::default(),
            wait: false,
            dry_run: false,
        };
        let moved = |done| Moved {
            done,
            dry_run: false,
            state: None,
        };
        assert_eq!(
            text(&args(Some(vec![1, 2])), &moved(true)),
            "partition/t-2 is on [1,2]\n"
        );
        assert!(text(&args(Some(vec![1])), &moved(false)).starts_with("partition/t-2 moves to [1]: "));
        assert!(text(&args(None), &moved(true)).starts_with("partition/t-2 stays where it was"));
    }
}
