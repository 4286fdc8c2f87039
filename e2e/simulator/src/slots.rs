//! Partitions as the simulator counts them. A topic that is deleted and created again under its name
//! is another one, by its id, and its partitions are others: each has a slot of its own, by which
//! disks, messages and the observer name it.
//!
//! ```text
//!   slot = generation × 4 + number        topic id = FIRST + generation
//! ```

use std::sync::Arc;

use millrace_engine::{Cluster, Partition, Topic, cluster::PartitionRef};
use uuid::Uuid;

/// The topic's name, in each generation.
pub(crate) const TOPIC: &str = "events";
/// Slots of one generation: no run has more partitions.
const STRIDE: u32 = 4;
/// How many generations of the topic there may be.
pub(crate) const GENERATIONS: u32 = 4;
/// All slots.
pub(crate) const SLOTS: u32 = STRIDE * GENERATIONS;
/// The id of the first generation's topic.
const FIRST: u128 = 0x7001;

/// The slot of a partition in a generation of the topic.
pub(crate) fn slot(generation: u32, number: u32) -> u32 {
    debug_assert!(number < STRIDE, "there are slots for {STRIDE} partitions");
    generation * STRIDE + number
}

/// A slot's partition number.
pub(crate) fn number_of(slot: u32) -> u32 {
    slot % STRIDE
}

/// A slot's partition number as directories have it.
pub(crate) fn number_on_disk(slot: u32) -> i32 {
    i32::try_from(number_of(slot)).unwrap_or(0)
}

/// A generation's topic id.
pub(crate) fn topic_id(generation: u32) -> Uuid {
    Uuid::from_u128(FIRST + u128::from(generation))
}

/// The id of a slot's topic.
pub(crate) fn id_of(slot: u32) -> Uuid {
    topic_id(slot / STRIDE)
}

/// Which generation a topic id is of.
pub(crate) fn generation_of(id: Uuid) -> Option<u32> {
    let generation = u32::try_from(id.as_u128().checked_sub(FIRST)?).ok()?;
    (generation < GENERATIONS).then_some(generation)
}

/// The topic's generation in a version of the metadata, if there is one.
pub(crate) fn generation_in(cluster: &Cluster) -> Option<u32> {
    generation_of(cluster.topics.get(TOPIC)?.id)
}

/// A slot's topic, if a version of the metadata has it.
pub(crate) fn topic_of(cluster: &Cluster, slot: u32) -> Option<&Arc<Topic>> {
    cluster.topics.get(TOPIC).filter(|topic| topic.id == id_of(slot))
}

/// A slot's record, if a version of the metadata has it.
pub(crate) fn record_of(cluster: &Cluster, slot: u32) -> Option<&Partition> {
    topic_of(cluster, slot)?.partitions.get(number_of(slot) as usize)
}

/// The topic's partitions in a version of the metadata, by slot.
pub(crate) fn records(cluster: &Cluster) -> impl Iterator<Item = (u32, &Partition)> {
    let topic = cluster.topics.get(TOPIC);
    let generation = generation_in(cluster).unwrap_or(0);
    let partitions = topic.map_or(&[][..], |topic| &topic.partitions);
    (0u32..)
        .zip(partitions)
        .map(move |(number, record)| (slot(generation, number), record))
}

/// How many replicas of a slot must be in sync, by one version of the metadata.
pub(crate) fn required(cluster: &Cluster, slot: u32) -> usize {
    let (Some(topic), Some(record)) = (topic_of(cluster, slot), record_of(cluster, slot)) else {
        return 1;
    };
    record.required(cluster.min_insync_replicas(topic))
}

/// A slot as commands name it.
pub(crate) fn reference(slot: u32) -> PartitionRef {
    PartitionRef {
        topic: TOPIC.into(),
        topic_id: id_of(slot),
        partition: number_of(slot),
    }
}
