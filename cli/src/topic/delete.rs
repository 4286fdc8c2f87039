//! `millrace topic delete`.

use millrace_client::{Admin, ErrorReason};

use crate::{
    deletion::{Deletion, delete_each},
    error::AdvisedError,
    output::OutputFormat,
};

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

/// Deletes them.
pub async fn run(args: DeleteArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().validate_only(args.dry_run);
    let deletion = Deletion {
        kind: "topic",
        names: args.names,
        if_exists: args.if_exists,
        dry_run: args.dry_run,
        unknown: ErrorReason::UnknownTopic,
    };
    delete_each(deletion, format, async |name| admin.delete_topic(name).await, refused).await
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
