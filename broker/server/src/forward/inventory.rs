//! What brokers' disks hold: for plans, which weigh replicas and must not fill a disk, and for who has to choose among
//! replicas that are not in sync.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

use futures::future::join_all;
use millrace_engine::{BrokerId, Cluster, cluster::ReplicaLogEnd};
use millrace_proto::{
    internal::v1::{ForwardInventoryResponse, ForwardReplica},
    v1::ErrorReason,
};
use uuid::Uuid;

use super::{limits, wire};
use crate::{broker::Broker, error::ApiError, partition::Partition, replication::Key};

/// A replica, as its broker has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredReplica {
    /// Bytes in its segments.
    pub size_bytes: u64,
    /// The end of its log, also of what is not committed.
    pub log_end: i64,
    /// The latest leader epoch that its log knows; `None` if it knows none.
    pub last_epoch: Option<i32>,
    /// Whether some of its records can't be read.
    pub is_damaged: bool,
    /// Whether its disk has failed.
    pub is_offline: bool,
}

/// What one broker's disk holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Free bytes of the disk; `None` if the file system does not tell.
    pub available_bytes: Option<u64>,
    /// Its replicas.
    pub replicas: BTreeMap<Key, StoredReplica>,
}

/// What the brokers hold, each as it has told; who is not there has not.
pub type Inventories = BTreeMap<BrokerId, Inventory>;

impl Inventory {
    /// Of this broker: of some topics, or of all where none is named.
    pub fn of(broker: &Broker, topics: &[Uuid]) -> Self {
        let held = broker.partitions.all().into_iter();
        let asked = held.filter(|partition| topics.is_empty() || topics.contains(&partition.key().0));
        let replicas = asked.map(|partition| (partition.key(), StoredReplica::of(&partition)));
        Self {
            available_bytes: broker.dir.available_bytes().ok(),
            replicas: replicas.collect(),
        }
    }

    /// What Millrace may take of the disk: what its replicas take and what is free. `None` if that is not known.
    pub fn disk_bytes(&self) -> Option<u64> {
        let used: u64 = self.replicas.values().map(|replica| replica.size_bytes).sum();
        Some(self.available_bytes?.saturating_add(used))
    }

    /// The answer that goes on behind `after`.
    pub(super) fn page(&self, after: Option<Key>) -> ForwardInventoryResponse {
        let from = after.map_or(Unbounded, Excluded);
        let mut left = self.replicas.range((from, Unbounded));
        let replicas = left.by_ref().take(limits::INVENTORY_AT_ONCE);
        ForwardInventoryResponse {
            available_bytes: self.available_bytes,
            replicas: replicas.map(|(key, replica)| replica.out(*key)).collect(),
            more: left.next().is_some(),
        }
    }

    /// Takes an answer in; the place where the next one goes on, if there is more.
    ///
    /// # Errors
    /// It names a replica by no id, or says that there is more and does not go on.
    pub(super) fn take(&mut self, answer: ForwardInventoryResponse) -> Result<Option<Key>, ApiError> {
        self.available_bytes = answer.available_bytes;
        let before = self.replicas.len();
        let mut last = None;
        for told in answer.replicas {
            let key = wire::key_in(&told.topic_id, told.partition)?;
            self.replicas.insert(key, StoredReplica::told(&told));
            last = Some(key);
        }
        match (answer.more, self.replicas.len() > before) {
            (true, false) => Err(ApiError::internal("an inventory", &"it does not go on")),
            (more, _) => Ok(last.filter(|_| more)),
        }
    }
}

impl StoredReplica {
    fn of(partition: &Partition) -> Self {
        Self {
            size_bytes: partition.size_bytes(),
            log_end: partition.offsets().log_end,
            last_epoch: partition.latest_epoch(),
            is_damaged: partition.is_damaged(),
            is_offline: partition.is_offline(),
        }
    }

    fn out(self, (topic_id, partition): Key) -> ForwardReplica {
        ForwardReplica {
            topic_id: topic_id.as_bytes().to_vec().into(),
            partition,
            size_bytes: self.size_bytes,
            log_end: self.log_end,
            last_epoch: self.last_epoch,
            is_damaged: self.is_damaged,
            is_offline: self.is_offline,
        }
    }

    fn told(told: &ForwardReplica) -> Self {
        Self {
            size_bytes: told.size_bytes,
            log_end: told.log_end,
            last_epoch: told.last_epoch,
            is_damaged: told.is_damaged,
            is_offline: told.is_offline,
        }
    }
}

/// What the brokers in service hold of some topics, or of all where none is named. All are asked at once; who does not
/// answer within [`limits::INVENTORY_WITHIN`] is left out: what is not known is not nothing.
pub async fn take_inventories(broker: &Broker, cluster: &Cluster, topics: &[Uuid]) -> Inventories {
    // So many ids would take more room than what they leave out.
    let topics = if topics.len() > limits::INVENTORY_TOPICS {
        &[]
    } else {
        topics
    };
    let own = broker.config.node_id;
    let others = cluster
        .brokers
        .values()
        .filter(|known| known.is_active() && known.id != own && !known.internal_address.is_empty());
    let calls = others.map(|known| {
        let peer = broker.forward.peer(known.id);
        async move {
            match patiently(limits::INVENTORY_WITHIN, || peer.inventory(topics)).await {
                Ok(inventory) => Some((peer.id(), inventory)),
                Err(error) => {
                    tracing::info!(broker = peer.id(), %error, "a broker does not tell what it holds");
                    None
                }
            }
        }
    });
    let mut told: Inventories = join_all(calls).await.into_iter().flatten().collect();
    told.insert(own, Inventory::of(broker, topics));
    told
}

