//! An API server in memory and a real broker in this process, with the operator's Topics between them.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod api_server;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use api_server::ApiServer;
use clap::Parser as _;
use futures::future::try_join_all;
use kube::runtime::{controller::Action, events::Reporter};
use millrace_client::{Admin, Client, ErrorReason, v1};
use millrace_operator::{
    context::Context,
    events::Events,
    links::Links,
    metrics::Metrics,
    options::{Cli, Command, RunOptions},
    topic::reconciler::Reconciler,
};
use millrace_server::{RunningBroker, StartError, config::BrokerConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const FINALIZER: &str = "millrace.dev/topic";

/// All of it.
pub struct World {
    pub api: ApiServer,
    pub context: Context,
    pub reconciler: Reconciler,
    pub admin: Admin,
    _client: Client,
    _brokers: Vec<RunningBroker>,
    _places: Vec<Place>,
}

fn options(arguments: &[&str]) -> RunOptions {
    let all = ["millrace-operator", "run"].iter().chain(arguments);
    match Cli::parse_from(all).command {
        Command::Run(options) => options,
        other => panic!("{other:?}"),
    }
}

/// A port that nobody listens on, and that no connection gets by itself meanwhile: one below those that the kernel gives
/// out (`net.ipv4.ip_local_port_range`). Each process begins elsewhere, and none gives one out twice.
fn free_address() -> SocketAddr {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id()
            .wrapping_mul(101)
            .wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(12_000 + number % 20_000).unwrap();
        if let Ok(free) = TcpListener::bind(("127.0.0.1", port)) {
            return free.local_addr().unwrap();
        }
    }
}

/// Where a broker is.
struct Place {
    dir: TempDir,
    id: i32,
    /// Where other brokers find it.
    internal: Option<String>,
}

impl Place {
    fn alone() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            id: 0,
            internal: None,
        }
    }

    fn new(id: i32) -> Self {
        Self {
            id,
            internal: Some(free_address().to_string()),
            ..Self::alone()
        }
    }

    async fn start(&self, seeds: &[&str]) -> Result<RunningBroker, StartError> {
        let data = self.dir.path().join("data").display().to_string();
        let (id, seeds) = (self.id.to_string(), seeds.join(","));
        let mut values = vec![
            ("data.dir", data.as_str()),
            ("listen.client", "127.0.0.1:0"),
            ("listen.http", "127.0.0.1:0"),
            ("listen.internal", self.internal.as_deref().unwrap_or("127.0.0.1:0")),
            ("node.id", id.as_str()),
        ];
        // Without seeds the first one begins the cluster.
        if self.id != 0 {
            values.push(("seeds", seeds.as_str()));
        }
        let values: Vec<(String, String)> = values
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let config = BrokerConfig::load(None, std::iter::empty(), &values).unwrap();
        millrace_server::form(config).await
    }
}

impl World {
    /// Cluster `c` in namespace `a`, with one broker.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same with other arguments to the operator.
    pub async fn with(arguments: &[&str]) -> Self {
        Self::on(vec![Place::alone()], arguments).await
    }

    /// The same with three brokers that know of each other.
    pub async fn of_three() -> Self {
        let places: Vec<Place> = (0..3).map(Place::new).collect();
        let world = Self::on(places, &[]).await;
        world.cluster("c", json!({"replicas": 3}));
        world
    }

    async fn on(places: Vec<Place>, arguments: &[&str]) -> Self {
        // Which of the providers in the tree is used must be said before the first connection.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let seeds: Vec<&str> = places.iter().filter_map(|place| place.internal.as_deref()).collect();
        let brokers = try_join_all(places.iter().map(|place| place.start(&seeds)))
            .await
            .unwrap();
        let address = brokers[0].address().to_string();
        let client = Client::connect(&address).await.unwrap();

        let api = ApiServer::new();
        let kube = api.client();
        let links = Links::resolving(move |cluster| {
            if cluster.name == "dead" {
                "127.0.0.1:1".to_owned()
            } else {
                address.clone()
            }
        });
        let reporter = Reporter {
            controller: "millrace-operator".into(),
            instance: Some("test".into()),
        };
        let context = Context {
            kube: kube.clone(),
            options: Arc::new(options(arguments)),
            links: Arc::new(links),
            metrics: Arc::new(Metrics::default()),
            events: Arc::new(Events::new(kube, reporter)),
        };
        let world = Self {
            reconciler: Reconciler::new(context.clone()),
            context,
            admin: client.admin(),
            api,
            _client: client,
            _brokers: brokers,
            _places: places,
        };
        world.api.apply(
            "customresourcedefinitions",
            json!({"metadata": {"name": "topics.millrace.dev"}}),
        );
        for namespace in ["a", "b"] {
            world.namespace(namespace, json!({}));
        }
        world.cluster("c", json!({}));
        world
    }

