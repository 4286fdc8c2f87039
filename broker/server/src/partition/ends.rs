//! How far this broker's logs reach, for the metadata quorum.

use std::{collections::BTreeMap, sync::Arc};

use millrace_engine::{
    Cluster, Partition as Record,
    cluster::{LogEnd, MAX_CHANGES, PartitionRef, TopicLogEnds},
};
use uuid::Uuid;

use super::{Partition, Partitions};

impl Partitions {
    /// The durable ends of the open logs of which the metadata wants to know: of partitions in which
    /// this broker is eligible to lead. A replica with damage below its flushed point is left out
    /// where there are others, and so loses its eligibility, before it cuts itself to the damage; a
    /// partition's only replica is not compared with anything.
    #[must_use]
    pub fn log_ends(&self, cluster: &Cluster) -> Vec<TopicLogEnds> {
        let mut ends: BTreeMap<Uuid, Vec<LogEnd>> = BTreeMap::new();
        for partition in self.all() {
            // Another topic may have the name by now: this log says nothing of that one.
            let topic = cluster.topics.get(&partition.topic);
            let Some(topic) = topic.filter(|topic| topic.id == partition.topic_id) else {
                continue;
            };
            let Ok(number) = u32::try_from(partition.number) else {
                continue;
            };
            let record = topic.partitions.get(number as usize);
            if record.is_some_and(|record| record.elr.contains(&self.node_id) && partition.is_whole_for(record)) {
                ends.entry(topic.id).or_default().push(LogEnd {
                    partition: number,
                    log_end: partition.log.durable_end_offset(),
                    last_epoch: partition.log.last_record_epoch().unwrap_or(-1),
                });
            }
        }
        ends.into_iter()
            .map(|(topic_id, ends)| TopicLogEnds { topic_id, ends })
            .collect()
    }

    /// Partitions of which this broker counts as in sync or eligible although it can't open their
    /// logs, or found them damaged; at most as many as one command takes.
    #[must_use]
    pub fn offline_replicas(&self, cluster: &Cluster) -> Vec<PartitionRef> {
        let is_damaged = |partition: &Arc<Partition>| partition.cell.lock().replica.is_to_be_replaced();
        if self.unopened() == 0 && !self.replication.has_met_damage() {
            return Vec::new();
        }
        let counts = |record: &Record| record.isr.contains(&self.node_id) || record.elr.contains(&self.node_id);
        let placed = cluster.replicas_of(self.node_id);
        let offline = placed.filter(|(topic, number)| {
            let record = topic.partitions.get(*number as usize);
            let others_may_lead = |record: &Record| record.isr.len() + record.elr.len() > 1;
            record.is_some_and(|record| counts(record) && others_may_lead(record))
                && self
                    .find_replica((topic.id, *number))
                    .is_none_or(|partition| is_damaged(&partition))
        });
        let named = offline.map(|(topic, partition)| PartitionRef {
            topic: topic.name.clone(),
            topic_id: topic.id,
            partition,
        });
        named.take(MAX_CHANGES).collect()
    }
}

impl Partition {
    fn is_whole_for(&self, record: &Record) -> bool {
        !record.is_replicated() || self.cell.lock().replica.damaged_from().is_none()
    }
}
