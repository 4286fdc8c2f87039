//! A metadata log in miniature, which checks every step.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::*;

/// The state and the index of the next command.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    pub(super) cluster: Cluster,
    index: u64,
}

impl Log {
    /// Brokers 0.. in service, epochs as they come.
    pub(super) fn with_brokers(count: BrokerId) -> Self {
        let mut log = Self::default();
        for id in 0..count {
            log.begin_life(id, 1, DirectoryReport::default());
            log.unfence(id, &[]);
        }
        log
    }

    /// Three brokers and the topic "t" with one partition on all, led by 0, min ISR 2.
    pub(super) fn with_partition() -> Self {
        let mut log = Self::with_brokers(3);
        log.create("t", &[0, 1, 2]);
        log
    }

    /// Applies a command and checks all that must hold.
    pub(super) fn run(&mut self, command: &Command) -> Result<Outcome, Rejection> {
        self.index += 1;
        let before = self.cluster.clone();
        let answer = self.cluster.apply(self.index, command);
        let problem = self
            .cluster
            .validate()
            .and_then(|()| Cluster::validate_step(&before, &self.cluster));
        assert_eq!(problem, Ok(()), "after {command:?}\nfrom {before:#?}");
        if answer.is_err() || self.cluster.version != self.index {
            assert_eq!(self.cluster, before, "{command:?} must change nothing");
        } else {
            assert_ne!(
                self.cluster.topics_and_rest(),
                before.topics_and_rest(),
                "{command:?} changed nothing"
            );
        }
        answer
    }

