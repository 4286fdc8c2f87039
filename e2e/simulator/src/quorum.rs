//! The metadata quorum as one modelled replicated log: commands get an index when a majority has
//! them, its leader changes, and what a deposed leader had under way is committed late or lost.
//! The rules of the commands are the real ones.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use millrace_engine::{
    BrokerId, Cluster, Command, Outcome, Partition,
    cluster::{Altered, FenceReason, IsrError},
    config::FlushPolicy,
};

use crate::{
    message::{Body, Call, Node},
    slots::{TOPIC, generation_in, generation_of, records, required},
    world::{Event, World, flush_policy},
};

/// How long a broker that leads the quorum may be away before another is chosen.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a controller that reaches no majority tries again.
const RETRY_EVERY: Duration = Duration::from_millis(50);

pub(crate) struct Quorum {
    /// On which broker's machine the controller runs.
    pub leader: usize,
    pub term: u64,
    /// The metadata after each index; the last one is what commands are judged by.
    pub images: Vec<Arc<Cluster>>,
    pending: VecDeque<Pending>,
    last_due: Duration,
    /// When it is looked at again whether the controller works, while it does not.
    retry_at: Option<Duration>,
    /// What the present controller heard of each broker.
    heard: BTreeMap<BrokerId, Heard>,
    away_since: Option<Duration>,
}

/// A broker's lease.
#[derive(Clone, Copy)]
struct Heard {
    broker_epoch: i64,
    /// When its last sign of life came.
    last: Duration,
    /// Whether its end was decided, by a command that is under way.
    is_over: bool,
}

impl Heard {
    fn of(broker_epoch: i64, last: Duration) -> Self {
        Self {
            broker_epoch,
            last,
            is_over: false,
        }
    }
}

struct Pending {
    /// When a majority has it, if one can be reached.
    due: Duration,
    command: Command,
    reply: Option<(usize, u64, Call)>,
}

impl Quorum {
    pub(crate) fn new() -> Self {
        Self {
            leader: 0,
            term: 1,
            images: vec![Arc::new(Cluster::default())],
            pending: VecDeque::new(),
            last_due: Duration::ZERO,
            retry_at: None,
            heard: BTreeMap::new(),
            away_since: None,
        }
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.images[self.images.len() - 1]
    }

    pub(crate) fn version(&self) -> usize {
        self.images.len() - 1
    }
}

impl World {
    /// Whether the present controller can commit: its machine runs and reaches a majority.
    pub(crate) fn controller_works(&self) -> bool {
        self.could_lead_quorum(self.quorum.leader)
    }

    fn could_lead_quorum(&self, at: usize) -> bool {
        // A disk that lost data does not vote before it is admitted again.
        let runs = |at: usize| {
            let broker = &self.brokers[at];
            let sound = !broker.lost_data && !broker.needs_permission;
            broker.process.is_some() && broker.paused_until.is_none() && sound
        };
        let reached = (0..self.brokers.len()).filter(|other| runs(*other) && self.connected(at, *other));
        runs(at) && reached.count() > self.brokers.len() / 2
    }

    /// A command has reached a broker that may lead the quorum.
    pub(crate) fn on_command(&mut self, at: usize, from: usize, life: u64, call: Call, command: Command) {
        if at != self.quorum.leader {
            // Whoever sent it tries again elsewhere.
            return;
        }
        if call == Call::Register && !self.brokers[from].is_life(life) {
            self.seen("registration of a dead process");
        }
        self.propose(command, Some((from, life, call)));
    }

    /// Gives a command to the quorum's leader.
    pub(crate) fn propose(&mut self, command: Command, reply: Option<(usize, u64, Call)>) {
        let most = self.settings.network.delay_max * 2;
        let due = (self.now + self.up_to(most)).max(self.quorum.last_due);
        self.quorum.last_due = due;
        self.quorum.pending.push_back(Pending { due, command, reply });
        let term = self.quorum.term;
        self.schedule(due - self.now, Event::Commit { term });
    }

    pub(crate) fn on_commit(&mut self, term: u64) {
        if term != self.quorum.term {
            return;
        }
        if self.quorum.retry_at.is_some_and(|at| at > self.now) {
            return;
        }
        if !self.controller_works() {
            self.quorum.retry_at = Some(self.now + RETRY_EVERY);
            self.schedule(RETRY_EVERY, Event::Commit { term });
            return;
        }
        self.quorum.retry_at = None;
        let now = self.now;
        while let Some(pending) = self.quorum.pending.pop_front_if(|pending| pending.due <= now) {
            self.commit(&pending.command, pending.reply);
        }
    }

