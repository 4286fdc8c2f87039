//! `millrace topic defaults`.

use millrace_client::{
    Admin,
    v1::{ConfigDescription, ConfigSource},
};
use serde::Serialize;

use super::settings;
use crate::{
    args::key_value,
    output::{OutputFormat, TextTable, setting, tell},
};

/// Show or change the settings of all topics that do not set them themselves.
///
/// Without --config and --unset: shows what is in force. All settings are changed together, or none, at once and for
/// topics that exist already, too. What a broker's configuration says of topic.default.* is stored here when it starts,
/// where nothing is set yet.
#[derive(Debug, clap::Args)]
#[command(after_long_help = settings::reference())]
pub struct DefaultsArgs {
    /// A setting, such as retention.ms=3600000; may be given several times. --help lists all.
    #[arg(long = "config", short, visible_alias = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<(String, String)>,
    /// Set a setting back to the built-in default; may be given several times.
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Default {
    name: String,
    value: String,
    /// Whether it is set for the cluster, or built in.
    set: bool,
    built_in: String,
    documentation: String,
}

impl From<ConfigDescription> for Default {
    fn from(from: ConfigDescription) -> Self {
        Self {
            set: from.source() == ConfigSource::Cluster,
            name: from.name,
            value: from.value,
            built_in: from.default_value,
            documentation: from.documentation,
        }
    }
}

#[derive(Serialize)]
struct Changed {
    changed: bool,
    dry_run: bool,
}

/// Shows or changes them.
pub async fn run(args: DefaultsArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    if args.configs.is_empty() && args.unset.is_empty() {
        let defaults = admin.describe_topic_defaults().await?;
        let defaults: Vec<Default> = defaults.into_iter().map(Default::from).collect();
        return tell(format, &text(&defaults), &defaults);
    }
    admin
        .clone()
        .validate_only(args.dry_run)
        .alter_topic_defaults(args.configs, args.unset)
        .await
        .map_err(settings::advise)?;
    let changed = Changed {
        changed: !args.dry_run,
        dry_run: args.dry_run,
    };
    let mark = if args.dry_run { " (dry run)" } else { "" };
    tell(format, &format!("defaults of topics changed{mark}\n"), &changed)
}

fn text(defaults: &[Default]) -> String {
    let mut table = TextTable::new(&["SETTING", "VALUE", "SET"]);
    for default in defaults {
        let set = if default.set { "for the cluster" } else { "-" };
        table.row([
            default.name.clone(),
            setting(&default.name, &default.value),
            set.to_owned(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_told_from_what_is_built_in() {
        let described = |name: &str, value: &str, source: ConfigSource| ConfigDescription {
            name: name.into(),
            value: value.into(),
            source: source.into(),
            default_value: "ack".into(),
            ..ConfigDescription::default()
        };
        let defaults: Vec<Default> = [
            described("flush", "os", ConfigSource::Cluster),
            described("retention.ms", "604800000", ConfigSource::Default),
        ]
        .into_iter()
        .map(Default::from)
        .collect();
        let text = text(&defaults);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert!(
            lines[1].starts_with("flush ") && lines[1].ends_with("for the cluster"),
            "{text}"
        );
        assert!(lines[2].contains("604800000 (7d)") && lines[2].ends_with('-'), "{text}");
    }
}
