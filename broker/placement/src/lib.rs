//! Who should hold which replica: pure, deterministic, with as little movement as the goal allows.
//!
//! Nothing here does IO, reads a clock or draws random numbers. Callers give a [`Cluster`] and get a [`Plan`] of
//! [`Reassignment`]s, or an error that says what would make one possible:
//!
//! | to | call |
//! |---|---|
//! | place new partitions | [`create_partitions`], [`place_partitions`] |
//! | fill brokers that were added | [`add_brokers`] |
//! | empty brokers that leave, replace those that are gone | [`drain_brokers`] |
//! | spread replicas over racks | [`repair_racks`] |
//! | spread leaders over brokers | [`balance_leaders`] |
//! | have more or fewer replicas | [`change_replication_factor`] |
//!
//! Two plans follow one another by [`Cluster::after`] and [`Plan::then`]. Once a plan is carried out, the next of
//! its kind is empty, so a caller may ask again at any time; only where full disks were in the way can a next
//! one use the room that the first one made.

mod add;
mod broker;
mod choose;
mod cluster;
mod create;
mod drain;
mod error;
mod factor;
mod fill;
mod leaders;
mod options;
mod partition;
mod paths;
mod plan;
mod racks;
mod repair;
mod replicas;
mod shares;
mod spread;
mod state;
mod topics;
mod topology;

pub use add::add_brokers;
pub use broker::{Broker, BrokerState};
pub use cluster::{Cluster, ClusterError};
pub use create::{BrokerSpot, Placement, PlacementError, create_partitions, place_partitions};
pub use drain::drain_brokers;
pub use error::{BlockReason, Blocked, PlanError};
pub use factor::change_replication_factor;
pub use leaders::balance_leaders;
pub use options::{ByteGoal, Options, RackPolicy};
pub use partition::{Partition, TopicPartition};
pub use plan::{Notice, Plan, Reassignment};
pub use repair::repair_racks;
