//! Topics, configurations and the cluster; partitions, brokers and the metadata quorum are in files
//! of their own. Answers are the contract's own messages, whose fields [`v1`] documents.

mod brokers;
mod groups;
mod leaders;
mod maintenance;
mod owners;
mod partitions;
mod quorum;

pub use groups::OffsetTarget;
pub use partitions::{Election, PartitionMove};
pub use quorum::VoterName;

use std::{collections::BTreeMap, sync::Arc};

use millrace_proto::v1::{self, admin_client::AdminClient};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    client::Client,
    error::{Error, Result},
    limits,
    offsets::{self, ListedOffset, retrying, within},
    record::{Isolation, Start},
};

/// What people and operators manage a cluster with. Reads are retried until the client's request
/// timeout; changes are made once, since a repeated one may be told that it was done already.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
    validate_only: bool,
    throttle: i64,
    owner: Option<v1::TopicOwner>,
}

/// A topic to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    name: String,
    partitions: Option<i32>,
    replication_factor: Option<i32>,
    configs: BTreeMap<String, String>,
    owner: Option<v1::TopicOwner>,
}

impl NewTopic {
    /// A topic with the broker's defaults: 1 to 249 letters, digits, '.', '_' and '-'.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// How many partitions: 1 to 10,000.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// How many replicas of each partition: 1 to the number of brokers.
    #[must_use]
    pub fn replication_factor(mut self, replication_factor: i32) -> Self {
        self.replication_factor = Some(replication_factor);
        self
    }

