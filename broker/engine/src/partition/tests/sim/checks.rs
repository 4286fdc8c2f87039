//! What must hold after every step, whatever happened.

use super::world::World;
use crate::partition::{LeaderError, ReplicaError};

impl World {
    /// A clean leader's log holds all that was ever committed; unless it hears of its lead when
    /// that is long over.
    pub(super) fn check_leader(&self, at: usize) {
        let broker = &self.brokers[at];
        if broker.replica.leader_epoch() < self.controller.partition.leader_epoch {
            return;
        }
        for (offset, record) in (0i64..).zip(&self.committed) {
            if offset >= broker.table.start {
                assert_eq!(broker.record_at(offset), Some(*record), "leader {at} lacks {offset}");
            }
        }
    }

    pub(super) fn check_watermark(&mut self, at: usize, to: i64) {
        let broker = &self.brokers[at];
        let leads = broker.replica.leader().is_some();
        for offset in broker.table.start..to {
            let record = broker.record_at(offset).unwrap();
            let index = usize::try_from(offset).unwrap();
            match self.committed.get(index) {
                Some(known) => assert_eq!(*known, record, "broker {at} shows another record at {offset}"),
                None => {
                    assert!(leads, "follower {at} is ahead of all leaders");
                    assert_eq!(index, self.committed.len());
                    self.committed.push(record);
                }
            }
        }
        // On enough disks at the moment it is first shown. A disk that was lost may have been
        // counted in good faith, which is why so many may be lost and no more.
        if leads && to == i64::try_from(self.committed.len()).unwrap() && to > 0 {
            let holders = self.brokers.iter().filter(|other| other.holds(to - 1, &self.committed));
            let lost = self.controller.required - 1 - self.lossy_left;
            assert!(
                holders.count() + lost >= self.controller.required,
                "too few disks hold {}",
                to - 1
            );
        }
    }

    /// Whoever may be elected has all that is committed on its disk, and any two logs agree.
    pub(super) fn check(&self) {
        let partition = &self.controller.partition;
        let end = i64::try_from(self.committed.len()).unwrap();
        for broker in &self.brokers {
            if partition.isr.contains(&broker.id) || partition.elr.contains(&broker.id) {
                for offset in broker.table.start..end {
                    assert!(
                        broker.holds(offset, &self.committed),
                        "broker {} may be elected and lacks {offset}: {partition:?}",
                        broker.id
                    );
                }
            }
            // A reader who was shown all that is committed is never told to start over.
            let epoch = Some(partition.leader_epoch);
            let read = broker.replica.check_read(end, epoch, i64::MAX);
            assert!(
                !matches!(read, Err(ReplicaError::Leader(LeaderError::OffsetOutOfRange { .. }))),
                "{read:?}"
            );
            assert!(
                broker.records.windows(2).all(|pair| pair[0].0 <= pair[1].0),
                "epochs fall"
            );
        }
        assert!(partition.isr.iter().all(|id| !partition.elr.contains(id)));
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            let (one, other) = (&self.brokers[one], &self.brokers[other]);
            let start = one.table.start.max(other.table.start);
            let mut agree = true;
            for offset in (start..one.table.end.min(other.table.end)).rev() {
                let (left, right) = (one.record_at(offset).unwrap(), other.record_at(offset).unwrap());
                // The same offset and epoch: the same record, and the same ones before it.
                if left.0 == right.0 {
                    agree = false;
                }
                assert!(agree || left == right, "logs differ at {offset}: {left:?} {right:?}");
            }
        }
    }
}
