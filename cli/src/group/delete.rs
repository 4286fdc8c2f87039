//! `millrace group delete`.

use millrace_client::{Admin, ErrorReason};
use serde::Serialize;

use super::{done, refused, tell};
use crate::output::OutputFormat;

/// Delete groups without members, and their offsets. There is no way back.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// The groups, in this order; the first that can't be deleted ends it.
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    /// A group that does not exist is no error.
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
    for group in args.groups {
        match admin.delete_group(&group).await {
            Ok(()) => {
                text.push_str(&done(&group, "deleted", args.dry_run));
                result.deleted.push(group);
            }
            Err(error) if args.if_exists && error.reason() == Some(ErrorReason::UnknownGroup) => {
                text.push_str(&done(&group, "does not exist", args.dry_run));
                result.missing.push(group);
            }
            Err(error) => {
                // What was deleted before is told in any case.
                if !text.is_empty() {
                    tell(format, &text, &result)?;
                }
                return Err(refused(&group, error));
            }
        }
    }
    tell(format, &text, &result)
}