    /// One setting, by Kafka's name where Kafka has it: `retention.ms`.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(name.into(), value.into());
        self
    }

    /// Who manages it: no other owner may change or delete it then.
    #[must_use]
    pub fn owner(mut self, owner: v1::TopicOwner) -> Self {
        self.owner = Some(owner);
        self
    }
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            validate_only: false,
            throttle: 0,
            owner: None,
        }
    }

    /// The same, but changes are only checked: the answer is what it would have been.
    #[must_use]
    pub fn validate_only(mut self, on: bool) -> Self {
        self.validate_only = on;
        self
    }

    /// The same, but moves of partitions that a plan begins (a drain, a rebalance, another replication
    /// factor) send at most so many bytes a second to each broker that is added, from each leader: 65,536 or
    /// more, or 0, as fast as possible. The bound ends with the move.
    #[must_use]
    pub fn throttle(mut self, bytes_per_second: i64) -> Self {
        self.throttle = bytes_per_second;
        self
    }

    /// Creates a topic. When it answers, this client can write to it.
    ///
    /// # Errors
    /// TOPIC_EXISTS, INVALID_TOPIC_NAME, INVALID_CONFIG, NOT_ENOUGH_BROKERS, LIMIT_REACHED, and
    /// those of any call.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<v1::CreateTopicResponse> {
        let name = topic.name.clone();
        let request = v1::CreateTopicRequest {
            name: topic.name,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            configs: entries(topic.configs),
            validate_only: self.validate_only,
            owner: topic.owner,
        };
        let created = self
            .change(|mut admin| async move { Ok(admin.create_topic(request).await?.into_inner()) })
            .await?;
        if !self.validate_only {
            // The push of the new metadata is on its way on the same connection.
            self.wait_until(|cluster| {
                cluster
                    .topics
                    .get(name.as_str())
                    .is_some_and(|known| known.id == created.topic_id)
            })
            .await;
        }
        Ok(created)
    }

    /// Deletes a topic and its data.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, and those of any call.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        self.delete_topic_with_id(name, bytes::Bytes::new()).await
    }

    /// The same, but only if the topic has this id, 16 bytes: another one of that name stays.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC also for another id, and those of any call.
    pub async fn delete_topic_with_id(&self, name: &str, topic_id: bytes::Bytes) -> Result<()> {
        let before = self.client.cluster().topics.get(name).cloned();
        let request = v1::DeleteTopicRequest {
            name: name.to_owned(),
            topic_id,
            validate_only: self.validate_only,
            as_owner: self.owner.clone(),
        };
        self.change(|mut admin| async move { Ok(admin.delete_topic(request).await?) })
            .await?;
        if let Some(before) = before
            && !self.validate_only
        {
            self.wait_until(|cluster| cluster.topics.get(name).is_none_or(|known| known.id != before.id))
                .await;
        }
        Ok(())
    }

    /// All topics whose name begins with `prefix`, in the order of their names.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn list_topics(&self, prefix: &str) -> Result<Vec<v1::TopicSummary>> {
        pages(|page_token| {
            let request = v1::ListTopicsRequest {
                prefix: prefix.to_owned(),
                page_size: limits::PAGE_SIZE,
                page_token,
            };
            self.read(move |mut admin| {
                let request = request.clone();
                async move {
                    let page = admin.list_topics(request).await?.into_inner();
                    Ok((page.topics, page.next_page_token))
                }
            })
        })
        .await
    }

    /// All about a topic: partitions, offsets, sizes, settings that differ from the defaults.
    /// Offsets and sizes are asked of each partition's leader; one that does not answer soon is
    /// told in the `problem` of its partitions.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, and those of any call.
    pub async fn describe_topic(&self, name: &str) -> Result<v1::DescribeTopicResponse> {
        let request = v1::DescribeTopicRequest { name: name.to_owned() };
        let mut topic = self
            .read(|mut admin| {
                let request = request.clone();
                async move { Ok(admin.describe_topic(request).await?.into_inner()) }
            })
            .await?;
        leaders::complete_topic(self, &request, &mut topic).await;
        Ok(topic)
    }

    /// Changes a topic's settings and how many replicas its partitions have: sets `set`, puts
    /// `unset` back to the broker's defaults, and begins the moves that `replication_factor`
    /// takes; [`Admin::list_reassignments`] tells when they are done.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, INVALID_CONFIG, NOT_ENOUGH_BROKERS, PLACEMENT_BLOCKED, and those of any call.
    pub async fn alter_topic<K, V>(
        &self,
        topic: &str,
        set: impl IntoIterator<Item = (K, V)>,
        unset: impl IntoIterator<Item = impl Into<String>>,
        replication_factor: Option<i32>,
    ) -> Result<v1::PlannedMoves>
    where
        K: Into<String>,
        V: Into<String>,
    {
        let request = v1::AlterTopicRequest {
            name: topic.to_owned(),
            set_configs: entries(set),
            unset_configs: unset.into_iter().map(Into::into).collect(),
            validate_only: self.validate_only,
            replication_factor,
            throttle_bytes_per_second: replication_factor.map_or(0, |_| self.throttle),
            as_owner: self.owner.clone(),
        };
        let answer = self
            .change(|mut admin| async move { Ok(admin.alter_topic(request).await?.into_inner()) })
            .await?;
        Ok(answer.moves.unwrap_or_default())
    }

    /// Changes a topic's settings: sets `set` and puts `unset` back to the cluster's defaults.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, INVALID_CONFIG, and those of any call.
    pub async fn alter_configs<K, V>(
        &self,
        topic: &str,
        set: impl IntoIterator<Item = (K, V)>,
        unset: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<()>
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.alter_settings(v1::AlterConfigsRequest {
            topic: topic.to_owned(),
            set: entries(set),
            unset: unset.into_iter().map(Into::into).collect(),
            validate_only: self.validate_only,
            topic_defaults: false,
        })
        .await
    }

    async fn alter_settings(&self, request: v1::AlterConfigsRequest) -> Result<()> {
        self.change(|mut admin| async move { Ok(admin.alter_configs(request).await?) })
            .await?;
        Ok(())
    }

    /// Changes what all topics of the cluster go by that do not set it themselves: sets `set` and puts `unset` back to
    /// the built-in defaults.
    ///
    /// # Errors
    /// INVALID_CONFIG, and those of any call.
    pub async fn alter_topic_defaults<K, V>(
        &self,
        set: impl IntoIterator<Item = (K, V)>,
        unset: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<()>
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.alter_settings(v1::AlterConfigsRequest {
            topic: String::new(),
            set: entries(set),
            unset: unset.into_iter().map(Into::into).collect(),
            validate_only: self.validate_only,
            topic_defaults: true,
        })
        .await
    }

    /// What topics go by that do not set it themselves, with its meaning.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn describe_topic_defaults(&self) -> Result<Vec<v1::ConfigDescription>> {
        self.configs(v1::describe_configs_request::Resource::TopicDefaults(
            v1::TopicDefaults {},
        ))
        .await
    }

    /// The settings in force of a topic, with their meaning.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, and those of any call.
    pub async fn describe_configs(&self, topic: &str) -> Result<Vec<v1::ConfigDescription>> {
        self.configs(v1::describe_configs_request::Resource::Topic(topic.to_owned()))
            .await
    }

    /// The settings in force of a broker, with their meaning.
    ///
    /// # Errors
    /// UNKNOWN_BROKER, and those of any call.
    pub async fn describe_broker_configs(&self, broker_id: i32) -> Result<Vec<v1::ConfigDescription>> {
        let resource = v1::describe_configs_request::Resource::BrokerId(broker_id);
        let Some(broker) = self.client.cluster().brokers.get(&broker_id).cloned() else {
            return self.configs(resource).await;
        };
        let request = v1::DescribeConfigsRequest {
            resource: Some(resource),
        };
        let mut admin = self.client.inner.connections.admin(&broker.address)?;
        let deadline = Instant::now() + self.client.inner.request_timeout;
        within(deadline, async {
            Ok(admin.describe_configs(request).await?.into_inner().configs)
        })
        .await
    }

    async fn configs(&self, resource: v1::describe_configs_request::Resource) -> Result<Vec<v1::ConfigDescription>> {
        let request = v1::DescribeConfigsRequest {
            resource: Some(resource),
        };
        let answer = self
            .read(|mut admin| {
                let request = request.clone();
                async move { Ok(admin.describe_configs(request).await?.into_inner()) }
            })
            .await?;
        Ok(answer.configs)
    }

    /// Raises a topic's number of partitions to `partitions`; answers with the number it has then.
    /// Keys are spread anew by that.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, NOT_SUPPORTED for fewer than there are, LIMIT_REACHED, and those of any call.
    pub async fn create_partitions(&self, topic: &str, partitions: i32) -> Result<i32> {
        let request = v1::CreatePartitionsRequest {
            name: topic.to_owned(),
            partitions,
            validate_only: self.validate_only,
            as_owner: self.owner.clone(),
        };
        let answer = self
            .change(|mut admin| async move { Ok(admin.create_partitions(request).await?.into_inner()) })
            .await?;
        if !self.validate_only {
            let count = usize::try_from(answer.partitions).unwrap_or(0);
            self.wait_until(|cluster| {
                cluster
                    .topics
                    .get(topic)
                    .is_none_or(|known| known.partitions.len() >= count)
            })
            .await;
        }
        Ok(answer.partitions)
    }

    /// Deletes a partition's records before an offset, -1 for all that are readable; answers with
    /// the oldest offset that is kept.
    ///
    /// # Errors
    /// OFFSET_OUT_OF_RANGE above the high watermark, UNKNOWN_TOPIC, UNKNOWN_PARTITION, and those of
    /// any call.
    pub async fn delete_messages(&self, topic: &str, partition: i32, before_offset: i64) -> Result<i64> {
        let known = self.client.topic(topic).await?;
        if known.partition(partition).is_none() {
            return Err(Error::unknown_partition(topic, partition, known.partitions.len()));
        }
        let (address, _) = self
            .client
            .cluster()
            .leader(topic, partition)
            .ok_or_else(|| offsets::no_leader(topic, partition))?;
        let request = v1::DeleteMessagesRequest {
            topic: topic.to_owned(),
            partition,
            before_offset,
            validate_only: self.validate_only,
        };
        let mut admin = self.client.inner.connections.admin(&address)?;
        let deadline = Instant::now() + self.client.inner.request_timeout;
        let answer = within(deadline, async {
            Ok(admin.delete_messages(request).await?.into_inner())
        })
        .await?;
        Ok(answer.log_start)
    }

    /// Brokers, the metadata quorum, and the partitions that are not as they should be.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn describe_cluster(&self) -> Result<v1::DescribeClusterResponse> {
        let request = v1::DescribeClusterRequest {};
        self.read(|mut admin| async move { Ok(admin.describe_cluster(request).await?.into_inner()) })
            .await
    }

    /// The offsets of starts in partitions of a topic, in the order of `starts`.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, UNKNOWN_PARTITION, [`OffsetOutOfRange`](crate::ErrorKind::OffsetOutOfRange)
    /// for offsets that are not there, and those of any call.
    pub async fn list_offsets(
        &self,
        topic: &str,
        starts: impl IntoIterator<Item = (i32, Start)>,
        isolation: Isolation,
    ) -> Result<Vec<ListedOffset>> {
        let name: Arc<str> = self.client.topic(topic).await?.name.clone();
        let starts: Vec<_> = starts
            .into_iter()
            .map(|(partition, start)| ((name.clone(), partition), start))
            .collect();
        offsets::list_offsets(&self.client, &starts, isolation).await
    }

    async fn read<T, F: Future<Output = Result<T>>>(&self, call: impl Fn(AdminClient<Channel>) -> F) -> Result<T> {
        retrying(&self.client, self.client.inner.request_timeout, |contact| {
            let answer = self.client.inner.connections.admin(&contact).map(&call);
            async move { answer?.await }
        })
        .await
    }

    async fn change<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl FnOnce(AdminClient<Channel>) -> F,
    ) -> Result<T> {
        let deadline = Instant::now() + self.client.inner.request_timeout;
        let admin = self.client.inner.connections.admin(&self.client.contact())?;
        within(deadline, call(admin)).await
    }

    /// One call to the broker at an address.
    async fn at<T, F: Future<Output = Result<T>>>(
        &self,
        address: &str,
        call: impl FnOnce(AdminClient<Channel>) -> F,
    ) -> Result<T> {
        let deadline = Instant::now() + self.client.inner.request_timeout;
        let admin = self.client.inner.connections.admin(address)?;
        within(deadline, call(admin)).await
    }

    /// The address of a broker, as metadata tells it.
    fn address_of(&self, broker_id: i32) -> Option<Arc<str>> {
        let cluster = self.client.cluster();
        cluster.brokers.get(&broker_id).map(|broker| broker.address.clone())
    }

    /// Waits for this client's own picture of the cluster to show a change that was made; a little
    /// only, since the change itself has succeeded.
    async fn wait_until(&self, shown: impl Fn(&crate::cluster::Cluster) -> bool) {
        let mut changes = self.client.inner.cluster.subscribe();
        let _ = tokio::time::timeout(limits::UNKNOWN_TOPIC_WAIT, changes.wait_for(|cluster| shown(cluster))).await;
    }
}

fn entries<K: Into<String>, V: Into<String>>(configs: impl IntoIterator<Item = (K, V)>) -> Vec<v1::ConfigEntry> {
    configs
        .into_iter()
        .map(|(name, value)| v1::ConfigEntry {
            name: name.into(),
            value: value.into(),
        })
        .collect()
}

/// What all pages have; `page` gets the token of the one to fetch.
async fn pages<T, F>(mut page: impl FnMut(String) -> F) -> Result<Vec<T>>
where
    F: Future<Output = Result<(Vec<T>, String)>>,
{
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (items, next) = page(token.clone()).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        if next == token {
            return Err(Error::invalid(
                "The server gives the same page again and again: check what it is.",
            ));
        }
        token = next;
    }
}
