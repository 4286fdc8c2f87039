//! A process's life: it opens its disk, registers, catches up, serves, leaves.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use millrace_engine::{
    BrokerId, Command, Outcome, Rejection,
    cluster::{
        DirectoryReport, ExpectedDirectory, FenceReason, LogEnd, RegisterBroker, RegistrationError, StartBroker,
        TopicLogEnds, UnfenceBroker,
    },
    partition::Event as Step,
};
use millrace_log::{DirOptions, FileSystem, LogDir, OpenDirError};
use uuid::Uuid;

use crate::{
    broker::Process,
    disk::{CLUSTER, DIR},
    message::{Body, Call, Node},
    power::{Power, Powered},
    quorum::index_of,
    slots::{id_of, number_of},
    world::{Event, World},
};

/// What a process does again and again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timer {
    Heartbeat,
    Poll,
    Checkpoint,
    Flush,
}

const POLL_EVERY: Duration = Duration::from_millis(500);
/// `flush.ms`, where a topic wants it.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How long a shutdown waits for others to take over.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

impl World {
    /// Starts a broker's process: opens the disk and all logs on it, and begins to register.
    pub(crate) fn start(&mut self, at: usize) {
        if self.brokers[at].process.is_some() || self.brokers[at].retired {
            return;
        }
        let power = Power::new();
        let fs: Arc<dyn FileSystem> = Arc::new(Powered {
            disk: self.brokers[at].disk.fs.shared(),
            power: Arc::clone(&power),
        });
        // Half of the time the disk's own identity would not have been looked at, as after a
        // hand has edited it: the controller must see it too.
        let trusting = self.below(2) == 0;
        let options = DirOptions {
            expected_cluster_id: Some(CLUSTER.into()),
            expected_node_id: (!trusting).then(|| self.brokers[at].id),
            ..DirOptions::default()
        };
        let dir = match LogDir::open(&fs, Path::new(DIR), &options) {
            Ok(dir) => dir,
            Err(error) => {
                self.seen("disk refused by the process");
                self.note([30, at as u64, 0], || format!("broker {at} does not start: {error}"));
                // The mark of a clean stop may be gone by then.
                if matches!(error, OpenDirError::Io { .. }) {
                    self.ended_uncleanly(at);
                }
                return;
            }
        };
        let Some(logs) = self.open_logs(at, &dir) else {
            return;
        };
        self.next_life += 1;
        let life = self.next_life;
        let last_epoch = dir.stored_broker_epoch();
        let report = DirectoryReport {
            clean_shutdown_epoch: last_epoch.filter(|_| dir.was_clean()),
            last_epoch,
            // A process registers before it opens its logs.
            damaged: false,
        };
        self.note([31, at as u64, life], || {
            format!("broker {at} starts life {life}: {report:?}")
        });
        let incarnation = self.draw_uuid();
        // It reads the metadata that its own disk holds, which may be old.
        let newest = self.quorum.version();
        let applied = newest.saturating_sub(self.below(6));
        let views = self.views_at_start(at, life);
        self.brokers[at].process = Some(Process {
            life,
            incarnation,
            power,
            hosted: BTreeMap::new(),
            logs,
            dir,
            report,
            broker_epoch: None,
            applied,
            image: Arc::clone(&self.quorum.images[applied]),
            shutting_down: false,
            shutdown_by: None,
            failed: false,
            coordinator: None,
            coordinate_at: None,
            views,
            lease_until: Duration::ZERO,
            held_answers: Vec::new(),
        });
        self.brokers[at].paused_until = None;
        // What a deletion left that the end of a process interrupted.
        if let Some(process) = &self.brokers[at].process {
            for left in process.dir.deleted_logs().into_iter().flatten() {
                let _ = left.remove();
            }
        }
        self.check_recorded(at);
        for timer in [Timer::Heartbeat, Timer::Poll, Timer::Checkpoint, Timer::Flush] {
            self.schedule(Duration::ZERO, Event::Process { at, life, timer });
        }
    }

