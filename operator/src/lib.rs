//! Millrace's operator: it makes what Cluster and Topic objects say.
//!
//! Each pass over an object has three parts. *Observe* reads the API server and asks the brokers; *decide* is a pure
//! function from what was seen to what is to be done and reported; *act* does it. Each step may run twice, and the
//! operator may die between any two: what it must know is in the API server and in the cluster's metadata.

#![warn(missing_docs)]

pub mod cluster;
pub mod commands;
pub mod conditions;
pub mod context;
pub mod events;
pub mod hash;
pub mod http;
pub mod lease;
pub mod links;
pub mod metrics;
pub mod names;
pub mod options;
pub mod pass;
pub mod record;
pub mod render;
pub mod run;
pub mod topic;
