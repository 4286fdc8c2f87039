//! How members reach each other: gRPC on the brokers' internal port.
//!
//! [`Peers`] keeps the connections, [`Link`](link::Link) is what openraft sends by, and
//! [`QuorumService`] is the other end. Every request names the member it is meant for, with its
//! cluster and its disk; whoever is not that member refuses (KIP-853), so that neither an address
//! that went to another broker nor a disk that came back empty ever takes part. `places` has where
//! members are looked for. [`Checked`] notices a disk that came back as an older image of itself.

mod acknowledged;
mod connection;
mod failure;
mod header;
mod limits;
mod link;
mod peers;
mod places;
mod requests;
mod service;
#[cfg(test)]
mod testing;
mod wire;

pub use service::QuorumService;

pub(super) use self::{
    acknowledged::Checked,
    connection::{Connection, PeerError},
    header::Identity,
    limits::{MAX_ADDRESS_BYTES, SNAPSHOT_WITHIN},
    link::Network,
    peers::Peers,
};
#[cfg(test)]
pub(super) use self::{acknowledged::Followers, service::CHUNKS_RECEIVED};
