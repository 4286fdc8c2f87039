//! Many members of consumer groups in one process: how long it takes until all that join at once have their share, and how
//! many commits a coordinator takes; and what reading by each of the two ways costs the broker. What is measured is one JSON object on standard output.

mod commits;
mod consume;
mod member;
mod storm;

use clap::{Parser, Subcommand};
use millrace_proto::v1::groups_client::GroupsClient;
use tonic::transport::{Channel, Endpoint};

/// Measures consumer groups with many members in one process.
#[derive(Debug, Parser)]
#[command(name = "millrace-group-load", version, about, max_term_width = 100)]
struct Options {
    /// A broker; it passes on what another coordinates.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap: String,

    /// Connections, over which the members are spread.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,

    #[command(subcommand)]
    measure: Measure,
}

#[derive(Debug, Subcommand)]
enum Measure {
    /// Members join one group at once, and stay until all have what they shall have.
    Storm(storm::StormArgs),
    /// Members of groups with one coordinator commit as fast as they are answered.
    Commits(commits::CommitsArgs),
    /// One member reads a topic.
    Consume(consume::ConsumeArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let endpoint = Endpoint::from_shared(format!("http://{}", options.bootstrap))?;
    let mut clients: Vec<GroupsClient<Channel>> = Vec::new();
    for _ in 0..options.connections {
        clients.push(GroupsClient::new(endpoint.connect().await?));
    }
    let measured = match options.measure {
        Measure::Storm(args) => storm::run(&clients, args).await?,
        Measure::Commits(args) => commits::run(&clients, args).await?,
        Measure::Consume(args) => consume::run(&options.bootstrap, args).await?,
    };
    println!("{measured}");
    Ok(())
}
