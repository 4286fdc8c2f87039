//! `millrace quorum add` and `remove`.

use millrace_client::{Admin, VoterName};
use serde::Serialize;

use crate::output::{OutputFormat, tell};

/// Give a broker a vote.
///
/// An odd number of voters is best: 3 outlive the loss of one, 5 that of two; 4 no more than 3.
#[derive(Debug, clap::Args)]
pub struct AddArgs {
    /// The broker's id; it must be in service and have caught up.
    broker: i32,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Take a vote away, also of a broker that is lost.
///
/// A broker that lives on follows the metadata without a vote. To keep the cluster from giving votes by
/// itself, set quorum.auto.voters.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("who").required(true)))]
pub struct RemoveArgs {
    /// The broker's id.
    #[arg(group = "who")]
    broker: Option<i32>,
    /// The voter's id, where the broker is unknown or has had several disks.
    #[arg(long, value_name = "ID", group = "who")]
    voter_id: Option<i64>,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Voter {
    voter_id: i64,
    votes: bool,
    dry_run: bool,
}

/// Gives it.
pub async fn add(args: AddArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().validate_only(args.dry_run);
    let voter_id = admin.add_voter(args.broker).await?;
    told(voter_id, "votes", true, args.dry_run, format)
}

/// Takes it away.
pub async fn remove(args: RemoveArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().validate_only(args.dry_run);
    let name = match (args.broker, args.voter_id) {
        (Some(broker), _) => VoterName::Broker(broker),
        (None, id) => VoterName::Id(id.unwrap_or(-1)),
    };
    let answer = admin.remove_voter(name).await?;
    let what = if answer.follows {
        "votes no more, and follows the metadata"
    } else {
        "removed"
    };
    told(answer.voter_id, what, false, args.dry_run, format)
}

fn told(voter_id: i64, what: &str, votes: bool, dry_run: bool, format: OutputFormat) -> anyhow::Result<()> {
    let note = if dry_run { " (dry run)" } else { "" };
    let voter = Voter {
        voter_id,
        votes,
        dry_run,
    };
    tell(format, &format!("voter/{voter_id} {what}{note}\n"), &voter)
}
