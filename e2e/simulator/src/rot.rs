//! Bits that flip in data at rest, and how a broker finds that out while it serves.

use std::{path::Path, time::Duration};

use millrace_engine::{Command, cluster::ReportOfflineReplicas, partition::Event as Step};
use millrace_log::ReadError;

use crate::{
    disk::DIR,
    message::{Body, Call, Node},
    slots::{TOPIC, generation_in, number_of, reference, slot},
    world::{Event, World},
};

impl World {
    /// A bit flips in a committed record on one disk, below what the disk has recorded to be flushed: above,
    /// recovery takes it for a torn tail. Not on more disks than the promise allows for.
    pub(crate) fn rot(&mut self, at: usize) {
        let number = u32::try_from(self.below(u64::from(self.settings.partitions))).unwrap_or(0);
        let partition = slot(generation_in(self.quorum.cluster()).unwrap_or(0), number);
        let (low, high) = self.at_rest(at, partition);
        if low >= high || !self.may_lose_a_disk(at) || self.brokers[at].disk.damaged {
            return;
        }
        let offset = low + i64::try_from(self.below(high.abs_diff(low))).unwrap_or(0);
        let (byte, bit) = (self.below(8), self.below(8));
        if self.flip(at, partition, offset, (byte as u64, bit)) {
            self.seen("bit flipped");
            self.note([42, at as u64, u64::from(partition)], || {
                format!("a bit of {offset} in partition {partition} flips on broker {at}")
            });
        }
    }

    /// The offsets of a log that are committed, and on the disk for long: from the first, below the second.
    fn at_rest(&self, at: usize, partition: u32) -> (i64, i64) {
        let shadow = self.brokers[at].disk.shadows[partition as usize].as_ref();
        let settled = shadow.filter(|shadow| !shadow.unsure).map(|shadow| {
            let committed = self.observer.tracks[partition as usize].agrees_up_to(shadow);
            (shadow.start, shadow.recorded.min(committed))
        });
        settled.unwrap_or((0, 0))
    }

    /// Flips a bit of a record's value on a disk; whether the record was found there.
    pub(crate) fn flip(&mut self, at: usize, partition: u32, offset: i64, (byte, bit): (u64, usize)) -> bool {
        let disk = &mut self.brokers[at].disk;
        let Some(entry) = disk.shadow(partition).at(offset).copied() else {
            return false;
        };
        let value = entry.value.to_be_bytes();
        let folder = Path::new(DIR).join(format!("{TOPIC}-{}", number_of(partition)));
        let files = disk.fs.list_files().into_iter().map(|(path, _)| path);
        let mut segments =
            files.filter(|path| path.parent() == Some(&folder) && path.extension() == Some("log".as_ref()));
        let place = segments.find_map(|path| {
            let contents = disk.fs.contents(&path).ok()?;
            let found = contents.windows(value.len()).position(|bytes| bytes == value)?;
            Some((path, found as u64))
        });
        let Some((path, found)) = place else { return false };
        let bit = u8::try_from(bit).unwrap_or(0);
        if disk.fs.flip_bit(&path, found + byte, bit).is_err() {
            return false;
        }
        disk.damaged = true;
        self.losses += 1;
        true
    }

    /// A read could not be answered. Of a sound disk that must not be.
    pub(crate) fn read_failed(&mut self, at: usize, partition: u32, error: &ReadError) {
        let (id, damaged) = (self.brokers[at].id, self.brokers[at].disk.damaged);
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        if hosted.log.offline().is_some() {
            return;
        }
        if !damaged {
            return self.observer.unreadable(partition, id, &error.to_string());
        }
        // In the broker itself only leaders are read from.
        if let ReadError::Corrupt { from, .. } = error
            && hosted.replica.leader().is_some()
        {
            let known = hosted.log.damage();
            if !known.iter().any(|range| (range.from..range.to).contains(from)) {
                hosted.damage_met = Some(hosted.damage_met.map_or(*from, |met| met.min(*from)));
            }
        }
    }

    /// Looks at what reads met, and asks the controller to do without replicas that are damaged: again and again
    /// until it does.
    pub(crate) fn look_at_damage(&mut self, at: usize) {
        let Some(process) = self.brokers[at].process.as_mut() else {
            return;
        };
        let met = process.hosted.iter_mut();
        let met: Vec<(u32, i64)> = met
            .filter_map(|(number, hosted)| Some((*number, hosted.damage_met.take()?)))
            .collect();
        for (number, from) in met {
            let Some(hosted) = self.brokers[at].hosted(number) else {
                continue;
            };
            let found = hosted
                .log
                .scrub(from, 1)
                .map(|report| report.damage)
                .unwrap_or_default();
            if let Some(from) = found.iter().map(|range| range.from).min() {
                self.seen("damage met by a read");
                self.step(at, number, Step::DamageFound { from });
                self.restart_damaged(at);
            }
        }
        self.report_damaged(at);
    }

    /// A round of compaction may find damage only when all is healed: who is told of it restarts the broker, as
    /// [`World::mend_core`] does, once the log is cut.
    fn restart_damaged(&mut self, at: usize) {
        if !self.faulty
            && self.is_compacted()
            && let Some(life) = self.brokers[at].life()
        {
            self.schedule(Duration::from_secs(1), Event::RestartFailed { at, life });
        }
    }

    fn report_damaged(&mut self, at: usize) {
        let Some(process) = &self.brokers[at].process else {
            return;
        };
        let Some(broker_epoch) = process.broker_epoch else {
            return;
        };
        let damaged = process
            .hosted
            .iter()
            .filter(|(_, hosted)| hosted.replica.is_to_be_replaced());
        let partitions: Vec<_> = damaged.map(|(number, _)| reference(*number)).collect();
        if partitions.is_empty() {
            return;
        }
        let life = process.life;
        let report = ReportOfflineReplicas {
            broker_id: self.brokers[at].id,
            broker_epoch,
            partitions,
        };
        let (to, call) = (Node::Broker(self.quorum.leader), Call::Unanswered);
        let command = Command::ReportOfflineReplicas(report);
        self.send(Node::Broker(at), to, Body::Command { life, call, command });
    }
}
