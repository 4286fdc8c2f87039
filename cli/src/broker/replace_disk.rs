//! `millrace broker replace-disk`.

use millrace_client::{Admin, ErrorReason};
use serde::Serialize;

use super::done;
use crate::{
    error::AdvisedError,
    output::{OutputFormat, tell},
};

/// Permit a broker that is down to come back with another disk.
///
/// For a disk that is lost. The broker's replicas stop counting at once, and are filled again from the
/// other brokers once it has started with an empty disk. A broker that comes back with the old one takes
/// the permission with it. Also permits the number of a removed broker to be used again.
#[derive(Debug, clap::Args)]
pub struct ReplaceDiskArgs {
    /// The broker's id.
    broker: i32,
    /// The id of the new log directory. Default: any that is no other broker's.
    #[arg(long, value_name = "UUID", value_parser = uuid)]
    directory_id: Option<String>,
    /// Also if partitions have no other replica that surely holds all acknowledged messages: these are
    /// lost for ever.
    #[arg(long)]
    accept_data_loss: bool,
    /// Only if the number is a removed broker's, and no broker has registered with it since.
    #[arg(long, conflicts_with_all = ["directory_id", "accept_data_loss"])]
    only_if_removed: bool,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// 32 hexadecimal digits, with or without hyphens.
fn uuid(text: &str) -> Result<String, &'static str> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        Ok(text.to_owned())
    } else {
        Err("expected a UUID such as 6d1c2f0e-0f5a-4c57-9a53-3f7a3c1f4a10")
    }
}

#[derive(Serialize)]
struct Replaced {
    broker_id: i32,
    directory_id: Option<String>,
    permitted: bool,
    dry_run: bool,
}

/// Permits it.
pub async fn run(args: ReplaceDiskArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().validate_only(args.dry_run);
    if args.only_if_removed {
        admin.permit_removed_broker(args.broker).await?;
    } else {
        admin
            .replace_broker_directory(args.broker, args.directory_id.as_deref(), args.accept_data_loss)
            .await
            .map_err(advise)?;
    }
    let what = format!(
        "may come with another disk: start it with --format-if-empty and the seeds of its cluster; \
         `millrace quorum describe` shows whether the old disk has a vote, `millrace quorum remove {}` takes it away",
        args.broker
    );
    tell(
        format,
        &done(args.broker, &what, args.dry_run),
        &Replaced {
            broker_id: args.broker,
            directory_id: args.directory_id,
            permitted: !args.dry_run,
            dry_run: args.dry_run,
        },
    )
}

/// Names the flag that accepts a loss, if that is in the way.
fn advise(error: millrace_client::Error) -> anyhow::Error {
    if error.reason() != Some(ErrorReason::StillNeeded) {
        return error.into();
    }
    AdvisedError {
        message: format!("{error} If the disk is lost for ever: --accept-data-loss."),
        cause: error,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_named_by_its_uuid() {
        for good in [
            "6d1c2f0e-0f5a-4c57-9a53-3f7a3c1f4a10",
            "6d1c2f0e0f5a4c579a533f7a3c1f4a10",
        ] {
            assert!(uuid(good).is_ok(), "{good}");
        }
        for bad in ["", "6d1c", "6d1c2f0e-0f5a-4c57-9a53-3f7a3c1f4a1g"] {
            assert!(uuid(bad).is_err(), "{bad}");
        }
    }
}
