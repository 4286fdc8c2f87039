//! Connections and their calls.

use std::{convert::Infallible, future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    server::{Builder, SendResponse},
};
use http_body::Body as _;
use millrace_proto::{decoded::is_unary, v1::ErrorReason};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body as GrpcBody, transport::server::Connected as _};
use tower::Service;

use super::{
    inbox::Inbox,
    unread::{Unread, Widening},
};
use crate::{
    connection::{Client, Connection},
    error::ApiError,
    limits,
    memory::ConnectionBudget,
};

/// Calls whose answers say what became of writes: those who do not take them keep others from writing.
const ACKNOWLEDGING: [&str; 2] = ["/millrace.v1.Messaging/PublishStream", "/millrace.v1.Log/Produce"];

/// Serves the connections of `incoming` until `stop`; then no more, but lets the calls of those it
/// has end. Dropped, it ends all.
pub async fn serve<S>(
    incoming: impl Stream<Item = io::Result<Connection>> + Send + 'static,
    service: S,
    stop: CancellationToken,
) where
    S: Service<http::Request<GrpcBody>, Response = http::Response<GrpcBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let mut incoming = Box::pin(incoming);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            connection = incoming.next() => match connection {
                Some(Ok(connection)) => {
                    connections.spawn(serve_connection(connection, service.clone(), stop.clone()));
                }
                Some(Err(error)) => tracing::debug!(%error, "a connection was not accepted"),
                None => break,
            },
        }
    }
    // New ones are refused from here on.
    drop(incoming);
    while connections.join_next().await.is_some() {}
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::HTTP2_FRAME_BYTES)
        .max_concurrent_streams(limits::MAX_STREAMS_PER_CONNECTION)
        .max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES)
        .max_send_buffer_size(limits::HTTP2_SEND_BUFFER_BYTES)
        .data_frame_budget(limits::HTTP2_DATA_FRAME_BUDGET_BYTES);
    builder
}

async fn serve_connection<S>(connection: Connection, service: S, stop: CancellationToken)
where
    S: Service<http::Request<GrpcBody>, Response = http::Response<GrpcBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let (budget, client) = (connection.connect_info(), connection.client());
    let handshake = builder().handshake::<_, Bytes>(connection);
    let Ok(Ok(mut http2)) = tokio::time::timeout(limits::HTTP2_HANDSHAKE_WAIT, handshake).await else {
        return;
    };
    let mut silent = pin!(silent(http2.ping_pong(), &client));
    let mut stopping = false;
    let unread = Arc::new(Unread::default());
    let mut widening = Widening::new(budget.windows());
    let mut too_narrow = false;
    loop {
        tokio::select! {
            accepted = http2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let call = serve_call(request, respond, service.clone(), budget.clone(), client.clone(), unread.clone());
                    tokio::spawn(call);
                }
                Some(Err(error)) => return tracing::debug!(%error, "a connection failed"),
                None => return,
            },
            () = may_change(&unread, too_narrow) => {
                let (window, without_room) = widening.adjust(&unread);
                http2.set_target_window_size(window);
                too_narrow = without_room;
            }
            () = &mut silent => return tracing::debug!("a connection's peer is gone"),
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                http2.graceful_shutdown();
            }
        }
    }
}

/// Waits until the connection's window may have to be another one; for a moment, if there was no room for what it
/// should be.
async fn may_change(unread: &Unread, too_narrow: bool) {
    if !too_narrow {
        return unread.changed().await;
    }
    let _ = tokio::time::timeout(limits::HTTP2_WIDEN_AGAIN, unread.changed()).await;
}

/// Ends when the peer does not answer pings any more. One that is watched is asked more often.
async fn silent(pings: Option<PingPong>, client: &Client) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        let interval = match client.is_watched() {
            true => limits::HTTP2_WATCHED_PING_INTERVAL,
            false => limits::HTTP2_PING_INTERVAL,
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = client.watchers_changed() => continue,
        }
        let answered = tokio::time::timeout(limits::HTTP2_PING_WAIT, pings.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}

/// Serves one call until its answer is sent or its caller has gone.
async fn serve_call<S>(
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    mut service: S,
    budget: ConnectionBudget,
    client: Client,
    unread: Arc<Unread>,
) where
    S: Service<http::Request<GrpcBody>, Response = http::Response<GrpcBody>, Error = Infallible> + Send,
    S::Future: Send,
{
    let (parts, stream) = request.into_parts();
    let timeout = parts
        .headers
        .get("grpc-timeout")
        .and_then(|value| parse_timeout(value.to_str().ok()?));
    let path = parts.uri.path();
    // Who reads records may pause.
    let patience = (is_unary(path) || ACKNOWLEDGING.contains(&path)).then_some(limits::ANSWER_STALL);
    let inbox = Inbox::new(stream, unread);
    let mut request = http::Request::from_parts(parts, GrpcBody::new(inbox.body()));
    request.extensions_mut().insert(budget);
    request.extensions_mut().insert(client);
    let calling = async {
        let Ok(()) = poll_fn(|context| service.poll_ready(context)).await;
        let Ok(response) = service.call(request).await;
        response
    };
    let answered = {
        let mut answering = pin!(answer(respond, calling, timeout, patience));
        poll_fn(|context| {
            let answered = answering.as_mut().poll(context);
            if answered.is_pending() {
                inbox.poll_receive(context);
            }
            answered
        })
        .await
    };
    inbox.close();
    if let Err(error) = answered {
        tracing::debug!(%error, "a call's answer was not sent");
    }
}

