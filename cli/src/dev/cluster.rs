//! The brokers of `millrace dev`.

use std::{io, net::SocketAddr};

use anyhow::anyhow;
use millrace_server::{RunningBroker, StartError, config::BrokerConfig};

use super::{
    data::{DataDir, is_formatted},
    ports::{BrokerPorts, Ports},
};

/// Copies of each partition, where there are as many brokers: what Millrace makes of three by itself.
const COPIES: usize = 3;

/// Brokers that serve; at least one.
pub struct DevCluster {
    first: RunningBroker,
    others: Vec<RunningBroker>,
}

impl DevCluster {
    /// Starts all brokers; answers when all are in service. The first one begins the cluster, unless
    /// others were there before.
    pub async fn start(data: &DataDir, ports: &Ports, log_level: &str) -> anyhow::Result<Self> {
        let all = ports.brokers();
        let count = all.len();
        let known: Vec<SocketAddr> = all.iter().map(|ports| localhost(ports.internal)).collect();
        let broker = async |number: usize, seeds: &[SocketAddr]| {
            let config = config(data, (number, count), all[number], seeds, log_level)?;
            let started = millrace_server::form(config).await;
            started.map_err(|error| port_taken(error, all[number]))
        };
        // One whose disk went must not begin a second cluster beside the others.
        let is_lost = !is_formatted(&data.of_broker(0, count))
            && (1..count).any(|number| is_formatted(&data.of_broker(number, count)));
        let others_of = |number: usize| -> Vec<SocketAddr> {
            let others = known.iter().enumerate().filter(|(other, _)| *other != number);
            others.map(|(_, address)| *address).collect()
        };
        if !ports.are_free() {
            // All at once: those that were a quorum wait for each other.
            let first_seeds = if is_lost { others_of(0) } else { Vec::new() };
            let rest = (1..count).map(|number| {
                let broker = &broker;
                let seeds = others_of(number);
                async move { broker(number, &seeds).await }
            });
            let rest = futures::future::try_join_all(rest);
            let (first, others) = tokio::try_join!(broker(0, &first_seeds), rest)?;
            return Ok(Self { first, others });
        }
        // Ports are known once they are bound.
        let first = broker(0, &[]).await?;
        let seeds = [first.internal_address()];
        let rest = (1..count).map(|number| broker(number, &seeds));
        let others = futures::future::try_join_all(rest).await?;
        Ok(Self { first, others })
    }

    pub fn first(&self) -> &RunningBroker {
        &self.first
    }

    pub fn others(&self) -> &[RunningBroker] {
        &self.others
    }

    /// Resolves with the reason when a broker can't go on.
    pub async fn failed(&self) -> String {
        let all = [&self.first].into_iter().chain(&self.others);
        let failures = all.map(|broker| Box::pin(broker.failed()));
        futures::future::select_all(failures).await.0
    }

    /// Stops all at once: they need not hand over to each other.
    pub async fn stop(self) -> io::Result<()> {
        let all = [self.first].into_iter().chain(self.others);
        let stopped = futures::future::join_all(all.map(RunningBroker::stop)).await;
        stopped.into_iter().collect()
    }
}

fn localhost(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn config(
    data: &DataDir,
    (number, count): (usize, usize),
    ports: BrokerPorts,
    seeds: &[SocketAddr],
    log_level: &str,
) -> anyhow::Result<BrokerConfig> {
    let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
    let settings = [
        ("data.dir", data.of_broker(number, count).display().to_string()),
        ("node.id", number.to_string()),
        ("listen.client", localhost(ports.client).to_string()),
        ("listen.internal", localhost(ports.internal).to_string()),
        ("listen.http", localhost(ports.http).to_string()),
        ("log.level", log_level.to_owned()),
        ("seeds", seeds.join(",")),
        // Fixed, so that a topic that is made while brokers still come does not get by with fewer.
        ("default.replication.factor", count.min(COPIES).to_string()),
        ("offsets.topic.replication.factor", count.min(COPIES).to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    Ok(BrokerConfig::load(None, std::iter::empty(), &settings)?)
}

fn port_taken(error: StartError, ports: BrokerPorts) -> anyhow::Error {
    let BrokerPorts { client, internal, http } = ports;
    match &error {
        StartError::Io(io) if io.kind() == io::ErrorKind::AddrInUse => anyhow!(
            "port {client}, {internal} or {http} is taken, maybe by another broker; choose others with --port and --http-port"
        ),
        _ => error.into(),
    }
}
