//! The internal topic of groups: made at first use, and kept from clients' changes.

use std::{collections::BTreeMap, sync::Arc};

use millrace_engine::{Cluster, Command, Topic, cluster::CreateTopic};
use millrace_proto::v1::ErrorReason;
use uuid::Uuid;

use crate::{broker::Broker, error::ApiError, rpc::admin::placement};

/// Its name: Kafka's.
pub const NAME: &str = "__consumer_offsets";

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

/// The topic; it is made if there is none. Of brokers that do so at once one succeeds, and all go by that.
///
/// # Errors
/// It can't be placed, or as of the metadata quorum.
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
    let factor = config
        .offsets_topic_replication_factor
        .min(placement::targets(&cluster))
        .max(1);
    let create = CreateTopic {
        name: NAME.to_owned(),
        id,
        assignments: placement::place(&cluster, id, config.offsets_topic_partitions as usize, factor)?,
        configs: settings(),
        now_ms: broker.now_ms(),
        owner: None,
    };
    match broker.submit(Command::CreateTopic(create)).await {
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
