//! The process `millrace-broker`: flags, logging, signals.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::{
    config::{BrokerConfig, ConfigProblem, documentation},
    serve,
};

/// The Millrace broker.
#[derive(Debug, Parser)]
#[command(name = "millrace-broker", version, about)]
#[allow(clippy::struct_excessive_bools, reason = "flags")]
pub struct Flags {
    /// A file of KEY=VALUE lines.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory that holds all data (data.dir).
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// HOST:PORT for gRPC clients (listen.client).
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// HOST:PORT for other brokers (listen.internal).
    #[arg(long, value_name = "HOST:PORT")]
    listen_internal: Option<String>,
    /// Other brokers' internal listeners, to join their cluster (seeds).
    #[arg(long, value_name = "HOST:PORT,...")]
    seeds: Option<String>,
    /// HOST:PORT for /livez, /readyz and /metrics (listen.http).
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// The broker's number (node.id).
    #[arg(long, value_name = "N")]
    node_id: Option<String>,
    /// Any setting; --help-config lists them.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// If the data directory is empty, join the cluster of the seeds, or begin a new one if there
    /// are none, or if begin.node names this broker and they know of no cluster. Without this flag an empty directory is an error: its volume may be missing.
    #[arg(long)]
    format_if_empty: bool,
    /// Print all settings with their meaning, and end.
    #[arg(long)]
    help_config: bool,
}

impl Flags {
    fn settings(&self) -> Result<Vec<(String, String)>, ConfigProblem> {
        let named = [
            ("data.dir", &self.data_dir),
            ("listen.client", &self.listen),
            ("listen.http", &self.http),
            ("listen.internal", &self.listen_internal),
            ("node.id", &self.node_id),
            ("seeds", &self.seeds),
        ];
        let mut settings: Vec<(String, String)> = named
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)))
            .collect();
        for setting in &self.settings {
            let (key, value) = setting.split_once('=').ok_or_else(|| ConfigProblem::NotAnAssignment {
                source_text: "command line --set".into(),
                found: setting.chars().take(80).collect(),
            })?;
            settings.push((key.to_owned(), value.to_owned()));
        }
        Ok(settings)
    }
}

/// Has glibc's allocator give memory back.
///
/// By default it learns from the first large buffer that is freed to keep all later ones in its
/// arenas, where they fragment: after a burst of large messages most of the peak stays for ever.
/// With a fixed bound, buffers of large messages come from the system and go back to it, while
/// those of usual batches are reused without page faults. Few arenas keep the rest together.
/// Call before there are threads.
#[allow(unsafe_code, reason = "the allocator has no other interface")]
pub fn tune_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` only stores numbers; these are within its bounds.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, ALLOCATOR_ARENAS);
    }
}

/// Buffers from this size on go back to the system when they are freed: above those of usual
/// batches of 1 MiB.
const MMAP_THRESHOLD_BYTES: libc::c_int = 3 << 20;

/// Free memory at the top of an arena that is kept for reuse.
const TRIM_THRESHOLD_BYTES: libc::c_int = 16 << 20;

/// Arenas: as many threads allocate at once on few cores.
const ALLOCATOR_ARENAS: libc::c_int = 2;

/// Runs the broker until a signal stops it. Exit codes: 0 stopped, 1 failed, 2 wrong
/// flags or configuration.
#[must_use]
pub fn main() -> ExitCode {
    tune_allocator();
    let flags = Flags::parse();
    if flags.help_config {
        print!("{}", documentation());
        return ExitCode::SUCCESS;
    }
    let loaded = flags
        .settings()
        .and_then(|given| BrokerConfig::load(flags.config.as_deref(), environment(), &given));
    let config = match loaded {
        Ok(config) => config,
        Err(problem) => {
            eprintln!("millrace-broker: {problem}");
            return ExitCode::from(2);
        }
    };
    init_logging(&config.log_level, config.log_json);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("millrace-broker: can't start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config, flags.format_if_empty)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-broker: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The environment's variables that are text; none of ours can be anything else.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// As many as cores, and two at least, so that one that is kept for a moment does not keep all tasks: more would only
/// take turns on the cores. What takes long leaves them: codecs' work on large batches, large and slow writes, reads
/// that may miss the page cache, flushes. What stays takes some milliseconds at most: small batches, and reads of
/// what was written a moment ago.
#[must_use]
pub fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).max(2)
}

/// Logs to standard error.
pub fn init_logging(level: &str, json: bool) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second initialisation in one process (an embedded broker) changes nothing.
    let _ = if json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}

async fn run(config: BrokerConfig, format_if_empty: bool) -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = Signals::new()?;
    let starting = async {
        if format_if_empty {
            serve::form(config).await
        } else {
            serve::start(config).await
        }
    };
    // Waiting for other brokers may take for ever.
    let running = tokio::select! {
        started = starting => started?,
        () = signals.received() => {
            tracing::info!("stopped before it served");
            return Ok(());
        }
    };
    println!("ready {}", running.address());
    let failure = tokio::select! {
        () = signals.received() => None,
        reason = running.failed() => Some(reason),
    };
    if let Some(reason) = failure {
        return Err(format!("stopping at once: {reason}").into());
    }
    tracing::info!("stopping");
    tokio::select! {
        stopped = running.stop() => Ok(stopped?),
        () = signals.received() => Err("stopped at once by a second signal".into()),
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
