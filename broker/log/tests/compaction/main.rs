//! Compaction against a model: what stays and what goes, crashes at each change of the disk, random runs with slow
//! readers.
//!
//! `MILLRACE_SIM_SEEDS` says how many random runs there are (default 300), `MILLRACE_SIM_SEED` replays one.
#![allow(clippy::unwrap_used)]

mod broker;
#[path = "../common/mod.rs"]
mod common;
mod crash;
mod cuts;
mod epochs;
mod limits;
mod model;
mod overtaken;
mod random;
mod rules;
mod stopping;
mod tombstones;