    pub fn namespace(&self, name: &str, labels: Value) {
        self.api
            .apply("namespaces", json!({"metadata": {"name": name, "labels": labels}}));
    }

    /// A Cluster in namespace `a`, one broker if it says no other.
    pub fn cluster(&self, name: &str, spec: Value) {
        let mut whole = json!({"replicas": 1, "storage": {"size": "1Gi"}});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        self.api.apply(
            "clusters",
            json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": "Cluster",
                "metadata": {"namespace": "a", "name": name}, "spec": whole,
            }),
        );
    }

    /// A Topic of the Cluster `c` in `a`, from there or another namespace.
    pub fn topic(&self, namespace: &str, name: &str, spec: Value) {
        self.annotated(namespace, name, spec, json!({}));
    }

    pub fn annotated(&self, namespace: &str, name: &str, spec: Value, annotations: Value) {
        let mut whole = json!({"clusterRef": {"name": "c"}});
        if namespace != "a" {
            whole["clusterRef"]["namespace"] = "a".into();
        }
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        self.api.apply(
            "topics",
            json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": "Topic",
                "metadata": {"namespace": namespace, "name": name, "annotations": annotations}, "spec": whole,
            }),
        );
    }

    pub async fn pass(&self, namespace: &str, name: &str) -> Action {
        // What is shared for a moment is not what these tests are about.
        tokio::time::sleep(Duration::from_millis(210)).await;
        self.reconciler.pass(namespace, name).await.unwrap()
    }

    pub fn object(&self, namespace: &str, name: &str) -> Value {
        self.api
            .get("topics", namespace, name)
            .unwrap_or_else(|| panic!("there is no Topic {namespace}/{name}"))
    }

    /// Type, status and reason of each condition.
    pub fn conditions(&self, namespace: &str, name: &str) -> Vec<(String, String, String)> {
        let object = self.object(namespace, name);
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
        all.iter()
            .map(|one| (text(one, "type"), text(one, "status"), text(one, "reason")))
            .collect()
    }

    /// Status and reason of `Ready`.
    pub fn ready(&self, namespace: &str, name: &str) -> (String, String) {
        self.condition(namespace, name, "Ready")
    }

    pub fn condition(&self, namespace: &str, name: &str, kind: &str) -> (String, String) {
        let all = self.conditions(namespace, name);
        let found = all.into_iter().find(|(of, ..)| of == kind);
        let (_, status, reason) = found.unwrap_or_else(|| panic!("there is no condition {kind}"));
        (status, reason)
    }

    pub fn message(&self, namespace: &str, name: &str, kind: &str) -> String {
        let object = self.object(namespace, name);
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|one| one["type"] == kind).unwrap();
        found["message"].as_str().unwrap().to_owned()
    }

    pub fn has_finalizer(&self, namespace: &str, name: &str) -> bool {
        let object = self.object(namespace, name);
        let finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        finalizers.iter().any(|one| one == FINALIZER)
    }

    /// The topic as the cluster has it.
    pub async fn described(&self, topic: &str) -> Option<v1::DescribeTopicResponse> {
        match self.admin.describe_topic(topic).await {
            Ok(described) => Some(described),
            Err(error) if error.reason() == Some(ErrorReason::UnknownTopic) => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn owner(&self, topic: &str) -> Option<v1::TopicOwner> {
        self.described(topic).await.unwrap().topic.unwrap().owner
    }

    pub async fn config(&self, topic: &str) -> Vec<(String, String)> {
        let configs = self.described(topic).await.unwrap().configs;
        configs.into_iter().map(|entry| (entry.name, entry.value)).collect()
    }

    pub fn reasons(&self, name: &str) -> Vec<String> {
        self.api.events(name).into_iter().map(|(reason, _)| reason).collect()
    }
}

pub fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}