    pub(crate) fn on_timer(&mut self, at: usize, life: u64, timer: Timer) {
        if !self.brokers[at].is_life(life) {
            return;
        }
        match timer {
            Timer::Heartbeat => {
                self.heartbeat(at);
                let delay = self.settings.heartbeat_every;
                self.schedule(delay, Event::Process { at, life, timer });
            }
            Timer::Poll => {
                self.poll(at);
                if self.lacks_a_replica(at) {
                    // Its log could not be made, for want of room perhaps.
                    self.seen("replica made late");
                    self.host(at);
                }
                self.schedule(POLL_EVERY, Event::Process { at, life, timer });
            }
            Timer::Checkpoint => {
                let Some(process) = &self.brokers[at].process else {
                    return;
                };
                if process.dir.write_checkpoints().is_ok() {
                    self.check_recorded(at);
                }
                let Some(process) = &self.brokers[at].process else {
                    return;
                };
                if process.dir.offline().is_some() {
                    self.directory_failed(at);
                }
                if self.brokers[at].disk.damaged {
                    self.look_at_damage(at);
                }
                self.schedule(self.settings.checkpoint_every, Event::Process { at, life, timer });
            }
            Timer::Flush => {
                self.flush_by_interval(at);
                self.schedule(FLUSH_EVERY, Event::Process { at, life, timer });
            }
        }
    }

    fn command(&mut self, at: usize, call: Call, command: Command) {
        let life = self.brokers[at].life().unwrap_or(0);
        let to = Node::Broker(self.quorum.leader);
        self.send(Node::Broker(at), to, Body::Command { life, call, command });
    }

    fn heartbeat(&mut self, at: usize) {
        let broker_id = self.brokers[at].id;
        let Some(process) = &self.brokers[at].process else {
            return;
        };
        let Some(broker_epoch) = process.broker_epoch else {
            let command = self.registration(at);
            return self.command(at, Call::Register, command);
        };
        if process.failed {
            let reason = FenceReason::DirectoryFailed;
            return self.command(
                at,
                Call::Unanswered,
                Command::FenceBroker {
                    broker_id,
                    broker_epoch,
                    reason,
                },
            );
        }
        if process.shutting_down {
            if process.shutdown_by.is_some_and(|by| by <= self.now) {
                self.seen("shutdown did not wait longer");
                return self.exit(at);
            }
            return self.command(
                at,
                Call::Shutdown,
                Command::ControlledShutdown {
                    broker_id,
                    broker_epoch,
                },
            );
        }
        let (version, own) = (process.image.version, process.image.brokers.get(&broker_id));
        let (life, sent_at) = (process.life, self.now);
        let waits = own.is_some_and(|own| own.epoch == broker_epoch && own.fenced);
        let to = Node::Broker(self.quorum.leader);
        self.send(
            Node::Broker(at),
            to,
            Body::Heartbeat {
                broker_id,
                broker_epoch,
                life,
                sent_at,
            },
        );
        if waits && version >= broker_epoch.unsigned_abs() {
            let command = self.unfence(at, broker_epoch, version);
            self.command(at, Call::Unfence, command);
        }
    }

    fn registration(&self, at: usize) -> Command {
        let broker = &self.brokers[at];
        let (incarnation, directory, replaces) =
            broker
                .process
                .as_ref()
                .map_or((Uuid::nil(), DirectoryReport::default(), None), |process| {
                    let replaces = process.image.replaced_epoch(broker.id, &process.report);
                    (process.incarnation, process.report, replaces)
                });
        Command::StartBroker(StartBroker {
            registration: RegisterBroker {
                broker_id: broker.id,
                incarnation,
                cluster_id: CLUSTER.into(),
                directory_id: broker.disk.directory_id,
                address: "a:1".into(),
                rack: String::new(),
                version: "1".into(),
                now_ms: self.now_ms(),
            },
            internal_address: "a:2".into(),
            directory,
            replaces,
        })
    }

    fn unfence(&self, at: usize, broker_epoch: i64, applied_index: u64) -> Command {
        let process = self.brokers[at].process.as_ref();
        let ends = process
            .into_iter()
            .flat_map(|process| &process.logs)
            // What is damaged is told by not being told of.
            .filter(|(_, log)| log.damage().is_empty())
            .map(|(number, log)| TopicLogEnds {
                topic_id: id_of(*number),
                ends: vec![LogEnd {
                    partition: number_of(*number),
                    log_end: log.durable_end_offset(),
                    last_epoch: log.last_record_epoch().unwrap_or(-1),
                }],
            });
        Command::UnfenceBroker(UnfenceBroker {
            broker_id: self.brokers[at].id,
            broker_epoch,
            applied_index,
            log_ends: ends.collect(),
        })
    }

