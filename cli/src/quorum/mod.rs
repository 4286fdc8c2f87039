//! `millrace quorum`.

mod describe;
mod voters;

use clap::Subcommand;

use crate::{args::GlobalArgs, connect};

/// What to do with the metadata quorum.
#[derive(Debug, Subcommand)]
pub enum QuorumCommand {
    /// Show its members, who leads and how far each is.
    #[command(visible_alias = "status")]
    Describe,
    /// Give a broker a vote.
    Add(voters::AddArgs),
    /// Take a vote away.
    Remove(voters::RemoveArgs),
}

/// Does it.
pub async fn run(command: QuorumCommand, global: &GlobalArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let (admin, format) = (client.admin(), global.output);
    match command {
        QuorumCommand::Describe => describe::run(&admin, format).await,
        QuorumCommand::Add(args) => voters::add(args, &admin, format).await,
        QuorumCommand::Remove(args) => voters::remove(args, &admin, format).await,
    }
}
