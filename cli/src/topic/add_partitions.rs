//! `millrace topic add-partitions`.

use millrace_client::Admin;
use serde::Serialize;

use super::{done, tell};
use crate::{
    args::partitions,
    output::{OutputFormat, plural},
};

/// Add partitions to a topic.
///
/// Keys are spread anew: messages of one key may be in two partitions afterwards, so their order
/// is lost across the change. Partitions can't be taken away again.
#[derive(Debug, clap::Args)]
pub struct AddPartitionsArgs {
    /// The topic.
    name: String,
    /// How many partitions there shall be in all.
    #[arg(long, short, value_name = "N", allow_negative_numbers = true, value_parser = partitions)]
    partitions: i32,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Added {
    name: String,
    partitions: i32,
    dry_run: bool,
}

/// Adds them.
pub async fn run(args: AddPartitionsArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let admin = admin.clone().validate_only(args.dry_run);
    let partitions = admin.create_partitions(&args.name, args.partitions).await?;
    let what = format!("has {}", plural(u64::from(partitions.unsigned_abs()), "partition"));
    let text = done(&args.name, &what, args.dry_run);
    tell(
        format,
        &text,
        &Added {
            name: args.name,
            partitions,
            dry_run: args.dry_run,
        },
    )
}
