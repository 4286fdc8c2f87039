//! Topic settings: one table of keys (name, default, bounds, meaning) and the typed
//! settings parsed from text.
//!
//! Names and meanings are Kafka's where Kafka has the setting.

mod key;
mod topic;

pub use key::{ConfigError, ConfigKey, TOPIC_KEYS, check, find_key, nearest};
pub use topic::{CleanupPolicy, FlushPolicy, TimestampKind, TopicCompression, TopicConfig, check_together};
