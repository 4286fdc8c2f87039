//! From keys and values to a checked configuration.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use millrace_engine::{
    config::{ConfigError, check, nearest},
    group::GroupConfig,
};
use thiserror::Error;

use super::keys::{BROKER_KEYS, TOPIC_DEFAULT_PREFIX};
use crate::quorum::MAX_VOTERS;

/// What begins the environment's names for settings.
const ENVIRONMENT_PREFIX: &str = "MILLRACE_";

/// Names in the environment that begin alike but are not the broker's settings.
const OTHER_ENVIRONMENT: &[&str] = &["MILLRACE_BOOTSTRAP", "MILLRACE_CACHE", "MILLRACE_BIN_DIR"];

/// Whether this is what Kubernetes puts into every pod for each Service of its namespace, here for
/// one whose name begins with `millrace` ("Discovering services" in its documentation; the form is
/// Docker's of links between containers).
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|number| number.parse::<u16>().is_ok())
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
            && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
            && parts.next().is_none()
    };
    let of_service = |suffix: &str| name == suffix || name.ends_with(&format!("_{suffix}"));
    let named_port = name.starts_with("SERVICE_PORT_") || name.contains("_SERVICE_PORT_");
    let link = |rest: &str| rest == "PORT" && value.contains("://") || rest.strip_prefix("PORT_").is_some_and(is_port);
    of_service("SERVICE_HOST")
        || of_service("SERVICE_PORT")
        || named_port
        || link(name)
        || name.match_indices("_PORT").any(|(at, _)| link(&name[at + 1..]))
}

/// The most seeds. A name may stand for many brokers, so that few are needed.
const MAX_SEEDS: usize = 64;

/// The longest HOST:PORT, in bytes: a DNS name has 253.
const MAX_ADDRESS_BYTES: usize = 300;

