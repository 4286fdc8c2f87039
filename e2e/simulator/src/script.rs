//! What scenarios do by hand, and what they ask. Brokers are named by their index.

use std::{path::Path, time::Duration};

use millrace_engine::{
    Command, Outcome, Partition,
    cluster::{Altered, Election, ElectionKind, ExpectedDirectory, Move, ReportOfflineReplicas},
    partition::{Alarm, Event as Step},
};

use crate::{
    disk::DIR,
    message::{Body, Call, Envelope, MessageKind},
    observer::Violation,
    quorum::index_of,
    slots::{TOPIC, number_of, record_of, reference, required},
    world::World,
};

impl World {
    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Waits until each partition is led and every broker's replicas are in sync.
    pub fn run_until_whole(&mut self) -> bool {
        self.run_until(Duration::from_secs(60), |world| world.is_whole())
    }

    /// Has the first producer send a batch; its values name it.
    pub fn produce(&mut self, partition: u32) -> Vec<u64> {
        self.produce_by(0, partition)
    }

    /// Has a producer send a batch; its values name it.
    pub fn produce_by(&mut self, producer: usize, partition: u32) -> Vec<u64> {
        let values = self.push(producer, partition);
        self.pump(producer, partition);
        // Retries need a clock.
        for millis in [50_u64, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000, 10_000] {
            let event = crate::world::Event::Pump { producer, partition };
            self.schedule(Duration::from_millis(millis), event);
        }
        values
    }

    /// Sends a batch and waits for its acknowledgement; whether it came.
    pub fn produce_and_wait(&mut self, partition: u32) -> bool {
        let values = self.produce(partition);
        self.run_until(Duration::from_secs(12), |world| world.is_acknowledged(&values))
    }

    /// Whether a broker has acknowledged these values.
    #[must_use]
    pub fn is_acknowledged(&self, values: &[u64]) -> bool {
        values.iter().all(|value| self.observer.acked.contains_key(value))
    }

    /// Whether these values were ever committed.
    #[must_use]
    pub fn are_committed(&self, partition: u32, values: &[u64]) -> bool {
        let track = &self.observer.tracks[partition as usize];
        values.iter().all(|value| track.is_committed(*value))
    }

    /// The partition's record in the newest metadata.
    #[must_use]
    pub fn record(&self, partition: u32) -> Option<&Partition> {
        record_of(self.quorum.cluster(), partition)
    }

    /// Who leads by the newest metadata.
    #[must_use]
    pub fn leader(&self, partition: u32) -> Option<usize> {
        self.record(partition)?.leader.map(index_of)
    }

    /// Whether a broker is in sync by the newest metadata.
    #[must_use]
    pub fn is_in_sync(&self, at: usize, partition: u32) -> bool {
        self.record(partition)
            .is_some_and(|record| record.isr.contains(&self.brokers[at].id))
    }

    /// Whether a broker is registered and not fenced by the newest metadata.
    #[must_use]
    pub fn is_in_service(&self, at: usize) -> bool {
        let known = self.quorum.cluster().brokers.get(&self.brokers[at].id);
        known.is_some_and(|broker| !broker.fenced)
    }

    /// Where a broker's log ends; `None` if the broker does not serve the partition.
    #[must_use]
    pub fn log_end(&self, at: usize, partition: u32) -> Option<i64> {
        self.brokers[at]
            .hosted(partition)
            .map(|hosted| hosted.log.log_end_offset())
    }

    /// Up to where a broker takes the log for committed.
    #[must_use]
    pub fn high_watermark(&self, at: usize, partition: u32) -> Option<i64> {
        self.brokers[at]
            .hosted(partition)
            .map(|hosted| hosted.replica.high_watermark())
    }

    /// Whether a broker takes itself for the leader.
    #[must_use]
    pub fn believes_to_lead(&self, at: usize, partition: u32) -> bool {
        self.brokers[at]
            .hosted(partition)
            .is_some_and(|hosted| hosted.replica.leader().is_some())
    }

    /// How many records were ever committed.
    #[must_use]
    pub fn committed(&self, partition: u32) -> i64 {
        self.observer.tracks[partition as usize].end()
    }

    /// The next record that a consumer wants.
    #[must_use]
    pub fn position(&self, consumer: usize, partition: u32) -> i64 {
        self.positions[consumer][partition as usize].next
    }

    /// On which broker's machine the controller runs.
    #[must_use]
    pub fn controller(&self) -> usize {
        self.quorum.leader
    }

