//! `millrace broker maintenance`.

use std::time::Duration;

use clap::Subcommand;
use jiff::SignedDuration;
use millrace_client::Admin;
use millrace_engine::cluster::MAX_MAINTENANCE_MS;
use serde::Serialize;

use super::{Maintenance, done};
use crate::{
    cluster::Partitions,
    output::{OutputFormat, plural, tell},
};

/// The one permission in the cluster to take a broker down.
#[derive(Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// Take the permission, if the broker may be taken down now and nobody else has it.
    ///
    /// It ends after its time, when it is released, or when the broker has started again.
    Acquire(AcquireArgs),
    /// Give the permission back.
    Release(ReleaseArgs),
}

/// What to take.
#[derive(Debug, clap::Args)]
pub struct AcquireArgs {
    /// The broker's id.
    broker: i32,
    /// Who takes it: a name that nobody else uses. The same one may take it again, for longer.
    #[arg(long, value_name = "NAME", env = "MILLRACE_MAINTENANCE_HOLDER")]
    holder: String,
    /// For how long, such as 10m; at most 24h.
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = ttl)]
    ttl: Duration,
    /// Only if the broker is in this life, as `millrace broker may-restart` tells it (JSON).
    #[arg(long, value_name = "EPOCH")]
    epoch: Option<i64>,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What to give back.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    /// The broker's id.
    broker: i32,
    /// Who has it.
    #[arg(long, value_name = "NAME", env = "MILLRACE_MAINTENANCE_HOLDER")]
    holder: String,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let most = Duration::from_millis(MAX_MAINTENANCE_MS.unsigned_abs());
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|time| Duration::try_from(time).ok())
        .filter(|time| *time >= Duration::from_millis(1) && *time <= most)
        .ok_or_else(|| "expected a time such as 10m, at most 24h".to_owned())
}

#[derive(Serialize)]
struct Acquired {
    #[serde(flatten)]
    slot: Maintenance,
    exempt: Partitions,
    notices: Vec<String>,
    dry_run: bool,
}

#[derive(Serialize)]
struct Released {
    broker_id: i32,
    holder: String,
    released: bool,
    dry_run: bool,
}

/// Does it.
pub async fn run(command: MaintenanceCommand, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    match command {
        MaintenanceCommand::Acquire(args) => acquire(args, admin, format).await,
        MaintenanceCommand::Release(args) => release(args, admin, format).await,
    }
}

async fn acquire(args: AcquireArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let answer = admin
        .clone()
        .validate_only(args.dry_run)
        .acquire_maintenance(&args.holder, args.broker, args.epoch, Some(args.ttl))
        .await?;
    let acquired = Acquired {
        slot: answer.slot.unwrap_or_default().into(),
        exempt: answer.exempt.unwrap_or_default().into(),
        notices: answer.notices,
        dry_run: args.dry_run,
    };
    let what = format!("may be taken down: {}", acquired.slot.text());
    let mut text = done(args.broker, &what, args.dry_run);
    for notice in &acquired.notices {
        text.push_str(&format!("  {notice}\n"));
    }
    if acquired.exempt.count > 0 {
        let partitions = plural(acquired.exempt.count.unsigned_abs(), "partition");
        text.push_str(&format!("{partitions} stop while it is down:\n"));
        text.push_str(&acquired.exempt.lines());
    }
    tell(format, &text, &acquired)
}

async fn release(args: ReleaseArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    admin
        .clone()
        .validate_only(args.dry_run)
        .release_maintenance(&args.holder, args.broker)
        .await?;
    tell(
        format,
        &done(args.broker, "not under maintenance any more", args.dry_run),
        &Released {
            broker_id: args.broker,
            holder: args.holder,
            released: !args.dry_run,
            dry_run: args.dry_run,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_bounds() {
        assert_eq!(ttl("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(ttl("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "0s", "-1m", "25h", "soon", "10"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }
}
