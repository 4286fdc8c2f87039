//! The broker process: listeners, the runtime that carries out what the engine decides,
//! openraft's adapter, configuration, metrics.
//!
//! Rules that a crate below owns (what a command does, what a leader may answer, where
//! replicas go, how a log is stored) do not belong here.

pub mod broker;
pub mod config;
mod connection;
mod error;
mod http;
mod http2;
mod limits;
mod memory;
mod metrics;
mod partition;
pub mod process;
pub mod quorum;
mod replication;
mod rpc;
mod serve;

pub use serve::{RunningBroker, StartError, format, start};
