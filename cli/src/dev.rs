//! `millrace dev`: a broker in this process, for trying things out.

use std::{future::pending, path::PathBuf};

use anyhow::{Context, anyhow, bail};
use millrace_server::{RunningBroker, StartError, config::BrokerConfig, process};
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{error::UsageError, output::print};

/// How far the HTTP port is from the client port, as in the brokers' defaults.
const HTTP_PORT_DISTANCE: u16 = 2;

/// The port that all commands look for a broker at.
const DEFAULT_PORT: u16 = 9650;

/// Run a broker on this machine, for trying things out.
///
/// Prints one line `ready HOST:PORT` on standard output when it serves, and what to try next
/// on standard error. Listens on this machine only. Stop it with Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    /// Keep data here. Default: a temporary directory that is removed at the end.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Port for clients; 0: any free one.
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,
    /// Port for /livez, /readyz and /metrics; 0: any free one. Default: the client port and 2.
    #[arg(long)]
    http_port: Option<u16>,
    /// What the broker logs on standard error: error, warn (the default), info, debug or trace.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Where data is, and whether it goes at the end.
enum DataDir {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl DataDir {
    fn new(asked: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(path) = asked {
            std::fs::create_dir_all(&path).with_context(|| format!("can't create {}", path.display()))?;
            return Ok(Self::Kept(path));
        }
        let dir = tempfile::Builder::new().prefix("millrace-dev-").tempdir();
        Ok(Self::Temporary(dir.context(
            "can't create a temporary directory; name one with --data-dir",
        )?))
    }

    fn path(&self) -> &std::path::Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }

    /// What is worth a newcomer's attention. A broker warns of a directory that was not closed, which a
    /// new one never was.
    fn log_level(&self) -> &'static str {
        let is_new = std::fs::read_dir(self.path()).is_ok_and(|mut entries| entries.next().is_none());
        if is_new {
            "warn,millrace_server::serve=error"
        } else {
            "warn"
        }
    }

    fn end(self) -> anyhow::Result<()> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::Temporary(dir) => {
                let path = dir.path().display().to_string();
                dir.close().with_context(|| format!("can't remove {path}"))
            }
        }
    }
}

/// Runs the broker until a signal.
pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let http_port = http_port(args.port, args.http_port)?;
    // Before the start, so that an early Ctrl-C removes the temporary directory too.
    let mut stop = Stop::new()?;
    let data = DataDir::new(args.data_dir)?;
    let log_level = args.log_level.unwrap_or_else(|| data.log_level().to_owned());
    process::init_logging(&log_level, false);
    let served = tokio::select! {
        served = serve(&data, args.port, http_port, &log_level) => Some(served),
        () = stop.received() => None,
    };
    let result = match served {
        Some(Ok(running)) => until_stopped(running, &data, &mut stop).await,
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    let removed = data.end();
    result.and(removed)
}

fn http_port(port: u16, asked: Option<u16>) -> Result<u16, UsageError> {
    match (asked, port) {
        (Some(asked), _) => Ok(asked),
        (None, 0) => Ok(0),
        (None, port) => port.checked_add(HTTP_PORT_DISTANCE).ok_or_else(|| {
            UsageError(format!(
                "port {port} leaves no room for the HTTP port: name one with --http-port"
            ))
        }),
    }
}

async fn serve(data: &DataDir, port: u16, http_port: u16, log_level: &str) -> anyhow::Result<RunningBroker> {
    let settings = [
        ("data.dir", data.path().display().to_string()),
        ("listen.client", format!("127.0.0.1:{port}")),
        ("listen.http", format!("127.0.0.1:{http_port}")),
        ("log.level", log_level.to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    let config = BrokerConfig::load(None, std::iter::empty(), &settings)?;
    let started = match millrace_server::start(config.clone()).await {
        Err(StartError::NotFormatted(_)) => {
            millrace_server::format(&config)?;
            millrace_server::start(config).await
        }
        started => started,
    };
    started.map_err(|error| match &error {
        StartError::Io(io) if io.kind() == std::io::ErrorKind::AddrInUse => anyhow!(
            "port {port} or {http_port} is taken, maybe by another broker; choose others with --port and --http-port"
        ),
        _ => error.into(),
    })
}

async fn until_stopped(running: RunningBroker, data: &DataDir, stop: &mut Stop) -> anyhow::Result<()> {
    print(&format!("ready {}\n", running.address()))?;
    eprint!("{}", guide(&running, data));
    let failure = tokio::select! {
        () = stop.received() => None,
        reason = running.failed() => Some(reason),
    };
    if let Some(reason) = failure {
        bail!("the broker can't go on: {reason}");
    }
    eprintln!("Stopping; press Ctrl-C again to stop at once.");
    tokio::select! {
        stopped = running.stop() => Ok(stopped?),
        () = stop.received() => bail!("stopped at once; the next start has to check what was written last"),
    }
}

fn guide(running: &RunningBroker, data: &DataDir) -> String {
    let (address, http) = (running.address(), running.http_address());
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
    format!(
        "A broker serves at {address}; health and metrics are at http://{http}/readyz and /metrics.\n\
         {place}\n\
         Try in another terminal:\n{export}  \
         millrace topic create greetings --partitions 3\n  \
         echo hello | millrace produce greetings\n  \
         millrace consume greetings --from beginning\n  \
         millrace topic describe greetings\n\
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_port_follows_the_client_port() {
        assert_eq!(http_port(9650, None).unwrap(), 9652);
        assert_eq!(http_port(0, None).unwrap(), 0);
        assert_eq!(http_port(9650, Some(80)).unwrap(), 80);
        assert!(http_port(65_534, None).is_err());
    }

    #[test]
    fn a_temporary_directory_goes_and_a_named_one_stays() {
        let temporary = DataDir::new(None).unwrap();
        let path = temporary.path().to_owned();
        assert_ne!(temporary.log_level(), "warn");
        std::fs::write(path.join("x"), "y").unwrap();
        assert_eq!(temporary.log_level(), "warn");
        temporary.end().unwrap();
        assert!(!path.exists());

        let parent = tempfile::tempdir().unwrap();
        let named = DataDir::new(Some(parent.path().join("a/b"))).unwrap();
        let path = named.path().to_owned();
        named.end().unwrap();
        assert!(path.is_dir());
    }
}
