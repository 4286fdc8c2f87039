//! `millrace topic delete`.

use millrace_client::{Admin, ErrorReason};
use serde::Serialize;

use super::{done, tell};
use crate::{error::AdvisedError, output::OutputFormat};

/// Delete topics and their data. There is no way back.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// The topics, in this order; the first that can't be deleted ends it.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// A topic that does not exist is no error.
    #[arg(long)]
    if_exists: bool,
    /// Check everything, delete nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Deleted {
    deleted: Vec<String>,
    missing: Vec<String>,
    dry_run: bool,
}

/// Deletes them.
pub async fn run(args: DeleteArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().validate_only(args.dry_run);
    let mut text = String::new();
    let mut result = Deleted {
        deleted: Vec::new(),
        missing: Vec::new(),
        dry_run: args.dry_run,
    };
    for name in args.names {
        match admin.delete_topic(&name).await {
            Ok(()) => {
                text.push_str(&done(&name, "deleted", args.dry_run));
                result.deleted.push(name);
            }
            Err(error) if args.if_exists && error.reason() == Some(ErrorReason::UnknownTopic) => {
                text.push_str(&done(&name, "does not exist", args.dry_run));
                result.missing.push(name);
            }
            Err(error) => {
                // What was deleted before is told in any case.
                if !text.is_empty() {
                    tell(format, &text, &result)?;
                }
                return Err(refused(&name, error));
            }
        }
    }
    tell(format, &text, &result)
}

/// The broker's advice for a topic that is not there is for those who want one: to create it.
fn refused(name: &str, cause: millrace_client::Error) -> anyhow::Error {
    if cause.reason() != Some(ErrorReason::UnknownTopic) {
        return cause.into();
    }
    let message =
        format!("there is no topic {name:?}: check the spelling with millrace topic list, or add --if-exists");
    AdvisedError { message, cause }.into()
}