    /// The controller has put a life into service: from now on it knows what that life's disk has
    /// lost. Before, nobody chooses it.
    pub(crate) fn unfenced(&mut self, id: BrokerId, broker_epoch: i64) {
        let broker = &mut self.brokers[index_of(id)];
        // Not the life before the loss, which asked late.
        if broker
            .process
            .as_ref()
            .is_some_and(|process| process.broker_epoch == Some(broker_epoch))
        {
            broker.lost_data = false;
        }
    }

    /// The controller has admitted a disk.
    pub(crate) fn admitted(&mut self, new: &RegisterBroker) {
        let owner = self
            .brokers
            .iter()
            .find(|other| other.disk.directory_id == new.directory_id);
        if let Some(owner) = owner
            .map(|other| other.disk.owner)
            .filter(|owner| *owner != new.broker_id)
        {
            let id = new.broker_id;
            self.observer.violate("a disk is one broker's", || {
                format!("the disk of broker {owner} was registered for broker {id}")
            });
        }
        let broker = &mut self.brokers[index_of(new.broker_id)];
        // Not of a life that ended since.
        if broker
            .process
            .as_ref()
            .is_some_and(|process| process.incarnation == new.incarnation)
        {
            broker.unclean = false;
        }
    }

    pub(crate) fn on_command_answer(&mut self, at: usize, life: u64, call: Call, result: Result<Outcome, Rejection>) {
        if !self.brokers[at].is_life(life) {
            return;
        }
        match (call, result) {
            (Call::Register, Ok(Outcome::Registered { broker_epoch })) => self.registered(at, broker_epoch),
            (Call::Register, Err(rejection)) => self.not_registered(at, &rejection),
            (Call::Shutdown, Ok(Outcome::Shutdown(progress))) if progress.remaining.is_empty() => self.exit(at),
            (Call::Proposal { partition, id }, result) => self.on_proposal_answer(at, partition, id, result),
            (Call::Unfence, Ok(Outcome::Unfenced { lost })) if !lost.is_empty() => self.seen("log below the floor"),
            (_, Err(Rejection::StaleBrokerEpoch { .. })) => self.kill_and_restart(at),
            _ => {}
        }
    }

    fn registered(&mut self, at: usize, broker_epoch: i64) {
        let Some(process) = self.brokers[at].process.as_mut() else {
            return;
        };
        if process.broker_epoch.is_some() {
            return;
        }
        // Durable before the life serves: the next one must be able to say which was the last.
        if process.dir.set_broker_epoch(broker_epoch).is_err() {
            return self.kill_and_restart(at);
        }
        process.broker_epoch = Some(broker_epoch);
        self.poll(at);
        self.host(at);
    }

    fn not_registered(&mut self, at: usize, rejection: &Rejection) {
        if let Rejection::Registration(RegistrationError::EarlierLife { current, .. }) = rejection {
            return self.register_again(at, *current);
        }
        self.seen("registration refused");
        self.note([32, at as u64, 0], || format!("broker {at} is refused: {rejection}"));
        self.kill(at);
        if matches!(rejection, Rejection::OtherDirectory { .. }) && self.brokers[at].swapped_with.is_none() {
            self.brokers[at].needs_permission = true;
            self.schedule(Duration::from_secs(1), Event::Permit { at });
        } else {
            self.schedule(Duration::from_secs(1), Event::Start { at });
        }
    }

    /// A life of which this process did not know has registered: it reads the metadata up to that
    /// and asks again. With old metadata still, the next heartbeat asks.
    fn register_again(&mut self, at: usize, current: i64) {
        self.seen("registered again after an unknown life");
        self.poll(at);
        let Some(process) = &self.brokers[at].process else {
            return;
        };
        let known = process.image.replaced_epoch(self.brokers[at].id, &process.report);
        if process.broker_epoch.is_none() && known >= Some(current) {
            let command = self.registration(at);
            self.command(at, Call::Register, command);
        }
    }

