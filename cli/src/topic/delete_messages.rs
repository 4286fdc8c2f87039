//! `millrace topic delete-messages`.

use std::str::FromStr;

use millrace_client::Admin;
use serde::Serialize;

use super::tell;
use crate::{error::UsageError, output::OutputFormat};

/// Delete a topic's messages before an offset.
///
/// Space is freed in whole segments, so the disk may shrink later. There is no way back.
#[derive(Debug, clap::Args)]
pub struct DeleteMessagesArgs {
    /// The topic.
    name: String,
    /// The partition. Default, with --before end: all.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Messages below this offset go; `end`: all that are there now.
    #[arg(long, value_name = "OFFSET|end")]
    before: Before,
    /// Check everything, delete nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Up to where messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Offset(i64),
    End,
}

impl FromStr for Before {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "end" => Ok(Self::End),
            _ => match text.parse() {
                Ok(offset @ 0..) => Ok(Self::Offset(offset)),
                _ => Err("expected an offset or end"),
            },
        }
    }
}

#[derive(Serialize)]
struct Outcome {
    name: String,
    partitions: Vec<Partition>,
    dry_run: bool,
}

#[derive(Serialize)]
struct Partition {
    partition: i32,
    log_start: i64,
}

/// Deletes them.
pub async fn run(args: DeleteMessagesArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let before_offset = match args.before {
        Before::Offset(offset) => offset,
        Before::End => -1,
    };
    let partitions: Vec<i32> = match (args.partition, args.before) {
        (Some(partition), _) => vec![partition],
        (None, Before::End) => {
            let described = admin.describe_topic(&args.name).await?;
            described
                .partitions
                .iter()
                .map(|partition| partition.partition)
                .collect()
        }
        (None, Before::Offset(_)) => {
            return Err(UsageError(
                "an offset is one partition's: name it with --partition, or use --before end for all".to_owned(),
            )
            .into());
        }
    };
    let admin = admin.clone().validate_only(args.dry_run);
    let mut result = Outcome {
        name: args.name,
        partitions: Vec::new(),
        dry_run: args.dry_run,
    };
    let mut text = String::new();
    for partition in partitions {
        let log_start = admin.delete_messages(&result.name, partition, before_offset).await?;
        let note = if args.dry_run { " (dry run)" } else { "" };
        text.push_str(&format!(
            "topic/{} partition {partition} begins at offset {log_start}{note}\n",
            result.name
        ));
        result.partitions.push(Partition { partition, log_start });
    }
    tell(format, &text, &result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_or_an_offset() {
        assert_eq!("end".parse(), Ok(Before::End));
        assert_eq!("0".parse(), Ok(Before::Offset(0)));
        for text in ["", "-1", "beginning", "1.0"] {
            assert!(text.parse::<Before>().is_err(), "{text}");
        }
    }
}
