//! The operator's command line.

use clap::Parser as _;
use millrace_operator::{
    commands::{release_finalizers, self_test},
    options::{Cli, Command, LogFormat},
    run,
};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let filter = EnvFilter::try_new(&cli.log_level)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().with_current_span(false).with_span_list(false).init(),
    }
    // Which of the providers in the tree is used must be said before the first connection.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.command {
        Command::Run(options) => run::run(options).await,
        Command::ReleaseFinalizers(options) => release_finalizers::run(run::connect().await?, &options).await,
        Command::SelfTest(options) => self_test::run(run::connect().await?, &options).await,
    }
}
