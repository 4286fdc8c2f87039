//! Leaderships that go back to the replicas that should have them (Kafka's
//! `auto.leader.rebalance.enable`): after a restart a broker leads nothing, and without this others
//! would lead for it for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millrace_engine::{
    BrokerId, Cluster,
    cluster::{Election, ElectionKind},
};

use crate::limits;

/// How long brokers have been in service without a break, as the quorum's leader saw it. One that
/// comes and goes must not pull its leaderships to and fro (KAFKA-9866).
#[derive(Debug, Default)]
pub(super) struct InService {
    since: BTreeMap<BrokerId, (i64, Duration)>,
    /// For which version of the metadata, and which brokers that may lead, there was nothing to choose: it is
    /// asked often, and of many partitions.
    nothing_for: Option<(u64, BTreeSet<BrokerId>)>,
}

impl InService {
    /// Looks who is in service now.
    pub(super) fn look(&mut self, cluster: &Cluster, now: Duration) {
        let lives: BTreeMap<BrokerId, i64> = cluster
            .brokers
            .values()
            .filter(|broker| broker.is_active())
            .map(|broker| (broker.id, broker.epoch))
            .collect();
        self.since.retain(|id, (epoch, _)| lives.get(id) == Some(epoch));
        for (id, epoch) in lives {
            self.since.entry(id).or_insert((epoch, now));
        }
    }

    /// The leaders to choose: of partitions that another replica leads than the preferred one, where that
    /// is in sync and has been in service for long enough. At most so many that nothing stands still.
    /// `wall_ms` is the time by which maintenance ends, in milliseconds since 1970.
    pub(super) fn elections(&mut self, cluster: &Cluster, now: Duration, wall_ms: i64) -> Vec<Election> {
        let maintained = cluster.maintenance_at(wall_ms);
        let settled: BTreeSet<BrokerId> = self
            .since
            .iter()
            .filter(|(_, (_, since))| now.saturating_sub(*since) >= limits::PREFERRED_LEADER_AFTER)
            .map(|(id, _)| *id)
            .filter(|id| maintained.is_none_or(|slot| slot.broker_id != *id))
            .collect();
        if matches!(&self.nothing_for, Some((version, ids)) if *version == cluster.version && *ids == settled) {
            return Vec::new();
        }
        let elections: Vec<Election> = cluster
            .partitions()
            .filter(|(_, _, partition)| {
                let preferred = partition.preferred_leader();
                preferred.is_some_and(|id| partition.isr.contains(&id) && settled.contains(&id))
                    && partition.leader.is_some()
                    && partition.leader != preferred
            })
            .take(limits::PREFERRED_LEADERS_AT_ONCE)
            .map(|(topic, number, _)| Election {
                partition: topic.partition_ref(number),
                kind: ElectionKind::Preferred,
            })
            .collect();
        self.nothing_for = elections.is_empty().then_some((cluster.version, settled));
        elections
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_engine::{
        Command,
        cluster::{CreateTopic, DirectoryReport, RegisterBroker, StartBroker, UnfenceBroker},
    };
    use uuid::Uuid;

    use super::*;

    /// Three brokers in service, one topic with a partition that broker 0 should lead.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        let mut index = 0;
        let mut apply = |cluster: &mut Cluster, command: Command| {
            index += 1;
            cluster.apply(index, &command).unwrap();
        };
        for id in 0..3 {
            let start = StartBroker {
                registration: RegisterBroker {
                    broker_id: id,
                    incarnation: Uuid::from_u128(100 + id as u128),
                    cluster_id: "c".into(),
                    directory_id: Uuid::from_u128(1 + id as u128),
                    address: format!("b{id}:1"),
                    rack: String::new(),
                    version: String::new(),
                    now_ms: 0,
                },
                internal_address: format!("b{id}:2"),
                directory: DirectoryReport::default(),
                replaces: None,
            };
            apply(&mut cluster, Command::StartBroker(start));
            let epoch = cluster.brokers[&id].epoch;
            let unfence = UnfenceBroker {
                broker_id: id,
                broker_epoch: epoch,
                applied_index: u64::MAX,
                log_ends: Vec::new(),
            };
            apply(&mut cluster, Command::UnfenceBroker(unfence));
        }
        let create = CreateTopic {
            name: "t".into(),
            id: Uuid::from_u128(9),
            assignments: vec![vec![0, 1, 2]],
            configs: BTreeMap::new(),
            now_ms: 0,
            owner: None,
        };
        apply(&mut cluster, Command::CreateTopic(create));
        cluster
    }

    fn led_by(cluster: &Cluster, leader: Option<BrokerId>) -> Cluster {
        let mut other = cluster.clone();
        other.version += 1;
        let topic = other.topics.get_mut("t").unwrap();
        Arc::make_mut(topic).partitions[0].leader = leader;
        other
    }

    #[test]
    fn leaderships_go_back_once_a_broker_has_stayed() {
        let cluster = cluster();
        let (soon, later) = (
            Duration::from_secs(1),
            Duration::from_secs(1) + limits::PREFERRED_LEADER_AFTER,
        );
        let mut service = InService::default();
        service.look(&cluster, soon);
        assert!(service.elections(&cluster, later, 0).is_empty(), "it leads already");
        let moved = led_by(&cluster, Some(1));
        assert!(service.elections(&moved, soon, 0).is_empty(), "not at once");
        assert_eq!(service.elections(&moved, later, 0).len(), 1);
        assert!(
            service.elections(&led_by(&cluster, None), later, 0).is_empty(),
            "not by this rule where none leads"
        );
    }

    #[test]
    fn who_comes_and_goes_waits_anew() {
        let mut cluster = led_by(&cluster(), Some(1));
        let mut service = InService::default();
        service.look(&cluster, Duration::ZERO);
        cluster.brokers.get_mut(&0).unwrap().fenced = true;
        service.look(&cluster, limits::PREFERRED_LEADER_AFTER / 2);
        cluster.brokers.get_mut(&0).unwrap().fenced = false;
        service.look(&cluster, limits::PREFERRED_LEADER_AFTER);
        assert!(
            service
                .elections(&cluster, limits::PREFERRED_LEADER_AFTER, 0)
                .is_empty()
        );
        let later = 2 * limits::PREFERRED_LEADER_AFTER;
        assert_eq!(service.elections(&cluster, later, 0).len(), 1);
    }

    #[test]
    fn a_replica_out_of_sync_or_about_to_leave_gets_nothing() {
        let mut cluster = led_by(&cluster(), Some(1));
        let mut service = InService::default();
        service.look(&cluster, Duration::ZERO);
        let later = limits::PREFERRED_LEADER_AFTER;
        cluster.maintenance = Some(millrace_engine::cluster::MaintenanceSlot {
            holder: "me".into(),
            broker_id: 0,
            broker_epoch: cluster.brokers[&0].epoch,
            until_ms: 1_000,
        });
        assert!(service.elections(&cluster, later, 999).is_empty());
        assert_eq!(service.elections(&cluster, later, 1_000).len(), 1, "its time is up");
        cluster.maintenance = None;
        let topic = cluster.topics.get_mut("t").unwrap();
        Arc::make_mut(topic).partitions[0].isr = vec![1, 2];
        assert!(service.elections(&cluster, later, 0).is_empty());
    }
}
