//! Describing and changing settings.

use std::collections::BTreeMap;

use millrace_engine::{
    Command,
    cluster::ConfigChange,
    config::{ConfigKey, TOPIC_KEYS, check, find_key},
    names::check_topic_name,
};
use millrace_proto::v1::{self, ConfigSource, ErrorReason, describe_configs_request::Resource};

use super::AdminService;
use crate::{broker::Broker, config::BROKER_KEYS, error::ApiError, groups::check_not_internal};

/// The most settings in one request: there are fewer keys than that.
const MAX_ENTRIES: usize = 1_000;

/// The settings in force.
///
/// # Errors
/// The resource is missing or unknown, or the metadata quorum can't tell whether there is one.
pub async fn describe(
    broker: &Broker,
    request: v1::DescribeConfigsRequest,
) -> Result<v1::DescribeConfigsResponse, ApiError> {
    let configs = match request.resource {
        None => {
            return Err(ApiError::field(
                "resource",
                "must name a topic, a broker or topic_defaults",
            ));
        }
        Some(Resource::Topic(name)) => topic_configs(broker, &name).await?,
        Some(Resource::TopicDefaults(_)) => topic_defaults(broker),
        Some(Resource::BrokerId(id)) => {
            if id != broker.config.node_id {
                return Err(ApiError::new(
                    ErrorReason::UnknownBroker,
                    format!(
                        "This is broker {}: ask broker {id} itself for its settings.",
                        broker.config.node_id
                    ),
                ));
            }
            broker_configs(broker)
        }
    };
    Ok(v1::DescribeConfigsResponse { configs })
}

async fn topic_configs(broker: &Broker, name: &str) -> Result<Vec<v1::ConfigDescription>, ApiError> {
    let (cluster, topic) = broker.topic(name).await?;
    let defaults = &cluster.topic_defaults;
    Ok(TOPIC_KEYS
        .iter()
        .map(|key| {
            let (value, source) = match (topic.configs.get(key.name), defaults.get(key.name)) {
                (Some(own), _) => (own.clone(), ConfigSource::Topic),
                (None, Some(default)) => (default.clone(), ConfigSource::Cluster),
                (None, None) => (key.default.to_owned(), ConfigSource::Default),
            };
            let default_value = defaults.get(key.name).map_or(key.default, String::as_str);
            v1::ConfigDescription {
                default_value: default_value.to_owned(),
                ..described(key, &value, source)
            }
        })
        .collect())
}

/// A topic's setting whose default is the built-in one.
fn described(key: &ConfigKey, value: &str, source: ConfigSource) -> v1::ConfigDescription {
    v1::ConfigDescription {
        name: key.name.to_owned(),
        value: value.to_owned(),
        source: source.into(),
        default_value: key.default.to_owned(),
        documentation: key.documentation.to_owned(),
    }
}

/// What topics go by that do not set it themselves.
fn topic_defaults(broker: &Broker) -> Vec<v1::ConfigDescription> {
    let cluster = broker.quorum.cluster();
    TOPIC_KEYS
        .iter()
        .map(|key| match cluster.topic_defaults.get(key.name) {
            Some(value) => described(key, value, ConfigSource::Cluster),
            None => described(key, key.default, ConfigSource::Default),
        })
        .collect()
}

fn broker_configs(broker: &Broker) -> Vec<v1::ConfigDescription> {
    BROKER_KEYS
        .iter()
        .map(|key| {
            let given = broker.config.given.get(key.name);
            let source = if given.is_some() {
                ConfigSource::Broker
            } else {
                ConfigSource::Default
            };
            v1::ConfigDescription {
                name: key.name.to_owned(),
                value: given.map_or(key.default, String::as_str).to_owned(),
                source: source.into(),
                default_value: key.default.to_owned(),
                documentation: key.documentation.to_owned(),
            }
        })
        .collect()
}

/// Settings as a map.
///
/// # Errors
/// A key that is unknown or named twice, or a value that is not allowed.
pub fn to_map(field: &str, entries: Vec<v1::ConfigEntry>) -> Result<BTreeMap<String, String>, ApiError> {
    if entries.len() > MAX_ENTRIES {
        return Err(ApiError::field(field, format!("has more than {MAX_ENTRIES} entries")));
    }
    let mut map = BTreeMap::new();
    for entry in entries {
        check(&entry.name, &entry.value)?;
        if map.insert(entry.name.clone(), entry.value).is_some() {
            return Err(ApiError::field(field, format!("names {} twice", entry.name)));
        }
    }
    Ok(map)
}

/// The command that changes a topic's settings.
///
/// # Errors
/// Nothing to change, an unknown key, a value that is not allowed; a topic of the cluster's own, whose records last
/// and are committed by its settings.
pub fn command(topic: &str, set: Vec<v1::ConfigEntry>, unset: Vec<String>) -> Result<Command, ApiError> {
    check_topic_name(topic)?;
    check_not_internal(topic)?;
    Ok(Command::AlterTopicConfigs {
        name: topic.to_owned(),
        change: change(set, unset)?,
    })
}

fn change(set: Vec<v1::ConfigEntry>, unset: Vec<String>) -> Result<ConfigChange, ApiError> {
    if set.is_empty() && unset.is_empty() {
        return Err(ApiError::field("set", "names no setting, and neither does unset"));
    }
    if unset.len() > MAX_ENTRIES {
        return Err(ApiError::field("unset", format!("has more than {MAX_ENTRIES} entries")));
    }
    let set = to_map("set", set)?;
    for key in &unset {
        if find_key(key).is_none() {
            check(key, "")?;
        }
    }
    Ok(ConfigChange { set, unset })
}

/// Changes a topic's settings, or the defaults of all topics.
///
/// # Errors
/// As of [`alter`].
pub async fn alter_requested(
    service: &AdminService,
    request: v1::AlterConfigsRequest,
) -> Result<v1::AlterConfigsResponse, ApiError> {
    let r = request;
    if !r.topic_defaults {
        alter(service, &r.topic, r.set, r.unset, r.validate_only).await?;
        return Ok(v1::AlterConfigsResponse {});
    }
    if !r.topic.is_empty() {
        return Err(ApiError::field("topic", "must be empty with topic_defaults"));
    }
    let command = Command::AlterTopicDefaults {
        change: change(r.set, r.unset)?,
    };
    service.change(command, r.validate_only).await?;
    Ok(v1::AlterConfigsResponse {})
}

/// Changes a topic's settings.
///
/// # Errors
/// As of [`command`], and an unknown topic.
pub async fn alter(
    service: &AdminService,
    topic: &str,
    set: Vec<v1::ConfigEntry>,
    unset: Vec<String>,
    validate_only: bool,
) -> Result<(), ApiError> {
    service.change(command(topic, set, unset)?, validate_only).await
}