    fn commit(&mut self, command: &Command, reply: Option<(usize, u64, Call)>) {
        let index = self.quorum.images.len() as u64;
        let before = Arc::clone(self.quorum.cluster());
        let mut after = Cluster::clone(&before);
        let result = after.apply(index, command);
        self.note([10, index, u64::from(result.is_ok())], || {
            format!("commit {index}: {command:?} -> {result:?}")
        });
        if let Err(problem) = after.validate().and_then(|()| Cluster::validate_step(&before, &after)) {
            self.observer
                .violate("the metadata is in order after each command", || {
                    format!("{problem}: {command:?}")
                });
        }
        if let (Command::StartBroker(start), Ok(_)) = (command, &result) {
            self.admitted(&start.registration);
        }
        if let Command::FenceBroker {
            broker_id,
            broker_epoch,
            ..
        } = command
            && let Some(heard) = self.quorum.heard.get_mut(broker_id)
        {
            heard.is_over &= heard.broker_epoch != *broker_epoch;
        }
        if let (Command::UnfenceBroker(unfence), Ok(_)) = (command, &result) {
            self.unfenced(unfence.broker_id, unfence.broker_epoch);
        }
        let changed = after.version != before.version;
        self.written_counts |= flush_policy(&after).is_some_and(|policy| policy != FlushPolicy::Ack);
        if changed {
            self.count_elections(&before, &after);
        }
        self.quorum.images.push(Arc::new(after));
        if let (Command::DeleteTopic { .. }, Ok(_)) = (command, &result) {
            self.deleted.extend(before.topics.get(TOPIC).map(|topic| topic.id));
        }
        if let (Command::CreateTopic(create), Ok(_)) = (command, &result)
            && let Some(generation) = generation_of(create.id).filter(|generation| *generation > 0)
        {
            self.serve_clients(generation);
        }
        if let Some((to, life, call)) = reply {
            let from = Node::Broker(self.quorum.leader);
            let body = Body::CommandAnswer { life, call, result };
            self.send(from, Node::Broker(to), body);
        }
        if changed {
            self.check_members();
            for at in 0..self.brokers.len() {
                self.poll_soon(at);
            }
        }
    }

    fn count_elections(&mut self, before: &Cluster, after: &Cluster) {
        if generation_in(before) != generation_in(after) {
            return;
        }
        for ((_, old), (_, new)) in records(before).zip(records(after)) {
            if new.leader_epoch > old.leader_epoch {
                self.seen(if new.leader.is_none() {
                    "leaderless"
                } else {
                    "leader elected"
                });
                if new.leader.is_some_and(|id| old.elr.contains(&id)) {
                    self.seen("eligible leader elected");
                }
            }
            if new.isr.len() > old.isr.len() {
                self.seen("in-sync set grew");
            }
        }
    }

    /// The quorum's leader is replaced. Of what it had under way a prefix was on a majority and
    /// is committed by the next one, without an answer; the rest is gone.
    pub(crate) fn depose(&mut self, to: usize) {
        let pending = std::mem::take(&mut self.quorum.pending);
        let kept = self.below(pending.len() as u64 + 1);
        self.quorum.term += 1;
        self.quorum.leader = to;
        self.quorum.last_due = self.now;
        self.quorum.retry_at = None;
        let term = self.quorum.term;
        self.note([11, term, to as u64], || {
            format!("broker {to} leads the quorum in term {term}")
        });
        self.seen("quorum leader changed");
        for late in pending.into_iter().take(kept) {
            self.seen("command of a deposed controller committed");
            self.commit(&late.command, None);
        }
        // A new controller has heard of nobody, which says nothing about them.
        let now = self.now;
        let cluster = Arc::clone(self.quorum.cluster());
        self.quorum.heard = cluster
            .brokers
            .values()
            .map(|broker| (broker.id, Heard::of(broker.epoch, now)))
            .collect();
        self.quorum.away_since = None;
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        at: usize,
        (broker_id, broker_epoch): (BrokerId, i64),
        (life, sent_at): (u64, Duration),
    ) {
        if at == self.quorum.leader {
            let fresh = Heard::of(broker_epoch, self.now);
            let heard = self.quorum.heard.entry(broker_id).or_insert(fresh);
            if heard.broker_epoch <= broker_epoch {
                let is_over = heard.is_over && heard.broker_epoch == broker_epoch;
                *heard = Heard { is_over, ..fresh };
                let own = self.quorum.cluster().brokers.get(&broker_id);
                // Who is fenced, or is about to be, is heard and has no promise: it is not in service.
                let is_active = own.is_some_and(|own| own.epoch == broker_epoch && own.is_active());
                // Only coordinators ask whether their broker's lease holds.
                if self.has_groups() && self.controller_works() && is_active && !is_over {
                    let to = Node::Broker(index_of(broker_id));
                    self.send(Node::Broker(at), to, Body::HeartbeatCounted { life, sent_at });
                }
            }
        }
    }

