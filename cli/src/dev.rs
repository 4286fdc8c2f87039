//! `millrace dev`: a whole cluster in this process, for trying things out.

mod cluster;
mod data;
mod ports;

use std::{future::pending, path::PathBuf};

use anyhow::bail;
use millrace_server::process;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{cluster::DevCluster, data::DataDir, ports::Ports};
use crate::output::print;

/// The port that all commands look for a broker at.
const DEFAULT_PORT: u16 = 9650;

/// Run a cluster on this machine, for trying things out.
///
/// Prints one line `ready HOST:PORT` on standard output when all brokers serve, and what to try
/// next on standard error. Listens on this machine only. Stop it with Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// How many brokers, all in this process. 1 to 9.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    brokers: u16,
    /// Keep data here, with more than one broker in broker-0, broker-1 and so on. Default: a
    /// temporary directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Port for clients; further brokers have this and 10, 20 and so on. Brokers talk to each
    /// other at the next port. 0: any free ones.
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Port for /livez, /readyz and /metrics; 0: any free one. Default: the client port and 2.
    #[arg(long)]
    http_port: Option<u16>,
    /// What the brokers log on standard error: error, warn (the default), info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Runs the brokers until a signal.
pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let ports = Ports::new(args.brokers, args.port, args.http_port)?;
    if args.brokers > 1 && ports.are_free() && args.data_dir.is_some() {
        return Err(ports::ports_must_stay().into());
    }
    // Before the start, so that an early Ctrl-C removes the temporary directory too.
    let mut stop = Stop::new()?;
    let data = DataDir::new(args.data_dir, args.brokers)?;
    let log_level = args.log_level.unwrap_or_else(|| data.log_level().to_owned());
    if args.brokers > 1 {
        data.keep_port(args.port)?;
    }
    process::init_logging(&log_level, false);
    let served = tokio::select! {
        served = DevCluster::start(&data, &ports, &log_level) => Some(served),
        () = stop.received() => None,
    };
    let result = match served {
        Some(Ok(cluster)) => until_stopped(cluster, &data, &mut stop).await,
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    let removed = data.end();
    result.and(removed)
}

async fn until_stopped(cluster: DevCluster, data: &DataDir, stop: &mut Stop) -> anyhow::Result<()> {
    print(&format!("ready {}\n", cluster.first().address()))?;
    eprint!("{}", guide(&cluster, data));
    let failure = tokio::select! {
        () = stop.received() => None,
        reason = cluster.failed() => Some(reason),
    };
    if let Some(reason) = failure {
        bail!("a broker can't go on: {reason}");
    }
    eprintln!("Stopping; press Ctrl-C again to stop at once.");
    tokio::select! {
        stopped = cluster.stop() => Ok(stopped?),
        () = stop.received() => bail!("stopped at once; the next start has to check what was written last"),
    }
}

fn guide(cluster: &DevCluster, data: &DataDir) -> String {
    let (address, http) = (cluster.first().address(), cluster.first().http_address());
    let place = match data {
        DataDir::Kept(path) => format!("Data is kept in {}.", path.display()),
        DataDir::Temporary(dir) => format!(
            "Data is in {} and is removed at the end; keep it with --data-dir DIR.",
            dir.path().display()
        ),
    };
    let export = if address.port() == DEFAULT_PORT {
        String::new()
    } else {
        format!("  export MILLRACE_BOOTSTRAP={address}\n")
    };
    let who = match cluster.others() {
        [] => format!("A broker serves at {address}"),
        others => {
            let others: Vec<String> = others.iter().map(|broker| broker.address().to_string()).collect();
            format!("Brokers serve at {address}, {}", others.join(", "))
        }
    };
    let look = match cluster.others() {
        [] => "  millrace topic describe greetings\n",
        _ => "  millrace topic describe greetings\n  millrace cluster describe\n",
    };
    format!(
        "{who}; health and metrics are at http://{http}/readyz and /metrics.\n\
         {place}\n\
         Try in another terminal:\n{export}  \
         millrace topic create greetings --partitions 3\n  \
         echo hello | millrace produce greetings\n  \
         millrace consume greetings --from beginning\n\
         {look}\
         Stop with Ctrl-C.\n"
    )
}

/// SIGINT and SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            Some(()) = self.interrupt.recv() => {}
            Some(()) = self.terminate.recv() => {}
            else => pending().await,
        }
    }
}