    /// An operator says that a broker's disk is new, and starts it.
    pub(crate) fn on_permit(&mut self, at: usize) {
        if !self.brokers[at].needs_permission {
            return;
        }
        let directory = ExpectedDirectory::Id(self.brokers[at].disk.directory_id);
        let broker_id = self.brokers[at].id;
        let known = self.quorum.cluster().brokers.get(&broker_id);
        if known.is_none_or(|known| ExpectedDirectory::Id(known.directory_id) == directory) {
            self.brokers[at].needs_permission = false;
        } else if self.controller_works() {
            let command = Command::ReplaceDirectory {
                broker_id,
                directory,
                // Where records were acknowledged before they were on disks, the others may have lost them, too. When
                // all that can come back is back, the operator gives such a partition up.
                accept_data_loss: self.written_counts && !self.faulty,
                only_if_removed: false,
            };
            self.propose(command, None);
        }
        self.schedule(Duration::from_millis(700), Event::Start { at });
    }

    /// A write, a cut or a flush failed: nothing that this directory says counts any more.
    pub(crate) fn directory_failed(&mut self, at: usize) {
        let Some(process) = self.brokers[at].process.as_mut() else {
            return;
        };
        if std::mem::replace(&mut process.failed, true) {
            return;
        }
        let (life, numbers): (u64, Vec<u32>) = (process.life, process.hosted.keys().copied().collect());
        self.seen("directory failed");
        for number in numbers {
            self.step(at, number, Step::DirectoryFailed);
        }
        let delay = self.up_to(Duration::from_secs(3));
        self.schedule(delay, Event::RestartFailed { at, life });
    }

    pub(crate) fn on_restart_failed(&mut self, at: usize, life: u64) {
        if self.brokers[at].is_life(life) {
            self.kill_and_restart(at);
        }
    }

    pub(crate) fn kill_and_restart(&mut self, at: usize) {
        self.kill(at);
        let delay = self.up_to(Duration::from_secs(2));
        self.schedule(delay, Event::Start { at });
    }

    /// The process dies; its machine and page cache live.
    pub(crate) fn kill(&mut self, at: usize) {
        if self.end_process(at) {
            self.ended_uncleanly(at);
            self.brokers[at].disk.fs.kill_process();
            self.brokers[at].paused_until = None;
            self.note([34, at as u64, 0], || format!("broker {at} is killed"));
        }
    }

    /// The power goes.
    pub(crate) fn crash(&mut self, at: usize) {
        if self.end_process(at) {
            self.ended_uncleanly(at);
        }
        self.brokers[at].disk.fs.crash();
        self.brokers[at].paused_until = None;
        self.note([35, at as u64, 0], || format!("broker {at} loses power"));
    }

    /// Whether there was one. What is dropped with it leaves the disk alone.
    fn end_process(&mut self, at: usize) -> bool {
        let process = self.brokers[at].process.take();
        let ended = process.inspect(|process| process.power.end());
        ended.is_some()
    }

    fn ended_uncleanly(&mut self, at: usize) {
        self.brokers[at].unclean = true;
        self.brokers[at].was_unclean = true;
    }

    pub(crate) fn begin_shutdown(&mut self, at: usize) {
        let by = self.now + SHUTDOWN_LIMIT;
        if let Some(process) = self.brokers[at].process.as_mut()
            && process.broker_epoch.is_some()
        {
            process.shutting_down = true;
            process.shutdown_by = Some(by);
        }
    }

    /// The end of a shutdown in order: everything is flushed, the clean mark comes last.
    fn exit(&mut self, at: usize) {
        let Some(process) = self.brokers[at].process.as_ref() else {
            return;
        };
        let epoch = process.broker_epoch.unwrap_or(-1);
        let clean = process.dir.close_clean(epoch).is_ok();
        let ends: Vec<(u32, i64)> = process
            .logs
            .iter()
            .map(|(number, log)| (*number, log.durable_end_offset()))
            .collect();
        if clean {
            self.seen("clean shutdown");
            for (number, durable) in ends {
                if self.brokers[at].disk.shadows[number as usize].is_some() {
                    self.brokers[at].disk.shadow(number).durable = durable;
                }
            }
        }
        let ends = (self.brokers[at].unclean, self.brokers[at].was_unclean);
        self.kill(at);
        if clean {
            (self.brokers[at].unclean, self.brokers[at].was_unclean) = ends;
        }
        let delay = self.up_to(Duration::from_secs(2));
        self.schedule(delay, Event::Start { at });
    }
}
