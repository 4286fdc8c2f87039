//! The broker process: listeners, the runtime that carries out what the engine decides,
//! openraft's adapter, configuration, metrics.
//!
//! Rules that a crate below owns (what a command does, what a leader may answer, where
//! replicas go, how a log is stored) do not belong here.

pub mod broker;
mod checksummed;
mod client_port;
pub mod config;
mod connection;
mod controller;
mod error;
mod forward;
mod groups;
mod handles;
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
mod running;
mod serve;
mod shared_ask;
#[cfg(test)]
mod testing;
mod turns;
mod watched;

pub use running::RunningBroker;
pub use serve::{StartError, form, format, start};
