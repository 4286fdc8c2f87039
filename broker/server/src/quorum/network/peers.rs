//! Connections to other members.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Weak},
    time::Duration,
};

use millrace_proto::internal::v1::{Header, IdentifyRequest, Refusal, quorum_client::QuorumClient};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

use super::{
    super::types::Voter,
    header::{Identity, refusal},
    limits::{CONNECT_WITHIN, KEEP_ALIVE_EVERY, KEEP_ALIVE_WITHIN, MAX_MESSAGE_BYTES, WINDOW_BYTES},
};

pub(super) type Client = QuorumClient<Channel>;

/// Why a peer did not answer.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum PeerError {
    /// Nothing was sent.
    #[error("{address} can't be reached: {reason}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// It did not look at the request.
    #[error("{address} refuses ({}): {message}", refusal.reason_name())]
    Refused {
        /// Where it is.
        address: String,
        /// Why.
        refusal: Refusal,
        /// Why, in its words.
        message: String,
    },
    /// The request was sent and may have been acted on.
    #[error("no answer of {address}: {reason}")]
    Lost {
        /// Where it is.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// The request was sent and may have been acted on; no answer came in time.
    #[error("no answer of {address} within {within:?}")]
    Timeout {
        /// Where it is.
        address: String,
        /// How long was waited.
        within: Duration,
    },
}

/// What a connection is used for. What is of different use has different connections, so that
/// heartbeats wait behind neither entries nor snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) enum Lane {
    /// Votes and heartbeats.
    Control,
    /// Entries.
    Entries,
    /// Snapshots.
    Snapshot,
    /// What is asked of the leader.
    Requests,
}

/// The connections of one member. One that no one uses any more is closed.
#[derive(Debug)]
pub(in super::super) struct Peers {
    me: Identity,
    connections: Mutex<HashMap<(u64, Lane), Weak<Connection>>>,
    /// Kept beyond a request, since the next one is likely to go there too.
    leader: Mutex<Option<Arc<Connection>>>,
}

impl Peers {
    /// No connections yet.
    pub(in super::super) fn new(me: Identity) -> Arc<Self> {
        Arc::new(Self {
            me,
            connections: Mutex::default(),
            leader: Mutex::default(),
        })
    }

    /// Who the member is whose connections these are.
    pub(super) fn me(&self) -> &Identity {
        &self.me
    }

    /// The connection to `target`, which `voter` describes. It is made when it is first used.
    pub(in super::super) fn connection(&self, target: u64, voter: &Voter, lane: Lane) -> Arc<Connection> {
        let mut connections = self.connections.lock();
        let known = connections.get(&(target, lane)).and_then(Weak::upgrade);
        if let Some(known) = known
            && known.voter == *voter
        {
            return known;
        }
        connections.retain(|_, connection| connection.strong_count() > 0);
        let connection = Arc::new(Connection {
            header: self.me.header(target, voter),
            voter: voter.clone(),
            // A command that was sent into a connection that leads nowhere may have arrived.
            greets: lane == Lane::Requests,
            open: Mutex::default(),
        });
        connections.insert((target, lane), Arc::downgrade(&connection));
        connection
    }

    /// The connection to the leader for what is asked of it.
    pub(in super::super) fn to_leader(&self, leader: u64, voter: &Voter) -> Arc<Connection> {
        let connection = self.connection(leader, voter, Lane::Requests);
        *self.leader.lock() = Some(Arc::clone(&connection));
        connection
    }
}

/// How an attempt to connect ended: with the connection and which one it is, counted from the
/// first, or without.
type Connected = Result<(Channel, u64), NotConnected>;

/// Why there is no connection: nothing was sent on it.
#[derive(Clone, Debug)]
struct NotConnected {
    /// What the peer had against it, if it was that.
    refusal: Option<Refusal>,
    reason: String,
}

impl NotConnected {
    fn new(reason: impl Into<String>) -> Self {
        Self {
            refusal: None,
            reason: reason.into(),
        }
    }
}

