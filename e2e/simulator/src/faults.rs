//! What goes wrong, and when.

use std::time::Duration;

use millrace_engine::{
    Command,
    cluster::{Election, ElectionKind, Move, PartitionRef},
    partition::OffsetQuery,
};
use millrace_log::fs::faulty::FaultPlan;

use crate::{
    broker::Broker,
    disk::Disk,
    network::CLIENTS,
    slots::{generation_in, record_of, reference, slot},
    world::{Event, World},
};

#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash,
    CrashAll,
    Kill,
    Pause,
    Shutdown,
    Wipe,
    Swap,
    Save,
    Restore,
    Full,
    SyncError,
    Cut,
    Isolate,
    Mend,
    Depose,
    Elect,
    Reassign,
    AlterFlush,
    AlterMinInsync,
    ReplaceTopic,
    Rot,
    DeleteRecords,
    Resize,
}

impl World {
    pub(crate) fn on_fault(&mut self) {
        if !self.faulty {
            return;
        }
        let every = self.settings.fault_every * 2;
        let delay = self.up_to(every) + Duration::from_millis(1);
        self.schedule(delay, Event::Fault);
        let weights = &self.settings.faults;
        let table = [
            (weights.crash, Fault::Crash),
            (weights.crash_all, Fault::CrashAll),
            (weights.kill, Fault::Kill),
            (weights.pause, Fault::Pause),
            (weights.shutdown, Fault::Shutdown),
            (weights.wipe, Fault::Wipe),
            (weights.swap, Fault::Swap),
            (weights.restore, Fault::Save),
            (weights.restore, Fault::Restore),
            (weights.full, Fault::Full),
            (weights.sync_error, Fault::SyncError),
            (weights.cut, Fault::Cut),
            (weights.isolate, Fault::Isolate),
            (weights.mend, Fault::Mend),
            (weights.depose, Fault::Depose),
            (weights.elect, Fault::Elect),
            (weights.reassign, Fault::Reassign),
            (weights.alter_flush, Fault::AlterFlush),
            (weights.alter_min_insync, Fault::AlterMinInsync),
            (weights.replace_topic, Fault::ReplaceTopic),
            (weights.rot, Fault::Rot),
            (weights.delete_records, Fault::DeleteRecords),
            (weights.resize, Fault::Resize),
        ];
        let total: u32 = table.iter().map(|entry| entry.0).sum();
        let mut drawn = u32::try_from(self.below(u64::from(total))).unwrap_or(0);
        let at = self.below(self.brokers.len() as u64);
        for (weight, fault) in table {
            if drawn < weight {
                self.note([40, at as u64, 0], || format!("fault {fault:?} at broker {at}"));
                return self.inject(fault, at);
            }
            drawn -= weight;
        }
    }

    fn inject(&mut self, fault: Fault, at: usize) {
        match fault {
            Fault::Crash => {
                self.seen("crash");
                self.crash(at);
                self.start_later(at, Duration::from_secs(8));
            }
            Fault::CrashAll => {
                self.seen("crash of all");
                for at in 0..self.brokers.len() {
                    self.crash(at);
                    self.start_later(at, Duration::from_secs(3));
                }
            }
            Fault::Kill => {
                self.seen("kill");
                self.kill(at);
                // Some come back before anybody has noticed.
                let most = [50, 4_000][self.below(2)];
                self.start_later(at, Duration::from_millis(most));
            }
            Fault::Pause => {
                self.seen("pause");
                let most = Duration::from_secs([2, 20][self.below(2)]);
                let time = self.up_to(most);
                self.pause(at, time);
            }
            Fault::Shutdown => self.begin_shutdown(at),
            Fault::Wipe => self.wipe(at),
            Fault::Swap => {
                let other = self.below(self.brokers.len() as u64);
                self.swap(at, other);
            }
            Fault::Save => self.save(at),
            Fault::Restore => self.restore(at),
            Fault::Full => {
                let room = self.below(4_000) as u64;
                self.fill(at, room);
                let delay = self.up_to(Duration::from_secs(5));
                self.schedule(delay, Event::MakeRoom { at });
            }
            Fault::SyncError => {
                self.seen("sync error");
                let capacity_bytes = self.brokers[at].disk.fs.plan().capacity_bytes;
                self.set_plan(
                    at,
                    FaultPlan {
                        fail_next_syncs: 1,
                        capacity_bytes,
                        ..FaultPlan::default()
                    },
                );
            }
            Fault::Cut => {
                let other = self.below(self.brokers.len() as u64 + 1);
                let other = if other < self.brokers.len() { other } else { CLIENTS };
                let directions = self.below(3);
                if directions != 0 {
                    self.network.cut(at, other);
                }
                if directions != 1 {
                    self.network.cut(other, at);
                }
                self.seen("link cut");
            }
            Fault::Isolate => {
                self.seen("isolated");
                self.isolate(at);
            }
            Fault::Mend => {
                let cuts: Vec<(usize, usize)> = self.network.cuts().collect();
                if !cuts.is_empty() {
                    let (from, to) = cuts[self.below(cuts.len() as u64)];
                    self.network.mend(from, to);
                }
            }
            Fault::Depose => {
                let works = self.brokers[at].process.is_some() && self.brokers[at].paused_until.is_none();
                if works && at != self.quorum.leader {
                    self.depose(at);
                }
            }
            Fault::Elect => self.elect_preferred(),
            Fault::Reassign => self.reassign(self.settings.replication),
            Fault::Resize => {
                // Not below what a write needs: fewer disks may hold a committed record then. And not one, which
                // leads again with whatever a power cut has left.
                let fewest = self.settings.min_insync.max(2).min(self.settings.replication);
                let size = fewest + self.below((self.brokers.len() - fewest + 1) as u64);
                self.seen("replication factor changed");
                self.reassign(size);
            }
            Fault::DeleteRecords => self.delete_some_records(),
            Fault::AlterFlush => {
                let value = ["ack", "os", "interval"][self.below(3)];
                self.seen("flush altered");
                self.alter_topic("flush", value);
            }
            Fault::AlterMinInsync => {
                let value = 1 + self.below(self.settings.replication as u64);
                self.seen("min.insync.replicas altered");
                self.alter_topic("min.insync.replicas", &value.to_string());
            }
            Fault::ReplaceTopic => self.replace_topic(),
            Fault::Rot => self.rot(at),
        }
    }