/// Whether a text can be HOST:PORT to connect to.
fn is_host_and_port(text: &str) -> bool {
    text.len() <= MAX_ADDRESS_BYTES
        && !text.contains(|c: char| c.is_whitespace() || c == '/')
        && text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Whether a HOST:PORT leads to this machine by its loopback interface.
fn is_on_this_machine(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The longest configuration file that is read, in bytes.
const MAX_FILE_BYTES: usize = 1 << 20;

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A variable.
    Environment(String),
    /// A flag.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag => write!(f, "command line"),
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum ConfigProblem {
    /// No setting has this name.
    #[error("{source_text}: there is no setting {key:?}{}; --help-config lists them all", suggestion.as_ref().map(|s| format!(" (did you mean {s:?}?)")).unwrap_or_default())]
    UnknownKey {
        /// What was given.
        key: String,
        /// Where.
        source_text: String,
        /// The most alike name.
        suggestion: Option<String>,
    },
    /// The value is not allowed.
    #[error("{source_text}: {key} can't be {value:?}: it must be {expected}")]
    InvalidValue {
        /// The setting.
        key: String,
        /// What was given.
        value: String,
        /// Where.
        source_text: String,
        /// What is allowed.
        expected: String,
    },
    /// A setting without which nothing works.
    #[error("{key} must be set: {hint}")]
    Missing {
        /// The setting.
        key: &'static str,
        /// How.
        hint: &'static str,
    },
    /// Not `KEY=VALUE`.
    #[error("{source_text}: expected KEY=VALUE, found {found:?}")]
    NotAnAssignment {
        /// Where.
        source_text: String,
        /// What stands there.
        found: String,
    },
    /// Two settings do not go together.
    #[error("{0}")]
    Contradiction(String),
    /// The file can't be read.
    #[error("can't read the configuration file {path}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerConfig {
    /// `advertised.address`.
    pub advertised_address: Option<String>,
    /// `advertised.internal.address`.
    pub advertised_internal_address: Option<String>,
    /// `begin.node`; `None`: whoever has no seeds.
    pub begin_node: Option<i32>,
    /// `cluster.id`.
    pub cluster_id: Option<String>,
    /// `data.dir`.
    pub data_dir: PathBuf,
    /// `default.replication.factor`; `None`: three or as many as there are brokers.
    pub default_replication_factor: Option<usize>,
    /// `disk.reserve.bytes`.
    pub disk_reserve_bytes: u64,
    /// `listen.client`.
    pub listen_client: SocketAddr,
    /// `broker.heartbeat.interval.ms`.
    pub heartbeat_interval: Duration,
    /// `listen.http`.
    pub listen_http: SocketAddr,
    /// `listen.internal`.
    pub listen_internal: SocketAddr,
    /// `log.cleaner.backoff.ms`.
    pub compaction_look_every: Duration,
    /// `log.cleaner.dedupe.buffer.size`.
    pub compaction_map_bytes: usize,
    /// `log.cleaner.io.max.bytes.per.second`.
    pub compaction_bytes_per_second: u64,
    /// `log.format`: JSON instead of text.
    pub log_json: bool,
    /// `log.level`.
    pub log_level: String,
    /// `max.connections`.
    pub max_connections: usize,
    /// `memory.in.flight.bytes`.
    pub memory_bytes: usize,
    /// `memory.in.flight.bytes.per.connection`.
    pub memory_bytes_per_connection: usize,
    /// `node.id`.
    pub node_id: i32,
    /// `group.consumer.*`, `group.coordinator.state.max.bytes` and `offsets.retention.minutes`.
    pub groups: GroupConfig,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_partitions: u32,
    /// `offsets.topic.replication.factor`.
    pub offsets_topic_replication_factor: usize,
    /// `num.partitions`.
    pub num_partitions: u32,
    /// `quorum.auto.voters`.
    pub quorum_auto_voters: usize,
    /// `rack`.
    pub rack: String,
    /// `seeds`.
    pub seeds: Vec<String>,
    /// `broker.session.timeout.ms`.
    pub session_timeout: Duration,
    /// `shutdown.timeout.ms`.
    pub shutdown_timeout: Duration,
    /// `topic.default.*`, without the prefix.
    pub topic_defaults: BTreeMap<String, String>,
    /// The settings that were given, as text.
    pub given: BTreeMap<String, String>,
}

/// Settings as given, with the place of each for error messages.
#[derive(Debug, Default)]
struct Settings(BTreeMap<String, (String, Source)>);

impl BrokerConfig {
    /// Reads settings from a file (if any), the environment's variables and flags, and
    /// checks them.
    ///
    /// # Errors
    /// The first problem, with the place where it stands.
    pub fn load(
        file: Option<&std::path::Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigProblem> {
        let mut settings = Settings::default();
        if let Some(path) = file {
            let unreadable = |reason: String| ConfigProblem::Unreadable {
                path: path.display().to_string(),
                reason,
            };
            let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
            if text.len() > MAX_FILE_BYTES {
                return Err(unreadable(format!("it is larger than {MAX_FILE_BYTES} bytes")));
            }
            settings.add_file(path, &text)?;
        }
        settings.add_environment(environment)?;
        for (key, value) in flags {
            settings.add(key, value, Source::Flag)?;
        }
        settings.check()
    }
}

impl Settings {
    fn add_file(&mut self, path: &std::path::Path, text: &str) -> Result<(), ConfigProblem> {
        for (line, content) in (1..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let source = Source::File {
                path: path.to_owned(),
                line,
            };
            let (key, value) = content.split_once('=').ok_or_else(|| ConfigProblem::NotAnAssignment {
                source_text: source.to_string(),
                found: content.chars().take(80).collect(),
            })?;
            self.add(key.trim(), value.trim(), source)?;
        }
        Ok(())
    }

    fn add_environment(&mut self, environment: impl Iterator<Item = (String, String)>) -> Result<(), ConfigProblem> {
        for (name, value) in environment {
            let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            if OTHER_ENVIRONMENT.contains(&name.as_str()) {
                continue;
            }
            let key = rest.to_ascii_lowercase().replace('_', ".");
            if is_service_link(rest, &value) && !BROKER_KEYS.iter().any(|known| known.name == key) {
                continue;
            }
            self.add(&key, &value, Source::Environment(name))?;
        }
        Ok(())
    }

    fn add(&mut self, key: &str, value: &str, source: Source) -> Result<(), ConfigProblem> {
        if let Some(topic_key) = key.strip_prefix(TOPIC_DEFAULT_PREFIX) {
            check(topic_key, value).map_err(|error| match error {
                ConfigError::UnknownKey { suggestion, .. } => ConfigProblem::UnknownKey {
                    key: key.to_owned(),
                    source_text: source.to_string(),
                    suggestion: suggestion.map(|name| format!("{TOPIC_DEFAULT_PREFIX}{name}")),
                },
                ConfigError::InvalidValue { value, expected, .. } => ConfigProblem::InvalidValue {
                    key: key.to_owned(),
                    value,
                    source_text: source.to_string(),
                    expected,
                },
                // One alone contradicts no other.
                conflict @ ConfigError::Conflict { .. } => ConfigProblem::Contradiction(conflict.to_string()),
            })?;
        } else if !BROKER_KEYS.iter().any(|known| known.name == key) {
            return Err(ConfigProblem::UnknownKey {
                key: key.chars().take(100).collect(),
                source_text: source.to_string(),
                suggestion: nearest(key, BROKER_KEYS.iter().map(|known| known.name)).map(str::to_owned),
            });
        }
        self.0.insert(key.to_owned(), (value.to_owned(), source));
        Ok(())
    }

    fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or_else(
            || {
                BROKER_KEYS
                    .iter()
                    .find(|known| known.name == key)
                    .map_or("", |known| known.default)
            },
            |(value, _)| value,
        )
    }

    fn parse<T: FromStr>(&self, key: &str, expected: &str, allowed: impl Fn(&T) -> bool) -> Result<T, ConfigProblem> {
        let value = self.text(key);
        value
            .parse::<T>()
            .ok()
            .filter(|parsed| allowed(parsed))
            .ok_or_else(|| ConfigProblem::InvalidValue {
                key: key.to_owned(),
                value: value.chars().take(100).collect(),
                source_text: self
                    .0
                    .get(key)
                    .map_or_else(|| "default".to_owned(), |(_, source)| source.to_string()),
                expected: expected.to_owned(),
            })
    }

    fn optional(&self, key: &str) -> Option<String> {
        Some(self.text(key).to_owned()).filter(|value| !value.is_empty())
    }

    /// An address that others are told, if one is set.
    fn advertised(&self, key: &str) -> Result<Option<String>, ConfigProblem> {
        let address = self.optional(key);
        if let Some(address) = &address
            && !is_host_and_port(address)
        {
            self.parse::<SocketAddr>(key, "HOST:PORT", |_| false)?;
        }
        Ok(address)
    }

    fn seeds(&self) -> Result<Vec<String>, ConfigProblem> {
        let seeds: Vec<String> = self
            .text("seeds")
            .split(',')
            .map(str::trim)
            .filter(|seed| !seed.is_empty())
            .map(str::to_owned)
            .collect();
        if seeds.len() > MAX_SEEDS || !seeds.iter().all(|seed| is_host_and_port(seed)) {
            self.parse::<SocketAddr>("seeds", "up to 64 HOST:PORT, separated by commas", |_| false)?;
        }
        Ok(seeds)
    }

    fn groups(&self) -> Result<GroupConfig, ConfigProblem> {
        let session = |key| self.parse::<u64>(key, "1,000 to 86,400,000", |n| (1_000..=86_400_000).contains(n));
        let min_ms = session("group.consumer.min.session.timeout.ms")?;
        let max_ms = session("group.consumer.max.session.timeout.ms")?;
        if min_ms > max_ms {
            return Err(ConfigProblem::Contradiction(format!(
                "group.consumer.min.session.timeout.ms ({min_ms}) must not be above group.consumer.max.session.timeout.ms ({max_ms})"
            )));
        }
        let heartbeat_ms = self.parse("group.consumer.heartbeat.interval.ms", "100 to 60,000", |n| {
            (100..=60_000).contains(n)
        })?;
        let state_bytes: u64 = self.parse("group.coordinator.state.max.bytes", "16 MiB to 1 TiB, in bytes", |n| {
            (16 << 20..=1 << 40).contains(n)
        })?;
        let retention: u64 = self.parse("offsets.retention.minutes", "1 to 2,147,483,647", |n| {
            (1..=2_147_483_647).contains(n)
        })?;
        Ok(GroupConfig {
            max_members: self.parse("group.consumer.max.size", "1 to 1,000,000", |n| {
                (1..=1_000_000).contains(n)
            })?,
            min_session_timeout: Duration::from_millis(min_ms),
            max_session_timeout: Duration::from_millis(max_ms),
            heartbeat_interval: Duration::from_millis(heartbeat_ms),
            offset_retention: Duration::from_secs(retention * 60),
            max_state_bytes: usize::try_from(state_bytes).unwrap_or(usize::MAX),
            ..GroupConfig::default()
        })
    }

    fn check(&self) -> Result<BrokerConfig, ConfigProblem> {
        const TIB: u64 = 1 << 40;
        let address = "HOST:PORT with a numeric host, such as 0.0.0.0:9650 or [::]:9650";
        let data_dir = self.optional("data.dir").ok_or(ConfigProblem::Missing {
            key: "data.dir",
            hint: "give --data-dir DIR, or data.dir=DIR in the configuration file",
        })?;
        let factor: i64 = self.parse("default.replication.factor", "-1, or 1 to 32,767", |n| {
            *n == -1 || (1..=32_767).contains(n)
        })?;
        let memory_bytes = self.parse("memory.in.flight.bytes", "34 MiB to 1 TiB, in bytes", |n| {
            (34 << 20..=TIB).contains(n)
        })?;
        let memory_bytes_per_connection = self.parse(
            "memory.in.flight.bytes.per.connection",
            "1 MiB to 1 TiB, in bytes",
            |n| (1 << 20..=TIB).contains(n),
        )?;
        if memory_bytes_per_connection > memory_bytes {
            return Err(ConfigProblem::Contradiction(format!(
                "memory.in.flight.bytes.per.connection ({memory_bytes_per_connection}) must not be above memory.in.flight.bytes ({memory_bytes})"
            )));
        }
        let heartbeat_ms: u64 = self.parse("broker.heartbeat.interval.ms", "10 to 60,000", |n| {
            (10..=60_000).contains(n)
        })?;
        let session_ms: u64 = self.parse("broker.session.timeout.ms", "100 to 600,000", |n| {
            (100..=600_000).contains(n)
        })?;
        if heartbeat_ms * 2 > session_ms {
            return Err(ConfigProblem::Contradiction(format!(
                "broker.heartbeat.interval.ms ({heartbeat_ms}) must be at most half of broker.session.timeout.ms ({session_ms}): one heartbeat that is late must not cost the lease"
            )));
        }
        let cluster_id = self.optional("cluster.id");
        if cluster_id
            .as_ref()
            .is_some_and(|id| id.len() > 64 || !id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)))
        {
            self.parse::<String>("cluster.id", "up to 64 letters, digits, '.', '_' and '-'", |_| false)?;
        }
        let seeds = self.seeds()?;
        let advertised_internal_address = self.advertised("advertised.internal.address")?;
        let listen_internal: SocketAddr = self.parse("listen.internal", address, |_| true)?;
        if advertised_internal_address.is_none()
            && (listen_internal.ip().is_unspecified() || listen_internal.ip().is_loopback())
            && let Some(seed) = seeds.iter().find(|seed| !is_on_this_machine(seed))
        {
            return Err(ConfigProblem::Contradiction(format!(
                "seeds has {seed}, which is another machine, and brokers there would look for this one at localhost: set advertised.internal.address to the HOST:PORT under which they reach it"
            )));
        }
        Ok(BrokerConfig {
            advertised_address: self.advertised("advertised.address")?,
            advertised_internal_address,
            begin_node: match self.optional("begin.node") {
                Some(_) => Some(self.parse("begin.node", "empty, or 0 to 2,147,483,647", |n| *n >= 0)?),
                None => None,
            },
            cluster_id,
            data_dir: PathBuf::from(data_dir),
            default_replication_factor: usize::try_from(factor).ok(),
            disk_reserve_bytes: self.parse("disk.reserve.bytes", "0 to 1 TiB, in bytes", |n| *n <= TIB)?,
            listen_client: self.parse("listen.client", address, |_| true)?,
            heartbeat_interval: Duration::from_millis(heartbeat_ms),
            listen_http: self.parse("listen.http", address, |_| true)?,
            listen_internal,
            compaction_look_every: Duration::from_millis(self.parse(
                "log.cleaner.backoff.ms",
                "100 to 600,000",
                |n| (100..=600_000).contains(n),
            )?),
            compaction_map_bytes: self.parse("log.cleaner.dedupe.buffer.size", "1 MiB to 64 GiB, in bytes", |n| {
                (1 << 20..=64 << 30).contains(n)
            })?,
            compaction_bytes_per_second: self.parse(
                "log.cleaner.io.max.bytes.per.second",
                "1 MiB to 1 TiB, in bytes",
                |n| (1 << 20..=TIB).contains(n),
            )?,
            log_json: self.parse::<String>("log.format", "text or json", |format| {
                format == "text" || format == "json"
            })? == "json",
            log_level: self.parse("log.level", "a level or EnvFilter directives", |level: &String| {
                level.parse::<tracing_subscriber::EnvFilter>().is_ok()
            })?,
            max_connections: self.parse("max.connections", "1 to 1,000,000", |n| (1..=1_000_000).contains(n))?,
            memory_bytes: usize::try_from(memory_bytes).unwrap_or(usize::MAX),
            memory_bytes_per_connection: usize::try_from(memory_bytes_per_connection).unwrap_or(usize::MAX),
            node_id: self.parse("node.id", "0 to 2,147,483,647", |n| *n >= 0)?,
            groups: self.groups()?,
            offsets_topic_partitions: self.parse("offsets.topic.num.partitions", "1 to 1,000", |n| {
                (1..=1_000).contains(n)
            })?,
            offsets_topic_replication_factor: self.parse("offsets.topic.replication.factor", "1 to 32,767", |n| {
                (1..=32_767).contains(n)
            })?,
            num_partitions: self.parse("num.partitions", "1 to 10,000", |n| (1..=10_000).contains(n))?,
            quorum_auto_voters: self.parse("quorum.auto.voters", "0 to 9", |n| *n <= MAX_VOTERS)?,
            rack: self.parse("rack", "up to 255 characters", |rack: &String| rack.len() <= 255)?,
            seeds,
            session_timeout: Duration::from_millis(session_ms),
            shutdown_timeout: Duration::from_millis(
                self.parse("shutdown.timeout.ms", "0 to 600,000", |n| *n <= 600_000)?,
            ),
            topic_defaults: self
                .0
                .iter()
                .filter_map(|(key, (value, _))| {
                    Some((key.strip_prefix(TOPIC_DEFAULT_PREFIX)?.to_owned(), value.clone()))
                })
                .collect(),
            given: self
                .0
                .iter()
                .map(|(key, (value, _))| (key.clone(), value.clone()))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests;
