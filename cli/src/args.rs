//! The flags of all commands; each command's own stand in its file.

use clap::{Arg, Parser, Subcommand};
use millrace_engine::cluster::MAX_PARTITIONS_PER_TOPIC;

use crate::{
    bench::BenchCommand,
    broker::BrokerCommand,
    cluster::RebalanceArgs,
    completion::CompletionArgs,
    consume::ConsumeArgs,
    dev::DevArgs,
    group::GroupCommand,
    log::LogCommand,
    output::{OutputFormat, count},
    partition::PartitionCommand,
    produce::ProduceArgs,
    quorum::QuorumCommand,
    topic::TopicCommand,
};

/// Millrace, a distributed commit log.
///
/// Start with `millrace dev`, which runs a broker on this machine, then in another terminal
/// `millrace topic create greetings`, `millrace produce greetings` and
/// `millrace consume greetings --from beginning`.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted by Ctrl-C, 143 ended by SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "millrace", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that all commands take.
#[derive(Debug, clap::Args)]
pub struct GlobalArgs {
    /// Brokers to begin with; the others are learnt from them.
    #[arg(
        long,
        global = true,
        env = "MILLRACE_BOOTSTRAP",
        default_value = "localhost:9650",
        value_name = "HOST:PORT,...",
        help_heading = "Global options"
    )]
    pub bootstrap: String,
    /// How results are written: `text` for people, `json` for programs.
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub output: OutputFormat,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(arg = unused_bootstrap())]
    Dev(DevArgs),
    /// Create, list, describe, alter and delete topics.
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Tell about brokers, the metadata quorum and what needs attention.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// List brokers, empty and remove them, take them down in turn.
    #[command(subcommand)]
    Broker(BrokerCommand),
    /// Move partitions between brokers and choose their leaders.
    #[command(subcommand)]
    Partition(PartitionCommand),
    /// Show the metadata quorum, give brokers a vote or take it away.
    #[command(subcommand)]
    Quorum(QuorumCommand),
    /// Show consumer groups and their lag, set their offsets, delete them.
    #[command(subcommand)]
    Group(GroupCommand),
    Produce(ProduceArgs),
    Consume(ConsumeArgs),
    /// Measure throughput and latency; results are one JSON object.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Look into a partition's files on this machine's disk, without a broker.
    #[command(subcommand, arg = unused_bootstrap())]
    Log(LogCommand),
    #[command(arg = unused_bootstrap())]
    Completion(CompletionArgs),
    /// Print the version.
    #[command(arg = unused_bootstrap())]
    Version,
}

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show brokers, the metadata quorum and which partitions need attention.
    #[command(visible_alias = "status")]
    Describe,
    Rebalance(RebalanceArgs),
}

/// `--bootstrap` for commands that call no broker: taken, since scripts may give it to all, but not in their
/// help. It stands in for the global flag of the same id.
fn unused_bootstrap() -> Arg {
    Arg::new("bootstrap").long("bootstrap").global(true).hide(true)
}

/// Splits `KEY=VALUE`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// Brokers, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brokers(pub Vec<i32>);

/// Reads brokers' ids that are parted by commas.
pub fn brokers(text: &str) -> Result<Brokers, String> {
    let mut brokers = Vec::new();
    for part in text.split(',') {
        let part = part.trim();
        let id: i32 = part
            .parse()
            .map_err(|_| format!("{part:?} is no broker's id: write numbers parted by commas"))?;
        if brokers.contains(&id) {
            return Err(format!("broker {id} is named twice"));
        }
        brokers.push(id);
    }
    Ok(Brokers(brokers))
}

/// How fast moves of partitions go.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Throttle {
    /// Send at most this many bytes a second to each broker that is added, from each leader; 65536
    /// or more. To change it for a partition, `millrace partition move` it again to where it goes; it
    /// ends with the move.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(i64).range(65536..))]
    throttle: Option<i64>,
}

impl Throttle {
    /// As requests have it: 0 is none.
    pub fn bytes_per_second(self) -> i64 {
        self.throttle.unwrap_or(0)
    }
}

