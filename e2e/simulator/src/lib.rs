//! A deterministic simulator of a whole cluster: the real rules of partitions and metadata, the
//! real log and its compaction over a faulty in-memory disk, the real client's order of batches, the real coordinators of
//! consumer groups and the real client's members; the network, the machines, the clock and the metadata
//! quorum's replication are modelled.
//!
//! One thread, one virtual clock, one seeded generator: a run is a function of its seed and the
//! code. An observer that sees every log and every answer checks after each step what must hold
//! whatever happens; after the faults a sound core must make progress again.
//!
//! ```text
//!   seed ── Settings::draw ── World ──┬── brokers: Replica + Log + FaultyFileSystem
//!                                     ├── quorum: Cluster::apply on one modelled log
//!                                     ├── network, machines: faults
//!                                     ├── producers, consumers, or groups with their members
//!                                     └── Observer
//! ```
//!
//! Not here: the metadata quorum's own consensus (it has tests of its own), gRPC, threads.

mod broker;
mod compaction;
mod consumer;
mod disk;
mod effects;
mod error;
mod faults;
mod flushing;
mod groups;
mod heal;
mod hosting;
#[allow(dead_code, reason = "the client's own file; only a few of its bounds matter here")]
#[path = "../../../client/src/limits.rs"]
mod limits;
mod message;
mod network;
mod observer;
mod opening;
mod operator;
mod partition;
mod power;
mod producer;
mod queue;
mod quorum;
mod registration;
mod requests;
mod rot;
mod run;
mod script;
#[allow(
    dead_code,
    reason = "the client's own file; a few of its questions are not asked here"
)]
#[path = "../../../client/src/producer/sequencer.rs"]
mod sequencer;
mod settings;
mod shadow;
mod slots;
mod survivors;
mod trace;
mod world;

pub use compaction::CompactionSettings;
pub use groups::{GroupFaultWeights, GroupSettings};
pub use message::{Envelope, MessageKind};
pub use millrace_engine::config::FlushPolicy;
pub use observer::Violation;
pub use run::{Failure, Summary, run};
pub use settings::{FaultWeights, NetworkFaults, Settings};
pub use world::World;