#[derive(Debug, Default)]
struct Open {
    /// How many connections were made.
    generation: u64,
    channel: Option<Channel>,
    /// The attempt that is under way.
    attempt: Option<watch::Receiver<Option<Connected>>>,
}

/// The way to one member. Broken connections are made anew, to where the name leads then.
#[derive(Debug)]
pub(in super::super) struct Connection {
    header: Header,
    voter: Voter,
    /// Whether a new connection is first asked who is there.
    greets: bool,
    open: Mutex<Open>,
}

impl Connection {
    /// What each request to this member begins with.
    pub(super) fn header(&self) -> Header {
        self.header.clone()
    }

    /// Who is at the other end.
    pub(super) fn target(&self) -> u64 {
        self.header.to
    }

    /// Sends a request and waits for its answer, both within `within`.
    pub(super) async fn call<T, F>(
        self: &Arc<Self>,
        within: Duration,
        ask: impl FnOnce(Client) -> F,
    ) -> Result<T, PeerError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let address = || self.voter.address.clone();
        let deadline = Instant::now() + within;
        let connected = timeout_at(deadline, self.connected()).await;
        let in_time = connected.unwrap_or_else(|_| Err(NotConnected::new("it does not take the connection in time")));
        let (channel, generation) = in_time.map_err(|NotConnected { refusal, reason }| match refusal {
            Some(refusal) => PeerError::Refused {
                address: address(),
                refusal,
                message: reason,
            },
            None => PeerError::Unreachable {
                address: address(),
                reason,
            },
        })?;
        let client = QuorumClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let error = match timeout_at(deadline, ask(client)).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => match refusal(&status) {
                Some(refusal @ (Refusal::Busy | Refusal::Stopping)) => {
                    return Err(PeerError::Refused {
                        address: address(),
                        refusal,
                        message: status.message().into(),
                    });
                }
                // The name may lead to who is meant by now.
                Some(refusal) => PeerError::Refused {
                    address: address(),
                    refusal,
                    message: status.message().into(),
                },
                // The connection was broken, and no other could be made.
                None if is_connect_error(&status) => PeerError::Unreachable {
                    address: address(),
                    reason: in_full(&status),
                },
                None => PeerError::Lost {
                    address: address(),
                    reason: in_full(&status),
                },
            },
            Err(_) => PeerError::Timeout {
                address: address(),
                within,
            },
        };
        self.disconnect(generation);
        Err(error)
    }

    /// An answer came that makes no sense.
    pub(super) fn nonsense(&self, error: impl std::fmt::Display) -> PeerError {
        PeerError::Lost {
            address: self.voter.address.clone(),
            reason: format!("an answer that makes no sense: {error}"),
        }
    }

    /// The present connection, or a new one. Whoever stops waiting for it does not end the
    /// attempt: a heartbeat has less time than a slow name server may take.
    async fn connected(self: &Arc<Self>) -> Connected {
        let mut attempt = {
            let mut open = self.open.lock();
            if let Some(channel) = &open.channel {
                return Ok((channel.clone(), open.generation));
            }
            match &open.attempt {
                Some(attempt) => attempt.clone(),
                None => {
                    let (done, attempt) = watch::channel(None);
                    open.attempt = Some(attempt.clone());
                    tokio::spawn(Arc::clone(self).connect(done));
                    attempt
                }
            }
        };
        match attempt.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(connected)) => connected.clone(),
            Ok(None) | Err(_) => Err(NotConnected::new("the attempt to connect was given up")),
        }
    }

    async fn connect(self: Arc<Self>, done: watch::Sender<Option<Connected>>) {
        let connecting = tokio::time::timeout(CONNECT_WITHIN, self.new_channel());
        let made = connecting.await.unwrap_or_else(|_| {
            let reason = format!("it does not take the connection within {CONNECT_WITHIN:?}");
            Err(NotConnected::new(reason))
        });
        let connected = {
            let mut open = self.open.lock();
            open.attempt = None;
            made.map(|channel| {
                open.generation += 1;
                open.channel = Some(channel.clone());
                (channel, open.generation)
            })
        };
        // Whoever waited may have gone.
        done.send_replace(Some(connected));
    }

    async fn new_channel(&self) -> Result<Channel, NotConnected> {
        let failed = |error: tonic::transport::Error| NotConnected::new(in_full(&error));
        let endpoint = self.endpoint().map_err(failed)?;
        let channel = endpoint.connect().await.map_err(failed)?;
        if self.greets {
            let header = Some(self.header());
            let mut client = QuorumClient::new(channel.clone());
            let greeted = client.identify(IdentifyRequest { header }).await;
            greeted.map_err(|status| NotConnected {
                refusal: refusal(&status),
                reason: in_full(&status),
            })?;
        }
        Ok(channel)
    }

    fn endpoint(&self) -> Result<Endpoint, tonic::transport::Error> {
        Ok(Endpoint::from_shared(format!("http://{}", self.voter.address))?
            .connect_timeout(CONNECT_WITHIN)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_WITHIN)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES))
    }

    /// Gives up a connection, unless it was made anew already.
    fn disconnect(&self, generation: u64) {
        let mut open = self.open.lock();
        if open.generation == generation {
            open.channel = None;
        }
    }
}

