//! `millrace quorum`.

mod describe;
mod recover;
mod voters;

use clap::Subcommand;

use crate::{args::GlobalArgs, connect};

/// What to do with the metadata quorum.
#[derive(Debug, Subcommand)]
pub enum QuorumCommand {
    /// Show its members, who leads and how far each is.
    #[command(visible_alias = "status")]
    Describe,
    Add(voters::AddArgs),
    Remove(voters::RemoveArgs),
    Recover(recover::RecoverArgs),
}

/// Does it.
pub async fn run(command: QuorumCommand, global: &GlobalArgs) -> anyhow::Result<()> {
    let command = match command {
        // Nobody could be called: it works on files.
        QuorumCommand::Recover(args) => return recover::run(&args, global.output),
        command => command,
    };
    let client = connect::client(global).await?;
    let (admin, format) = (client.admin(), global.output);
    match command {
        QuorumCommand::Describe => describe::run(&admin, format).await,
        QuorumCommand::Add(args) => voters::add(args, &admin, format).await,
        QuorumCommand::Remove(args) => voters::remove(args, &admin, format).await,
        QuorumCommand::Recover(_) => Ok(()),
    }
}
