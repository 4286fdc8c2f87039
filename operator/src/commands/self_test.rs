//! Whether all of it works: a cluster of one broker, a topic, records in and out. What it makes it takes away again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use k8s_openapi::{api::core::v1::PersistentVolumeClaim, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use millrace_client::{ConsumedRecord, Record, Start};
use millrace_crds::{Cluster, Topic};
use serde_json::json;

use crate::{names::ClusterKey, options::SelfTestOptions, pass::gone_is_fine};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What it writes and must read.
const VALUES: [&str; 3] = ["one", "two", "three"];

/// Runs the test, and takes away what it made also if it fails.
///
/// # Errors
/// What does not work.
pub async fn run(kube: Client, options: &SelfTestOptions) -> anyhow::Result<()> {
    let test = SelfTest {
        clusters: Api::namespaced(kube.clone(), &options.namespace),
        topics: Api::namespaced(kube.clone(), &options.namespace),
        claims: Api::namespaced(kube, &options.namespace),
        key: ClusterKey::new(&options.namespace, &options.name),
        deadline: Instant::now() + Duration::from_secs(options.timeout_seconds),
    };
    let name = &options.name;
    let cluster = cluster(name)?;
    match test.clusters.create(&PostParams::default(), &cluster).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            bail!("there is a Cluster {} already: give the test another --name", test.key)
        }
        Err(error) => return Err(error).context("make a Cluster"),
    }
    let result = test.try_all().await;
    let cleaned = test.clean().await.context("take the test's Cluster away");
    result?;
    cleaned?;
    eprintln!("all of it works");
    Ok(())
}

struct SelfTest {
    clusters: Api<Cluster>,
    topics: Api<Topic>,
    claims: Api<PersistentVolumeClaim>,
    key: ClusterKey,
    deadline: Instant,
}

fn cluster(name: &str) -> anyhow::Result<Cluster> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": { "name": name },
        "spec": { "replicas": 1, "storage": { "size": "1Gi" } },
    }))?)
}

impl SelfTest {
    async fn try_all(&self) -> anyhow::Result<()> {
        let name = &self.key.name;
        eprintln!("made Cluster {}; waiting until it is ready", self.key);
        self.ready("Cluster", || async {
            let cluster = self.clusters.get(name).await?;
            Ok(cluster.status.unwrap_or_default().conditions)
        })
        .await?;
        let topic: Topic = serde_json::from_value(json!({
            "apiVersion": "millrace.dev/v1alpha1",
            "kind": "Topic",
            "metadata": { "name": name },
            "spec": { "clusterRef": { "name": name }, "partitions": 1 },
        }))?;
        self.topics
            .create(&PostParams::default(), &topic)
            .await
            .context("make a Topic")?;
        eprintln!("made Topic {}; waiting until it is ready", self.key);
        self.ready("Topic", || async {
            let topic = self.topics.get(name).await?;
            Ok(topic.status.unwrap_or_default().conditions)
        })
        .await?;
        self.write_and_read().await
    }

    /// Writes without a retry of its own: a Topic that is ready takes records at once.
    async fn write_and_read(&self) -> anyhow::Result<()> {
        let client = millrace_client::Client::connect(self.key.bootstrap_address()).await;
        let client = client.context("connect to the cluster")?;
        let producer = client.producer().build().await.context("begin to write")?;
        for value in VALUES {
            let delivery = producer.send(Record::new(&self.key.name).value(value)).await?;
            delivery.await.with_context(|| format!("write {value:?}"))?;
        }
        eprintln!("wrote {} records", VALUES.len());
        let mut consumer = client.consumer().build().context("begin to read")?;
        consumer.assign([(self.key.name.as_str(), 0, Start::Beginning)]).await?;
        for value in VALUES {
            self.expect(value, consumer.next()).await?;
        }
        eprintln!("read them");
        self.read_as_group(&client).await
    }

    /// Each record is read by one member of a group: the second one goes on where the first has committed.
    async fn read_as_group(&self, client: &millrace_client::Client) -> anyhow::Result<()> {
        let (first, second) = VALUES.split_at(2);
        for values in [first, second] {
            let group = client.group_consumer(&*self.key.name).topics([&*self.key.name]);
            let mut member = group.build().context("join a group")?;
            for value in values {
                self.expect(value, member.next()).await?;
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            let closed = tokio::time::timeout(left, member.close()).await;
            closed.context("the group's member could not leave in time")??;
        }
        eprintln!("read them as two members of a group");
        Ok(())
    }

    async fn expect(
        &self,
        value: &str,
        read: impl Future<Output = millrace_client::Result<ConsumedRecord>>,
    ) -> anyhow::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let read = tokio::time::timeout(left, read).await;
        let read = read.with_context(|| format!("{value:?} was not read in time"))??;
        if read.value.as_deref() != Some(value.as_bytes()) {
            bail!("wrote {value:?} and read {:?}", read.value);
        }
        Ok(())
    }

    async fn ready<F: Future<Output = kube::Result<Vec<Condition>>>>(
        &self,
        kind: &str,
        conditions: impl Fn() -> F,
    ) -> anyhow::Result<()> {
        loop {
            let conditions = conditions().await.with_context(|| format!("read the {kind}"))?;
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
            if ready.is_some_and(|ready| ready.status == "True") {
                return Ok(());
            }
            if Instant::now() > self.deadline {
                let why = ready.map_or("no operator has looked at it".to_owned(), |ready| {
                    format!("{}: {}", ready.reason, ready.message)
                });
                bail!("the {kind} is not ready in time: {why}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn clean(&self) -> anyhow::Result<()> {
        let params = DeleteParams::background();
        let name = &self.key.name;
        gone_is_fine(self.topics.delete(name, &params).await.map(drop))?;
        // The operator deletes the topic first, which needs the brokers.
        while self.topics.get_opt(name).await?.is_some() && Instant::now() < self.deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        gone_is_fine(self.clusters.delete(name, &params).await.map(drop))?;
        gone_is_fine(self.claims.delete(&self.key.claim(0), &params).await.map(drop))?;
        eprintln!("took Topic, Cluster and claim away");
        Ok(())
    }
}