/// For plans that fill no disk: nobody is asked, and nobody counts as silent.
pub fn unasked(cluster: &Cluster) -> Inventories {
    cluster.brokers.keys().map(|id| (*id, Inventory::default())).collect()
}

/// Asks until there is an answer, for so long at most. A try may fail and the next one not: a broker that has just come
/// back is asked on the connection to the process before it, or does not serve yet.
///
/// # Errors
/// As of the last try; at once where another one would fail as well.
async fn patiently<A>(within: Duration, ask: impl Fn() -> A) -> Result<Inventory, ApiError>
where
    A: Future<Output = Result<Inventory, ApiError>>,
{
    let mut last = None;
    let asking = async {
        loop {
            match ask().await {
                Err(error) if error.reason().is_retriable() => last = Some(error),
                answer => return answer,
            }
            tokio::time::sleep(limits::INVENTORY_PAUSE).await;
        }
    };
    match tokio::time::timeout(within, asking).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(last.unwrap_or_else(|| ApiError::new(ErrorReason::BrokerNotReady, "It does not answer in time.")))
        }
    }
}

/// How far the logs of a partition's replicas reach, as far as brokers have told. Nothing counts of a broker that could
/// not open its log, or whose disk has failed.
pub fn log_ends(told: &Inventories, key: Key) -> Vec<ReplicaLogEnd> {
    told.iter()
        .filter_map(|(broker_id, inventory)| {
            let replica = inventory.replicas.get(&key).filter(|replica| !replica.is_offline)?;
            Some(ReplicaLogEnd {
                broker_id: *broker_id,
                last_epoch: replica.last_epoch,
                log_end: replica.log_end,
                is_damaged: replica.is_damaged,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use super::*;

    fn key(topic: u128, partition: u32) -> Key {
        (Uuid::from_u128(topic), partition)
    }

    fn stored(size_bytes: u64) -> StoredReplica {
        StoredReplica {
            size_bytes,
            log_end: 7,
            last_epoch: Some(3),
            is_damaged: size_bytes.is_multiple_of(3),
            is_offline: size_bytes.is_multiple_of(5),
        }
    }

    fn inventory(replicas: impl IntoIterator<Item = (Key, StoredReplica)>) -> Inventory {
        Inventory {
            available_bytes: Some(1_000),
            replicas: replicas.into_iter().collect(),
        }
    }

    #[test]
    fn all_pages_together_are_the_inventory() {
        let many = u32::try_from(limits::INVENTORY_AT_ONCE).unwrap() + 1;
        let whole = inventory((0..2).flat_map(|topic| (0..many).map(move |at| (key(topic, at), stored(at.into())))));
        let (mut told, mut after, mut pages) = (Inventory::default(), None, 0);
        loop {
            pages += 1;
            after = told.take(whole.page(after)).unwrap();
            if after.is_none() {
                break;
            }
        }
        assert_eq!((told, pages), (whole, 3));
    }

    #[test]
    fn answers_that_lead_nowhere_are_refused() {
        let mut told = Inventory::default();
        let page = inventory([(key(1, 0), stored(1))]).page(None);
        assert_eq!(told.take(page.clone()), Ok(None));
        let again = ForwardInventoryResponse { more: true, ..page };
        assert!(told.take(again.clone()).is_err(), "the same again, for ever");
        let mut nameless = again;
        nameless.replicas[0].topic_id = vec![1].into();
        assert!(told.take(nameless).is_err());
    }

    #[test]
    fn a_disk_is_what_is_free_and_what_is_ours() {
        let mut one = inventory([(key(1, 0), stored(30)), (key(2, 0), stored(12))]);
        assert_eq!(one.disk_bytes(), Some(1_042));
        one.available_bytes = None;
        assert_eq!(one.disk_bytes(), None);
    }

    /// Asks somebody who gives these answers, and then only hangs; how many are left.
    async fn ask(
        within: Duration,
        answers: impl IntoIterator<Item = Result<Inventory, ApiError>>,
    ) -> (Result<Inventory, ApiError>, usize) {
        let answers: RefCell<VecDeque<_>> = RefCell::new(answers.into_iter().collect());
        let next = || {
            let answer = answers.borrow_mut().pop_front();
            async {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        };
        let answer = patiently(within, next).await;
        (answer, answers.into_inner().len())
    }

    fn error(reason: ErrorReason) -> ApiError {
        ApiError::new(reason, "A test.")
    }

    #[tokio::test]
    async fn who_fails_at_first_is_asked_again() {
        let told = inventory([(key(1, 0), stored(1))]);
        let passing = [ErrorReason::LeaderNotAvailable, ErrorReason::BrokerNotReady];
        let answers = passing.map(|reason| Err(error(reason)));
        let asked = ask(Duration::from_secs(60), answers.into_iter().chain([Ok(told.clone())])).await;
        assert_eq!(asked, (Ok(told), 0));
    }

    #[tokio::test]
    async fn asking_ends_when_time_is_up_or_another_try_would_not_help() {
        let (passing, lasting) = (error(ErrorReason::LeaderNotAvailable), error(ErrorReason::Internal));
        let ends = ask(Duration::from_secs(60), [Err(lasting.clone()), Ok(inventory([]))]).await;
        assert_eq!(ends, (Err(lasting), 1));
        // However slow the machine is, the first try is made.
        let within = Duration::from_millis(1);
        let ends = ask(within, (0..1_000).map(|_| Err(passing.clone()))).await.0;
        assert_eq!(ends, Err(passing));
        let silence = ask(within, []).await.0.unwrap_err();
        assert_eq!(silence.reason(), ErrorReason::BrokerNotReady);
    }
}
