//! `millrace topic alter`.

use anyhow::anyhow;
use millrace_client::{Admin, v1::PartitionDescription};
use serde::Serialize;

use super::{done, settings, tell};
use crate::{
    args::{Throttle, key_value},
    moves::{self, Planned},
    output::{OutputFormat, count, ids, plural},
};

/// Change a topic's settings and its replication factor.
///
/// All settings are changed together, or none. `millrace topic describe NAME --all-settings` shows
/// what is set now. New replicas copy the data while the others serve.
#[derive(Debug, clap::Args)]
#[command(after_long_help = settings::reference())]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
#[command(mut_arg("throttle", |throttle| throttle.requires("replication_factor")))]
pub struct AlterArgs {
    /// The topic.
    name: String,
    /// A setting, such as retention.ms=3600000; may be given several times. --help lists all.
    #[arg(
        long = "config",
        short,
        visible_alias = "set",
        value_name = "KEY=VALUE",
        value_parser = key_value,
        group = "change"
    )]
    configs: Vec<(String, String)>,
    /// Set a setting back to the brokers' default; may be given several times.
    #[arg(long, value_name = "KEY", group = "change")]
    unset: Vec<String>,
    /// Brokers that shall hold each partition.
    #[arg(
        long,
        short,
        value_name = "R",
        value_parser = clap::value_parser!(i32).range(1..),
        group = "change"
    )]
    replication_factor: Option<i32>,
    #[command(flatten)]
    throttle: Throttle,
    /// Return when all new replicas are in sync. Interrupting that does not end the moves.
    #[arg(long, requires = "replication_factor", conflicts_with = "dry_run")]
    wait: bool,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Altered {
    name: String,
    altered: bool,
    /// What the replication factor takes; absent if it was not to change.
    #[serde(flatten)]
    moves: Option<Planned>,
    dry_run: bool,
}

/// Changes them.
pub async fn run(args: AlterArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let planned = admin
        .clone()
        .validate_only(args.dry_run)
        .throttle(args.throttle.bytes_per_second())
        .alter_topic(&args.name, args.configs, args.unset, args.replication_factor)
        .await
        .map_err(settings::advise)?;
    let mut reached = None;
    if args.wait
        && let Some(factor) = args.replication_factor
    {
        moves::wait(admin, &args.name, None).await?;
        let described = admin.describe_topic(&args.name).await?;
        reached = Some(Reached::of(&described.partitions, factor));
    }
    let altered = Altered {
        altered: !args.dry_run,
        moves: args.replication_factor.map(|_| Planned::from(planned)),
        name: args.name,
        dry_run: args.dry_run,
    };
    tell(format, &text(&altered, reached.as_ref()), &altered)?;
    match reached.and_then(|reached| reached.problem(&altered.name)) {
        Some(problem) => Err(anyhow!(problem)),
        None => Ok(()),
    }
}

/// What became of the moves that were waited for: they may have been left out of the plan, or cancelled or
/// replaced meanwhile.
#[derive(Debug, PartialEq, Eq)]
struct Reached {
    partitions: usize,
    /// Brokers that shall hold each.
    factor: i32,
    /// Partitions that have other than so many replicas, and the first of them with its replicas.
    others: usize,
    first: Option<(i32, Vec<i32>)>,
    /// Partitions with replicas that are not in sync.
    behind: usize,
}

impl Reached {
    fn of(partitions: &[PartitionDescription], factor: i32) -> Self {
        let is_other = |one: &&PartitionDescription| i32::try_from(one.replicas.len()) != Ok(factor);
        let is_behind = |one: &&PartitionDescription| one.in_sync_replicas.len() < one.replicas.len();
        let first = partitions.iter().find(is_other);
        Self {
            partitions: partitions.len(),
            factor,
            others: partitions.iter().filter(is_other).count(),
            first: first.map(|one| (one.partition, one.replicas.clone())),
            behind: partitions.iter().filter(is_behind).count(),
        }
    }

    fn problem(&self, topic: &str) -> Option<String> {
        let (number, replicas) = self.first.as_ref()?;
        Some(format!(
            "{} of {} without {}: moves were left out, cancelled or replaced ({topic}-{number} is on {}); ask again",
            count(self.others as i64),
            plural(self.partitions as u64, "partition"),
            plural(u64::from(self.factor.unsigned_abs()), "replica"),
            ids(replicas)
        ))
    }

    /// `all replicas are in sync`; `None` if they are not where they should be.
    fn text(&self) -> Option<String> {
        match (self.others, self.behind) {
            (0, 0) => Some("all replicas are in sync".to_owned()),
            (0, behind) => Some(format!(
                "all replicas are in place, not all in sync: in {}",
                plural(behind as u64, "partition")
            )),
            _ => None,
        }
    }
}

fn text(altered: &Altered, reached: Option<&Reached>) -> String {
    let Some(moves) = &altered.moves else {
        return done(&altered.name, "altered", altered.dry_run);
    };
    match reached.and_then(Reached::text) {
        Some(reached) => done(&altered.name, &format!("altered: {reached}"), altered.dry_run) + &moves.notices(),
        None => {
            let what = format!("altered: {}", moves.summary());
            done(&altered.name, &what, altered.dry_run) + &moves.details()
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::PlannedMoves;

    use super::*;

    #[test]
    fn moves_are_told_only_where_the_replication_factor_was_to_change() {
        let altered = |moves| Altered {
            name: "t".into(),
            altered: true,
            moves,
            dry_run: false,
        };
        assert_eq!(text(&altered(None), None), "topic/t altered\n");
        let moves = PlannedMoves {
            partitions: 2,
            replicas_to_copy: 4,
            notices: vec!["Two racks are too few.".into()],
            ..PlannedMoves::default()
        };
        let altered = altered(Some(moves.into()));
        let told = text(&altered, None);
        assert!(
            told.starts_with("topic/t altered: 2 partitions move, 4 replicas are copied\n"),
            "{told}"
        );
        assert_eq!(
            text(&altered, Some(&reached(&[&[0, 1], &[1, 0]], 2))),
            "topic/t altered: all replicas are in sync\nnote: Two racks are too few.\n"
        );
        assert_eq!(serde_json::to_value(&altered).unwrap()["partitions"], 2);
        // Where it is not done it says what was to be done, and then what is in the way.
        assert_eq!(text(&altered, Some(&reached(&[&[0, 1], &[1]], 2))), told);
    }

    fn reached(replicas: &[&[i32]], factor: i32) -> Reached {
        let partitions = (0..).zip(replicas).map(|(partition, replicas)| PartitionDescription {
            partition,
            replicas: replicas.to_vec(),
            in_sync_replicas: replicas.to_vec(),
            ..PartitionDescription::default()
        });
        Reached::of(&partitions.collect::<Vec<_>>(), factor)
    }

    #[test]
    fn moves_that_did_not_come_about_are_told() {
        assert_eq!(reached(&[&[0, 1, 2], &[2, 1, 0]], 3).problem("t"), None);
        let partly = reached(&[&[0, 1, 2], &[2]], 3);
        assert_eq!(
            partly.problem("t").unwrap(),
            "1 of 2 partitions without 3 replicas: moves were left out, cancelled or replaced (t-1 is on [2]); ask again"
        );
        assert_eq!(partly.text(), None);
        let mut behind = reached(&[&[0, 1]], 2);
        behind.behind = 1;
        assert_eq!(
            behind.text().unwrap(),
            "all replicas are in place, not all in sync: in 1 partition"
        );
    }
}
