//! The operator's command line. Each flag is also an environment variable, which is what the chart sets.

use std::{net::SocketAddr, sync::LazyLock};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The version of this operator, and so of the brokers that it makes if it is not told otherwise.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The client tells of each broker that it can't reach; the operator tells of clusters, in their status.
const DEFAULT_LOG: &str = "info,millrace_client=error";

static DEFAULT_IMAGE: LazyLock<String> = LazyLock::new(|| format!("millrace/millrace:{VERSION}"));

/// Reconciles Millrace's Cluster and Topic resources.
#[derive(Debug, Parser)]
#[command(
    name = "millrace-operator",
    version,
    about,
    max_term_width = 100,
    args_override_self = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// How much is logged: error, warn, info, debug, trace, or directives as of the tracing crates' EnvFilter.
    #[arg(long, global = true, env = "MILLRACE_OPERATOR_LOG_LEVEL", default_value = DEFAULT_LOG)]
    pub log_level: String,

    /// How the log is written on standard error.
    #[arg(long, global = true, env = "MILLRACE_OPERATOR_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What the operator can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reconciles until it is stopped.
    Run(RunOptions),
    /// Takes the operator's finalizers off all Topics, so that they can be deleted when it is gone. Topics' data stays.
    ReleaseFinalizers(ReleaseOptions),
    /// Makes a cluster of one broker and a topic, writes and reads records, and deletes all of it again.
    SelfTest(SelfTestOptions),
}

/// Which namespaces.
#[derive(Args, Clone, Debug, Default)]
pub struct Namespaces {
    /// The namespaces whose Clusters and Topics are reconciled, separated by commas; all without it.
    #[arg(long, env = "MILLRACE_OPERATOR_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
}

impl Namespaces {
    /// Those that were named, without empty names, each once, sorted; none: all there are.
    #[must_use]
    pub fn named(&self) -> Vec<String> {
        let mut named: Vec<String> = self
            .watch_namespaces
            .iter()
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
            .collect();
        named.sort();
        named.dedup();
        named
    }

    /// Whether objects there are reconciled.
    #[must_use]
    pub fn include(&self, namespace: &str) -> bool {
        let named = self.named();
        named.is_empty() || named.iter().any(|name| name == namespace)
    }
}

/// Whose finalizers go.
#[derive(Args, Clone, Debug, Default)]
pub struct ReleaseOptions {
    /// Which namespaces.
    #[command(flatten)]
    pub namespaces: Namespaces,

    /// The Lease of the operator that still runs, which is taken from it first; none: nobody runs.
    #[arg(long, env = "MILLRACE_OPERATOR_LEASE_NAME")]
    pub lease_name: Option<String>,

    /// The Lease's namespace; the pod's own if it is not said.
    #[arg(long, env = "MILLRACE_OPERATOR_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
}

/// How the operator runs.
#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// Which namespaces.
    #[command(flatten)]
    pub namespaces: Namespaces,

    /// The image that brokers run if their Cluster names none. For another version its tag is replaced.
    #[arg(long, env = "MILLRACE_OPERATOR_IMAGE", default_value = DEFAULT_IMAGE.as_str())]
    pub image: String,

    /// When nodes pull that image: Always, IfNotPresent, Never.
    #[arg(long, env = "MILLRACE_OPERATOR_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: String,

    /// Secrets with which nodes pull that image, separated by commas; they must be in the Clusters' namespaces.
    #[arg(long, env = "MILLRACE_OPERATOR_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    pub image_pull_secrets: Vec<String>,

    /// Whether only one of several operators works at a time, by a Lease.
    #[arg(long, env = "MILLRACE_OPERATOR_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,

    /// The Lease's name.
    #[arg(long, env = "MILLRACE_OPERATOR_LEASE_NAME", default_value = "millrace-operator")]
    pub lease_name: String,

    /// The Lease's namespace; the pod's own if it is not said.
    #[arg(long, env = "MILLRACE_OPERATOR_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// What this process is called in the Lease; the host's name if it is not said.
    #[arg(long, env = "MILLRACE_OPERATOR_IDENTITY")]
    pub identity: Option<String>,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "MILLRACE_OPERATOR_HTTP", default_value = "0.0.0.0:9652")]
    pub http: SocketAddr,

    /// How often each object is looked at again even if nothing has changed, in seconds: 5 to 3,600.
    #[arg(long, env = "MILLRACE_OPERATOR_RESYNC_SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub resync_seconds: u64,
}

/// What the test makes.
#[derive(Args, Clone, Debug)]
pub struct SelfTestOptions {
    /// Where.
    #[arg(long, env = "MILLRACE_OPERATOR_SELF_TEST_NAMESPACE")]
    pub namespace: String,

    /// What the Cluster and the Topic are called. There must be none of that name.
    #[arg(long, default_value = "millrace-self-test")]
    pub name: String,

    /// How long it may take, in seconds.
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u64).range(10..=3600))]
    pub timeout_seconds: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_namespace_means_all() {
        let all = Namespaces {
            watch_namespaces: vec![String::new()],
        };
        assert!(all.include("any"));
        let some = Namespaces {
            watch_namespaces: vec![" b".into(), "a".into(), "b".into()],
        };
        assert_eq!(some.named(), ["a", "b"]);
        assert!(!some.include("c"));
    }
}
