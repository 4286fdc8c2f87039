//! Settings of a group's consumer.

use std::time::Duration;

use millrace_member::MemberConfig;
use millrace_proto::v1;

use super::GroupConsumer;
use crate::{
    client::Client,
    consumer::{ConsumerBuilder, OffsetReset},
    error::{Error, Result},
    limits,
    record::{Isolation, Start},
};

/// How a group's partitions are shared out; the group takes what most members name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assignor {
    /// Equal numbers, with as few moves as can be.
    #[default]
    Uniform,
    /// Of each topic a run of neighbouring partitions, so that equal numbers of two topics meet at one member.
    Range,
}

/// Settings of a [`GroupConsumer`].
#[derive(Clone, Debug)]
pub struct GroupConsumerBuilder {
    client: Client,
    consumer: ConsumerBuilder,
    config: GroupConfig,
}

/// The settings.
#[derive(Clone, Debug)]
pub(super) struct GroupConfig {
    pub group: String,
    pub instance_id: Option<String>,
    pub topics: Vec<String>,
    pub topic_pattern: String,
    pub client_id: String,
    pub rack: String,
    pub start: Start,
    pub session_timeout: Duration,
    pub reconnect_timeout: Option<Duration>,
    pub rebalance_timeout: Duration,
    pub assignor: Assignor,
    /// None: only the application commits.
    pub commit_interval: Option<Duration>,
    pub leave_on_close: bool,
}

impl GroupConsumerBuilder {
    pub(crate) fn new(client: Client, group: String) -> Self {
        Self {
            consumer: client.consumer(),
            client,
            config: GroupConfig {
                group,
                instance_id: None,
                topics: Vec::new(),
                topic_pattern: String::new(),
                client_id: concat!("millrace-client/", env!("CARGO_PKG_VERSION")).to_owned(),
                rack: String::new(),
                start: Start::Beginning,
                session_timeout: limits::DEFAULT_SESSION_TIMEOUT,
                reconnect_timeout: None,
                rebalance_timeout: limits::DEFAULT_REBALANCE_TIMEOUT,
                assignor: Assignor::default(),
                commit_interval: Some(limits::DEFAULT_COMMIT_INTERVAL),
                leave_on_close: false,
            },
        }
    }

    /// Topics by name, up to 1,000; they need not exist yet.
    #[must_use]
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.config.topics = topics.into_iter().map(Into::into).collect();
        self
    }

    /// Besides, all topics whose whole name matches this regular expression (RE2's syntax), now and later; up to
    /// 1,024 bytes.
    #[must_use]
    pub fn topic_pattern(mut self, pattern: impl Into<String>) -> Self {
        self.config.topic_pattern = pattern.into();
        self
    }

    /// Names this process over restarts, as a pod's name: a static member (KIP-345), whose partitions are kept for it
    /// while it is restarted. Up to 255 bytes. Kafka's `group.instance.id`.
    #[must_use]
    pub fn instance_id(mut self, instance_id: impl Into<String>) -> Self {
        self.config.instance_id = Some(instance_id.into());
        self
    }

    /// Where to begin in a topic for which the group has no offset: looked up once, when the group first has the
    /// topic, and stored. No offset. Default: the beginning. Kafka's `auto.offset.reset`, for what is missing; for
    /// what is not there any more see [`reset`](Self::reset).
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.config.start = start;
        self
    }

    /// What happens when the committed offset is not in the log any more. Default: an error, so that nothing is
    /// skipped silently; Kafka's `auto.offset.reset` would go on at an end.
    #[must_use]
    pub fn reset(mut self, reset: OffsetReset) -> Self {
        self.consumer = self.consumer.reset(reset);
        self
    }

    /// Which records are seen. Default [`Isolation::ReadCommitted`].
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.consumer = self.consumer.isolation(isolation);
        self
    }

    /// What is fetched ahead at most, in bytes over all partitions; default 32 MiB.
    #[must_use]
    pub fn max_prefetch_bytes(mut self, bytes: usize) -> Self {
        self.consumer = self.consumer.max_prefetch_bytes(bytes);
        self
    }

    /// The application's name for itself, for people. Up to 255 bytes.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.config.client_id = client_id.into();
        self
    }

    /// Where this process runs: partitions with a replica there are preferred. Up to 255 bytes.
    #[must_use]
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.config.rack = rack.into();
        self
    }

    /// Without a sign of life for this long the member loses its partitions: 1 s to 30 minutes, default 5 s. A task
    /// gives these signs, so processing may take longer. When this time is over nothing more is handed out of them, also
    /// where that task did not get to run.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.config.session_timeout = timeout;
        self
    }

    /// The same, once the coordinator has seen the connection closed: up to the session timeout. Default 500 ms; for a static
    /// member, its session timeout. A member that lives connects again at once, and stops by itself when its session ends:
    /// a coordinator that dies takes its connections with it, and nobody's partitions. What another member was given
    /// while this one could not connect for so long, this one can't commit any more.
    #[must_use]
    pub fn reconnect_timeout(mut self, timeout: Duration) -> Self {
        self.config.reconnect_timeout = Some(timeout);
        self
    }

    /// For how long the application may process what it has of a partition that is to be given back: 2 s to 24 hours,
    /// default 45 s. After that the member is fenced. What Kafka's `max.poll.interval.ms` bounds as well.
    #[must_use]
    pub fn rebalance_timeout(mut self, timeout: Duration) -> Self {
        self.config.rebalance_timeout = timeout;
        self
    }

    /// How partitions are shared out. Default [`Assignor::Uniform`].
    #[must_use]
    pub fn assignor(mut self, assignor: Assignor) -> Self {
        self.config.assignor = assignor;
        self
    }

    /// How often what was processed is committed by itself; `None`: never, the application does it. Up to 24
    /// hours, default 5 s.
    #[must_use]
    pub fn auto_commit(mut self, interval: Option<Duration>) -> Self {
        self.config.commit_interval = interval;
        self
    }

    /// Whether a static member that is closed leaves for good, so that others get its partitions at once. Default
    /// false: it comes back. Others always leave for good.
    #[must_use]
    pub fn leave_on_close(mut self, on: bool) -> Self {
        self.config.leave_on_close = on;
        self
    }

    /// Begins to join the group. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Settings out of bounds, or neither topics nor a pattern.
    pub fn build(self) -> Result<GroupConsumer> {
        self.config.validate()?;
        let consumer = self.consumer.build()?;
        Ok(GroupConsumer::begin(self.client, consumer, self.config))
    }
}

