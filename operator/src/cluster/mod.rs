//! Clusters: brokers, their disks, and their changes one by one.

mod act;
mod balance;
mod blueprint;
mod budget;
mod carry_out;
pub mod controller;
pub mod decide;
mod observe;
mod pulse;
mod quorum;
mod racks;
mod report;
mod restart;
pub mod roll;
pub mod scale;
pub mod seen;
pub mod wishes;
#[cfg(test)]
mod world;

pub use controller::run;