/// Whether nothing was sent, for want of a connection.
fn is_connect_error(status: &Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        next = cause.source();
    }
    false
}

/// An error and what caused it: tonic's own text is "transport error".
fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn peers() -> Arc<Peers> {
        Peers::new(Identity {
            cluster_id: "c".into(),
            voter_id: 1,
            directory_id: Uuid::from_u128(1),
        })
    }

    fn voter(address: &str) -> Voter {
        Voter {
            address: address.into(),
            ..Voter::default()
        }
    }

    #[tokio::test]
    async fn connections_are_shared_while_used_and_follow_the_address() {
        let peers = peers();
        let first = peers.connection(2, &voter("a:1"), Lane::Control);
        assert!(Arc::ptr_eq(&first, &peers.connection(2, &voter("a:1"), Lane::Control)));
        assert!(!Arc::ptr_eq(&first, &peers.connection(2, &voter("a:1"), Lane::Entries)));
        let moved = peers.connection(2, &voter("b:1"), Lane::Control);
        assert_eq!(moved.voter.address, "b:1");
        drop((first, moved));
        for id in 0..100 {
            let _ = peers.connection(id, &voter("a:1"), Lane::Control);
        }
        assert!(peers.connections.lock().len() <= 2, "closed connections are forgotten");
    }

    /// A peer that takes connections and closes them is not there: nothing is sent to it that
    /// must not be sent twice.
    #[tokio::test]
    async fn a_connection_that_leads_nowhere_is_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let connection = peers().connection(2, &voter(&address), Lane::Requests);
        let asked = connection
            .call(Duration::from_secs(5), |_| async { Ok(Response::new(())) })
            .await;
        assert!(matches!(asked, Err(PeerError::Unreachable { .. })), "{asked:?}");
    }

    /// A peer that is slow to take connections is reached all the same by those in a hurry.
    #[tokio::test]
    async fn one_attempt_to_connect_outlives_those_who_wait_for_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let peers = peers();
        let connection = peers.connection(2, &voter(&address), Lane::Control);
        for _ in 0..20 {
            let hasty = connection.connected();
            tokio::time::timeout(Duration::ZERO, hasty).await.ok();
        }
        let (channel, generation) = connection.connected().await.unwrap();
        drop(channel);
        assert_eq!(generation, 1);
        let first = connection.connected().await.unwrap().1;
        connection.disconnect(first);
        assert_eq!(connection.connected().await.unwrap().1, 2);
        connection.disconnect(first);
        assert_eq!(connection.connected().await.unwrap().1, 2, "the newer one stays");
    }

    #[tokio::test]
    async fn nothing_was_sent_where_no_one_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        for address in [address, "no address".into()] {
            let connection = peers().connection(2, &voter(&address), Lane::Control);
            let asked = connection
                .call(Duration::from_secs(5), |_| async { Ok(Response::new(())) })
                .await;
            assert!(matches!(asked, Err(PeerError::Unreachable { .. })), "{asked:?}");
        }
    }
}
