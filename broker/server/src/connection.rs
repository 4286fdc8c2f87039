//! Accepting client connections: as many as `max.connections`, each with its part of the
//! memory budget.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, transport::server::Connected};

use crate::memory::{ConnectionBudget, MemoryBudget};

/// After an error of accept (such as no file descriptors left) others get time to close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    budget: ConnectionBudget,
    client: Client,
    open: Arc<AtomicUsize>,
    _gone: DropGuard,
    _slot: OwnedSemaphorePermit,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Client {
    host: Arc<str>,
    gone: CancellationToken,
    life: Arc<Life>,
}

/// Signs of life of a connection's peer.
#[derive(Debug)]
struct Life {
    began: Instant,
    /// When the last bytes came, in milliseconds since the connection began.
    heard_ms: AtomicU64,
    /// How many want to know soon when nothing comes any more.
    watchers: AtomicUsize,
    /// Watchers came or went.
    changed: Notify,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            heard_ms: AtomicU64::new(0),
            watchers: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }
}

impl Life {
    fn hear(&self) {
        let age = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(age, Ordering::Relaxed);
    }
}

/// While it is there, the peer is asked often whether it lives, so that [`heard`](Self::heard) tells.
#[derive(Debug)]
pub struct Watched(Client);

impl Watched {
    /// When the last bytes came from the peer: an answer to a ping, too.
    pub fn heard(&self) -> Instant {
        let life = &self.0.life;
        life.began + Duration::from_millis(life.heard_ms.load(Ordering::Relaxed))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.life.watchers.fetch_sub(1, Ordering::Relaxed);
        self.0.life.changed.notify_one();
    }
}

impl Client {
    /// That of a request; where it came by no connection of ours, one of whom nothing is known.
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Where it is connected from, for people: its address without the port. Empty: not known.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Waits until the connection is gone.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Has the peer asked often whether it lives.
    pub fn watch(&self) -> Watched {
        // Who has just sent a request lives.
        self.life.hear();
        self.life.watchers.fetch_add(1, Ordering::Relaxed);
        self.life.changed.notify_one();
        Watched(self.clone())
    }

    /// Whether anybody watches it.
    pub fn is_watched(&self) -> bool {
        self.life.watchers.load(Ordering::Relaxed) > 0
    }

    /// Waits until watchers come or go; for one that waits.
    pub async fn watchers_changed(&self) {
        self.life.changed.notified().await;
    }
}

impl Connection {
    /// Who is at the other end.
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionBudget;

    fn connect_info(&self) -> ConnectionBudget {
        self.budget.clone()
    }
}

/// The connections of `listener` as they come; at most `limit` at once, counted in `open`.
pub fn accept(
    listener: TcpListener,
    limit: usize,
    budget: MemoryBudget,
    open: Arc<AtomicUsize>,
) -> impl Stream<Item = io::Result<Connection>> {
    let slots = Arc::new(Semaphore::new(limit));
    futures::stream::unfold(listener, move |listener| {
        let (slots, budget, open) = (slots.clone(), budget.clone(), open.clone());
        async move {
            let slot = slots.acquire_owned().await.ok()?;
            let stream = accept_one(&listener).await;
            open.fetch_add(1, Ordering::Relaxed);
            let host = stream.peer_addr().map(|peer| peer.ip().to_string().into());
            let gone = CancellationToken::new();
            let connection = Connection {
                client: Client {
                    host: host.unwrap_or_default(),
                    gone: gone.clone(),
                    life: Arc::default(),
                },
                _gone: gone.drop_guard(),
                stream,
                budget: budget.connection(),
                open,
                _slot: slot,
            };
            Some((Ok(connection), listener))
        }
    })
}

/// The next connection of `listener`.
pub async fn accept_one(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match prepare(&stream) {
                Ok(()) => return stream,
                Err(error) => tracing::debug!(%peer, %error, "a connection ended at once"),
            },
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers are small or whole batches: waiting to fill a packet would only delay them.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

/// Binds a listener, with the address in the error.
///
/// # Errors
/// As of the operating system.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                ": stop the broker that uses it, or choose others with --listen, --listen-internal and --http"
            }
            _ => "",
        };
        io::Error::new(error.kind(), format!("can't listen on {address}: {error}{advice}"))
    })
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.client.life.hear();
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
