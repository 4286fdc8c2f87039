//! A broker as a process of its own: it is killed as processes are.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use millrace_proto::v1::{
    BrokerDescription, CreateTopicRequest, DescribeClusterRequest, DescribeClusterResponse, DescribeTopicRequest,
    DescribeTopicResponse, admin_client::AdminClient, groups_client::GroupsClient, log_client::LogClient,
    messaging_client::MessagingClient,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::Channel;

/// How long anything may take on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A broker's place: its directory and ports outlive its processes.
pub struct Node {
    pub id: i32,
    pub data_dir: PathBuf,
    pub seeds: Vec<SocketAddr>,
    client: SocketAddr,
    pub internal: SocketAddr,
    http: SocketAddr,
    stderr: PathBuf,
    process: Option<Child>,
}

/// A port that nobody listens on, and that no connection gets by itself meanwhile: one below those that the kernel gives
/// out (`net.ipv4.ip_local_port_range`). Each process begins elsewhere, and none gives one out twice.
pub fn free_address() -> SocketAddr {
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

impl Node {
    /// A broker without a process or a directory.
    pub fn new(folder: &TempDir, id: i32, seeds: &[&Node]) -> Self {
        Self {
            id,
            data_dir: folder.path().join(format!("broker-{id}")),
            seeds: seeds.iter().map(|seed| seed.internal).collect(),
            client: free_address(),
            internal: free_address(),
            http: free_address(),
            stderr: folder.path().join(format!("broker-{id}.log")),
            process: None,
        }
    }

    /// Starts a process and does not wait for it.
    pub fn launch(&mut self) {
        self.launch_with(&["--format-if-empty"]);
    }

    pub fn launch_with(&mut self, flags: &[&str]) {
        assert!(self.process.is_none(), "it runs already");
        let stderr = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.stderr)
            .unwrap();
        let seeds: Vec<String> = self.seeds.iter().map(ToString::to_string).collect();
        let process = Command::new(env!("CARGO_BIN_EXE_millrace-broker"))
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--node-id", &self.id.to_string()])
            .args(["--listen", &self.client.to_string()])
            .args(["--listen-internal", &self.internal.to_string()])
            .args(["--http", &self.http.to_string()])
            .args(["--seeds", &seeds.join(",")])
            .args(["--set", &format!("rack=r{}", self.id)])
            .args(flags)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    pub async fn start(&mut self) {
        self.launch();
        self.wait_ready().await;
    }

    pub async fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (code, text) = self.readiness().await.unwrap_or_default();
            if code == 200 {
                return;
            }
            assert!(self.is_running(), "broker {} ended:\n{}", self.id, self.log());
            assert!(
                Instant::now() < deadline,
                "broker {} is not ready: {text}\n{}",
                self.id,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Status and text of `/readyz`; none while nobody listens.
    pub async fn readiness(&self) -> Option<(u16, String)> {
        let mut stream = tokio::net::TcpStream::connect(self.http).await.ok()?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((code, body.to_owned()))
    }

    /// Waits until `/readyz` has this in its text.
    pub async fn wait_says(&self, expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.readiness().await.unwrap_or_default().1;
            if text.contains(expected) {
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} has no {expected:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its number in the metadata quorum, as its disk has it.
    pub fn voter_id(&self) -> i64 {
        let path = self.data_dir.join("__metadata-0").join("quorum-state");
        let text = std::fs::read_to_string(path).unwrap();
        let state: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        state["voterId"].as_i64().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    /// What it logged, in all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// SIGTERM; the process must end by itself.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.ended().await
    }

    /// Waits for the process's end.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.process.as_mut().unwrap().try_wait().unwrap();
            if let Some(status) = status {
                self.process = None;
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "broker {} does not end:\n{}",
                self.id,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::connect(format!("http://{}", self.client)).await.unwrap()
    }

    pub async fn messaging(&self) -> MessagingClient<Channel> {
        MessagingClient::connect(format!("http://{}", self.client))
            .await
            .unwrap()
    }

    pub async fn groups(&self) -> GroupsClient<Channel> {
        GroupsClient::connect(format!("http://{}", self.client)).await.unwrap()
    }

    pub async fn log_service(&self) -> LogClient<Channel> {
        LogClient::connect(format!("http://{}", self.client)).await.unwrap()
    }

    pub async fn cluster(&self) -> DescribeClusterResponse {
        let mut admin = self.admin().await;
        admin
            .describe_cluster(DescribeClusterRequest::default())
            .await
            .unwrap()
            .into_inner()
    }

    /// A broker as this one sees it.
    pub async fn view_of(&self, id: i32) -> BrokerDescription {
        let cluster = self.cluster().await;
        cluster
            .brokers
            .into_iter()
            .find(|broker| broker.broker_id == id)
            .unwrap()
    }

    pub async fn create_topic(&self, name: &str, partitions: i32, factor: i32) {
        let request = CreateTopicRequest {
            name: name.into(),
            partitions: Some(partitions),
            replication_factor: Some(factor),
            ..CreateTopicRequest::default()
        };
        self.admin().await.create_topic(request).await.unwrap();
    }

    pub async fn topic(&self, name: &str) -> Option<DescribeTopicResponse> {
        let request = DescribeTopicRequest { name: name.into() };
        let answer = self.admin().await.describe_topic(request).await;
        answer.ok().map(tonic::Response::into_inner)
    }

    /// Waits until this broker sees the cluster so; answers with how long it took.
    pub async fn wait_cluster(&self, what: &str, wanted: impl Fn(&DescribeClusterResponse) -> bool) -> Duration {
        let began = Instant::now();
        loop {
            let cluster = self.cluster().await;
            if wanted(&cluster) {
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "not {what}: {cluster:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn is_available(cluster: &DescribeClusterResponse, id: i32) -> bool {
    cluster
        .brokers
        .iter()
        .any(|broker| broker.broker_id == id && broker.available)
}
