//! Members that talk gRPC over loopback, through a proxy that can cut and lose.

mod handshake;
mod loss;
mod membership;
mod proxy;
mod recovery;
mod restarts;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use millrace_engine::{Command, Outcome, Rejection};
use millrace_log::{FaultyFileSystem, FileSystem};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use self::proxy::Proxy;
use super::{
    super::{NewMember, Quorum, QuorumError, QuorumOptions},
    Gate, GatedFileSystem, PATIENCE, directory_id, eventually, forgetful_disk, options,
};

/// A member: its disk and its address outlive it.
struct Wired {
    id: u64,
    disk: FaultyFileSystem,
    gate: Arc<Gate>,
    /// What others connect to.
    proxy: Proxy,
    quorum: Quorum,
    server: JoinHandle<()>,
}

/// What changes a member's options.
type Change = fn(&mut QuorumOptions);

fn unchanged(_: &mut QuorumOptions) {}

impl Wired {
    async fn new(id: u64, change: Change) -> Self {
        Self::start(id, forgetful_disk(id), Proxy::start().await, change)
            .await
            .unwrap()
    }

    /// Starts a process on `disk` that is reached by `proxy`.
    async fn start(id: u64, disk: FaultyFileSystem, proxy: Proxy, change: Change) -> Result<Self, QuorumError> {
        let gate = Arc::new(Gate::default());
        let fs: Arc<dyn FileSystem> = Arc::new(GatedFileSystem {
            inner: disk.shared(),
            gate: Arc::clone(&gate),
        });
        let mut options = options(id, fs);
        options.address = proxy.address();
        change(&mut options);
        let quorum = Quorum::open(options).await?;
        let (address, server) = serve(&quorum).await;
        proxy.lead_to(address);
        Ok(Self {
            id,
            disk,
            gate,
            proxy,
            quorum,
            server,
        })
    }

    fn member(&self) -> NewMember {
        NewMember {
            voter_id: self.id,
            directory_id: directory_id(self.id),
            address: self.proxy.address(),
        }
    }

    /// Power loss: what was not synced is gone, the process does nothing more.
    async fn crash(self) -> (FaultyFileSystem, Proxy) {
        self.proxy.lead_nowhere();
        self.server.abort();
        self.gate.kill();
        self.disk.crash();
        // Not `Quorum::shutdown`: who crashes hands over to no one.
        self.quorum.set_stopping();
        let _ = self.quorum.raft().shutdown().await;
        self.quorum.end_io().await;
        (self.disk, self.proxy)
    }

    /// An orderly end.
    async fn stop(self) -> (FaultyFileSystem, Proxy) {
        self.gate.release();
        self.quorum.shutdown().await;
        self.proxy.lead_nowhere();
        self.server.abort();
        self.disk.kill_process();
        (self.disk, self.proxy)
    }
}

/// Serves a quorum at an address of its own.
async fn serve(quorum: &Quorum) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Server::builder().add_service(quorum.service());
    let server = tokio::spawn(async move {
        router
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    (address, server)
}

/// Members with a leader, each of them a voter from the beginning.
async fn founded(count: u64, change: Change) -> BTreeMap<u64, Wired> {
    let mut members = BTreeMap::new();
    for id in 1..=count {
        members.insert(id, Wired::new(id, change).await);
    }
    let voters: Vec<NewMember> = members.values().map(Wired::member).collect();
    for member in members.values() {
        member.quorum.bootstrap_with(&voters).await.unwrap();
    }
    leader(members.values()).await;
    members
}

/// The member that leads and can write.
async fn leader<'a>(members: impl IntoIterator<Item = &'a Wired> + Clone) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for member in members.clone() {
            let leads = member.quorum.status().leader == Some(member.id);
            if leads && member.quorum.read_index().await.is_ok() {
                return member.id;
            }
        }
        assert!(Instant::now() < deadline, "no leader");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until all have applied what the leader has, and compares their states.
async fn converge<'a>(members: impl IntoIterator<Item = &'a Wired> + Clone) {
    let first = leader(members.clone()).await;
    let leading = members.clone().into_iter().find(|member| member.id == first).unwrap();
    let last = leading.quorum.status().applied_index;
    for member in members.clone() {
        eventually(|| member.quorum.status().applied_index >= last).await;
    }
    let hash = |member: &Wired| {
        let state = serde_json::to_vec(&*member.quorum.cluster()).unwrap();
        millrace_proto::batch::crc::crc32c(&state)
    };
    for member in members {
        eventually(|| hash(member) == hash(leading)).await;
        assert_eq!(*member.quorum.cluster(), *leading.quorum.cluster());
    }
}

/// Submits until it is known what became of it. Returns whether an answer was lost on the way.
async fn submit_until_known(quorum: &Quorum, command: Command) -> (Result<Outcome, Rejection>, bool) {
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut unknown = false;
    loop {
        let error = match quorum.submit(command.clone()).await {
            Ok(answer) => return (answer, unknown),
            Err(error) => error,
        };
        match &error {
            QuorumError::OutcomeUnknown { .. } => unknown = true,
            QuorumError::NotLeader { .. } | QuorumError::NoMajority => (),
            QuorumError::Stopped { .. } if quorum.is_stopping() => unknown = true,
            other => panic!("{other}"),
        }
        assert!(Instant::now() < deadline, "it never came to be known: {error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn stop_all(members: impl IntoIterator<Item = Wired>) {
    // At once: the last would wait for no one to hand over to.
    futures::future::join_all(members.into_iter().map(Wired::stop)).await;
}
