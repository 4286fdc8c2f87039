//! A follower of a compacted log: whole batches are gone at the leader, so that those it gets leave gaps.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod follower;
mod random;
mod speed;
#[path = "../compaction/stopping.rs"]
mod stopping;