    /// Applies a command that must be accepted.
    pub(super) fn ok(&mut self, command: &Command) -> Outcome {
        self.run(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The index of the next command.
    pub(super) fn next_index(&self) -> u64 {
        self.index + 1
    }

    pub(super) fn epoch(&self, id: BrokerId) -> i64 {
        self.cluster.brokers.get(&id).map_or(-1, |broker| broker.epoch)
    }

    /// The registration that a process sends that knows the present state.
    pub(super) fn start(&self, id: BrokerId, life: u128, directory: DirectoryReport) -> StartBroker {
        StartBroker {
            replaces: self.cluster.replaced_epoch(id, &directory),
            ..start(id, life, directory)
        }
    }

    pub(super) fn begin_life(&mut self, id: BrokerId, life: u128, directory: DirectoryReport) -> i64 {
        match self.ok(&Command::StartBroker(self.start(id, life, directory))) {
            Outcome::Registered { broker_epoch } => broker_epoch,
            other => panic!("{other:?}"),
        }
    }

    /// A restart after an orderly stop.
    pub(super) fn restart_clean(&mut self, id: BrokerId, life: u128) -> i64 {
        let report = clean(self.epoch(id));
        self.begin_life(id, life, report)
    }

    /// Puts into service; `ends`: log ends of "t"'s partitions in order.
    pub(super) fn unfence(&mut self, id: BrokerId, ends: &[i64]) -> Outcome {
        let command = self.unfence_command(id, ends);
        self.ok(&command)
    }

    pub(super) fn unfence_command(&self, id: BrokerId, ends: &[i64]) -> Command {
        let ends = (0u32..)
            .zip(ends)
            .map(|(partition, end)| LogEnd {
                partition,
                log_end: *end,
                last_epoch: 0,
            })
            .collect();
        Command::UnfenceBroker(UnfenceBroker {
            broker_id: id,
            broker_epoch: self.epoch(id),
            applied_index: self.index,
            log_ends: vec![TopicLogEnds {
                topic_id: topic_id("t"),
                ends,
            }],
        })
    }

    pub(super) fn fence(&mut self, id: BrokerId) {
        let command = Command::FenceBroker {
            broker_id: id,
            broker_epoch: self.epoch(id),
            reason: FenceReason::LeaseExpired,
        };
        self.ok(&command);
    }

    pub(super) fn shut_down(&mut self, id: BrokerId) -> ShutdownProgress {
        let command = Command::ControlledShutdown {
            broker_id: id,
            broker_epoch: self.epoch(id),
        };
        match self.ok(&command) {
            Outcome::Shutdown(progress) => progress,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn create(&mut self, name: &str, replicas: &[BrokerId]) {
        self.ok(&create(name, &[replicas]));
    }

    /// The record of partition 0.
    pub(super) fn partition(&self, topic: &str) -> &Partition {
        &self.cluster.topics[topic].partitions[0]
    }

    /// Leader, in-sync, eligible and last known eligible replicas of "t"-0.
    pub(super) fn t(&self) -> (Option<BrokerId>, &[BrokerId], &[BrokerId], &[BrokerId]) {
        let p = self.partition("t");
        (p.leader, &p.isr, &p.elr, &p.last_known_elr)
    }

    /// The change of "t"-0 to this in-sync set that its leader would propose now.
    pub(super) fn proposal(&self, isr: &[BrokerId]) -> IsrChange {
        let partition = self.partition("t");
        IsrChange {
            partition: at("t"),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr
                .iter()
                .map(|id| IsrMember {
                    broker_id: *id,
                    broker_epoch: self.epoch(*id),
                })
                .collect(),
            recovering: false,
            high_watermark: 0,
            lost: Vec::new(),
            supersedes: false,
        }
    }

    /// Has `sender` propose it.
    pub(super) fn alter(&mut self, sender: BrokerId, change: IsrChange) -> Result<Partition, IsrError> {
        let command = Command::AlterPartitions(AlterPartitions {
            broker_id: sender,
            broker_epoch: self.epoch(sender),
            changes: vec![change],
        });
        match self.ok(&command) {
            Outcome::Altered(mut answers) => answers.remove(0).map(|altered| {
                let topic = &self.cluster.topics["t"];
                let required = altered.partition.required(self.cluster.min_insync_replicas(topic));
                assert_eq!(altered.required, required);
                altered.partition
            }),
            other => panic!("{other:?}"),
        }
    }

    /// The present leader of "t"-0 makes `isr` its in-sync set.
    pub(super) fn set_isr(&mut self, isr: &[BrokerId]) {
        let leader = self.partition("t").leader.unwrap();
        self.alter(leader, self.proposal(isr)).unwrap();
    }

    /// The same, and tells a high watermark.
    pub(super) fn set_isr_and_floor(&mut self, isr: &[BrokerId], high_watermark: i64) {
        let leader = self.partition("t").leader.unwrap();
        let change = IsrChange {
            high_watermark,
            ..self.proposal(isr)
        };
        self.alter(leader, change).unwrap();
    }

    pub(super) fn elect(&mut self, kind: ElectionKind) -> Result<Elected, ElectionError> {
        let elections = vec![Election {
            partition: at("t"),
            kind,
        }];
        match self.ok(&Command::ElectLeaders { elections }) {
            Outcome::Elected(mut answers) => answers.remove(0),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn reassign(&mut self, target: Option<&[BrokerId]>) -> Result<Outcome, Rejection> {
        self.reassign_at(target, 0)
    }

    /// A move at `rate` bytes a second at most; 0: no bound.
    pub(super) fn reassign_at(&mut self, target: Option<&[BrokerId]>, rate: u64) -> Result<Outcome, Rejection> {
        self.run(&Command::ReassignPartitions {
            moves: vec![Move {
                partition: at("t"),
                target: target.map(<[BrokerId]>::to_vec),
                throttle: std::num::NonZeroU64::new(rate),
            }],
        })
    }

    pub(super) fn configure(&mut self, key: &str, value: &str) {
        self.ok(&Command::AlterTopicConfigs {
            name: "t".into(),
            change: ConfigChange {
                set: BTreeMap::from([(key.to_owned(), value.to_owned())]),
                unset: Vec::new(),
            },
        });
    }
}

impl Cluster {
    /// The state without its version.
    fn topics_and_rest(&self) -> Self {
        Self {
            version: 0,
            ..self.clone()
        }
    }
}

pub(super) fn directory(id: BrokerId) -> Uuid {
    Uuid::from_u128(1_000 + id.unsigned_abs() as u128)
}

pub(super) fn topic_id(name: &str) -> Uuid {
    Uuid::from_u128(name.bytes().fold(7, |id, byte| id * 256 + u128::from(byte)))
}

/// Partition 0 of a topic.
pub(super) fn at(topic: &str) -> PartitionRef {
    PartitionRef {
        topic: topic.into(),
        topic_id: topic_id(topic),
        partition: 0,
    }
}

/// A registration of a process that has read no metadata.
pub(super) fn start(id: BrokerId, life: u128, report: DirectoryReport) -> StartBroker {
    StartBroker {
        registration: RegisterBroker {
            broker_id: id,
            incarnation: Uuid::from_u128(life),
            cluster_id: "c1".into(),
            directory_id: directory(id),
            address: format!("10.0.0.{id}:9650"),
            rack: String::new(),
            version: "0".into(),
            now_ms: 1,
        },
        internal_address: format!("10.0.0.{id}:9651"),
        directory: report,
        replaces: None,
    }
}

/// What a disk says after an orderly stop of the life with this epoch.
pub(super) fn clean(epoch: i64) -> DirectoryReport {
    DirectoryReport {
        clean_shutdown_epoch: Some(epoch),
        last_epoch: Some(epoch),
        damaged: false,
    }
}

/// What it says after a crash.
pub(super) fn crashed(epoch: i64) -> DirectoryReport {
    DirectoryReport {
        clean_shutdown_epoch: None,
        ..clean(epoch)
    }
}

pub(super) fn create(name: &str, assignments: &[&[BrokerId]]) -> Command {
    Command::CreateTopic(CreateTopic {
        name: name.into(),
        id: topic_id(name),
        assignments: assignments.iter().map(|replicas| replicas.to_vec()).collect(),
        configs: BTreeMap::new(),
        now_ms: 2,
        owner: None,
    })
}