async fn answer(
    mut respond: SendResponse<Bytes>,
    calling: impl Future<Output = http::Response<GrpcBody>>,
    timeout: Option<Duration>,
    patience: Option<Duration>,
) -> Result<(), h2::Error> {
    let late = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let response = tokio::select! {
        biased;
        response = calling => response,
        reset = poll_fn(|context| respond.poll_reset(context)) => return reset.map(drop),
        () = late => Status::from(past_deadline()).into_http(),
    };
    let (parts, body) = response.into_parts();
    let head = http::Response::from_parts(parts, ());
    if body.is_end_stream() {
        return respond.send_response(head, true).map(drop);
    }
    let mut stream = respond.send_response(head, false)?;
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            biased;
            reset = poll_fn(|context| stream.poll_reset(context)) => return reset.map(drop),
            frame = poll_fn(|context| body.as_mut().poll_frame(context)) => frame,
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                tracing::debug!(%error, "an answer broke");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            None => return stream.send_data(Bytes::new(), true),
        };
        match frame.into_data() {
            Ok(chunk) if chunk.is_empty() => {}
            Ok(chunk) => {
                let sent = match patience {
                    Some(patience) => send_as_taken(&mut stream, chunk, patience).await?,
                    None => send_at_once(&mut stream, chunk).await?,
                };
                if !sent {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return stream.send_trailers(trailers);
                }
            }
        }
    }
}

/// Sends a chunk that is at hand as one: any room at all is a beginning. False if the caller has gone.
async fn send_at_once(stream: &mut SendStream<Bytes>, chunk: Bytes) -> Result<bool, h2::Error> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(room) => drop(room?),
            None => return Ok(false),
        }
    }
    stream.send_data(chunk, false)?;
    Ok(true)
}

/// Sends as much of `chunk` at a time as the caller has room for. False if the caller has gone, or is
/// told so as it takes too little for too long: what it does not take is missing to others.
async fn send_as_taken(
    stream: &mut SendStream<Bytes>,
    mut chunk: Bytes,
    patience: Duration,
) -> Result<bool, h2::Error> {
    let mut late = pin!(tokio::time::sleep(patience));
    let mut taken = 0;
    while !chunk.is_empty() {
        stream.reserve_capacity(chunk.len());
        let room = stream.capacity();
        if room > 0 {
            let part = chunk.split_to(room.min(chunk.len()));
            taken += part.len();
            stream.send_data(part, false)?;
            continue;
        }
        tokio::select! {
            biased;
            room = poll_fn(|context| stream.poll_capacity(context)) => match room {
                Some(room) => drop(room?),
                None => return Ok(false),
            },
            () = &mut late => {
                if taken < limits::MESSAGE_LEAST_BYTES {
                    stream.send_reset(Reason::ENHANCE_YOUR_CALM);
                    return Ok(false);
                }
                taken = 0;
                late.as_mut().reset(tokio::time::Instant::now() + patience);
            }
        }
    }
    Ok(true)
}

fn past_deadline() -> ApiError {
    ApiError::new(
        ErrorReason::TimedOut,
        "The call's deadline has passed; what it was to do may still be done.",
    )
}