impl GroupConfig {
    fn validate(&self) -> Result<()> {
        let short = |name: &str, value: &str| {
            if value.len() <= 255 {
                return Ok(());
            }
            Err(Error::invalid(format!("{name} must have at most 255 bytes.")))
        };
        if self.group.is_empty() || self.group.len() > 255 || self.group.contains(char::is_control) {
            return Err(Error::invalid(
                "A group's id must have 1 to 255 bytes and no control characters.",
            ));
        }
        if self.topics.is_empty() && self.topic_pattern.is_empty() {
            return Err(Error::invalid(
                "There is nothing to read: give topics or topic_pattern.",
            ));
        }
        if self.topics.len() > 1_000 {
            return Err(Error::invalid("topics may name at most 1,000 topics."));
        }
        if self.topic_pattern.len() > 1_024 {
            return Err(Error::invalid("topic_pattern must have at most 1,024 bytes."));
        }
        short("instance_id", self.instance_id.as_deref().unwrap_or(""))?;
        short("client_id", &self.client_id)?;
        short("rack", &self.rack)?;
        if self.instance_id.as_deref() == Some("") {
            return Err(Error::invalid("instance_id must not be empty: leave it out."));
        }
        if matches!(self.start, Start::Offset(_)) {
            return Err(Error::invalid(
                "start must be the beginning, the end or a time: an offset is one partition's.",
            ));
        }
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        if !(second..=30 * minute).contains(&self.session_timeout) {
            return Err(Error::invalid("session_timeout must be 1 s to 30 minutes."));
        }
        if self
            .reconnect_timeout
            .is_some_and(|timeout| timeout > self.session_timeout)
        {
            return Err(Error::invalid("reconnect_timeout must be at most session_timeout."));
        }
        if !(2 * second..=24 * 60 * minute).contains(&self.rebalance_timeout) {
            return Err(Error::invalid("rebalance_timeout must be 2 s to 24 hours."));
        }
        if let Some(interval) = self.commit_interval
            && (interval.is_zero() || interval > 24 * 60 * minute)
        {
            return Err(Error::invalid(
                "auto_commit must be above zero and at most 24 hours; None commits nothing.",
            ));
        }
        Ok(())
    }

    pub fn member(&self) -> MemberConfig {
        let duration = |duration: Duration| prost_types::Duration::try_from(duration).ok();
        let reconnect_timeout = self.reconnect_timeout.unwrap_or(match self.instance_id {
            Some(_) => self.session_timeout,
            None => limits::DEFAULT_RECONNECT_TIMEOUT,
        });
        MemberConfig {
            group: self.group.clone(),
            instance_id: self.instance_id.clone(),
            session_timeout: self.session_timeout,
            rebalance_timeout: self.rebalance_timeout,
            settings: v1::MemberSettings {
                client_id: self.client_id.clone(),
                rack: self.rack.clone(),
                topics: self.topics.clone(),
                topic_pattern: self.topic_pattern.clone(),
                start: Some(self.start.to_proto()),
                session_timeout: duration(self.session_timeout),
                reconnect_timeout: duration(reconnect_timeout),
                rebalance_timeout: duration(self.rebalance_timeout),
                assignor: match self.assignor {
                    Assignor::Uniform => v1::GroupAssignor::Uniform.into(),
                    Assignor::Range => v1::GroupAssignor::Range.into(),
                },
            },
        }
    }
}
