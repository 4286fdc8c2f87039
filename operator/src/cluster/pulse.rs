//! What changes in a cluster without a word: replicas fall behind while all pods are ready. No object tells of it, so the
//! brokers are asked between passes, and only what a pass would act on makes one.

use std::{collections::HashMap, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    api::PartialObjectMeta,
    runtime::reflector::{ObjectRef, Store},
};
use millrace_client::Client;
use millrace_crds::Cluster;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, timeout};

use super::seen::Told;
use crate::{context::Context, names::ClusterKey};

/// So often the brokers are asked.
const EVERY: Duration = Duration::from_secs(10);
/// So many clusters are asked at once,
const AT_ONCE: usize = 8;
/// each for so long at most.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// What of a cluster's health a pass acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Whether partitions need all the replicas that they have: how many brokers may go depends on it.
    needs_all: bool,
    /// Whether the metadata quorum has a leader.
    is_led: bool,
}

impl Pulse {
    /// That of what the brokers tell.
    #[must_use]
    pub fn of(told: &Told) -> Self {
        Self {
            needs_all: told.endangered() != (0, 0),
            is_led: told.quorum_leader().is_some(),
        }
    }
}

/// As the last pass over each cluster has seen it; none of those that it could not ask.
#[derive(Debug, Default)]
pub struct Pulses(Mutex<HashMap<ClusterKey, Pulse>>);

impl Pulses {
    /// What a pass has seen.
    pub fn note(&self, key: &ClusterKey, told: Option<&Told>) {
        match told {
            Some(told) => drop(self.0.lock().insert(key.clone(), Pulse::of(told))),
            None => self.forget(key),
        }
    }

    /// The Cluster is gone.
    pub fn forget(&self, key: &ClusterKey) {
        self.0.lock().remove(key);
    }

    /// Whether this is news. A cluster that was not seen is looked at for that reason by then.
    fn differs(&self, key: &ClusterKey, pulse: Pulse) -> bool {
        self.0.lock().get(key).is_some_and(|seen| *seen != pulse)
    }
}

/// The Clusters whose pulse is not what the last pass has seen, for as long as it is asked for.
pub fn changes(
    context: Context,
    pulses: std::sync::Arc<Pulses>,
    known: Store<PartialObjectMeta<Cluster>>,
) -> impl Stream<Item = ObjectRef<PartialObjectMeta<Cluster>>> {
    let mut clock = tokio::time::interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ticks = stream::unfold(clock, |mut clock| async move {
        clock.tick().await;
        Some(((), clock))
    });
    let links = context.links;
    ticks
        .flat_map(move |()| stream::iter(known.state()))
        .map(move |cluster| {
            let name = cluster.metadata.name.clone().unwrap_or_default();
            let key = ClusterKey::new(cluster.metadata.namespace.clone().unwrap_or_default(), name);
            // Who is not connected yet, or connects at this moment, is looked at by a pass.
            let client = links.connected(&key);
            let pulses = pulses.clone();
            async move {
                let pulse = feel(&client?).await?;
                pulses
                    .differs(&key, pulse)
                    .then(|| ObjectRef::new(&key.name).within(&key.namespace))
            }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
}

/// Nothing where nobody answers: a cluster that is in trouble is looked at all the time anyway.
async fn feel(client: &Client) -> Option<Pulse> {
    let cluster = timeout(ASK_WITHIN, client.admin().describe_cluster())
        .await
        .ok()?
        .ok()?;
    Some(Pulse::of(&Told {
        cluster,
        ..Told::default()
    }))
}

#[cfg(test)]
mod tests {
    use millrace_client::v1;

    use super::*;

    fn told(at_min: i64, leader: Option<i64>) -> Told {
        let list = v1::PartitionList {
            count: at_min,
            ..v1::PartitionList::default()
        };
        Told {
            cluster: v1::DescribeClusterResponse {
                quorum: Some(v1::QuorumDescription {
                    leader_id: leader,
                    ..v1::QuorumDescription::default()
                }),
                health: Some(v1::PartitionHealth {
                    at_min_in_sync: Some(list),
                    ..v1::PartitionHealth::default()
                }),
                ..v1::DescribeClusterResponse::default()
            },
            ..Told::default()
        }
    }

    #[test]
    fn only_what_a_pass_acts_on_is_news() {
        let pulses = Pulses::default();
        let key = ClusterKey::new("demo", "orders");
        let differs = |told: &Told| pulses.differs(&key, Pulse::of(told));
        assert!(!differs(&told(3, None)), "nobody has looked at it yet");
        pulses.note(&key, Some(&told(0, Some(1))));
        assert!(!differs(&told(0, Some(1))));
        assert!(!differs(&told(0, Some(2))), "who leads is not asked about");
        assert!(differs(&told(1, Some(1))));
        assert!(differs(&told(0, None)));
        pulses.note(&key, Some(&told(1, Some(1))));
        assert!(!differs(&told(4, Some(1))), "how many there are changes nothing");
        assert!(differs(&told(0, Some(1))));
        pulses.note(&key, None);
        assert!(!differs(&told(0, Some(1))), "the pass could not ask, and is repeated");
    }
}
