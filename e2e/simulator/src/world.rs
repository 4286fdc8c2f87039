//! The simulated world: brokers, clients, network, clock, and the loop that lets one thing happen
//! after the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use millrace_engine::{Cluster, Command, cluster::CreateTopic, config::FlushPolicy, partition::Alarm};
use millrace_log::fs::faulty::SplitMix64;
use uuid::Uuid;

use crate::{
    broker::Broker,
    compaction::{CompactionEvent, Compactions},
    consumer::Position,
    disk::Disk,
    groups::{GroupEvent, Groups},
    message::{Body, Envelope, Node},
    network::Network,
    observer::Observer,
    partition::Due,
    producer::Lane,
    queue::Queue,
    quorum::Quorum,
    registration::Timer,
    sequencer::BatchId,
    settings::Settings,
    slots::{SLOTS, TOPIC, id_of, slot, topic_id},
    trace::Trace,
};

/// What tells the generator of later settings from a seed's first one.
const ADDED: u64 = 0xADDE_D5E7_7136_0001;
const LATER: u64 = 0x1A7E_25E7_7136_0002;

/// The broker's clock at the run's start, in milliseconds since 1970.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// Something that is due.
#[derive(Debug)]
pub(crate) enum Event {
    Deliver(Box<Envelope>),
    Partition {
        at: usize,
        life: u64,
        partition: u32,
        due: Due,
    },
    Process {
        at: usize,
        life: u64,
        timer: Timer,
    },
    PollOnce {
        at: usize,
        life: u64,
    },
    RestartFailed {
        at: usize,
        life: u64,
    },
    Start {
        at: usize,
    },
    Resume {
        at: usize,
    },
    Permit {
        at: usize,
    },
    SwapBack {
        one: usize,
        other: usize,
    },
    MakeRoom {
        at: usize,
    },
    Commit {
        term: u64,
    },
    CreateAgain {
        generation: u32,
    },
    ControllerTick,
    ProducerTick {
        producer: usize,
        partition: u32,
    },
    Pump {
        producer: usize,
        partition: u32,
    },
    RequestTimedOut {
        producer: usize,
        partition: u32,
        batch: BatchId,
        attempt: u64,
    },
    ConsumerTick {
        consumer: usize,
        partition: u32,
    },
    Fault,
    Group(GroupEvent),
    Compaction(CompactionEvent),
}

pub(crate) type Hold = Box<dyn Fn(&Envelope) -> bool>;

/// A simulated cluster. See the crate's documentation.
pub struct World {
    pub(crate) settings: Settings,
    pub(crate) rng: SplitMix64,
    pub(crate) now: Duration,
    queue: Queue<Event>,
    /// Instants are only compared with each other: the client's rules take them.
    pub(crate) base: Instant,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) quorum: Quorum,
    pub(crate) network: Network,
    pub(crate) lanes: Vec<Vec<Lane>>,
    pub(crate) positions: Vec<Vec<Position>>,
    pub(crate) producing: bool,
    pub(crate) faulty: bool,
    pub(crate) observer: Observer,
    pub(crate) trace: Trace,
    pub(crate) reached: BTreeMap<&'static str, u64>,
    pub(crate) next_life: u64,
    pub(crate) next_attempt: u64,
    pub(crate) next_producer_id: i64,
    /// How many disks lost data that they had acknowledged.
    pub(crate) losses: usize,
    /// At some time records were acknowledged that were only written: an unclean end may have lost them.
    pub(crate) written_counts: bool,
    /// The ids of deleted topics.
    pub(crate) deleted: BTreeSet<Uuid>,
    /// The generation of the topic that is about to take the present one's place.
    pub(crate) replacing: Option<u32>,
    pub(crate) hold: Option<Hold>,
    pub(crate) held: Vec<Envelope>,
    pub(crate) alarms: Vec<(usize, u32, Alarm)>,
    pub(crate) expects_alarms: bool,
    pub(crate) groups: Groups,
    pub(crate) compactions: Compactions,
    /// A documented limit was met behind which nothing is promised: the run ends.
    pub(crate) cut_short: bool,
}

