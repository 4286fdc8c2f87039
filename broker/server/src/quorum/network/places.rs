//! Where members are: each is looked for at the newest address that is known of it, then at older ones.
//!
//! The membership has the address that a member was added with. A broker that comes back under another says so when it
//! registers, and, while it has no leader to register with, when it asks others what became of it. An address decides
//! nothing: each request names the member and the disk that it is for, and whoever is not that refuses. So no
//! membership is written anew for it, which openraft warns of, and a wrong one costs an attempt.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use millrace_engine::Cluster;
use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use super::super::types::Voter;

/// The addresses of members.
#[derive(Debug, Default)]
pub(in super::super) struct Places {
    /// What brokers have registered with, as far as it is applied.
    registered: OnceLock<watch::Receiver<Arc<Cluster>>>,
    /// What they had registered with by the log that was found on the disk; how much of it is committed is not known
    /// before there is a leader.
    logged: OnceLock<HashMap<Uuid, String>>,
    /// What members have said of themselves, by their numbers.
    told: Mutex<HashMap<u64, Told>>,
    /// Which members are being asked whether they are where they say.
    asked: Mutex<BTreeSet<u64>>,
}

#[derive(Debug)]
struct Told {
    address: String,
    /// What was registered then: what is registered later is newer.
    registered: Option<String>,
}

impl Places {
    /// From now on it is known what brokers register with.
    pub(in super::super) fn set_registered(&self, cluster: watch::Receiver<Arc<Cluster>>) {
        // Once for each member that is opened.
        let _ = self.registered.set(cluster);
    }

    /// The addresses of brokers by their directories, as the log has them.
    pub(in super::super) fn set_logged(&self, addresses: HashMap<Uuid, String>) {
        let _ = self.logged.set(addresses);
    }

    /// A member was found at `address`.
    pub(in super::super) fn tell(&self, id: u64, voter: &Voter, address: String) {
        let registered = self.registered(voter);
        self.told.lock().insert(id, Told { address, registered });
    }

    /// What the member has registered with.
    pub(in super::super) fn registered(&self, voter: &Voter) -> Option<String> {
        let cluster = self.registered.get()?.borrow();
        let mut brokers = cluster.brokers.values();
        let broker = brokers.find(|broker| broker.directory_id == voter.directory_id)?;
        Some(broker.internal_address.clone()).filter(|address| !address.is_empty())
    }

    /// Where to look for a member, the newest first; never empty.
    pub(in super::super) fn of(&self, id: u64, voter: &Voter) -> Vec<String> {
        let registered = self.registered(voter);
        let told = self.told.lock();
        let told = told.get(&id).filter(|told| told.registered == registered);
        let logged = self.logged.get().and_then(|logged| logged.get(&voter.directory_id));
        let mut places: Vec<String> = Vec::new();
        for place in [
            told.map(|told| &told.address),
            registered.as_ref(),
            logged,
            Some(&voter.address),
        ] {
            if let Some(place) = place.filter(|place| !places.contains(place)) {
                places.push(place.clone());
            }
        }
        places
    }

    /// Whether nobody asks the member yet; then it counts as asked until [`Places::answered`].
    pub(in super::super) fn begin_to_ask(&self, id: u64) -> bool {
        self.asked.lock().insert(id)
    }

    /// The member may be asked again.
    pub(in super::super) fn answered(&self, id: u64) {
        self.asked.lock().remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use millrace_engine::{
        Command,
        cluster::{DirectoryReport, RegisterBroker, StartBroker},
    };

    use super::*;

    fn start(cluster: &mut Cluster, index: u64, address: &str) {
        let start = StartBroker {
            registration: RegisterBroker {
                broker_id: 7,
                incarnation: Uuid::from_u128(u128::from(index)),
                cluster_id: "c".into(),
                directory_id: Uuid::from_u128(33),
                address: "client:1".into(),
                rack: String::new(),
                version: "0".into(),
                now_ms: 1,
            },
            internal_address: address.into(),
            directory: DirectoryReport::default(),
            replaces: cluster.brokers.get(&7).map(|known| known.epoch),
        };
        cluster.apply(index, &Command::StartBroker(start)).unwrap();
    }

    #[test]
    fn the_newest_place_comes_first_and_none_twice() {
        let places = Places::default();
        let voter = Voter {
            address: "added:1".into(),
            directory_id: Uuid::from_u128(33),
            state_id: Uuid::nil(),
        };
        assert_eq!(places.of(3, &voter), ["added:1"]);
        let mut cluster = Cluster::default();
        let (published, seen) = watch::channel(Arc::new(cluster.clone()));
        places.set_registered(seen);
        places.set_logged(HashMap::from([(voter.directory_id, "logged:1".to_owned())]));
        start(&mut cluster, 1, "added:1");
        published.send_replace(Arc::new(cluster.clone()));
        assert_eq!(places.of(3, &voter), ["added:1", "logged:1"]);

        places.tell(3, &voter, "told:1".into());
        assert_eq!(places.of(3, &voter), ["told:1", "added:1", "logged:1"]);
        let other = Voter {
            directory_id: Uuid::from_u128(44),
            ..voter.clone()
        };
        assert_eq!(places.of(4, &other), ["added:1"], "of another member");
        // What it was told of it is older than what it registers with now.
        start(&mut cluster, 2, "registered:1");
        published.send_replace(Arc::new(cluster));
        assert_eq!(places.of(3, &voter), ["registered:1", "logged:1", "added:1"]);
        places.tell(3, &voter, "told:2".into());
        assert_eq!(places.of(3, &voter)[0], "told:2");
    }

    #[test]
    fn a_member_is_asked_by_one_at_a_time() {
        let places = Places::default();
        assert!(places.begin_to_ask(3) && !places.begin_to_ask(3) && places.begin_to_ask(4));
        places.answered(3);
        assert!(places.begin_to_ask(3));
    }
}
