//! `millrace topic create`.

use millrace_client::{Admin, ErrorReason, NewTopic};
use serde::Serialize;

use super::{done, settings, tell};
use crate::{
    args::{key_value, partitions},
    error::AdvisedError,
    output::{OutputFormat, plural, uuid},
};

/// Create a topic.
///
/// When this returns, the topic can be written to.
#[derive(Debug, clap::Args)]
#[command(after_long_help = settings::reference())]
pub struct CreateArgs {
    /// 1 to 249 letters, digits, '.', '_' and '-'.
    name: String,
    /// Partitions; more of them allow more consumers at once. Default: the brokers' num.partitions.
    #[arg(long, short, value_name = "N", allow_negative_numbers = true, value_parser = partitions)]
    partitions: Option<i32>,
    /// Brokers that hold each partition. Default: the brokers' default.replication.factor.
    #[arg(long, short, value_name = "R", value_parser = clap::value_parser!(i32).range(1..))]
    replication_factor: Option<i32>,
    /// A setting, such as retention.ms=3600000; may be given several times. --help lists all.
    #[arg(long = "config", short, visible_alias = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<(String, String)>,
    /// A topic of that name that exists already is no error; it is left as it is.
    #[arg(long)]
    if_not_exists: bool,
    /// Check everything, create nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Created {
    name: String,
    created: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_factor: Option<i32>,
    dry_run: bool,
}

/// Creates it.
pub async fn run(args: CreateArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let mut topic = NewTopic::new(&args.name);
    if let Some(partitions) = args.partitions {
        topic = topic.partitions(partitions);
    }
    if let Some(replication_factor) = args.replication_factor {
        topic = topic.replication_factor(replication_factor);
    }
    for (key, value) in args.configs {
        topic = topic.config(key, value);
    }
    let mut created = Created {
        name: args.name,
        created: false,
        topic_id: None,
        partitions: None,
        replication_factor: None,
        dry_run: args.dry_run,
    };
    let text = match admin.clone().validate_only(args.dry_run).create_topic(topic).await {
        Ok(answer) => {
            created.created = !args.dry_run;
            created.topic_id = Some(uuid(&answer.topic_id));
            created.partitions = Some(answer.partitions);
            created.replication_factor = Some(answer.replication_factor);
            let what = format!(
                "created: {}, {} of each",
                plural(u64::from(answer.partitions.unsigned_abs()), "partition"),
                if answer.replication_factor == 1 {
                    "1 copy".to_owned()
                } else {
                    format!("{} copies", answer.replication_factor)
                },
            );
            done(&created.name, &what, args.dry_run)
        }
        Err(error) if args.if_not_exists && error.reason() == Some(ErrorReason::TopicExists) => {
            done(&created.name, "exists already", args.dry_run)
        }
        Err(error) if error.reason() == Some(ErrorReason::TopicExists) => {
            return Err(AdvisedError {
                message: format!(
                    "Topic {:?} exists already: choose another name, or add --if-not-exists to leave it as it is.",
                    created.name
                ),
                cause: error,
            }
            .into());
        }
        Err(error) => return Err(settings::advise(error)),
    };
    tell(format, &text, &created)
}
