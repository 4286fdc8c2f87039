//! A real broker in this process, for tests of what needs partitions and a quorum.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_engine::{
    BrokerId, Command, Outcome,
    cluster::{
        AlterPartitions, CreateTopic, Election, ElectionKind, FenceReason, IsrChange, IsrMember, RegisterBroker,
    },
    partition::FetchRequest,
};
use millrace_proto::batch::{BatchBuilder, Codec};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    RunningBroker,
    broker::Broker,
    config::BrokerConfig,
    partition::{AppendRequest, Partition, SequenceRule, SoundBatch},
    rpc::convert::Acks,
};

/// A broker that is only registered: it holds replicas in the metadata, and copies nothing.
pub const PHANTOM: BrokerId = 1;

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Broker 0 of a cluster, usually one in which [`PHANTOM`] is in service too.
pub struct TestBroker {
    dir: TempDir,
    pub running: RunningBroker,
}

impl TestBroker {
    pub async fn start() -> Self {
        let test = Self::alone().await;
        test.register_phantom().await;
        test
    }

    /// From here on [`PHANTOM`] is in service too.
    pub async fn register_phantom(&self) {
        let broker = self.broker();
        let registration = RegisterBroker {
            broker_id: PHANTOM,
            incarnation: Uuid::new_v4(),
            cluster_id: broker.cluster_id(),
            directory_id: Uuid::new_v4(),
            address: "phantom:1".into(),
            rack: String::new(),
            version: "1".into(),
            now_ms: 0,
        };
        broker.submit(Command::RegisterBroker(registration)).await.unwrap();
    }

    /// One without others, which leads all.
    pub async fn alone() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data").display().to_string();
        let values = [
            ("data.dir", data.as_str()),
            ("listen.client", "127.0.0.1:0"),
            ("listen.http", "127.0.0.1:0"),
            ("listen.internal", "127.0.0.1:0"),
            // So that only those tests compact that mean to.
            ("log.cleaner.backoff.ms", "600000"),
            ("node.id", "0"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = BrokerConfig::load(None, std::iter::empty(), &values).unwrap();
        crate::format(&config).unwrap();
        let running = crate::start(config).await.unwrap();
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
            owner: None,
        };
        let broker = self.broker();
        broker.submit(Command::CreateTopic(create)).await.unwrap();
        broker.wait_until_current().await.unwrap();
        broker.partitions.find(topic, 0).unwrap()
    }

    /// Chooses the leader of a topic's only partition; it is carried out when this returns.
    pub async fn elect(&self, topic: &str, kind: ElectionKind) {
        let broker = self.broker();
        let partition = broker.quorum.cluster().topics[topic].partition_ref(0);
        let elections = vec![Election { partition, kind }];
        let outcome = broker.submit(Command::ElectLeaders { elections }).await.unwrap();
        assert!(
            matches!(&outcome, Outcome::Elected(results) if results.iter().all(Result::is_ok)),
            "{outcome:?}"
        );
        broker.wait_until_current().await.unwrap();
    }

    /// Has the leader of a topic's only partition change the in-sync set, and say who has lost data and
    /// below which offset all is committed.
    pub async fn set_isr(&self, topic: &str, isr: &[BrokerId], lost: &[BrokerId], high_watermark: i64) {
        let cluster = self.broker().quorum.cluster();
        let record = &cluster.topics[topic].partitions[0];
        let member = |id: BrokerId| IsrMember {
            broker_id: id,
            broker_epoch: cluster.brokers[&id].epoch,
        };
        let change = IsrChange {
            partition: cluster.topics[topic].partition_ref(0),
            leader_epoch: record.leader_epoch,
            partition_epoch: record.partition_epoch,
            isr: isr.iter().copied().map(member).collect(),
            recovering: false,
            high_watermark,
            lost: lost.to_vec(),
            supersedes: false,
        };
        let leader = member(record.leader.unwrap());
        let alter = AlterPartitions {
            broker_id: leader.broker_id,
            broker_epoch: leader.broker_epoch,
            changes: vec![change],
        };
        let outcome = self.broker().submit(Command::AlterPartitions(alter)).await.unwrap();
        assert!(
            matches!(&outcome, Outcome::Altered(results) if results.iter().all(Result::is_ok)),
            "{outcome:?}"
        );
    }

    /// A topic with one partition that [`PHANTOM`] led in epoch 0, and said that all below 5 is committed; then it is gone,
    /// and this broker, which has nothing, is elected all the same.
    pub async fn cut_partition(&self, topic: &str) -> Arc<Partition> {
        let broker = self.broker();
        let create = CreateTopic {
            name: topic.into(),
            id: Uuid::new_v4(),
            assignments: vec![vec![PHANTOM, 0]],
            // Alone this broker commits, too.
            configs: BTreeMap::from([("min.insync.replicas".to_owned(), "1".to_owned())]),
            now_ms: 0,
            owner: None,
        };
        broker.submit(Command::CreateTopic(create)).await.unwrap();
        self.set_isr(topic, &[PHANTOM], &[0], 5).await;
        let fence = Command::FenceBroker {
            broker_id: PHANTOM,
            broker_epoch: broker.quorum.cluster().brokers[&PHANTOM].epoch,
            reason: FenceReason::LeaseExpired,
        };
        broker.submit(fence).await.unwrap();
        self.elect(topic, ElectionKind::Unclean { replica: 0 }).await;
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

    /// The phantom is heard of under the present leader epoch: it has the one record there is, so that is committed.
    pub async fn commit_by_phantom(&self, partition: &Arc<Partition>) {
        partition.on_acknowledged(FetchRequest {
            last_fetched_epoch: Some(0),
            durable_end: 1,
            ..self.phantom_fetch(partition, 1)
        });
        committed(partition, 1).await;
    }
}

/// Appends a batch of one record, and waits for no other replica.
pub fn append(partition: &Arc<Partition>) {
    let request = AppendRequest {
        acks: Acks::Leader,
        leader_epoch: None,
        expected_offset: None,
        sequence_rule: SequenceRule::Contiguous,
    };
    partition.append(&batch(None), &request).unwrap();
}

/// Waits until all below `offset` is committed.
pub async fn committed(partition: &Partition, offset: i64) {
    let began = Instant::now();
    while partition.offsets().high_watermark < offset {
        assert!(began.elapsed() < PATIENCE, "{partition:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A batch of one record; with a producer, its id and the batch's sequence.
pub fn batch(producer: Option<(i64, i32)>) -> SoundBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(1, None, Some(b"value"), &[]).unwrap();
    if let Some((id, sequence)) = producer {
        builder.set_producer(id, 0, sequence);
    }
    SoundBatch::build(&mut builder, &[1], Some(0)).unwrap()
}
