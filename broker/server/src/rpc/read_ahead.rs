//! Reading on for a reader that catches up, while its last answer is still on the way.
//!
//! A reader asks for the next records only once it has the ones before. Between its request and
//! the answer lie finding, mapping and checking some megabytes; done in advance, the connection
//! does not stand still meanwhile. Kafka leaves this to the operating system's read-ahead, which
//! checks nothing.

use std::sync::Arc;

use millrace_log::ReadData;
use tokio::task::JoinHandle;

use crate::{
    memory::{self, ConnectionBudget},
    partition::Partition,
};

/// Where a reader will probably go on.
#[derive(Debug)]
pub struct Next {
    partition: Arc<Partition>,
    offset: i64,
    leader_epoch: i32,
    max_bytes: usize,
}

impl Next {
    /// What follows `data`, read with room for `max_bytes`; `None` if the reader has caught
    /// up, or nearly so: then it waits for what is not written yet.
    pub fn behind(partition: &Arc<Partition>, data: &ReadData, max_bytes: usize) -> Option<Self> {
        if data.bytes.is_empty() || data.bytes.len() < max_bytes / 2 {
            return None;
        }
        let offset = data.next_offset;
        let offsets = partition.offsets();
        (offset < offsets.high_watermark).then(|| Self {
            partition: partition.clone(),
            offset,
            leader_epoch: offsets.leader_epoch,
            max_bytes,
        })
    }

    /// Begins to read, if there is memory to spare.
    pub fn begin(self, budget: Option<&ConnectionBudget>) -> Option<ReadAhead> {
        let permit = match budget {
            Some(budget) => Some(budget.spare_for_answer(self.max_bytes)?),
            None => None,
        };
        let (partition, offset, max_bytes) = (self.partition.clone(), self.offset, self.max_bytes);
        let reading = tokio::task::spawn_blocking(move || {
            let up_to = partition.offsets().high_watermark;
            // What fails here fails again, and is told, when it is asked for.
            // A batch that is larger than what was taken is read when it is asked for.
            let mut data = partition.read_within(offset, max_bytes, up_to).ok()?;
            if data.bytes.is_empty() {
                return None;
            }
            if let Some(permit) = permit {
                data.bytes = memory::hold(data.bytes, permit);
            }
            Some(data)
        });
        Some(ReadAhead { of: self, reading })
    }
}

/// A read that was begun. Dropped, its memory is given back when it ends.
#[derive(Debug)]
pub struct ReadAhead {
    of: Next,
    reading: JoinHandle<Option<ReadData>>,
}

impl ReadAhead {
    /// The records, if they are what a request wants: of `partition` from `offset` on, at most
    /// `max_bytes`. The caller has checked that the offset is still in the log.
    ///
    /// A leader never changes what is committed, so that what was read within its epoch is what
    /// would be read now.
    pub async fn take(self, partition: &Arc<Partition>, offset: i64, max_bytes: usize) -> Option<ReadData> {
        let of = &self.of;
        let wanted = Arc::ptr_eq(&of.partition, partition)
            && of.offset == offset
            && of.max_bytes <= max_bytes
            && of.leader_epoch == partition.offsets().leader_epoch;
        if !wanted {
            return None;
        }
        self.reading.await.ok().flatten()
    }
}
