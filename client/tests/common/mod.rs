//! A broker in this process, on a directory that outlives it.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::{net::SocketAddr, time::Duration};

use millrace_client::{Client, Consumer, NewTopic, Producer, Record, Start};
use millrace_server::{RunningBroker, config::BrokerConfig};
use tempfile::TempDir;

/// A broker and its directory.
pub struct TestBroker {
    dir: TempDir,
    address: SocketAddr,
    running: Option<RunningBroker>,
}

impl TestBroker {
    /// A new one on a free port.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir, "127.0.0.1:0");
        millrace_server::format(&config).unwrap();
        let running = millrace_server::start(config).await.unwrap();
        Self {
            dir,
            address: running.address(),
            running: Some(running),
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub async fn stop(&mut self) {
        self.running.take().unwrap().stop().await.unwrap();
    }

    /// The same directory and port.
    pub async fn start_again(&mut self) {
        let address = self.address();
        for attempt in 0.. {
            match millrace_server::start(config(&self.dir, &address)).await {
                Ok(running) => {
                    self.running = Some(running);
                    return;
                }
                // The port may be held for a moment by what the last one left.
                Err(error) if attempt > 50 => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address()).await.unwrap()
    }

    /// A client and a topic.
    pub async fn with_topic(topic: &str, partitions: i32) -> (Self, Client) {
        let broker = Self::start().await;
        let client = broker.client().await;
        client
            .admin()
            .create_topic(NewTopic::new(topic).partitions(partitions))
            .await
            .unwrap();
        (broker, client)
    }
}

fn config(dir: &TempDir, address: &str) -> BrokerConfig {
    let data = dir.path().join("data").display().to_string();
    let values = [
        ("data.dir", data.as_str()),
        ("listen.client", address),
        ("listen.http", "127.0.0.1:0"),
        ("listen.internal", "127.0.0.1:0"),
    ];
    let values: Vec<(String, String)> = values
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    BrokerConfig::load(None, std::iter::empty(), &values).unwrap()
}

/// Sends `values` to partition 0 and waits for all.
pub async fn produce(producer: &Producer, topic: &str, values: impl IntoIterator<Item = String>) -> Vec<i64> {
    let mut deliveries = Vec::new();
    for value in values {
        deliveries.push(
            producer
                .send(Record::new(topic).partition(0).value(value))
                .await
                .unwrap(),
        );
    }
    producer.flush().await.unwrap();
    let mut offsets = Vec::new();
    for delivery in deliveries {
        offsets.push(delivery.await.unwrap().offset);
    }
    offsets
}

/// The next `count` values of whatever is assigned.
pub async fn read(consumer: &mut Consumer, count: usize) -> Vec<String> {
    let mut values = Vec::new();
    while values.len() < count {
        let record = tokio::time::timeout(Duration::from_secs(30), consumer.next())
            .await
            .unwrap_or_else(|_| panic!("only {} of {count} records came", values.len()))
            .unwrap();
        values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
    }
    values
}

pub async fn consumer(client: &Client, topic: &str, start: Start) -> Consumer {
    let mut consumer = client.consumer().build().unwrap();
    consumer.assign([(topic, 0, start)]).await.unwrap();
    consumer
}
