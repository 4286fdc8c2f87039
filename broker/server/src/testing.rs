//! A real broker in this process, for tests of what needs partitions and a quorum.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use millrace_engine::{
    BrokerId, Command,
    cluster::{CreateTopic, RegisterBroker},
    partition::FetchRequest,
};
use millrace_proto::batch::{BatchBuilder, Codec};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    RunningBroker,
    broker::Broker,
    config::BrokerConfig,
    partition::{Partition, SoundBatch},
};

/// A broker that is only registered: it holds replicas in the metadata, and copies nothing.
pub const PHANTOM: BrokerId = 1;

/// Broker 0 of a cluster in which [`PHANTOM`] is in service too.
pub struct TestBroker {
    dir: TempDir,
    pub running: RunningBroker,
}

impl TestBroker {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data").display().to_string();
        let values = [
            ("data.dir", data.as_str()),
            ("listen.client", "127.0.0.1:0"),
            ("listen.http", "127.0.0.1:0"),
            ("listen.internal", "127.0.0.1:0"),
            ("node.id", "0"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = BrokerConfig::load(None, std::iter::empty(), &values).unwrap();
        crate::format(&config).unwrap();
        let running = crate::start(config).await.unwrap();
        let registration = RegisterBroker {
            broker_id: PHANTOM,
            incarnation: Uuid::new_v4(),
            cluster_id: running.broker().cluster_id(),
            directory_id: Uuid::new_v4(),
            address: "phantom:1".into(),
            rack: String::new(),
            version: "1".into(),
            now_ms: 0,
        };
        let command = Command::RegisterBroker(registration);
        running.broker().submit(command).await.unwrap();
        Self { dir, running }
    }

    pub fn broker(&self) -> &Arc<Broker> {
        self.running.broker()
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A topic with one partition on these brokers; this one leads it.
    pub async fn partition(&self, topic: &str, replicas: &[BrokerId]) -> Arc<Partition> {
        self.partition_with(topic, replicas, BTreeMap::new()).await
    }

    /// The same with settings.
    pub async fn partition_with(
        &self,
        topic: &str,
        replicas: &[BrokerId],
        configs: BTreeMap<String, String>,
    ) -> Arc<Partition> {
        let create = CreateTopic {
            name: topic.into(),
            id: Uuid::new_v4(),
            assignments: vec![replicas.to_vec()],
            configs,
            now_ms: 0,
        };
        let broker = self.broker();
        broker.submit(Command::CreateTopic(create)).await.unwrap();
        broker.wait_until_current().await.unwrap();
        broker.partitions.find(topic, 0).unwrap()
    }

    /// What [`PHANTOM`] asks that has one record of `partition`, not on its disk.
    pub fn phantom_fetch(&self, partition: &Partition, sequence: u64) -> FetchRequest {
        FetchRequest {
            replica: PHANTOM,
            broker_epoch: self.broker().quorum.cluster().brokers[&PHANTOM].epoch,
            leader_epoch: partition.offsets().leader_epoch,
            sequence,
            offset: 1,
            last_fetched_epoch: Some(partition.offsets().leader_epoch),
            durable_end: 0,
            log_start: 0,
            high_watermark: 0,
        }
    }
}

/// A batch of one record; with a producer, its id and the batch's sequence.
pub fn batch(producer: Option<(i64, i32)>) -> SoundBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1, None, Some(b"value"), &[]).unwrap();
    if let Some((id, sequence)) = producer {
        builder.set_producer(id, 0, sequence);
    }
    SoundBatch::build(&mut builder, &[1]).unwrap()
}
