//! The rules of Millrace: what a command does to the cluster's metadata, and what a
//! partition's leader may do.
//!
//! Everything here is pure: time, identities and randomness are arguments, and each
//! step answers with its effects, so that a simulator can drive it. No IO, no clock,
//! no thread belongs here.

pub mod cluster;
pub mod config;
pub mod group;
pub mod names;
pub mod partition;

pub use cluster::{Broker, BrokerId, Cluster, Command, Outcome, Partition, Rejection, Topic};
pub use config::TopicConfig;
