//! The Rust client of Millrace: producer, consumer, admin.
//!
//! ```no_run
//! use millrace_client::{Client, Record, Start};
//!
//! # async fn example() -> Result<(), millrace_client::Error> {
//! let client = Client::connect("localhost:9650").await?;
//!
//! let producer = client.producer().build().await?;
//! let delivery = producer.send(Record::new("orders").key("42").value("paid")).await?;
//! println!("stored at offset {}", delivery.await?.offset);
//!
//! let mut consumer = client.consumer().build()?;
//! consumer.assign([("orders", 0, Start::Beginning)]).await?;
//! let record = consumer.next().await?;
//! println!("{:?}", record.value);
//! # Ok(())
//! # }
//! ```
//!
//! Records go to the leaders of their partitions over one HTTP/2 connection per broker. The
//! client follows the cluster's metadata by itself. Every failure is an [`Error`] that says what
//! to do, whether to retry, and, for a write, whether it may still show up.

mod admin;
mod client;
mod cluster;
mod connection;
mod consumer;
mod error;
mod group;
mod limits;
mod metadata;
mod offsets;
mod producer;
mod reach;
mod record;

pub use admin::{Admin, Election, NewTopic, OffsetTarget, PartitionMove, VoterName};
pub use client::{Client, ClientBuilder};
pub use cluster::{Broker, Cluster, Partition, Topic};
pub use consumer::{
    Consumer, ConsumerBuilder, FetchedBatch, FetchedBatches, FetchedRecords, OffsetReset, PartitionStatus,
    RecordIterator,
};
pub use error::{Error, ErrorKind, Result, WriteOutcome};
pub use group::{Assignor, GroupConsumer, GroupConsumerBuilder, GroupEvent};
pub use millrace_proto::batch::{Codec, Record as RecordRef};
pub use millrace_proto::v1::{self, ErrorReason};
pub use offsets::ListedOffset;
pub use producer::{Acks, Delivery, Partitioner, PartitionerInput, Producer, ProducerBuilder};
pub use record::{ConsumedRecord, Header, Isolation, Record, RecordMetadata, Start};
