//! A broker: a replica and the log under it.

use super::basics::{Io, Record};
use crate::{
    cluster::BrokerId,
    partition::{Replica, epochs::tests::Table},
};

#[derive(Clone)]
pub(super) struct Broker {
    pub id: BrokerId,
    pub life: i64,
    pub replica: Replica,
    pub records: Vec<Record>,
    pub table: Table,
    pub(super) io: Option<Io>,
    /// The batches of the answer that is being taken.
    pub(super) fetched: Vec<(i64, Record)>,
    /// The index of the last version of the metadata it was given.
    pub image: usize,
    pub(super) checkpoint: i64,
}

impl Broker {
    pub(super) fn is_busy(&self) -> bool {
        self.io.is_some()
    }

    pub(super) fn record_at(&self, offset: i64) -> Option<Record> {
        let at = usize::try_from(offset.checked_sub(self.table.start)?).ok()?;
        self.records.get(at).copied()
    }

    pub(super) fn truncate(&mut self, to: i64) {
        self.table.truncate(to);
        self.records.truncate(usize::try_from(to - self.table.start).unwrap());
    }

    pub(super) fn advance_start(&mut self, to: i64) {
        self.records.drain(..usize::try_from(to - self.table.start).unwrap());
        self.table.start = to;
        let keep = self.table.entries.iter().rposition(|entry| entry.1 <= to).unwrap_or(0);
        self.table.entries.drain(..keep);
        if let Some(first) = self.table.entries.first_mut() {
            first.1 = first.1.max(to);
        }
    }

    /// Whether its disk holds the committed record at `offset`, or has deleted it since.
    pub(super) fn holds(&self, offset: i64, committed: &[Record]) -> bool {
        let known = usize::try_from(offset).ok().and_then(|at| committed.get(at));
        offset < self.table.start
            || (offset < self.replica.log().durable_end && self.record_at(offset).as_ref() == known)
    }
}
