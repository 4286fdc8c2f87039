//! What tests of connections begin with.

use std::sync::Arc;

use uuid::Uuid;

use super::{super::types::Voter, header::Identity, peers::Peers};

/// The connections of member 1.
pub fn peers() -> Arc<Peers> {
    Peers::new(Identity {
        cluster_id: "c".into(),
        voter_id: 1,
        directory_id: Uuid::from_u128(1),
    })
}

/// A member that listens at `address`.
pub fn voter(address: &str) -> Voter {
    Voter {
        address: address.into(),
        ..Voter::default()
    }
}