    /// Has another broker lead the metadata quorum.
    pub fn move_controller(&mut self, to: usize) {
        if to != self.quorum.leader {
            self.depose(to);
        }
    }

    /// The first rule that was broken, if one was.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.observer.violation.as_ref()
    }

    /// Alarms that replicas raised: broker, partition, alarm. Without this an alarm breaks a rule.
    pub fn expect_alarms(&mut self) {
        self.expects_alarms = true;
    }

    /// The alarms so far.
    #[must_use]
    pub fn alarms(&self) -> &[(usize, u32, Alarm)] {
        &self.alarms
    }

    /// How often something rare was met.
    #[must_use]
    pub fn times(&self, what: &str) -> u64 {
        self.reached.get(what).copied().unwrap_or(0)
    }

    /// Holds back messages from now on.
    pub fn hold(&mut self, which: impl Fn(&Envelope) -> bool + 'static) {
        self.hold = Some(Box::new(which));
    }

    /// Holds nothing back any more, and delivers what was held, in its order. How many those were.
    pub fn release(&mut self) -> usize {
        self.hold = None;
        let held = std::mem::take(&mut self.held);
        let count = held.len();
        for envelope in held {
            self.deliver(envelope);
        }
        count
    }

    /// How many messages are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Delivers what was held first; whether there was anything. The others stay held, and more
    /// are held back as before.
    pub fn release_first(&mut self) -> bool {
        if self.held.is_empty() {
            return false;
        }
        let envelope = self.held.remove(0);
        self.deliver(envelope);
        true
    }

    /// A controller that was deposed, and does not know it, takes the proposals that are held back, and tells success, with
    /// the record as it is. How many those were; they are lost.
    pub fn answer_as_deposed(&mut self) -> usize {
        let (proposals, others) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|message: &Envelope| message.kind() == MessageKind::Proposal);
        self.held = others;
        let answered: Vec<Envelope> = proposals;
        for proposal in &answered {
            let Body::Command { life, call, .. } = &proposal.body else {
                continue;
            };
            let Call::Proposal { partition, .. } = *call else {
                continue;
            };
            let altered = self.record(partition).map(|record| Altered {
                partition: record.clone(),
                required: required(self.quorum.cluster(), partition),
            });
            let answer = Body::CommandAnswer {
                life: *life,
                call: *call,
                result: Ok(Outcome::Altered(altered.into_iter().map(Ok).collect())),
            };
            self.send(proposal.to, proposal.from, answer);
        }
        answered.len()
    }

    /// Holds nothing back any more; what was held is lost.
    pub fn drop_held(&mut self) -> usize {
        self.hold = None;
        std::mem::take(&mut self.held).len()
    }

    /// The power of a machine goes.
    pub fn power_off(&mut self, at: usize) {
        self.crash(at);
    }

    /// A process is killed.
    pub fn kill_process(&mut self, at: usize) {
        self.kill(at);
    }

    /// A process is started.
    pub fn start_process(&mut self, at: usize) {
        self.start(at);
    }

    /// A process stands still for a while.
    pub fn pause_process(&mut self, at: usize, time: Duration) {
        self.pause(at, time);
    }

    /// A broker leaves in order, and is started again within two seconds.
    pub fn shut_down(&mut self, at: usize) {
        self.begin_shutdown(at);
    }

    /// Nothing gets from one broker to another any more.
    pub fn cut_link(&mut self, from: usize, to: usize) {
        self.network.cut(from, to);
    }

    /// A broker is cut off from all others.
    pub fn cut_off(&mut self, at: usize) {
        self.isolate(at);
    }

    /// A link works again.
    pub fn mend_link(&mut self, from: usize, to: usize) {
        self.network.mend(from, to);
    }

    /// All cuts heal.
    pub fn mend_links(&mut self) {
        self.network.mend_all();
    }

    /// A process dies, and its machine comes back with an empty disk.
    pub fn replace_disk(&mut self, at: usize) {
        self.lose_disk(at);
    }

    /// The operator permits whatever disk the broker has now.
    pub fn permit_disk(&mut self, at: usize) {
        let directory = ExpectedDirectory::Id(self.brokers[at].disk.directory_id);
        let broker_id = self.brokers[at].id;
        self.propose(
            Command::ReplaceDirectory {
                broker_id,
                directory,
                accept_data_loss: false,
                only_if_removed: false,
            },
            None,
        );
    }

    /// Keeps a copy of a disk, whether its process runs or not.
    pub fn save_disk(&mut self, at: usize) {
        self.save(at);
    }

    /// A process dies, and its machine comes back with the disk as it was saved.
    pub fn restore_saved_disk(&mut self, at: usize) {
        self.restore_disk(at);
    }

    /// Two processes die, and their machines come back with each other's disks.
    pub fn exchange_disks(&mut self, one: usize, other: usize) {
        self.swap_disks(one, other);
    }

    /// Whether a broker's process runs.
    #[must_use]
    pub fn is_up(&self, at: usize) -> bool {
        self.brokers[at].process.is_some()
    }

    /// Two processes die, and their machines have their own disks again; both start.
    pub fn put_disks_right(&mut self, one: usize, other: usize) {
        self.swap_back(one, other);
    }

    /// Holds no further message back, and keeps those that are held.
    pub fn hold_nothing_more(&mut self) {
        self.hold = None;
    }

    /// An operator moves a partition to these brokers.
    pub fn move_partition(&mut self, partition: u32, target: &[usize]) {
        let target = target.iter().map(|at| self.brokers[*at].id).collect();
        let partition = reference(partition);
        let moves = vec![Move {
            partition,
            target: Some(target),
            throttle: None,
        }];
        self.propose(Command::ReassignPartitions { moves }, None);
    }

    /// An operator has a broker lead, if it is in sync.
    pub fn elect(&mut self, partition: u32, at: usize) {
        let replica = self.brokers[at].id;
        let partition = reference(partition);
        let kind = ElectionKind::InSync { replica };
        let elections = vec![Election { partition, kind }];
        self.propose(Command::ElectLeaders { elections }, None);
    }

    /// A leader deletes its oldest records, all below `to`; that must be committed.
    pub fn delete_records(&mut self, at: usize, partition: u32, to: i64) {
        let track = self.observer.track(partition);
        track.deleted_below = track.deleted_below.max(to);
        self.advance_log_start(at, partition, to);
    }

    /// A disk loses the end of a log under a running process.
    pub fn lose_tail(&mut self, at: usize, partition: u32, to: i64) {
        self.losses += 1;
        self.brokers[at].lost_data = true;
        self.truncate(at, partition, to);
    }

    /// A bit of the last record on a disk flips.
    pub fn damage_last_record(&mut self, at: usize, partition: u32) {
        self.losses += 1;
        self.brokers[at].lost_data = true;
        let disk = &mut self.brokers[at].disk;
        disk.damaged = true;
        disk.shadow(partition).unsure = true;
        let folder = Path::new(DIR).join(format!("{TOPIC}-{}", number_of(partition)));
        let files = disk.fs.list_files().into_iter().map(|(path, _)| path);
        let segments = files.filter(|path| path.parent() == Some(&folder) && path.extension() == Some("log".as_ref()));
        let filled = segments.filter_map(|path| Some((disk.fs.contents(&path).ok()?.len(), path)));
        let newest = filled
            .filter(|(len, _)| *len > 0)
            .max_by(|one, other| one.1.cmp(&other.1));
        let (len, path) = newest.expect("something was written");
        disk.fs.flip_bit(&path, len as u64 - 1, 0).expect("the file is there");
    }

    /// A bit of a record flips on a disk, of which nobody is told. Whether the record is there.
    pub fn flip_bit(&mut self, at: usize, partition: u32, offset: i64) -> bool {
        self.flip(at, partition, offset, (0, 0))
    }

    /// A bit of the last record flips under a running process, which meets it with a read and tells the controller.
    pub fn find_damage_in_last_record(&mut self, at: usize, partition: u32) {
        self.damage_last_record(at, partition);
        let hosted = self.brokers[at].hosted(partition).expect("it runs");
        let last = hosted.log.log_end_offset() - 1;
        let found = hosted.log.scrub(last, 1).expect("it can be read").damage;
        let from = found.first().expect("it is found").from;
        self.step(at, partition, Step::DamageFound { from });
        self.report_damage(at, partition);
    }

    fn report_damage(&mut self, at: usize, partition: u32) {
        let (broker_id, broker_epoch) = (self.brokers[at].id, self.broker_epoch(at).expect("it is registered"));
        let partitions = vec![reference(partition)];
        self.propose(
            Command::ReportOfflineReplicas(ReportOfflineReplicas {
                broker_id,
                broker_epoch,
                partitions,
            }),
            None,
        );
    }

    /// The epoch of a broker's life in the newest metadata.
    #[must_use]
    pub fn broker_epoch(&self, at: usize) -> Option<i64> {
        self.quorum
            .cluster()
            .brokers
            .get(&self.brokers[at].id)
            .map(|broker| broker.epoch)
    }
}
