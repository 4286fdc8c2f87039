//! The broker's configuration: a file, then the environment, then flags; a later one
//! wins. Keys are known by name and documented in one table.

mod keys;
mod parse;

pub use keys::{BROKER_KEYS, BrokerKey, documentation};
pub use parse::{BrokerConfig, ConfigProblem, Source};
