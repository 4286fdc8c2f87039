//! `millrace cluster`.

mod describe;
mod rebalance;

use crate::{
    args::{ClusterCommand, GlobalArgs},
    connect,
};

pub use describe::Partitions;
pub use rebalance::RebalanceArgs;

/// Does it.
pub async fn run(command: ClusterCommand, global: &GlobalArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let (admin, format) = (client.admin(), global.output);
    match command {
        ClusterCommand::Describe => describe::run(&admin, format).await,
        ClusterCommand::Rebalance(args) => rebalance::run(args, &admin, format).await,
    }
}
