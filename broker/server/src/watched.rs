//! Connections of which there may be only so many, and which end when nothing comes.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tonic::transport::server::Connected;

use crate::connection::accept_one;

/// A listener that serves only so many connections at once; further ones wait to be accepted.
#[derive(Debug)]
pub struct WatchedListener {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    idle: Duration,
}

/// A connection that ends when nothing comes for too long, so that it does not keep others out.
#[derive(Debug)]
pub struct Watched {
    stream: TcpStream,
    idle: Duration,
    heard: Instant,
    /// When it is looked next whether something came.
    look: Pin<Box<Sleep>>,
    _slot: OwnedSemaphorePermit,
}

impl WatchedListener {
    /// At most `most` connections, each until nothing came for `idle`.
    pub fn new(listener: TcpListener, most: usize, idle: Duration) -> Self {
        Self {
            listener,
            slots: Arc::new(Semaphore::new(most)),
            idle,
        }
    }

    async fn next(&mut self) -> Watched {
        loop {
            // The semaphore is never closed, which would be the only error.
            if let Ok(slot) = self.slots.clone().acquire_owned().await {
                let stream = accept_one(&self.listener).await;
                return Watched {
                    stream,
                    idle: self.idle,
                    heard: Instant::now(),
                    look: Box::pin(tokio::time::sleep(self.idle)),
                    _slot: slot,
                };
            }
        }
    }

    /// The connections as they come.
    pub fn incoming(self) -> impl Stream<Item = io::Result<Watched>> {
        futures::stream::unfold(self, |mut listener| async move {
            let next = listener.next().await;
            Some((Ok(next), listener))
        })
    }
}

impl axum::serve::Listener for WatchedListener {
    type Io = Watched;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Watched, SocketAddr) {
        loop {
            let next = self.next().await;
            // It has none once it has ended.
            if let Ok(peer) = next.stream.peer_addr() {
                return (next, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected for Watched {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl Watched {
    /// An error once nothing came for too long.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.look.as_mut().poll(context).is_ready() {
            let until = self.heard + self.idle;
            if until <= Instant::now() {
                let text = "nothing came for too long";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
            }
            self.look.as_mut().reset(until);
        }
        Poll::Pending
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = pin!(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            return self.poll_idle(context);
        }
        self.heard = Instant::now();
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        pin!(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        pin!(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_idle_ends_and_makes_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut listener = WatchedListener::new(listener, 1, Duration::from_millis(100));
        let mut active = TcpStream::connect(address).await.unwrap();
        let mut connection = listener.next().await;
        let mut byte = [0];
        // Longer than it may be idle.
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            active.write_all(b"x").await.unwrap();
            connection.read_exact(&mut byte).await.unwrap();
        }
        let _waiting = TcpStream::connect(address).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(20), listener.next()).await;
        assert!(early.is_err(), "there is one already");
        let error = connection.read(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(connection);
        listener.next().await;
    }
}
