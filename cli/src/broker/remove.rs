//! `millrace broker remove`.

use millrace_client::{Admin, ErrorReason};
use serde::Serialize;

use super::done;
use crate::{
    error::AdvisedError,
    output::{OutputFormat, tell},
};

/// Remove a broker that holds nothing, for good.
///
/// Its number and its disk are refused from then on; `millrace broker replace-disk` permits the
/// number again. Order of steps: drain --wait, quorum remove if it votes, stop the process, remove.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// The broker's id.
    broker: i32,
    /// Also if it is in service or under maintenance; never if it holds replicas or votes.
    #[arg(long)]
    force: bool,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Removed {
    broker_id: i32,
    removed: bool,
    dry_run: bool,
}

/// Removes it.
pub async fn run(args: RemoveArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().validate_only(args.dry_run);
    if let Err(error) = admin.remove_broker(args.broker, args.force).await {
        return Err(advise(args.broker, error));
    }
    tell(
        format,
        &done(args.broker, "removed", args.dry_run),
        &Removed {
            broker_id: args.broker,
            removed: !args.dry_run,
            dry_run: args.dry_run,
        },
    )
}

/// Names the command that helps, if replicas are in the way.
fn advise(broker: i32, error: millrace_client::Error) -> anyhow::Error {
    if error.reason() != Some(ErrorReason::StillNeeded) || error.metadata("partitions").is_none() {
        return error.into();
    }
    AdvisedError {
        message: format!("{error} `millrace broker drain {broker} --wait` does that."),
        cause: error,
    }
    .into()
}
