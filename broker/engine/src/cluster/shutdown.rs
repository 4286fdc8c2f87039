//! Controlled shutdown: a broker leaves in order (KIP-841, KIP-966, KAFKA-14292).

use super::{
    apply::Applied,
    outcome::{ListedPartition, Outcome, PartitionList, ShutdownProgress},
    rejection::Rejection,
    state::{BrokerId, Cluster},
};

impl Cluster {
    /// The broker's leaderships move to replicas that are in sync; where another leads, it
    /// leaves the in-sync set. As the last one in sync it stays, and hands over as soon as
    /// another has caught up. Asked again, it tells how far it is.
    pub(super) fn controlled_shutdown(
        &mut self,
        index: u64,
        broker_id: BrokerId,
        broker_epoch: i64,
    ) -> Result<Applied, Rejection> {
        self.check_broker_epoch(broker_id, broker_epoch)?;
        let Some(broker) = self.brokers.get_mut(&broker_id) else {
            return Err(Rejection::UnknownBroker { id: broker_id });
        };
        let begins = broker.shutting_down_at.is_none();
        let target_index = *broker.shutting_down_at.get_or_insert(index);
        if begins {
            self.rewrite_hosted(broker_id, |_, _, partition, rules| partition.changed(rules, |_, _| {}));
        }
        Ok(Applied {
            outcome: Outcome::Shutdown(self.shutdown_progress(broker_id, target_index)),
            changed: begins,
        })
    }

    fn shutdown_progress(&self, broker_id: BrokerId, target_index: u64) -> ShutdownProgress {
        let mut remaining = PartitionList::default();
        let mut below_min_isr = PartitionList::default();
        for (topic, number) in self.replicas_of(broker_id) {
            let partition = &topic.partitions[number as usize];
            let required = partition.required(self.min_insync_replicas(topic));
            if partition.leader == Some(broker_id) {
                remaining.push(|| ListedPartition {
                    partition: topic.partition_ref(number),
                    reason: match partition.replicas.len() {
                        1 => "it has no other replica".into(),
                        _ => "no other replica is in sync".into(),
                    },
                });
            } else if partition.isr.len() < required && partition.elr.contains(&broker_id) {
                below_min_isr.push(|| ListedPartition {
                    partition: topic.partition_ref(number),
                    reason: format!("{} in sync, {required} needed", partition.isr.len()),
                });
            }
        }
        ShutdownProgress {
            target_index,
            remaining,
            below_min_isr,
        }
    }
}
