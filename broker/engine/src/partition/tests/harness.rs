//! A replica with a table of epochs, and short words for what the tests say often.

use std::time::Duration;

use crate::{
    cluster::{BrokerId, CommittedFloor, Partition},
    partition::{
        BrokerView, Effect, Event, FetchOutcome, FetchReply, FetchRequest, FetchVerdict, LogPositions, PartitionView,
        Proposal, Replica, ReplicaConfig, epochs::tests::Table,
    },
};

/// The life of a broker in these tests, unless said otherwise.
pub(super) fn life(id: BrokerId) -> i64 {
    100 + i64::from(id)
}

pub(super) fn ms(at: u64) -> Duration {
    Duration::from_millis(at)
}

/// The partition of brokers 0, 1 and 2.
pub(super) fn record(leader: Option<BrokerId>, leader_epoch: i32, partition_epoch: i32, isr: &[BrokerId]) -> Partition {
    Partition {
        isr: isr.to_vec(),
        leader,
        leader_epoch,
        partition_epoch,
        ..Partition::new(vec![0, 1, 2], |_| true)
    }
}

pub(super) fn view_of(partition: Partition) -> PartitionView {
    PartitionView {
        version: u64::try_from(partition.partition_epoch).unwrap() * 10,
        brokers: partition
            .replicas
            .iter()
            .map(|id| BrokerView {
                id: *id,
                broker_epoch: life(*id),
                fenced: false,
                shutting_down: false,
            })
            .collect(),
        partition,
        required: 2,
    }
}

pub(super) fn view(
    leader: Option<BrokerId>,
    leader_epoch: i32,
    partition_epoch: i32,
    isr: &[BrokerId],
) -> PartitionView {
    view_of(record(leader, leader_epoch, partition_epoch, isr))
}

/// A replica under test.
pub(super) struct Subject {
    pub replica: Replica,
    pub table: Table,
}

impl Subject {
    /// Broker 0 with records 0..20 of epoch 3 on its disk, of which 10 are known to be committed.
    pub(super) fn new() -> Self {
        Self::with_log(&Table::new(&[(3, 0)], 20), 20, 10)
    }

    pub(super) fn with_log(table: &Table, durable_end: i64, high_watermark: i64) -> Self {
        let log = LogPositions {
            start: table.start,
            durable_end,
            end: table.end,
        };
        Self {
            replica: Replica::new(ReplicaConfig::new(0, life(0)), log, high_watermark),
            table: table.clone(),
        }
    }

    /// Broker 0 leads epoch 5 with the given in-sync set.
    pub(super) fn leading(isr: &[BrokerId]) -> Self {
        let mut subject = Self::new();
        subject.metadata(0, &view(Some(0), 5, 7, isr));
        subject
    }

    /// Broker 0 follows broker 1 in epoch 5; the number of its fetch is 1.
    pub(super) fn following() -> Self {
        let mut subject = Self::new();
        subject.metadata(0, &view(Some(1), 5, 7, &[0, 1, 2]));
        subject
    }

    pub(super) fn step(&mut self, at: u64, event: Event<'_>) -> Vec<Effect> {
        let mut out = Vec::new();
        self.replica.step(ms(at), event, &self.table, &mut out);
        for effect in &out {
            if let Effect::AssignEpoch {
                leader_epoch,
                start_offset,
            } = effect
            {
                assert_eq!(*start_offset, self.table.end);
                self.table.assign(*leader_epoch);
            }
        }
        let (log, high_watermark) = (self.replica.log(), self.replica.high_watermark());
        assert!(
            log.start <= high_watermark && high_watermark <= log.end,
            "{log:?} {high_watermark}"
        );
        out
    }

    pub(super) fn metadata(&mut self, at: u64, view: &PartitionView) -> Vec<Effect> {
        self.step(at, Event::MetadataChanged(view))
    }

    pub(super) fn flushed(&mut self, at: u64, durable_end: i64) -> Vec<Effect> {
        let generation = self.replica.generation();
        self.step(
            at,
            Event::Flushed {
                durable_end,
                generation,
            },
        )
    }

    /// The leader appends `count` records and has them on its disk.
    pub(super) fn produce(&mut self, at: u64, count: i64) -> Vec<Effect> {
        let epoch = self.replica.leader_epoch();
        for _ in 0..count {
            self.table.append(epoch);
        }
        let log_end = self.table.end;
        let mut out = self.step(at, Event::Appended { log_end });
        out.extend(self.flushed(at, log_end));
        out
    }

    pub(super) fn fetch(&mut self, at: u64, request: FetchRequest) -> Vec<Effect> {
        self.step(at, Event::ReplicaFetch(request))
    }

    /// A fetch, and what was answered.
    pub(super) fn verdict(&mut self, at: u64, request: FetchRequest) -> FetchVerdict {
        let out = self.fetch(at, request);
        let answer = out.iter().find_map(|effect| match effect {
            Effect::AnswerFetch { verdict, .. } => Some(*verdict),
            _ => None,
        });
        answer.unwrap()
    }

    pub(super) fn reply(&mut self, at: u64, sequence: u64, outcome: FetchOutcome<'_>) -> Vec<Effect> {
        self.step(
            at,
            Event::FetchAnswered(FetchReply {
                from: 1,
                leader_epoch: 5,
                sequence,
                outcome,
            }),
        )
    }
}

/// A sound request of epoch 5 whose sender has all on its disk.
pub(super) fn request(replica: BrokerId, sequence: u64, offset: i64, last_fetched_epoch: i32) -> FetchRequest {
    FetchRequest {
        replica,
        broker_epoch: life(replica),
        leader_epoch: 5,
        sequence,
        offset,
        last_fetched_epoch: (offset > 0).then_some(last_fetched_epoch),
        durable_end: offset,
        log_start: 0,
        high_watermark: 0,
    }
}

pub(super) fn proposals(out: &[Effect]) -> Vec<Proposal> {
    out.iter()
        .filter_map(|effect| match effect {
            Effect::ProposeIsr(proposal) => Some(proposal.clone()),
            _ => None,
        })
        .collect()
}

pub(super) fn members(proposal: &Proposal) -> Vec<BrokerId> {
    proposal.isr.iter().map(|member| member.0).collect()
}

pub(super) fn floor(offset: i64, leader_epoch: i32) -> CommittedFloor {
    CommittedFloor { offset, leader_epoch }
}
