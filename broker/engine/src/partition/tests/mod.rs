//! Events in, exact effects out; and three replicas with a toy controller in random orders.

mod cost;
mod damage;
mod follower;
mod harness;
mod leader;
mod metadata;
mod proposals;
mod sim;
