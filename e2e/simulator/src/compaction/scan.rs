//! Readers that begin at a log's start and keep what each key says: who needs less than `delete.retention.ms` for it
//! ends with what is committed, deletes among it. Each stays at one replica: what goes from one to another may miss a
//! tombstone that is gone there, and have read what it deletes where it was not gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    CompactionEvent,
    keys::{Left, contents_of},
};
use crate::{
    slots::{generation_in, slot},
    world::{Event, World},
};

/// The mean time between two reads of a reader.
const READ_EVERY: Duration = Duration::from_millis(100);

/// A reader on its way through a log.
#[derive(Debug)]
pub(crate) struct Scan {
    at: usize,
    life: u64,
    partition: u32,
    start: i64,
    next: i64,
    began_ms: i64,
    /// How many bytes it reads at a time.
    bytes: usize,
    /// The last record of each key that it has read.
    last: BTreeMap<u64, i64>,
}

impl World {
    pub(super) fn scan_soon(&mut self, reader: usize) {
        let delay = self.up_to(READ_EVERY * 2);
        self.schedule(delay, Event::Compaction(CompactionEvent::Scan { reader }));
    }

    /// The log is cut, or begins elsewhere: what was read of it counts no more.
    pub(crate) fn end_scans(&mut self, at: usize, partition: u32) {
        for scan in &mut self.compactions.scans {
            if scan
                .as_ref()
                .is_some_and(|scan| (scan.at, scan.partition) == (at, partition))
            {
                *scan = None;
            }
        }
    }

    pub(super) fn on_scan(&mut self, reader: usize) {
        self.scan_soon(reader);
        match self.compactions.scans[reader].take() {
            None => self.compactions.scans[reader] = self.begin_scan(),
            Some(scan) => self.compactions.scans[reader] = self.scan_on(scan),
        }
    }

    fn begin_scan(&mut self) -> Option<Scan> {
        let at = self.below(self.brokers.len() as u64);
        let number = u32::try_from(self.below(u64::from(self.settings.partitions))).unwrap_or(0);
        let bytes = [300, 3_000, 1 << 20][self.below(3)];
        let partition = slot(generation_in(self.quorum.cluster())?, number);
        let broker = &self.brokers[at];
        let (life, hosted) = (broker.life()?, broker.hosted(partition)?);
        let start = hosted.log.log_start_offset();
        Some(Scan {
            at,
            life,
            partition,
            start,
            next: start,
            began_ms: self.now_ms(),
            bytes,
            last: BTreeMap::new(),
        })
    }

    /// Reads on, if the log is as it was.
    fn scan_on(&mut self, mut scan: Scan) -> Option<Scan> {
        let broker = &self.brokers[scan.at];
        let hosted = broker.hosted(scan.partition)?;
        let is_same = broker.is_life(scan.life) && hosted.log.log_start_offset() == scan.start;
        if !is_same || hosted.log.offline().is_some() || broker.disk.damaged {
            return None;
        }
        let high_watermark = hosted.replica.high_watermark();
        let data = match hosted.log.read(scan.next, scan.bytes, true, high_watermark) {
            Ok(data) => data,
            Err(error) => {
                self.read_failed(scan.at, scan.partition, &error);
                return None;
            }
        };
        if data.bytes.is_empty() {
            self.end_scan(&scan);
            return None;
        }
        match contents_of(&data.bytes) {
            Ok(contents) => {
                for content in contents.into_iter().filter(|content| content.offset >= scan.next) {
                    let written = self.keyed(content.value);
                    if written != content.keyed {
                        self.observer.violate("a record keeps its key and its value", || {
                            format!("partition {}: {content:?}, written was {written:?}", scan.partition)
                        });
                    }
                    scan.last.insert(content.keyed.key, content.offset);
                }
            }
            Err(error) => {
                let id = self.brokers[scan.at].id;
                self.observer.sent_damaged(scan.partition, id, &error.to_string());
            }
        }
        scan.next = data.next_offset;
        Some(scan)
    }

    fn end_scan(&mut self, scan: &Scan) {
        self.learn_keys(scan.partition);
        let times_ms = self.times_ms();
        let is_quick = times_ms.0 - scan.began_ms < times_ms.1;
        let none = BTreeSet::new();
        let shadow = self.brokers[scan.at].disk.shadows[scan.partition as usize].as_ref();
        let left = Left {
            start: scan.start,
            agreed: scan.next,
            missed: shadow.map_or(&none, |shadow| &shadow.missed),
            sees_deletes: is_quick,
        };
        let mut found: Vec<i64> = scan.last.values().copied().collect();
        found.sort_unstable();
        let broken = self.compactions.keys[scan.partition as usize].judge(&left, &found, times_ms);
        self.seen(if is_quick {
            "log read from its start in time"
        } else {
            "log read from its start too late"
        });
        if let Some((rule, seen)) = broken {
            self.observer.violate(rule, || {
                format!("a reader of partition {} on broker {}: {seen}", scan.partition, scan.at)
            });
        }
    }
}