/// Reads how many partitions a topic shall have.
pub fn partitions(text: &str) -> Result<i32, String> {
    text.parse::<i32>()
        .ok()
        .filter(|count| usize::try_from(*count).is_ok_and(|count| (1..=MAX_PARTITIONS_PER_TOPIC).contains(&count)))
        .ok_or_else(|| format!("--partitions must be 1 to {}", count(MAX_PARTITIONS_PER_TOPIC as i64)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_setting_is_split_at_its_first_equals_sign() {
        assert_eq!(key_value("a.b=c=d").unwrap(), ("a.b".into(), "c=d".into()));
        assert_eq!(key_value("a=").unwrap(), ("a".into(), String::new()));
        assert!(key_value("a").is_err());
        assert!(key_value("=b").is_err());
    }

    #[test]
    fn brokers_are_parted_by_commas_and_named_once() {
        assert_eq!(brokers("3, 1,2"), Ok(Brokers(vec![3, 1, 2])));
        for bad in ["", "1,", "a", "1,1", "1;2"] {
            assert!(brokers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn help_is_all_that_the_arguments_document() {
        for (command, words) in [
            (
                &["group", "reset-offsets"][..],
                "Partitions that a member uses are left alone",
            ),
            (&["group", "describe"], "TIME LAG is for how long"),
            (&["consume"], "Follows the topic until Ctrl-C"),
            (&["topic", "create"], "When this returns"),
        ] {
            let help = |flag: &str| {
                let all = ["millrace"].iter().chain(command).copied().chain([flag]);
                let help = Cli::try_parse_from(all).unwrap_err().to_string();
                help.split_whitespace().collect::<Vec<_>>().join(" ")
            };
            assert!(help("--help").contains(words), "{command:?}: {}", help("--help"));
            assert!(!help("-h").contains(words), "{command:?}: {}", help("-h"));
        }
    }

    #[test]
    fn bootstrap_and_output_go_anywhere() {
        let cli = Cli::try_parse_from(["millrace", "topic", "list", "--bootstrap", "h:1", "--output", "json"]).unwrap();
        assert_eq!(cli.global.bootstrap, "h:1");
        assert_eq!(cli.global.output, OutputFormat::Json);
        for short in [&["-o", "json"][..], &["-ojson"], &["-o=json"]] {
            let all = ["millrace", "topic", "list"].iter().chain(short);
            assert_eq!(Cli::try_parse_from(all).unwrap().global.output, OutputFormat::Json);
        }
    }

    #[test]
    fn a_member_of_a_group_may_read_several_topics() {
        for args in [
            &["a", "b", "--group", "g"][..],
            &["a", "--group", "g", "--instance-id", "pod-0"],
            &["--group", "g", "--topic-pattern", "orders-.*"],
            &["a", "--group", "g", "--session-timeout", "30m", "--assignments"],
            &["a", "--group", "g", "--topic-pattern", "orders-.*", "--from", "-1h"],
        ] {
            let all = ["millrace", "consume"].iter().chain(args);
            assert!(Cli::try_parse_from(all).is_ok(), "{args:?}");
        }
    }

    #[test]
    fn commands_without_a_broker_do_not_offer_one() {
        for args in [
            &["dev"][..],
            &["log", "dump"],
            &["completion"],
            &["version"],
            &["topic", "list"],
        ] {
            let all = ["millrace"].iter().chain(args).chain(&["--help"]);
            let help = Cli::try_parse_from(all).unwrap_err().to_string();
            assert_eq!(help.contains("--bootstrap"), args[0] == "topic", "{args:?}: {help}");
            assert!(help.contains("--output"), "{args:?}: {help}");
        }
        for args in [
            ["millrace", "--bootstrap", "h:1", "version"],
            ["millrace", "version", "--bootstrap", "h:1"],
        ] {
            assert!(Cli::try_parse_from(args).is_ok(), "{args:?}");
        }
    }

    #[test]
    fn settings_are_given_in_the_same_way_to_all_commands() {
        for command in ["create", "alter"] {
            for flag in ["--config", "-c", "--set"] {
                let parsed = Cli::try_parse_from(["millrace", "topic", command, "t", flag, "flush=os"]);
                assert!(parsed.is_ok(), "{command} {flag}");
            }
        }
    }

    #[test]
    fn a_wrong_number_of_partitions_is_told_with_its_bounds() {
        let error = Cli::try_parse_from(["millrace", "topic", "create", "t", "--partitions", "0"]).unwrap_err();
        assert!(
            error.to_string().contains("--partitions must be 1 to 10,000"),
            "{error}"
        );
    }

    #[test]
    fn a_time_ago_is_a_value_and_no_flag() {
        for text in ["-1h", "-30m", "2026-01-01"] {
            let parsed = Cli::try_parse_from(["millrace", "consume", "t", "--from", text, "--exit-at-end"]);
            assert!(parsed.is_ok(), "{text}");
        }
    }

    #[test]
    fn wrong_usage_is_refused_before_anything_is_called() {
        for args in [
            &["topic", "create"][..],
            &["topic", "create", "t", "--partitions", "many"],
            &["topic", "create", "t", "--partitions", "0"],
            &["topic", "create", "t", "--partitions", "-1"],
            &["topic", "create", "t", "--partitions", "10001"],
            &["topic", "create", "t", "--replication-factor", "0"],
            &["topic", "add-partitions", "t", "--partitions", "0"],
            &["topic", "create", "t", "--config", "noequals"],
            &["topic", "alter", "t"],
            &["topic", "alter", "t", "--replication-factor", "0"],
            &["topic", "alter", "t", "--config", "flush=os", "--wait"],
            &["partition", "move", "t", "0"],
            &["partition", "move", "t", "0", "--to", ""],
            &["partition", "move", "t", "0", "--to", "1,x"],
            &["partition", "move", "t", "0", "--to", "1,1"],
            &["partition", "move", "t", "0", "--to", "1", "--cancel"],
            &["partition", "move", "t", "0", "--cancel", "--wait"],
            &["partition", "move", "t", "-1", "--to", "1"],
            &["partition", "elect"],
            &["partition", "elect", "t", "--all"],
            &["partition", "elect", "t", "--to", "1"],
            &["partition", "elect", "t", "0", "--unclean", "--to", "1"],
            &["partition", "elect", "--all", "--unclean", "--accept-data-loss"],
            &["partition", "elect", "t", "0", "--to", "1", "--accept-data-loss"],
            &["broker", "drain"],
            &["broker", "drain", "1", "--wait", "--cancel"],
            &["broker", "drain", "1", "--throttle", "65536", "--cancel"],
            &["broker", "drain", "1", "--throttle", "65535"],
            &["topic", "alter", "t", "--config", "flush=os", "--throttle", "65536"],
            &["cluster", "rebalance", "--onto", "1,1"],
            &["cluster", "rebalance", "--wait", "--dry-run"],
            &["broker", "cordon", "one"],
            &["broker", "replace-disk", "1", "--directory-id", "no-uuid"],
            &["broker", "maintenance", "acquire", "1"],
            &["broker", "maintenance", "acquire", "1", "--holder", "h", "--for", "0s"],
            &["broker", "maintenance", "acquire", "1", "--holder", "h", "--for", "25h"],
            &["quorum", "remove"],
            &["quorum", "remove", "1", "--voter-id", "2"],
            &["group", "describe"],
            &["group", "delete"],
            &["group", "reset-offsets", "g", "--topic", "t"],
            &["group", "reset-offsets", "g", "--to-earliest"],
            &[
                "group",
                "reset-offsets",
                "g",
                "--topic",
                "t",
                "--all-topics",
                "--to-earliest",
            ],
            &[
                "group",
                "reset-offsets",
                "g",
                "--all-topics",
                "--to-earliest",
                "--to-latest",
            ],
            &[
                "group",
                "reset-offsets",
                "g",
                "--all-topics",
                "--to-earliest",
                "--execute",
                "--dry-run",
            ],
            &["group", "reset-offsets", "g", "--all-topics", "--to-offset", "-1"],
            &["group", "reset-offsets", "g", "--all-topics", "--to-time", "noon"],
            &["group", "reset-offsets", "g", "--all-topics", "--to-time", "5"],
            &["group", "reset-offsets", "g", "--topic", "t:x", "--to-latest"],
            &["no-such-command"],
            &["produce", "x", "--acks", "7"],
            &["produce", "x", "--compression", "rar"],
            &["produce", "x", "--key-separator", ""],
            &["produce", "x", "--header", "none"],
            &["produce", "x", "--ignore-missing-key"],
            &["consume", "x", "--from", "yesterday-ish"],
            &["consume", "x", "--format", "xml"],
            &["consume", "x", "--partition", "-1"],
            &["consume"],
            &["consume", "--group", "g"],
            &["consume", "--topic-pattern", "x.*"],
            &["consume", "x", "--instance-id", "i"],
            &["consume", "x", "--assignments"],
            &["consume", "x", "--session-timeout", "5s"],
            &["consume", "x", "--group", "g", "--session-timeout", "900ms"],
            &["consume", "x", "--group", "g", "--session-timeout", "31m"],
            &["consume", "x", "--group", "g", "--partition", "0"],
            &["consume", "x", "--group", "g", "--exit-at-end"],
            &["bench", "produce", "x", "--records", "0"],
            &[
                "bench",
                "end-to-end",
                "x",
                "--records",
                "1",
                "--rate",
                "1",
                "--record-size",
                "8",
            ],
            &["completion", "cmd.com"],
        ] {
            let all = std::iter::once("millrace").chain(args.iter().copied());
            let error = Cli::try_parse_from(all).expect_err(&args.join(" "));
            assert_eq!(error.exit_code(), 2, "{args:?}");
        }
    }
}
