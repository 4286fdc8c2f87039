//! One HTTP/2 connection per broker, shared by everything that talks to it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use millrace_proto::v1::{
    admin_client::AdminClient, groups_client::GroupsClient, log_client::LogClient, messaging_client::MessagingClient,
};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::{
    error::{Error, Result},
    limits,
    reach::Reach,
};

/// The connections of one client, made when first used and made again when they break.
#[derive(Debug)]
pub struct Connections {
    client_id: String,
    connect_timeout: Duration,
    channels: Mutex<HashMap<Arc<str>, Channel>>,
    /// Who can't be reached.
    pub reach: Reach,
}

impl Connections {
    pub fn new(client_id: String, connect_timeout: Duration) -> Self {
        Self {
            client_id,
            connect_timeout,
            channels: Mutex::default(),
            reach: Reach::default(),
        }
    }

    /// The connection to `address` (HOST:PORT).
    ///
    /// # Errors
    /// If that is no address.
    pub fn channel(&self, address: &str) -> Result<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.endpoint(address)?.connect_lazy();
        channels.insert(address.into(), channel.clone());
        Ok(channel)
    }

    /// Forgets the connections to brokers that are not among `addresses`: they would only try to
    /// reach what is gone.
    pub fn retain(&self, addresses: impl Fn(&str) -> bool) {
        self.channels.lock().retain(|address, _| addresses(address));
        self.reach.retain(addresses);
    }

    pub fn log(&self, address: &str) -> Result<LogClient<Channel>> {
        Ok(LogClient::new(self.channel(address)?)
            .max_decoding_message_size(limits::MAX_RPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_RPC_MESSAGE_BYTES))
    }

    pub fn admin(&self, address: &str) -> Result<AdminClient<Channel>> {
        Ok(AdminClient::new(self.channel(address)?).max_decoding_message_size(limits::MAX_RPC_MESSAGE_BYTES))
    }

    pub fn groups(&self, address: &str) -> Result<GroupsClient<Channel>> {
        Ok(GroupsClient::new(self.channel(address)?)
            .max_decoding_message_size(limits::MAX_RPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_RPC_MESSAGE_BYTES))
    }

    pub fn messaging(&self, address: &str) -> Result<MessagingClient<Channel>> {
        Ok(MessagingClient::new(self.channel(address)?)
            .max_decoding_message_size(limits::MAX_RPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_RPC_MESSAGE_BYTES))
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint> {
        let malformed = |why: &dyn std::fmt::Display| {
            Error::invalid(format!("{address:?} is no address ({why}): write HOST:PORT."))
        };
        check_address(address).map_err(|why| malformed(&why))?;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| malformed(&error))?;
        Ok(endpoint
            .user_agent(self.client_id.clone())
            .map_err(|error| Error::invalid(format!("The client id can't be sent ({error}): use printable ASCII.")))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
            .max_frame_size(limits::HTTP2_FRAME_BYTES)
            .http2_keep_alive_interval(limits::KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true))
    }
}

/// Checks that there are a host and a port: a URI without a port would mean port 80.
pub fn check_address(address: &str) -> Result<(), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("the port is missing")?;
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.contains(['/', '@', ' ']) {
        return Err("the host has characters that no host has");
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => Err("the port is not a number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_host_and_port() {
        for good in [
            "localhost:9650",
            "10.0.0.1:1",
            "[::1]:9650",
            "broker-0.brokers.ns.svc:65535",
        ] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "localhost",
            ":9650",
            "localhost:",
            "localhost:0",
            "localhost:70000",
            "http://x:1/",
            "a b:1",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
