//! A machine with a disk, and the process that may run on it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_engine::{
    BrokerId, Cluster,
    cluster::DirectoryReport,
    config::FlushPolicy,
    partition::{EpochEnd, EpochView, FetchRequest, Replica},
};
use millrace_log::{Compaction, Log, LogDir, producer::ProducerState};
use uuid::Uuid;

use crate::{
    disk::{Disk, SavedDisk},
    groups::{Coordinating, HeldAnswer},
    power::Power,
    sequencer::BatchId,
};

pub(crate) struct Broker {
    pub id: BrokerId,
    pub disk: Disk,
    pub process: Option<Process>,
    /// It stands still until then.
    pub paused_until: Option<Duration>,
    /// Its disk lost data, and its registration has not told the controller yet.
    pub lost_data: bool,
    /// A life ended without the mark of a clean stop, and the controller has not heard of the next one.
    pub unclean: bool,
    /// Some life ended so.
    pub was_unclean: bool,
    /// An operator must permit its new disk.
    pub needs_permission: bool,
    /// Its disk is another broker's.
    pub swapped_with: Option<usize>,
    /// It is to be left down.
    pub retired: bool,
    pub saved: Option<SavedDisk>,
}

/// One life of a broker's process.
pub(crate) struct Process {
    pub life: u64,
    pub incarnation: Uuid,
    /// Until when it changes anything on its disk.
    pub power: Arc<Power>,
    /// Dropped last: it holds the directory's lock.
    pub hosted: BTreeMap<u32, Hosted>,
    pub logs: BTreeMap<u32, Log>,
    pub dir: LogDir,
    pub report: DirectoryReport,
    pub broker_epoch: Option<i64>,
    /// The version of the metadata that it has applied: an index of the quorum's images.
    pub applied: usize,
    pub image: Arc<Cluster>,
    pub shutting_down: bool,
    pub shutdown_by: Option<Duration>,
    pub failed: bool,
    /// The coordinator of groups, while it leads their partition.
    pub coordinator: Option<Box<Coordinating>>,
    /// When it looks at that next.
    pub coordinate_at: Option<Duration>,
    /// The newest of the changing topics that it has heard of.
    pub views: usize,
    /// Until then it knows that the controller takes it for alive.
    pub lease_until: Duration,
    /// Answers of a coordinator that wait for that.
    pub held_answers: Vec<HeldAnswer>,
}

/// A partition's replica and its log.
pub(crate) struct Hosted {
    pub log: Log,
    pub replica: Replica,
    /// As the metadata that the broker knows says.
    pub flush: FlushPolicy,
    pub waiters: Vec<Waiter>,
    /// Followers' fetches that wait for something to tell, and until when.
    pub parked: Vec<(FetchRequest, u64, Duration)>,
    /// What the answer under way brought.
    pub fetched: Bytes,
    pub producers: Option<ProducerState>,
    pub tick_at: Option<Duration>,
    pub flush_begins: bool,
    /// The first offset at which a read met damage that was not looked at yet.
    pub damage_met: Option<i64>,
    /// The round of compaction that is under way.
    pub compaction: Option<Compaction>,
}

/// A producer that waits for the high watermark.
pub(crate) struct Waiter {
    pub producer: usize,
    pub batch: BatchId,
    pub attempt: u64,
    pub base_offset: i64,
    pub end_offset: i64,
    pub values: Vec<u64>,
}

impl Broker {
    pub(crate) fn life(&self) -> Option<u64> {
        self.process.as_ref().map(|process| process.life)
    }

    pub(crate) fn is_life(&self, life: u64) -> bool {
        self.life() == Some(life)
    }

    pub(crate) fn hosted(&self, partition: u32) -> Option<&Hosted> {
        self.process.as_ref()?.hosted.get(&partition)
    }

    pub(crate) fn hosted_mut(&mut self, partition: u32) -> Option<&mut Hosted> {
        self.process.as_mut()?.hosted.get_mut(&partition)
    }
}

/// A log's epoch table as the rules ask for it.
pub(crate) struct Epochs<'a>(pub &'a Log);

impl EpochView for Epochs<'_> {
    fn last_record_epoch(&self) -> Option<i32> {
        if self.0.log_start_offset() == self.0.log_end_offset() {
            return None;
        }
        self.0.last_record_epoch()
    }

    fn end_of_epoch(&self, epoch: i32) -> Option<EpochEnd> {
        let (epoch, end_offset) = self.0.end_offset_for_epoch(epoch)?;
        Some(EpochEnd { epoch, end_offset })
    }

    fn ends_with_empty_epoch(&self) -> bool {
        let end = self.0.log_end_offset();
        self.0.latest_epoch().is_some_and(|latest| latest.start_offset >= end)
    }
}
