//! The connection that a command works with.

use std::{io, time::Duration};

use millrace_client::{Client, ClientBuilder, ErrorKind};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::{Instant, sleep, timeout},
};

use crate::{args::GlobalArgs, error::UsageError, limits};

/// Why no broker could be reached.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// No address could be connected to.
    #[error("can't connect to {0}. Start a broker (millrace dev) or name one with --bootstrap or MILLRACE_BOOTSTRAP.")]
    Unreachable(String),
    /// An HTTP/1 server that speaks no gRPC: most often the broker's own port for health and metrics.
    #[error(
        "{0} answers HTTP but is no Millrace client port (default 9650; 9652 is health and metrics): name that with --bootstrap"
    )]
    NoClientPort(String),
    /// A gRPC server that does not know a client's calls: most often the broker's own port for other brokers.
    #[error(
        "{0} answers gRPC but is no Millrace client port (default 9650; 9651 is for brokers among themselves): name that with --bootstrap"
    )]
    AnotherServer(String),
    /// Something takes connections and does not answer as a broker does.
    #[error("{bootstrap} takes connections but did not answer as a Millrace broker within {} s: {cause}", limits::CONNECT_TIMEOUT.as_secs())]
    NoAnswer {
        /// What the flags name.
        bootstrap: String,
        /// The client's own words.
        cause: String,
    },
}

/// Connects to the cluster that the flags name.
///
/// The client tries again and again, which is right for a service and a long wait for a person who mistyped
/// an address. So what is wrong is looked for at the same time, and told once it is sure.
///
/// # Errors
/// [`UsageError`] for what is no address; [`ConnectError`] if no broker answers.
pub async fn client(global: &GlobalArgs) -> anyhow::Result<Client> {
    connect(global, builder(global)).await
}

/// The same, with calls that take this long at most instead of the usual time.
///
/// # Errors
/// As [`client`].
pub async fn patient_client(global: &GlobalArgs, request_timeout: Duration) -> anyhow::Result<Client> {
    connect(global, builder(global).request_timeout(request_timeout)).await
}

