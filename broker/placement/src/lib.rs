//! Who should hold which replica: pure, deterministic, spread over racks.
//!
//! Nothing here knows of leaders elected, disks or networks; it answers with the
//! replicas that partitions should have.

mod create;

pub use create::{BrokerSpot, PlacementError, place_partitions};