    /// The controller looks at the leases, and the voters at the controller.
    pub(crate) fn on_controller_tick(&mut self) {
        self.schedule(self.settings.heartbeat_every / 2, Event::ControllerTick);
        if !self.controller_works() {
            let since = *self.quorum.away_since.get_or_insert(self.now);
            if self.now - since >= PATIENCE
                && let Some(next) = (0..self.brokers.len()).find(|at| self.could_lead_quorum(*at))
            {
                self.depose(next);
            }
            return;
        }
        self.quorum.away_since = None;
        let cluster = Arc::clone(self.quorum.cluster());
        for broker in cluster.brokers.values().filter(|broker| !broker.fenced) {
            let (now, lease) = (self.now, self.settings.lease);
            let fresh = Heard::of(broker.epoch, now);
            let heard = self.quorum.heard.entry(broker.id).or_insert(fresh);
            if heard.broker_epoch != broker.epoch {
                *heard = fresh;
            }
            if now - heard.last > lease {
                // Asked once in a while, not each time: the command may be under way.
                *heard = Heard { is_over: true, ..fresh };
                self.seen("fenced");
                self.propose(
                    Command::FenceBroker {
                        broker_id: broker.id,
                        broker_epoch: broker.epoch,
                        reason: FenceReason::LeaseExpired,
                    },
                    None,
                );
            }
        }
    }

    /// Everybody who may be elected, and did not lose data, holds all that is committed. Asked when
    /// more is committed, when others may be elected, and when a log has lost or may have lost records.
    pub(crate) fn check_members(&mut self) {
        let cluster = Arc::clone(self.quorum.cluster());
        for (number, partition) in records(&cluster) {
            self.check_candidates(number, partition, required(&cluster, number));
            for id in partition.isr.iter().chain(&partition.elr) {
                let broker = &self.brokers[index_of(*id)];
                // Its disk may be in another's machine for a while.
                let mounted = broker.swapped_with.map_or(broker, |other| &self.brokers[other]);
                let shadow = mounted.disk.shadows[number as usize].as_ref();
                let track = &self.observer.tracks[number as usize];
                let written = self.written_counts;
                let holds =
                    track.committed.is_empty() || shadow.is_some_and(|shadow| track.is_held_by(shadow, written));
                let may_lack = broker.lost_data || (written && broker.unclean);
                if !holds && !may_lack {
                    let (end, durable) = (track.end(), shadow.map(|shadow| shadow.durable));
                    self.observer.violate("whoever may be elected holds all that is committed", || {
                        format!(
                            "partition {number}: broker {id} has {durable:?} on disk, {end} records are committed; {partition:?}"
                        )
                    });
                }
            }
        }
    }

    /// Nobody may be elected only where as many as must be in sync have lost data, or may have: where what is
    /// written counts, each unclean end may have lost some.
    fn check_candidates(&mut self, number: u32, partition: &Partition, required: usize) {
        if !partition.isr.is_empty() || !partition.elr.is_empty() {
            return;
        }
        // A change of the minimum takes eligibility from all who are not in sync.
        let required = if self.settings.faults.alter_min_insync > 0 {
            1
        } else {
            required
        };
        let ended = self.brokers.iter().filter(|broker| broker.was_unclean).count();
        let lost = self.losses + if self.written_counts { ended } else { 0 };
        if lost < required {
            self.observer
                .violate("somebody may be elected unless too many have lost data", || {
                    format!("partition {number}: {lost} of {required} may have; {partition:?}")
                });
        }
    }

    /// What a proposal's answer says of its one change.
    pub(crate) fn altered(outcome: Outcome) -> Option<Result<Altered, IsrError>> {
        match outcome {
            Outcome::Altered(mut answers) if answers.len() == 1 => answers.pop(),
            _ => None,
        }
    }
}

/// A broker's place in the list.
pub(crate) fn index_of(id: BrokerId) -> usize {
    usize::try_from(id).unwrap_or(0)
}
