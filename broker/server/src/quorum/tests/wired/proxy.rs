//! A TCP proxy before a member: it outlives the member's process, can be cut, and can lose
//! answers.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// What happens to connections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Existing ones are cut, new ones are closed at once.
    Cut,
    /// What the member says is lost.
    LoseAnswers,
}

pub struct Proxy {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    mode: watch::Sender<Mode>,
    acceptor: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mode.send_replace(Mode::Cut);
        self.acceptor.abort();
    }
}

impl Proxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(None));
        let (mode, modes) = watch::channel(Mode::Pass);
        let to = Arc::clone(&target);
        let acceptor = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let to: Option<SocketAddr> = *to.lock();
                let modes = modes.clone();
                if let Some(to) = to
                    && *modes.borrow() != Mode::Cut
                {
                    tokio::spawn(carry(client, to, modes));
                }
            }
        });
        Self {
            address,
            target,
            mode,
            acceptor,
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Connections go there from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.target.lock() = Some(target);
        self.mode.send_replace(Mode::Pass);
    }

    /// The process is gone.
    pub fn lead_nowhere(&self) {
        *self.target.lock() = None;
        self.mode.send_replace(Mode::Cut);
    }

    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    pub fn lose_answers(&self) {
        self.mode.send_replace(Mode::LoseAnswers);
    }

    pub fn heal(&self) {
        self.mode.send_replace(Mode::Pass);
    }
}

async fn carry(client: TcpStream, to: SocketAddr, modes: watch::Receiver<Mode>) {
    let Ok(member) = TcpStream::connect(to).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_member, to_member) = member.into_split();
    let mut ended = modes.clone();
    tokio::select! {
        _ = ended.wait_for(|mode| *mode == Mode::Cut) => (),
        () = pump(from_client, to_member, modes.clone(), false) => (),
        () = pump(from_member, to_client, modes, true) => (),
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, modes: watch::Receiver<Mode>, answers: bool) {
    let mut buffer = vec![0; 64 << 10];
    let mut lost = false;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        // After a gap nothing on this connection makes sense any more.
        lost |= answers && *modes.borrow() == Mode::LoseAnswers;
        if !lost && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
