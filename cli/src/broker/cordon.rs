//! `millrace broker cordon` and `uncordon`.

use millrace_client::Admin;
use serde::Serialize;

use super::done;
use crate::output::{OutputFormat, tell};

/// A broker.
#[derive(Debug, clap::Args)]
pub struct CordonArgs {
    /// The broker's id.
    broker: i32,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Cordoned {
    broker_id: i32,
    cordoned: bool,
    dry_run: bool,
}

/// Cordons or uncordons it.
pub async fn run(args: CordonArgs, cordoned: bool, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().validate_only(args.dry_run);
    let what = if cordoned {
        admin.cordon_broker(args.broker).await?;
        "cordoned: it gets no new replicas"
    } else {
        admin.uncordon_broker(args.broker).await?;
        "uncordoned"
    };
    tell(
        format,
        &done(args.broker, what, args.dry_run),
        &Cordoned {
            broker_id: args.broker,
            cordoned,
            dry_run: args.dry_run,
        },
    )
}
