//! `millrace partition`.

mod elect;
mod list_moves;
mod reassign;

use clap::Subcommand;

use crate::{args::GlobalArgs, connect};

/// What to do with partitions.
#[derive(Debug, Subcommand)]
pub enum PartitionCommand {
    Move(reassign::MoveArgs),
    Moves(list_moves::MovesArgs),
    Elect(elect::ElectArgs),
}

/// Does it.
pub async fn run(command: PartitionCommand, global: &GlobalArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let (admin, format) = (client.admin(), global.output);
    match command {
        PartitionCommand::Move(args) => reassign::run(args, &admin, format).await,
        PartitionCommand::Moves(args) => list_moves::run(args, &admin, format).await,
        PartitionCommand::Elect(args) => elect::run(args, &admin, format).await,
    }
}
