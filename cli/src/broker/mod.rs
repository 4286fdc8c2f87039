//! `millrace broker`.

mod cordon;
mod drain;
mod list;
mod maintenance;
mod may_restart;
mod remove;
mod replace_disk;
mod table;

use clap::Subcommand;

use crate::{args::GlobalArgs, connect, output};

pub use table::{Broker, Maintenance, table};

/// What to do with brokers.
#[derive(Debug, Subcommand)]
pub enum BrokerCommand {
    /// List brokers with their racks and states.
    #[command(visible_alias = "ls")]
    List,
    /// Give a broker no new replicas; it keeps and serves what it has.
    Cordon(cordon::CordonArgs),
    /// Give a broker new replicas again.
    Uncordon(cordon::CordonArgs),
    Drain(drain::DrainArgs),
    Remove(remove::RemoveArgs),
    ReplaceDisk(replace_disk::ReplaceDiskArgs),
    MayRestart(may_restart::MayRestartArgs),
    /// Take and give back the one permission to take a broker down.
    #[command(subcommand)]
    Maintenance(maintenance::MaintenanceCommand),
}

/// Does it.
pub async fn run(command: BrokerCommand, global: &GlobalArgs) -> anyhow::Result<()> {
    let client = connect::client(global).await?;
    let (admin, format) = (client.admin(), global.output);
    match command {
        BrokerCommand::List => list::run(&admin, format).await,
        BrokerCommand::Cordon(args) => cordon::run(args, true, &admin, format).await,
        BrokerCommand::Uncordon(args) => cordon::run(args, false, &admin, format).await,
        BrokerCommand::Drain(args) => drain::run(args, &admin, format).await,
        BrokerCommand::Remove(args) => remove::run(args, &admin, format).await,
        BrokerCommand::ReplaceDisk(args) => replace_disk::run(args, &admin, format).await,
        BrokerCommand::MayRestart(args) => may_restart::run(args, &admin, format).await,
        BrokerCommand::Maintenance(command) => maintenance::run(command, &admin, format).await,
    }
}

/// `broker/1 cordoned`, as kubectl says it, with a note where nothing was really done.
fn done(broker: i32, what: &str, dry_run: bool) -> String {
    output::done("broker", broker, what, dry_run)
}