/// A call's timeout: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse_timeout(value: &str) -> Option<Duration> {
    let unit = value.chars().last()?;
    let digits = value.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use http_body_util::{BodyExt as _, Full};
    use tokio::{net::TcpStream, sync::Semaphore};

    use super::*;
    use crate::{connection, memory::MemoryBudget};

    /// Serves calls that answer with what they were sent; those of "/wait" read it only with a
    /// permit of `go`.
    async fn serve_echo(go: Arc<Semaphore>, stop: CancellationToken) -> SocketAddr {
        let listener = connection::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let budget = MemoryBudget::new(64 << 20, 32 << 20);
        let incoming = connection::accept(listener, 10, budget, Arc::default());
        let service = tower::service_fn(move |request: http::Request<GrpcBody>| {
            let go = go.clone();
            async move {
                if request.uri().path() == "/wait" {
                    go.acquire().await.unwrap().forget();
                }
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(http::Response::new(GrpcBody::new(Full::new(bytes))))
            }
        });
        tokio::spawn(serve(incoming, service, stop));
        address
    }

    async fn connect(address: SocketAddr) -> h2::client::SendRequest<Bytes> {
        let stream = TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn request(path: &str) -> http::Request<()> {
        let uri = format!("http://broker{path}");
        http::Request::post(uri).body(()).unwrap()
    }

    /// Sends frames of 25 bytes until `all` bytes are sent; counts those that are.
    async fn send_small(stream: &mut h2::SendStream<Bytes>, sent: &mut usize, all: usize) {
        while *sent < all {
            let frame = Bytes::from(sent.to_string().into_bytes().repeat(25)).slice(..25);
            stream.reserve_capacity(frame.len());
            while stream.capacity() < frame.len() {
                poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
            }
            *sent += frame.len();
            stream.send_data(frame, *sent >= all).unwrap();
        }
    }

    async fn read(response: h2::client::ResponseFuture) -> Vec<u8> {
        let mut body = response.await.unwrap().into_body();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            body.flow_control().release_capacity(chunk.len()).unwrap();
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    #[tokio::test]
    async fn small_frames_that_nobody_reads_hold_their_sender_and_not_the_connection() {
        let (go, stop) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
        let mut client = connect(serve_echo(go.clone(), stop.clone()).await).await;
        let (response, mut stream) = client.send_request(request("/wait"), false).unwrap();
        let window = usize::try_from(limits::HTTP2_STREAM_WINDOW_BYTES).unwrap();
        let (mut sent, all) = (0, 3 * window / 25 * 25);
        let sending = send_small(&mut stream, &mut sent, all);
        assert!(tokio::time::timeout(Duration::from_secs(2), sending).await.is_err());
        assert!(sent <= window && sent + 25 > window, "{sent} bytes were sent");
        // Others on the connection go on.
        let (other, _) = client.send_request(request("/"), true).unwrap();
        assert_eq!(read(other).await, b"");
        go.add_permits(1);
        let (echoed, ()) = tokio::join!(read(response), send_small(&mut stream, &mut sent, all));
        let mut at = 0;
        for frame in echoed.chunks(25) {
            assert_eq!(frame, &at.to_string().into_bytes().repeat(25)[..25]);
            at += 25;
        }
        assert_eq!(at, all);
        stop.cancel();
    }

    #[tokio::test]
    async fn what_a_call_leaves_unread_is_given_back_to_the_connection() {
        let (go, stop) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
        let mut client = connect(serve_echo(go, stop.clone()).await).await;
        let window = usize::try_from(limits::HTTP2_CONNECTION_WINDOW_BYTES).unwrap();
        for _ in 0..5 {
            let (response, mut stream) = client.send_request(request("/wait"), false).unwrap();
            let mut sent = 0;
            let sending = send_small(&mut stream, &mut sent, window / 25 * 25);
            tokio::time::timeout(Duration::from_secs(20), sending).await.unwrap();
            stream.send_reset(Reason::CANCEL);
            drop(response);
        }
        stop.cancel();
    }

    #[tokio::test]
    async fn a_stopping_server_lets_calls_end() {
        let (go, stop) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
        let mut client = connect(serve_echo(go.clone(), stop.clone()).await).await;
        let (response, mut stream) = client.send_request(request("/wait"), false).unwrap();
        let (other, _) = client.send_request(request("/"), true).unwrap();
        assert_eq!(read(other).await, b"");
        stop.cancel();
        stream.send_data(Bytes::from_static(b"last"), true).unwrap();
        go.add_permits(1);
        assert_eq!(read(response).await, b"last");
    }

    type Answering = tokio::task::JoinHandle<Result<(), h2::Error>>;

    /// A call whose client has room for `window` bytes of its answer before it takes some, and an answer
    /// of 300,000 that waits for as long as `patience`.
    async fn answered(window: u32, patience: Duration) -> (Answering, RecvStream) {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let mut to_broker = h2::client::Builder::new();
        to_broker.initial_window_size(window);
        let (server, client) = tokio::join!(
            builder().handshake::<_, Bytes>(ours),
            to_broker.handshake::<_, Bytes>(theirs),
        );
        let (mut server, (mut client, connection)) = (server.unwrap(), client.unwrap());
        tokio::spawn(connection);
        let (response, _) = client.send_request(request("/"), true).unwrap();
        let (_, respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let body = GrpcBody::new(Full::new(Bytes::from(vec![7; 300_000])));
        let calling = std::future::ready(http::Response::new(body));
        let answering = tokio::spawn(answer(respond, calling, None, Some(patience)));
        (answering, response.await.unwrap().into_body())
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_is_given_up() {
        let (answering, mut body) = answered(10, Duration::from_millis(50)).await;
        assert_eq!(body.data().await.unwrap().unwrap().len(), 10);
        let error = body.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
        answering.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_is_taken_bit_by_bit_arrives() {
        let (answering, mut body) = answered(1_000, Duration::from_secs(600)).await;
        let mut came = 0;
        while let Some(chunk) = body.data().await {
            let length = chunk.unwrap().len();
            body.flow_control().release_capacity(length).unwrap();
            came += length;
        }
        assert_eq!(came, 300_000);
        answering.await.unwrap().unwrap();
    }

    #[test]
    fn timeouts_are_read_in_all_units() {
        for (value, expected) in [
            ("2H", Some(Duration::from_secs(7_200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("5m", Some(Duration::from_millis(5))),
            ("6u", Some(Duration::from_micros(6))),
            ("7n", Some(Duration::from_nanos(7))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("1x", None),
            ("1é", None),
        ] {
            assert_eq!(parse_timeout(value), expected, "{value}");
        }
    }
}
