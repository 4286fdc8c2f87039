//! `millrace topic alter`.

use millrace_client::Admin;
use serde::Serialize;

use super::{done, settings, tell};
use crate::{
    args::key_value,
    moves::{self, Planned},
    output::OutputFormat,
};

/// Change a topic's settings and its replication factor.
///
/// All settings are changed together, or none. `millrace topic describe NAME --all-settings` shows
/// what is set now. New replicas copy the data while the others serve.
#[derive(Debug, clap::Args)]
#[command(after_long_help = settings::reference())]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
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
        .alter_topic(&args.name, args.configs, args.unset, args.replication_factor)
        .await
        .map_err(settings::advise)?;
    if args.wait {
        moves::wait(admin, &args.name, None).await?;
    }
    let altered = Altered {
        altered: !args.dry_run,
        moves: args.replication_factor.map(|_| Planned::from(planned)),
        name: args.name,
        dry_run: args.dry_run,
    };
    tell(format, &text(&altered, args.wait), &altered)
}

fn text(altered: &Altered, waited: bool) -> String {
    match &altered.moves {
        None => done(&altered.name, "altered", altered.dry_run),
        Some(_) if waited => done(&altered.name, "altered: all replicas are in sync", altered.dry_run),
        Some(moves) => {
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
        assert_eq!(text(&altered(None), false), "topic/t altered\n");
        let moves = PlannedMoves {
            partitions: 2,
            replicas_to_copy: 4,
            ..PlannedMoves::default()
        };
        let altered = altered(Some(moves.into()));
        let told = text(&altered, false);
        assert!(
            told.starts_with("topic/t altered: 2 partitions move, 4 replicas are copied\n"),
            "{told}"
        );
        assert_eq!(text(&altered, true), "topic/t altered: all replicas are in sync\n");
        assert_eq!(serde_json::to_value(&altered).unwrap()["partitions"], 2);
    }
}