fn builder(global: &GlobalArgs) -> ClientBuilder {
    Client::builder()
        .bootstrap(&global.bootstrap)
        .client_id(concat!("millrace-cli/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits::CONNECT_TIMEOUT)
}

async fn connect(global: &GlobalArgs, builder: ClientBuilder) -> anyhow::Result<Client> {
    let building = builder.build();
    let built = tokio::select! {
        biased;
        built = building => built,
        fault = diagnosis(&global.bootstrap) => return Err(fault.into()),
    };
    built.map_err(|error| match error.kind() {
        ErrorKind::InvalidArgument => UsageError(error.to_string()).into(),
        ErrorKind::Connection | ErrorKind::TimedOut => ConnectError::NoAnswer {
            bootstrap: global.bootstrap.clone(),
            cause: error.to_string(),
        }
        .into(),
        ErrorKind::Status(_) => ConnectError::AnotherServer(global.bootstrap.clone()).into(),
        _ => error.into(),
    })
}

/// Ends when it is sure that no broker will answer; waits for ever as long as one may.
async fn diagnosis(bootstrap: &str) -> ConnectError {
    sleep(limits::DIAGNOSIS_AFTER).await;
    let give_up = Instant::now() + limits::UNREACHABLE_FOR;
    let addresses: Vec<&str> = bootstrap.split(',').map(str::trim).filter(|a| !a.is_empty()).collect();
    loop {
        let (mut faults, mut foreign, mut open) = (Vec::new(), None, false);
        for &address in &addresses {
            match probe(address).await {
                Probe::Unreachable(fault) => faults.push(fault),
                Probe::Http => foreign = Some(address.to_owned()),
                Probe::Open => open = true,
            }
        }
        match foreign {
            _ if open => return std::future::pending().await,
            Some(address) => return ConnectError::NoClientPort(address),
            None if Instant::now() >= give_up => return ConnectError::Unreachable(faults.join(", ")),
            // It may be starting.
            None => sleep(limits::PROBE_INTERVAL).await,
        }
    }
}

/// What is behind an address.
#[derive(Debug, PartialEq, Eq)]
enum Probe {
    /// No connection; the address and why.
    Unreachable(String),
    /// An HTTP/1 server.
    Http,
    /// It takes connections and does not answer in HTTP/1: maybe a broker.
    Open,
}

async fn probe(address: &str) -> Probe {
    // Apart from connecting, whose error does not tell a wrong name from a dead machine.
    let targets: Vec<_> = match lookup_host(address).await {
        Ok(found) => found.collect(),
        Err(error) => return Probe::Unreachable(no_such_host(address, &error)),
    };
    match timeout(limits::PROBE_TIMEOUT, TcpStream::connect(&targets[..])).await {
        Ok(Ok(stream)) => match timeout(limits::PROBE_TIMEOUT, speaks_http1(stream)).await {
            Ok(Ok(true)) => Probe::Http,
            _ => Probe::Open,
        },
        Ok(Err(error)) => Probe::Unreachable(format!("{address}: {}", in_words(&error))),
        Err(_) => Probe::Unreachable(format!(
            "{address}: no answer within {}",
            seconds(limits::PROBE_TIMEOUT)
        )),
    }
}

/// A server of HTTP/2 alone, as a broker's client port is, answers with a frame or hangs up.
async fn speaks_http1(mut stream: TcpStream) -> io::Result<bool> {
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: millrace\r\nConnection: close\r\n\r\n")
        .await?;
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    Ok(&head == b"HTTP/1.")
}

/// The resolver's reason stands behind the standard library's own words.
fn no_such_host(address: &str, error: &io::Error) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let text = error.to_string();
    let reason = text.rsplit(": ").next().unwrap_or(&text);
    format!("{host}: no such host ({reason})")
}

/// Without the system's number, which says nothing that the words do not.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    /// HTTP/2's empty SETTINGS frame, with which a broker begins.
    const HTTP2_SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

    /// Takes connections and answers each with these bytes.
    async fn answer(listener: TcpListener, answer: &'static [u8]) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 16];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        }
    }

    async fn answering(bytes: &'static [u8]) -> String {
        let (listener, address) = listener().await;
        tokio::spawn(answer(listener, bytes));
        address
    }

    #[tokio::test]
    async fn a_closed_port_is_told_soon_and_once() {
        let (listener, address) = listener().await;
        drop(listener);
        let started = Instant::now();
        let error = diagnosis(&address).await;
        assert!(started.elapsed() < Duration::from_secs(3));
        assert_eq!(
            error.to_string(),
            format!(
                "can't connect to {address}: connection refused. Start a broker (millrace dev) or name one with --bootstrap or MILLRACE_BOOTSTRAP."
            )
        );
    }

    #[tokio::test]
    async fn another_http_server_is_named_as_such() {
        let address = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(diagnosis(&address).await, ConnectError::NoClientPort(address));
    }

    #[tokio::test]
    async fn what_may_be_a_broker_is_waited_for() {
        let address = answering(HTTP2_SETTINGS).await;
        let all = format!("127.0.0.1:1,{address}");
        let patience = limits::UNREACHABLE_FOR + Duration::from_secs(1);
        assert!(timeout(patience, diagnosis(&all)).await.is_err());
    }

    #[tokio::test]
    async fn a_broker_that_is_just_starting_is_waited_for() {
        let (listener, address) = listener().await;
        drop(listener);
        let starting = address.clone();
        tokio::spawn(async move {
            sleep(limits::DIAGNOSIS_AFTER + limits::PROBE_INTERVAL).await;
            answer(TcpListener::bind(starting).await.unwrap(), HTTP2_SETTINGS).await;
        });
        let patience = limits::UNREACHABLE_FOR + Duration::from_secs(1);
        assert!(timeout(patience, diagnosis(&address)).await.is_err());
    }

    #[test]
    fn a_wrong_name_is_told_with_the_resolvers_reason() {
        let error = io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(
            no_such_host("nosuchhost.invalid:9650", &error),
            "nosuchhost.invalid: no such host (Name or service not known)"
        );
    }
}
