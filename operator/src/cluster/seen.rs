//! What a pass over a cluster has seen: all that is decided by, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use millrace_client::v1;
use millrace_crds::Cluster;
use serde_json::Value;

use crate::{names::ClusterKey, render::Kind};

/// What was seen at one moment.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When.
    pub now: Timestamp,
    /// Which cluster.
    pub key: ClusterKey,
    /// The object as it was read at the beginning of the pass.
    pub cluster: Cluster,
    /// What the operator gives to clusters that do not say it.
    pub operator: OperatorDefaults,
    /// The objects that there are, as they were read.
    pub objects: BTreeMap<Kind, Value>,
    /// The brokers' pods by their number.
    pub pods: BTreeMap<i32, Pod>,
    /// The brokers' claims by their number.
    pub claims: BTreeMap<i32, Claim>,
    /// What the brokers tell.
    pub brokers: Reach,
}

impl Seen {
    /// Whether a broker's pod is there, and clients are sent to it.
    #[must_use]
    pub fn is_ready(&self, id: i32) -> bool {
        self.pods.get(&id).is_some_and(Pod::is_ready)
    }
}

#[cfg(test)]
impl Seen {
    /// Of Cluster `demo/orders` with this spec nothing but the object, for tests to add to.
    pub(crate) fn bare(now: Timestamp, spec: &Value) -> Self {
        let cluster = serde_json::json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Cluster", "metadata": { "name": "orders" }, "spec": spec,
        });
        Self {
            now,
            key: ClusterKey::new("demo", "orders"),
            cluster: serde_json::from_value(cluster).unwrap(),
            operator: OperatorDefaults {
                version: String::new(),
                image: String::new(),
                image_pull_policy: String::new(),
                image_pull_secrets: Vec::new(),
            },
            objects: BTreeMap::new(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            brokers: Reach::Unasked,
        }
    }
}

/// What the operator gives to clusters that do not say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorDefaults {
    /// The operator's own version.
    pub version: String,
    /// The image of that version.
    pub image: String,
    /// When nodes pull it.
    pub image_pull_policy: String,
    /// With which secrets.
    pub image_pull_secrets: Vec<String>,
}

/// A broker's pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Which of that name it is.
    pub uid: String,
    /// As it was read.
    pub resource_version: String,
    /// The hash of the template that it was made from.
    pub hash: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Since when it is ready; none: it is not.
    pub ready_since: Option<Timestamp>,
    /// Since when it is not; none: it is, or its node has not told yet.
    pub unready_since: Option<Timestamp>,
    /// Whether it has a node.
    pub scheduled: bool,
    /// Why it has none, in the scheduler's words.
    pub unschedulable: Option<String>,
    /// Whether it was told to end.
    pub terminating: bool,
    /// Whether its broker's process runs at this moment.
    pub running: bool,
    /// Why it does not run: the reason (`ImagePullBackOff`) and a message.
    pub waiting: Option<(String, String)>,
    /// What the process said when it last ended, if it did.
    pub last_end: Option<String>,
    /// When that was.
    pub last_ended: Option<Timestamp>,
    /// How long it had run then; none: nobody has told.
    pub last_run: Option<SignedDuration>,
    /// How often it was started anew in this pod.
    pub restarts: i32,
}

impl Pod {
    /// Whether clients are sent to it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready_since.is_some() && !self.terminating
    }
}

/// A broker's claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Its name.
    pub name: String,
    /// Which of that name it is.
    pub uid: String,
    /// As it was read.
    pub resource_version: String,
    /// Whether it has a volume.
    pub bound: bool,
    /// Whether it was told to go.
    pub terminating: bool,
    /// How large it is to be.
    pub requested: Option<String>,
}

/// Whether the brokers answered.
#[derive(Clone, Debug)]
pub enum Reach {
    /// There is nobody to ask yet.
    Unasked,
    /// Nobody answered, and in words why.
    Unreachable(String),
    /// They did.
    Reached(Box<Told>),
}

impl Reach {
    /// What they tell, if they do.
    #[must_use]
    pub fn told(&self) -> Option<&Told> {
        match self {
            Self::Reached(told) => Some(told),
            _ => None,
        }
    }
}

/// What the brokers tell.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Brokers, quorum and health.
    pub cluster: v1::DescribeClusterResponse,
    /// The members of the metadata quorum.
    pub members: Vec<v1::QuorumMember>,
    /// Moves under way.
    pub moves: Vec<v1::Reassignment>,
    /// The replicas of all partitions, each list once with the number of partitions that have it: what racks are
    /// judged by, bounded by the brokers and not by the partitions.
    pub placements: BTreeMap<Vec<i32>, usize>,
    /// Brokers that hold a replica which is not in sync.
    pub out_of_sync: BTreeSet<i32>,
    /// The defaults of all topics that somebody has set, by their names.
    pub topic_defaults: BTreeMap<String, String>,
    /// All settings that brokers know; empty if they could not be asked.
    pub settings: BTreeSet<String>,
}

impl Told {
    /// A broker by its number.
    #[must_use]
    pub fn broker(&self, id: i32) -> Option<&v1::BrokerDescription> {
        self.cluster.brokers.iter().find(|broker| broker.broker_id == id)
    }

    /// The broker that leads the metadata quorum.
    #[must_use]
    pub fn quorum_leader(&self) -> Option<i32> {
        let leader = self.cluster.quorum.as_ref()?.leader_id?;
        i32::try_from(leader).ok()
    }

    /// The brokers that vote, with the disk that they have now.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<i32> {
        let voters = self.members.iter().filter(|member| member.is_voter);
        voters.filter_map(|member| self.runs(member)).collect()
    }

    /// The member of the quorum that a broker runs with the disk that it has now.
    #[must_use]
    pub fn member(&self, id: i32) -> Option<&v1::QuorumMember> {
        self.members.iter().find(|member| self.runs(member) == Some(id))
    }

    /// A voter whose disk no broker has any more.
    #[must_use]
    pub fn lost_voter(&self) -> Option<&v1::QuorumMember> {
        let mut voters = self.members.iter().filter(|member| member.is_voter);
        voters.find(|member| self.runs(member).is_none())
    }

    /// A voter is a disk (its number is never given to another one), and the member tells of its broker also after that
    /// has got a new one.
    fn runs(&self, member: &v1::QuorumMember) -> Option<i32> {
        let broker = self.broker(member.broker_id?)?;
        (broker.directory_id == member.directory_id).then_some(broker.broker_id)
    }

    /// Partitions that take no records with acks=all, and those that would not with one broker less where that is not
    /// by their settings.
    #[must_use]
    pub fn endangered(&self) -> (i64, i64) {
        let health = self.cluster.health.as_ref();
        let count = |list: Option<&v1::PartitionList>| list.map_or(0, |list| list.count);
        (
            count(health.and_then(|health| health.under_min_in_sync.as_ref())),
            count(health.and_then(|health| health.at_min_in_sync.as_ref())),
        )
    }

    /// Whether a move touches a broker.
    #[must_use]
    pub fn is_moving(&self, id: i32) -> bool {
        self.moves.iter().any(|moved| {
            [&moved.original_replicas, &moved.target_replicas]
                .iter()
                .any(|replicas| replicas.contains(&id))
        })
    }
}
