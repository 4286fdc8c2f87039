//! The way to one member.

use std::{future::Future, sync::Arc, time::Duration};

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
    header::refusal,
    limits::{CONNECT_WITHIN, KEEP_ALIVE_EVERY, KEEP_ALIVE_WITHIN, MAX_MESSAGE_BYTES, WINDOW_BYTES},
    places::Places,
};
use crate::error::is_connect_error;

type Client = QuorumClient<Channel>;

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
    /// Where the last attempt went.
    place: Option<String>,
    /// How many attempts did not find the member.
    missed: usize,
}

/// The way to one member. Broken connections are made anew, to where the name leads then; where the member is not, the
/// next attempt goes to the next place that it may be at.
#[derive(Debug)]
pub(in super::super) struct Connection {
    header: Header,
    voter: Voter,
    /// Where else than at its own address the member may be.
    places: Option<Arc<Places>>,
    /// Whether a new connection is first asked who is there.
    greets: bool,
    open: Mutex<Open>,
}

impl Connection {
    /// A way to the member that `voter` describes: to that address and, with `places`, to newer ones.
    pub(super) fn new(header: Header, voter: Voter, places: Option<Arc<Places>>, greets: bool) -> Self {
        Self {
            header,
            voter,
            places,
            greets,
            open: Mutex::default(),
        }
    }

    /// Whether it is to a member that is described so.
    pub(super) fn is_to(&self, voter: &Voter) -> bool {
        self.voter == *voter
    }

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
        let address = || self.address();
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
        let mut is_found = true;
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
                // The name may lead to who is meant by now, or another place does.
                Some(refusal) => {
                    is_found = false;
                    PeerError::Refused {
                        address: address(),
                        refusal,
                        message: status.message().into(),
                    }
                }
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
        self.disconnect(generation, is_found);
        Err(error)
    }

    /// Where the member was looked for last.
    fn address(&self) -> String {
        let place = self.open.lock().place.clone();
        place.unwrap_or_else(|| self.voter.address.clone())
    }

    /// An answer came that makes no sense.
    pub(super) fn nonsense(&self, error: impl std::fmt::Display) -> PeerError {
        PeerError::Lost {
            address: self.address(),
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
            open.missed += usize::from(made.is_err());
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
        let endpoint = endpoint(&self.next_place()).map_err(failed)?;
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

    /// The newest place of the member, and with each attempt that did not find it the next one.
    fn next_place(&self) -> String {
        let places = self.places.as_ref().map(|places| places.of(self.target(), &self.voter));
        let mut places = places.unwrap_or_else(|| vec![self.voter.address.clone()]);
        let mut open = self.open.lock();
        let place = places.swap_remove(open.missed % places.len());
        open.place = Some(place.clone());
        place
    }

    /// Gives up a connection, unless it was made anew already. `is_found`: whether it led to the member.
    fn disconnect(&self, generation: u64, is_found: bool) {
        let mut open = self.open.lock();
        if open.generation == generation {
            open.channel = None;
            open.missed += usize::from(!is_found);
        }
    }
}

fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
        .keep_alive_timeout(KEEP_ALIVE_WITHIN)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
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
    use super::{
        super::{
            peers::Lane,
            testing::{peers, voter},
        },
        *,
    };

    #[tokio::test]
    async fn a_member_that_is_not_found_is_looked_for_at_its_next_place() {
        let peers = peers();
        let connection = peers.connection(2, &voter("old:1"), Lane::Control);
        assert_eq!(connection.next_place(), "old:1");
        peers.places().tell(2, &voter("old:1"), "new:1".into());
        assert_eq!(connection.next_place(), "new:1");
        connection.disconnect(0, true);
        assert_eq!(connection.next_place(), "new:1", "a connection that broke led there");
        connection.disconnect(0, false);
        assert_eq!(connection.next_place(), "old:1");
        connection.disconnect(0, false);
        assert_eq!(
            (connection.next_place(), connection.address()),
            ("new:1".into(), "new:1".into())
        );
        let exactly = peers.exactly(2, &voter("old:1"));
        assert_eq!(exactly.next_place(), "old:1");
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
        connection.disconnect(first, true);
        assert_eq!(connection.connected().await.unwrap().1, 2);
        connection.disconnect(first, true);
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
