//! `millrace topic list`.

use millrace_client::Admin;
use serde::Serialize;

use super::tell;
use crate::output::{OutputFormat, TextTable, uuid};

/// List topics by name.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only topics whose names begin with this.
    #[arg(default_value = "")]
    prefix: String,
}

#[derive(Serialize)]
struct Topics {
    topics: Vec<Topic>,
}

#[derive(Serialize)]
struct Topic {
    name: String,
    topic_id: String,
    partitions: i32,
    replication_factor: i32,
}

/// Lists them.
pub async fn run(args: ListArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let topics: Vec<Topic> = admin
        .list_topics(&args.prefix)
        .await?
        .into_iter()
        .map(|topic| Topic {
            topic_id: uuid(&topic.topic_id),
            name: topic.name,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
        })
        .collect();
    if topics.is_empty() && format == OutputFormat::Text {
        if args.prefix.is_empty() {
            eprintln!("There are no topics; make one with: millrace topic create NAME");
        } else {
            eprintln!("There are no topics whose names begin with {:?}.", args.prefix);
        }
        return Ok(());
    }
    tell(format, &table(&topics), &Topics { topics })
}

fn table(topics: &[Topic]) -> String {
    let mut table = TextTable::new(&["NAME", "PARTITIONS", "REPLICATION"]).right(&[1, 2]);
    for topic in topics {
        table.row([
            topic.name.clone(),
            topic.partitions.to_string(),
            topic.replication_factor.to_string(),
        ]);
    }
    table.render()
}
