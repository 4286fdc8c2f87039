//! The connections of one member.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{super::types::Voter, connection::Connection, header::Identity, places::Places};

/// What a connection is used for. What is of different use has different connections, so that
/// heartbeats wait behind neither entries nor snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Lane {
    /// Votes and heartbeats.
    Control,
    /// Entries.
    Entries,
    /// Snapshots.
    Snapshot,
    /// What is asked of the leader.
    Requests,
}

/// The connections of one member. One that no one uses any more is closed.
#[derive(Debug)]
pub(in super::super) struct Peers {
    me: Identity,
    places: Arc<Places>,
    connections: Mutex<HashMap<(u64, Lane), Weak<Connection>>>,
    /// Kept beyond a request, since the next one is likely to go there too.
    leader: Mutex<Option<Arc<Connection>>>,
}

impl Peers {
    /// No connections yet.
    pub(in super::super) fn new(me: Identity) -> Arc<Self> {
        Arc::new(Self {
            me,
            places: Arc::default(),
            connections: Mutex::default(),
            leader: Mutex::default(),
        })
    }

    /// Who the member is whose connections these are.
    pub(super) fn me(&self) -> &Identity {
        &self.me
    }

    /// Where members are looked for.
    pub(in super::super) fn places(&self) -> &Places {
        &self.places
    }

    /// The connection to `target`, which `voter` describes. It is made when it is first used, to where the member is by
    /// then.
    pub(in super::super) fn connection(&self, target: u64, voter: &Voter, lane: Lane) -> Arc<Connection> {
        let mut connections = self.connections.lock();
        let known = connections.get(&(target, lane)).and_then(Weak::upgrade);
        if let Some(known) = known
            && known.is_to(voter)
        {
            return known;
        }
        connections.retain(|_, connection| connection.strong_count() > 0);
        // A command that was sent into a connection that leads nowhere may have arrived.
        let greets = lane == Lane::Requests;
        let (header, places) = (self.me.header(target, voter), Arc::clone(&self.places));
        let connection = Arc::new(Connection::new(header, voter.clone(), Some(places), greets));
        connections.insert((target, lane), Arc::downgrade(&connection));
        connection
    }

    /// A connection to `target` at the address in `voter`, and nowhere else.
    pub(in super::super) fn exactly(&self, target: u64, voter: &Voter) -> Arc<Connection> {
        let header = self.me.header(target, voter);
        Arc::new(Connection::new(header, voter.clone(), None, false))
    }

    /// The connection to the leader for what is asked of it.
    pub(in super::super) fn to_leader(&self, leader: u64, voter: &Voter) -> Arc<Connection> {
        let connection = self.connection(leader, voter, Lane::Requests);
        *self.leader.lock() = Some(Arc::clone(&connection));
        connection
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{peers, voter},
        *,
    };

    #[tokio::test]
    async fn connections_are_shared_while_used_and_follow_the_address() {
        let peers = peers();
        let first = peers.connection(2, &voter("a:1"), Lane::Control);
        assert!(Arc::ptr_eq(&first, &peers.connection(2, &voter("a:1"), Lane::Control)));
        assert!(!Arc::ptr_eq(&first, &peers.connection(2, &voter("a:1"), Lane::Entries)));
        let moved = peers.connection(2, &voter("b:1"), Lane::Control);
        assert!(moved.is_to(&voter("b:1")) && !moved.is_to(&voter("a:1")));
        drop((first, moved));
        for id in 0..100 {
            let _ = peers.connection(id, &voter("a:1"), Lane::Control);
        }
        assert!(peers.connections.lock().len() <= 2, "closed connections are forgotten");
    }
}
