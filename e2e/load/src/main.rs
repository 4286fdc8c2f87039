//! Load on a cluster that runs where the cluster's clients run, and knows all that it was promised: records that were
//! acknowledged stay where they were acknowledged, each once and in order. It keeps what it knows in memory and is
//! never restarted. `options` says how it is called, `http` how it is asked.

mod consume;
mod finish;
mod gaps;
mod health;
mod http;
mod options;
mod partition;
mod produce;
mod reading;
mod runs;
mod status;
mod values;
mod work;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let options = options::Options::parse();
    let mut told_to_end = signal(SignalKind::terminate())?;
    tokio::select! {
        result = work::run(options) => result,
        // The first process of a container is not ended by a signal that it does not take.
        _ = told_to_end.recv() => Ok(()),
    }
}
