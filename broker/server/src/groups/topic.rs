//! The internal topic of groups: made at first use, and kept from clients' changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millrace_engine::{Cluster, Command, Topic, cluster::CreateTopic};
use millrace_proto::v1::ErrorReason;
use uuid::Uuid;

use crate::{
    broker::Broker,
    error::{ApiError, WriteOutcome},
    limits,
    rpc::admin::placement,
};

/// Its name: Kafka's.
pub const NAME: &str = "__consumer_offsets";

/// The setting for how many replicas it has.
const REPLICATION_FACTOR: &str = "offsets.topic.replication.factor";

/// Its settings. The last record of each key is a group's state, and an acknowledged commit is on disks.
fn settings() -> BTreeMap<String, String> {
    [
        ("cleanup.policy", "compact"),
        ("flush", "ack"),
        // The same whatever the cluster's default is; of fewer replicas all are asked for.
        ("min.insync.replicas", "2"),
        // A coordinator that begins reads all of it, and the newest segment is not compacted yet.
        ("segment.bytes", "16777216"),
        // The assignment of a member that has all partitions of a cluster is one record.
        ("max.message.bytes", "16777216"),
        ("compression.type", "producer"),
        ("message.timestamp.type", "CreateTime"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// The topic, if there is one.
///
/// # Errors
/// The metadata quorum can't tell.
pub async fn find_topic(broker: &Broker) -> Result<Option<(Arc<Cluster>, Arc<Topic>)>, ApiError> {
    match broker.topic(NAME).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.reason() == ErrorReason::UnknownTopic => Ok(None),
        Err(error) => Err(error),
    }
}

/// The brokers that there are for the topic.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// How many may hold it, also those that are down.
    brokers: usize,
    /// For how long there have been so many.
    unchanged_for: Duration,
    /// This one has begun the cluster by itself, and no other is in it.
    is_alone: bool,
}

/// How many replicas the topic gets where `wanted` are: all of them once there are the brokers. `is_given`: somebody
/// has said how many, who means it; otherwise a cluster that stays smaller is taken as it is, and one broker at once.
///
/// # Errors
/// How many brokers are missing.
fn replicas(wanted: usize, is_given: bool, known: Known) -> Result<usize, usize> {
    let missing = wanted.saturating_sub(known.brokers);
    let stays_smaller = known.is_alone || known.unchanged_for >= limits::GROUPS_TOPIC_BROKERS_WAIT;
    match missing {
        0 => Ok(wanted),
        _ if !is_given && stays_smaller => Ok(known.brokers.max(1)),
        missing => Err(missing),
    }
}

fn too_few(missing: usize, wanted: usize) -> ApiError {
    let text = format!(
        "The group's coordinator is not available: {NAME}, which holds groups, is to have {wanted} replicas, and {missing} more broker{} must join first. Start {}, or set {REPLICATION_FACTOR} to how many the cluster has; then try again.",
        if missing == 1 { "" } else { "s" },
        if missing == 1 { "it" } else { "them" },
    );
    let error = ApiError::new(ErrorReason::CoordinatorNotAvailable, text);
    error.with("missing_brokers", missing).outcome(WriteOutcome::NotWritten)
}

/// How many replicas some partition of the topic lacks; 0 too while there is no topic.
pub(super) fn lacking_replicas(cluster: &Cluster, wanted: usize) -> usize {
    let partitions = cluster.topics.get(NAME).map(|topic| &topic.partitions);
    let fewest = partitions.and_then(|partitions| partitions.iter().map(|partition| partition.target().len()).min());
    fewest.map_or(0, |fewest| wanted.saturating_sub(fewest))
}

/// The topic; it is made if there is none. Of brokers that do so at once one succeeds, and all go by that.
///
/// # Errors
/// Brokers are missing (see [`replicas`]); it can't be placed; or as of the metadata quorum.
pub async fn find_or_create(broker: &Broker) -> Result<(Arc<Cluster>, Arc<Topic>), ApiError> {
    if let Some(found) = find_topic(broker).await? {
        return Ok(found);
    }
    let _making = broker.groups.making.lock().await;
    if let Some(found) = find_topic(broker).await? {
        return Ok(found);
    }
    let cluster = broker.quorum.cluster();
    let (id, config) = (Uuid::new_v4(), &broker.config);
    let wanted = config.offsets_topic_replication_factor;
    let known = Known {
        brokers: placement::targets(&cluster),
        unchanged_for: broker.groups.known_for(placement::targets(&cluster)),
        is_alone: cluster.brokers.len() == 1 && config.seeds.is_empty() && config.begin_node.is_none(),
    };
    let factor = replicas(wanted, config.given.contains_key(REPLICATION_FACTOR), known);
    let factor = factor.map_err(|missing| too_few(missing, wanted))?;
    let create = CreateTopic {
        name: NAME.to_owned(),
        id,
        assignments: placement::place(&cluster, id, config.offsets_topic_partitions as usize, factor)?,
        configs: settings(),
        now_ms: broker.now_ms(),
        owner: None,
    };
    match broker.submit(Command::CreateTopic(create)).await {
        Ok(_) if factor < wanted => tracing::warn!(
            topic = NAME,
            replicas = factor,
            wanted,
            "made the topic of consumer groups with fewer replicas than {REPLICATION_FACTOR} asks for, as there are no more brokers: 'millrace topic alter {NAME} --replication-factor' adds some"
        ),
        Ok(_) => tracing::info!(topic = NAME, replicas = factor, "made the topic of consumer groups"),
        Err(error) if error.reason() == ErrorReason::TopicExists => {}
        Err(error) => return Err(error),
    }
    broker.wait_until_current().await?;
    broker.topic(NAME).await
}

/// Refuses what would change the records, the partitions or the settings of the cluster's own topics.
///
/// # Errors
/// The topic is one of them.
pub fn check_not_internal(topic: &str) -> Result<(), ApiError> {
    if topic != NAME {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorReason::NotSupported,
        format!(
            "Topic {NAME:?} is the cluster's own, and holds what groups have read: it can be read, and have more or fewer replicas, and nothing else; see the calls of groups."
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::admin::testing::with_topic;

    #[test]
    fn nobody_settles_for_fewer_replicas_while_brokers_may_still_join() {
        let known = |brokers, seconds, is_alone| Known {
            brokers,
            unchanged_for: Duration::from_secs(seconds),
            is_alone,
        };
        for is_given in [false, true] {
            assert_eq!(replicas(3, is_given, known(3, 0, false)), Ok(3));
            assert_eq!(replicas(3, is_given, known(9, 0, false)), Ok(3));
            assert_eq!(replicas(1, is_given, known(1, 0, true)), Ok(1));
            assert_eq!(replicas(3, is_given, known(2, 29, false)), Err(1));
            assert_eq!(replicas(3, is_given, known(1, 0, false)), Err(2));
        }
        assert_eq!(
            replicas(3, false, known(1, 0, true)),
            Ok(1),
            "one broker that is to be all"
        );
        assert_eq!(
            replicas(3, true, known(1, 0, true)),
            Err(2),
            "it is said that there will be more"
        );
        assert_eq!(
            replicas(3, false, known(2, 30, false)),
            Ok(2),
            "nobody has come for long"
        );
        assert_eq!(replicas(3, true, known(2, 9_999, false)), Err(1));
        assert_eq!(
            replicas(3, false, known(0, 30, false)),
            Ok(1),
            "which can't be placed, and is told"
        );
    }

    #[test]
    fn what_lacks_replicas_is_counted() {
        let mut cluster = with_topic(&[1, 2, 3], vec![vec![1, 2], vec![2, 3]]);
        assert_eq!(lacking_replicas(&cluster, 3), 0, "there is no topic of groups");
        let topic = cluster.topics["t"].clone();
        cluster.topics.insert(NAME.into(), topic);
        assert_eq!(lacking_replicas(&cluster, 3), 1);
        assert_eq!(lacking_replicas(&cluster, 2), 0);
    }

    #[test]
    fn who_must_wait_is_told_for_what_and_what_to_do() {
        let error = too_few(2, 3);
        assert!(error.is_not_written() && error.metadata()["missing_brokers"] == "2");
        let text = error.message();
        assert!(
            text.contains("2 more brokers must join") && text.contains(REPLICATION_FACTOR),
            "{text}"
        );
    }
}
