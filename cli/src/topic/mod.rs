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
    Create(create::CreateArgs),
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Describe(describe::DescribeArgs),
    Alter(alter::AlterArgs),
    Defaults(defaults::DefaultsArgs),
    Delete(delete::DeleteArgs),
    AddPartitions(add_partitions::AddPartitionsArgs),
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