impl World {
    /// A cluster whose brokers are about to start for the first time. `text` keeps the trace as
    /// text too.
    #[must_use]
    pub fn new(seed: u64, settings: Option<Settings>, text: bool) -> Self {
        let mut rng = SplitMix64::new(seed);
        let settings = settings.unwrap_or_else(|| {
            let (mut added, mut later) = (SplitMix64::new(seed ^ ADDED), SplitMix64::new(seed ^ LATER));
            Settings::draw(&mut rng, &mut added, &mut later)
        });
        let mut world = Self {
            queue: Queue::new(),
            now: Duration::ZERO,
            base: Instant::now(),
            brokers: Vec::new(),
            quorum: Quorum::new(),
            network: Network::default(),
            lanes: (0..settings.producers.max(1))
                .map(|producer| {
                    let acks_all = producer + settings.leader_acks < settings.producers.max(1);
                    (0..SLOTS).map(|_| Lane::new(acks_all, settings.in_flight)).collect()
                })
                .collect(),
            positions: (0..settings.consumers)
                .map(|_| (0..SLOTS).map(|_| Position::default()).collect())
                .collect(),
            producing: false,
            faulty: false,
            observer: Observer::new(SLOTS),
            trace: Trace::new(text),
            reached: BTreeMap::new(),
            next_life: 0,
            next_attempt: 0,
            next_producer_id: 0,
            losses: 0,
            written_counts: false,
            deleted: BTreeSet::new(),
            replacing: None,
            hold: None,
            held: Vec::new(),
            alarms: Vec::new(),
            expects_alarms: false,
            groups: Groups::default(),
            compactions: Compactions::new(settings.compaction.as_ref()),
            cut_short: false,
            rng,
            settings,
        };
        world.note([0, seed, 0], || "begin".to_owned());
        let settings = world.settings.clone();
        world.note([0, 0, 0], || format!("{settings:?}"));
        for at in 0..world.settings.brokers {
            let id = i32::try_from(at).unwrap_or(i32::MAX);
            let (disk_seed, directory_id) = (world.rng.next_u64(), world.draw_uuid());
            world.brokers.push(Broker {
                id,
                disk: Disk::format(disk_seed, id, directory_id),
                process: None,
                paused_until: None,
                lost_data: false,
                unclean: false,
                was_unclean: false,
                needs_permission: false,
                swapped_with: None,
                retired: false,
                saved: None,
            });
            world.schedule(Duration::from_millis(at as u64), Event::Start { at });
        }
        world.schedule(Duration::ZERO, Event::ControllerTick);
        world.create_topic();
        world
    }

    /// Lets the brokers register and come into service, then makes the topic.
    fn create_topic(&mut self) {
        let everybody = self.settings.brokers;
        let network = std::mem::take(&mut self.settings.network);
        self.run_until(Duration::from_secs(60), |world| {
            let cluster = world.quorum.cluster();
            cluster.brokers.len() == everybody && cluster.brokers.values().all(|broker| !broker.fenced)
        });
        self.settings.network = network;
        self.propose_topic(0);
        self.run_until(Duration::from_secs(5), |world| {
            world.quorum.cluster().topics.contains_key(TOPIC)
        });
        self.serve_clients(0);
        self.begin_groups();
        self.begin_scans();
    }

    /// An operator creates a generation of the topic.
    pub(crate) fn propose_topic(&mut self, generation: u32) {
        let everybody = self.settings.brokers;
        let replicas = |partition: u32| {
            (0..self.settings.replication)
                .map(|at| i32::try_from((partition as usize + at) % everybody).unwrap_or(0))
                .collect()
        };
        let create = Command::CreateTopic(CreateTopic {
            name: TOPIC.into(),
            id: topic_id(generation),
            assignments: (0..self.settings.partitions).map(replicas).collect(),
            configs: self.topic_configs(),
            now_ms: self.now_ms(),
            owner: None,
        });
        self.propose(create, None);
    }