    fn start_later(&mut self, at: usize, most: Duration) {
        let delay = self.up_to(most);
        self.schedule(delay, Event::Start { at });
    }

    pub(crate) fn pause(&mut self, at: usize, time: Duration) {
        self.brokers[at].paused_until = Some(self.now + time);
        self.schedule(time, Event::Resume { at });
    }

    pub(crate) fn isolate(&mut self, at: usize) {
        for other in (0..self.brokers.len()).filter(|other| *other != at) {
            self.network.cut(at, other);
            self.network.cut(other, at);
        }
    }

    pub(crate) fn set_plan(&mut self, at: usize, plan: FaultPlan) {
        self.brokers[at].disk.fs.set_plan(plan);
    }

    /// Leaves so much room on a disk.
    pub(crate) fn fill(&mut self, at: usize, room: u64) {
        self.seen("disk full");
        let capacity_bytes = self.brokers[at].disk.fs.used_bytes() + room;
        self.set_plan(
            at,
            FaultPlan {
                capacity_bytes,
                ..FaultPlan::default()
            },
        );
    }

    pub(crate) fn make_room(&mut self, at: usize) {
        self.set_plan(at, FaultPlan::default());
    }

    /// The promise survives one disk less than `min.insync.replicas`, and the quorum a minority:
    /// no more are lost.
    pub(crate) fn may_lose_a_disk(&self, at: usize) -> bool {
        let required = self.fewest_copies();
        let broker = &self.brokers[at];
        let minority = (self.brokers.len() - 1) / 2;
        self.losses + 1 < required
            && self.losses < minority
            && broker.swapped_with.is_none()
            && !broker.lost_data
            && !broker.needs_permission
    }

    /// On how many disks a committed record is at least.
    fn fewest_copies(&self) -> usize {
        if self.settings.faults.alter_min_insync > 0 {
            return 1;
        }
        self.settings.min_insync.min(self.settings.replication)
    }

    fn wipe(&mut self, at: usize) {
        if self.may_lose_a_disk(at) {
            self.lose_disk(at);
            self.start_later(at, Duration::from_secs(3));
        }
    }

    /// A machine comes back with an empty disk, formatted by somebody.
    pub(crate) fn lose_disk(&mut self, at: usize) {
        self.seen("disk wiped");
        self.losses += 1;
        self.kill(at);
        let (seed, directory_id, id) = (self.rng.next_u64(), self.draw_uuid(), self.brokers[at].id);
        let broker = &mut self.brokers[at];
        broker.disk = Disk::format(seed, id, directory_id);
        broker.lost_data = true;
        broker.saved = None;
    }

    pub(crate) fn save(&mut self, at: usize) {
        let id = self.brokers[at].id;
        // What is on a stopped disk is of the last life, or of one before it.
        let last = self.quorum.cluster().brokers.get(&id).map(|known| known.epoch);
        let Broker {
            disk,
            process,
            saved,
            swapped_with: None,
            ..
        } = &mut self.brokers[at]
        else {
            return;
        };
        let life = process.as_ref().map_or(last, |process| process.broker_epoch);
        if let Some(life) = life {
            *saved = Some(disk.save(life.unsigned_abs()));
        }
    }

