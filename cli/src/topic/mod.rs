//! `millrace topic`.

mod add_partitions;
mod alter;
mod create;
mod defaults;
mod delete;
mod delete_messages;
mod describe;
mod list;
mod settings;
mod survival;

use clap::Subcommand;

use crate::{
    args::GlobalArgs,
    connect,
    output::{self, tell},
};

/// What to do with topics.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic.
    Create(create::CreateArgs),
    /// List topics by name.
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show a topic's partitions, sizes, settings and what it survives.
    Describe(describe::DescribeArgs),
    /// Change a topic's settings and its replication factor.
    Alter(alter::AlterArgs),
    /// Show or change the settings of all topics that do not set them themselves.
    Defaults(defaults::DefaultsArgs),
    /// Delete topics and their data.
    Delete(delete::DeleteArgs),
    /// Add partitions to a topic.
    AddPartitions(add_partitions::AddPartitionsArgs),
    /// Delete a topic's messages before an offset.
    DeleteMessages(delete_messages::DeleteMessagesArgs),
}

/// Does it.
pub async fn run(command: TopicCommand, global: &GlobalArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let (admin, format) = (client.admin(), global.output);
    match command {
        TopicCommand::Create(args) => create::run(args, &admin, format).await,
        TopicCommand::List(args) => list::run(args, &admin, format).await,
        TopicCommand::Describe(args) => describe::run(args, &admin, format).await,
        TopicCommand::Alter(args) => alter::run(args, &admin, format).await,
        TopicCommand::Defaults(args) => defaults::run(args, &admin, format).await,
        TopicCommand::Delete(args) => delete::run(args, &admin, format).await,
        TopicCommand::AddPartitions(args) => add_partitions::run(args, &admin, format).await,
        TopicCommand::DeleteMessages(args) => delete_messages::run(args, &admin, format).await,
    }
}

/// `topic/NAME created`, as kubectl says it, with a note where nothing was really done.
fn done(name: &str, what: &str, dry_run: bool) -> String {
    output::done("topic", name, what, dry_run)
}