    /// Clients begin with a generation of the topic.
    pub(crate) fn serve_clients(&mut self, generation: u32) {
        for number in 0..self.settings.partitions {
            let partition = slot(generation, number);
            for producer in 0..self.settings.producers {
                self.schedule(Duration::ZERO, Event::ProducerTick { producer, partition });
            }
            for consumer in 0..self.settings.consumers {
                self.schedule(Duration::ZERO, Event::ConsumerTick { consumer, partition });
            }
        }
    }

    /// Whether a slot's topic was not deleted, as far as the newest metadata says.
    pub(crate) fn may_be_there(&self, partition: u32) -> bool {
        !self.deleted.contains(&id_of(partition))
    }

    fn topic_configs(&self) -> BTreeMap<String, String> {
        let mut configs = BTreeMap::from([("min.insync.replicas".to_owned(), self.settings.min_insync.to_string())]);
        if self.settings.flush != FlushPolicy::Ack {
            configs.insert("flush".to_owned(), flush_value(self.settings.flush).to_owned());
        }
        if self.is_compacted() {
            configs.insert("cleanup.policy".to_owned(), "compact".to_owned());
        }
        configs
    }

    pub(crate) fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.now.as_millis()).unwrap_or(0)
    }

    pub(crate) fn schedule(&mut self, delay: Duration, event: Event) {
        self.queue.add(self.now + delay, event);
    }

    pub(crate) fn note(&mut self, numbers: [u64; 3], line: impl FnOnce() -> String) {
        self.trace.note(self.now, numbers, line);
    }

    pub(crate) fn seen(&mut self, what: &'static str) {
        *self.reached.entry(what).or_insert(0) += 1;
    }

    /// A number below `bound`, or 0.
    pub(crate) fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.rng.below(bound)).unwrap_or(0)
    }

    /// A time of at most `most`, to the microsecond.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.rng.below(most + 1))
    }

    pub(crate) fn draw_uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.rng.next_u64(), self.rng.next_u64())
    }

    /// Lets things happen until `done` holds; whether it did within `most`, or something that must
    /// not be was seen.
    pub fn run_until(&mut self, most: Duration, done: impl Fn(&World) -> bool) -> bool {
        self.run_until_looking(Duration::ZERO, most, done)
    }

    /// `run_until` for a question that takes long: it is asked at most once in `every`.
    pub(crate) fn run_until_looking(&mut self, every: Duration, most: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + most;
        let mut look_at = self.now;
        loop {
            if self.is_over() {
                return false;
            }
            if self.now >= look_at {
                if done(self) {
                    return true;
                }
                look_at = self.now + every;
            }
            if self.queue.next_due().is_none_or(|due| due > end) {
                self.now = end;
                return false;
            }
            if let Some((due, event)) = self.queue.pop() {
                self.now = self.now.max(due);
                self.dispatch(event);
            }
        }
    }

    /// Whether nothing more is to happen.
    pub(crate) fn is_over(&self) -> bool {
        self.cut_short || self.observer.violation.is_some()
    }

    fn dispatch(&mut self, event: Event) {
        if let Some(at) = target(&event)
            && let Some(until) = self.brokers[at].paused_until
            && until > self.now
        {
            let delay = until - self.now;
            return self.schedule(delay, event);
        }
        match event {
            Event::Deliver(envelope) => self.deliver(*envelope),
            Event::Partition {
                at,
                life,
                partition,
                due,
            } => self.on_due(at, life, partition, due),
            Event::Process { at, life, timer } => self.on_timer(at, life, timer),
            Event::PollOnce { at, life } => self.on_poll_once(at, life),
            Event::RestartFailed { at, life } => self.on_restart_failed(at, life),
            Event::Start { at } => self.start(at),
            Event::Resume { at } => {
                if self.brokers[at].paused_until.is_some_and(|until| until <= self.now) {
                    self.brokers[at].paused_until = None;
                }
            }
            Event::Permit { at } => self.on_permit(at),
            Event::SwapBack { one, other } => self.swap_back(one, other),
            Event::MakeRoom { at } => self.make_room(at),
            Event::CreateAgain { generation } => self.on_create_again(generation),
            Event::Commit { term } => self.on_commit(term),
            Event::ControllerTick => self.on_controller_tick(),
            Event::ProducerTick { producer, partition } => self.on_producer_tick(producer, partition),
            Event::Pump { producer, partition } => self.pump(producer, partition),
            Event::RequestTimedOut {
                producer,
                partition,
                batch,
                attempt,
            } => {
                self.on_request_timed_out(producer, partition, batch, attempt);
            }
            Event::ConsumerTick { consumer, partition } => self.on_consumer_tick(consumer, partition),
            Event::Fault => self.on_fault(),
            Event::Group(event) => self.on_group_event(event),
            Event::Compaction(event) => self.on_compaction_event(event),
        }
    }

    pub(crate) fn deliver(&mut self, envelope: Envelope) {
        if let Body::Group(message) = &envelope.body
            && let Some(until) = self.client_stands_still(message)
        {
            let delay = until - self.now;
            return self.schedule(delay, Event::Deliver(Box::new(envelope)));
        }
        let (from, to) = (envelope.from, envelope.to);
        let place = |node| match node {
            Node::Broker(at) => at as u64,
            Node::Client => 99,
        };
        self.note([1, place(from), place(to)], || {
            format!("{from:?} -> {to:?}: {:?}", envelope.body)
        });
        let to = match to {
            Node::Broker(at) if self.brokers[at].process.is_none() => return,
            Node::Broker(at) => at,
            Node::Client => 0,
        };
        match envelope.body {
            Body::Fetch {
                partition,
                life,
                request,
                wants_records,
            } => {
                self.on_fetch(to, partition, life, request, wants_records);
            }
            body @ Body::FetchAnswer { .. } => self.on_fetch_answer(to, body),
            Body::Command { life, call, command } => {
                if let Node::Broker(from) = from {
                    self.on_command(to, from, life, call, command);
                }
            }
            Body::CommandAnswer { life, call, result } => self.on_command_answer(to, life, call, result),
            Body::Heartbeat {
                broker_id,
                broker_epoch,
                life,
                sent_at,
            } => self.on_heartbeat(to, (broker_id, broker_epoch), (life, sent_at)),
            Body::HeartbeatCounted { life, sent_at } => self.lease_renewed(to, life, sent_at),
            Body::Group(message) => self.on_group_message(to, message),
            Body::Produce(request) => self.on_produce(to, &request),
            Body::ProduceAnswer {
                producer,
                partition,
                batch,
                attempt,
                answer,
            } => {
                self.on_produce_answer(producer, partition, batch, attempt, answer);
            }
            Body::Read(request) => self.on_read(to, &request),
            Body::ReadAnswer {
                consumer,
                partition,
                attempt,
                records,
                next,
                epoch,
            } => {
                self.on_read_answer(consumer, partition, attempt, &records, next, epoch);
            }
        }
    }
}

/// A flush policy as topics' settings have it.
pub(crate) fn flush_value(policy: FlushPolicy) -> &'static str {
    match policy {
        FlushPolicy::Ack => "ack",
        FlushPolicy::Interval => "interval",
        FlushPolicy::Os => "os",
    }
}

/// The topic's flush policy by one version of the metadata, if that has the topic.
pub(crate) fn flush_policy(cluster: &Cluster) -> Option<FlushPolicy> {
    let topic = cluster.topics.get(TOPIC)?;
    Some(match topic.configs.get("flush").map(String::as_str) {
        Some("os") => FlushPolicy::Os,
        Some("interval") => FlushPolicy::Interval,
        _ => FlushPolicy::Ack,
    })
}

/// The broker that an event happens at: it waits while that stands still.
fn target(event: &Event) -> Option<usize> {
    match event {
        Event::Deliver(envelope) => envelope.to(),
        Event::Partition { at, .. }
        | Event::Process { at, .. }
        | Event::PollOnce { at, .. }
        | Event::RestartFailed { at, .. } => Some(*at),
        Event::Group(event) => event.target(),
        Event::Compaction(event) => event.target(),
        _ => None,
    }
}