    fn restore(&mut self, at: usize) {
        let id = self.brokers[at].id;
        let served = self
            .quorum
            .cluster()
            .brokers
            .get(&id)
            .and_then(|broker| broker.last_served_epoch);
        // An image of the present life is found out only up to the committed floor.
        let older = self.brokers[at]
            .saved
            .as_ref()
            .is_some_and(|saved| served.is_some_and(|served| saved.life < served.unsigned_abs()));
        if older && self.may_lose_a_disk(at) {
            self.restore_disk(at);
            self.start_later(at, Duration::from_secs(3));
        }
    }

    /// A machine comes back with its disk as it was when it was saved.
    pub(crate) fn restore_disk(&mut self, at: usize) {
        self.kill(at);
        let seed = self.rng.next_u64();
        if let Some(saved) = self.brokers[at].saved.take() {
            self.seen("disk restored from an image");
            self.losses += 1;
            self.brokers[at].disk = Disk::restore(&saved, seed);
            self.brokers[at].lost_data = true;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        let free = |broker: &Broker| broker.swapped_with.is_none() && !broker.lost_data && !broker.needs_permission;
        if one == other || !free(&self.brokers[one]) || !free(&self.brokers[other]) {
            return;
        }
        self.swap_disks(one, other);
        self.start_later(one, Duration::from_secs(1));
        self.start_later(other, Duration::from_secs(1));
        let delay = self.up_to(Duration::from_secs(4)) + Duration::from_secs(1);
        self.schedule(delay, Event::SwapBack { one, other });
    }

    pub(crate) fn swap_disks(&mut self, one: usize, other: usize) {
        self.seen("disks swapped");
        self.exchange(one, other);
        self.brokers[one].swapped_with = Some(other);
        self.brokers[other].swapped_with = Some(one);
    }

    fn exchange(&mut self, one: usize, other: usize) {
        self.kill(one);
        self.kill(other);
        let (low, high) = (one.min(other), one.max(other));
        let (left, right) = self.brokers.split_at_mut(high);
        std::mem::swap(&mut left[low].disk, &mut right[0].disk);
    }

    pub(crate) fn swap_back(&mut self, one: usize, other: usize) {
        if self.brokers[one].swapped_with != Some(other) {
            return;
        }
        self.exchange(one, other);
        self.brokers[one].swapped_with = None;
        self.brokers[other].swapped_with = None;
        self.start_later(one, Duration::from_secs(1));
        self.start_later(other, Duration::from_secs(1));
    }

    fn some_partition(&mut self) -> PartitionRef {
        let partition = u32::try_from(self.below(u64::from(self.settings.partitions))).unwrap_or(0);
        reference(slot(generation_in(self.quorum.cluster()).unwrap_or(0), partition))
    }

    fn elect_preferred(&mut self) {
        let partition = self.some_partition();
        let elections = vec![Election {
            partition,
            kind: ElectionKind::Preferred,
        }];
        self.propose(Command::ElectLeaders { elections }, None);
    }

    /// At a broker that takes itself for the leader, as the product does.
    fn delete_some_records(&mut self) {
        let asked = self.some_partition().partition;
        let partition = slot(generation_in(self.quorum.cluster()).unwrap_or(0), asked);
        let leads = (0..self.brokers.len()).find_map(|at| {
            let broker = &self.brokers[at];
            let hosted = broker.hosted(partition).filter(|_| broker.paused_until.is_none())?;
            let sure =
                hosted.replica.leader().is_some() && hosted.replica.check_offset_query(OffsetQuery::EndOrTime).is_ok();
            sure.then(|| (at, hosted.log.log_start_offset(), hosted.replica.high_watermark()))
        });
        let Some((at, start, end)) = leads.filter(|(_, start, end)| start < end) else {
            return;
        };
        let to = if self.below(2) == 0 {
            self.seen("all records deleted");
            end
        } else {
            self.seen("records deleted");
            start + 1 + i64::try_from(self.below(end.abs_diff(start))).unwrap_or(0)
        };
        self.delete_records(at, partition, to);
    }

    fn reassign(&mut self, size: usize) {
        let partition = self.some_partition();
        let cluster = self.quorum.cluster();
        let record = record_of(cluster, slot(generation_in(cluster).unwrap_or(0), partition.partition));
        let moving = record.is_some_and(millrace_engine::Partition::is_moving);
        let mut ids: Vec<i32> = self.brokers.iter().map(|broker| broker.id).collect();
        for place in (1..ids.len()).rev() {
            let other = self.below(place as u64 + 1);
            ids.swap(place, other);
        }
        ids.truncate(size);
        let target = if moving && self.below(2) == 0 { None } else { Some(ids) };
        self.seen(if target.is_some() {
            "move asked for"
        } else {
            "move cancelled"
        });
        let moves = vec![Move {
            partition,
            target,
            throttle: None,
        }];
        self.propose(Command::ReassignPartitions { moves }, None);
    }
}
