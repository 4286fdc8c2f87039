//! `millrace group delete`.

use millrace_client::{Admin, ErrorReason};

use super::refused;
use crate::{
    deletion::{Deletion, delete_each},
    output::OutputFormat,
};

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

/// Deletes them.
pub async fn run(args: DeleteArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().validate_only(args.dry_run);
    let deletion = Deletion {
        kind: "group",
        names: args.groups,
        if_exists: args.if_exists,
        dry_run: args.dry_run,
        unknown: ErrorReason::UnknownGroup,
    };
    delete_each(deletion, format, async |name| admin.delete_group(name).await, refused).await
}
