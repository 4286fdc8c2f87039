//! `millrace topic alter`.

use millrace_client::Admin;
use serde::Serialize;

use super::{done, settings, tell};
use crate::{args::key_value, output::OutputFormat};

/// Change a topic's settings.
///
/// All changes are made together, or none. `millrace topic describe NAME --all-settings` shows
/// what is set now.
#[derive(Debug, clap::Args)]
#[command(after_long_help = settings::reference())]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
pub struct AlterArgs {
    /// The topic.
    name: String,
    /// A setting, such as retention.ms=3600000; may be given several times. --help lists all.
    #[arg(
        long = "config",
        short,
        visible_alias = "set",
        value_name = "KEY=VALUE",
        value_parser = key_value,
        group = "change"
    )]
    configs: Vec<(String, String)>,
    /// Set a setting back to the brokers' default; may be given several times.
    #[arg(long, value_name = "KEY", group = "change")]
    unset: Vec<String>,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Altered {
    name: String,
    altered: bool,
    dry_run: bool,
}

/// Changes them.
pub async fn run(args: AlterArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    admin
        .clone()
        .validate_only(args.dry_run)
        .alter_configs(&args.name, args.configs, args.unset)
        .await
        .map_err(settings::advise)?;
    let text = done(&args.name, "altered", args.dry_run);
    tell(
        format,
        &text,
        &Altered {
            name: args.name,
            altered: !args.dry_run,
            dry_run: args.dry_run,
        },
    )
}
