//! All orders of loss, refusal, repetition and lateness against a model of a broker.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    tests::{ME, not_written, refused, stored},
    *,
};

/// A batch on its way.
#[derive(Clone, Copy, Debug)]
struct Request {
    stream: u32,
    id: BatchId,
    producer: Identity,
    sequence: i32,
    batch: u32,
    records: i32,
}

#[derive(Debug, Default)]
struct Known {
    next: i32,
    /// First sequence and base offset of the last five batches.
    window: VecDeque<(i32, i32, i64)>,
}

/// A broker that checks sequences as Kafka's does: it takes any from a producer it does not know,
/// remembers five batches, and tells older ones apart as duplicates without offset.
#[derive(Debug, Default)]
struct Broker {
    producers: HashMap<i64, Known>,
    /// (batch, records), in order.
    log: Vec<(u32, i32)>,
    end: i64,
}

impl Broker {
    fn append(&mut self, request: &Request) -> Answer {
        let known = self.producers.entry(request.producer.producer_id).or_default();
        if !known.window.is_empty() {
            if let Some((_, _, offset)) = known
                .window
                .iter()
                .find(|(first, records, _)| (*first, *records) == (request.sequence, request.records))
            {
                return stored(*offset);
            }
            if request.sequence < known.next {
                return refused(ErrorReason::DuplicateSequence, WriteOutcome::Unknown);
            }
            if request.sequence > known.next {
                return not_written(ErrorReason::OutOfOrderSequence);
            }
        }
        let offset = self.end;
        known.next = request.sequence + request.records;
        known.window.push_back((request.sequence, request.records, offset));
        if known.window.len() > 5 {
            known.window.pop_front();
        }
        self.log.push((request.batch, request.records));
        self.end += i64::from(request.records);
        stored(offset)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Send,
    /// The next request of the live stream reaches the broker.
    Arrive,
    /// The same, and it is refused before anything is checked.
    Refuse(u8),
    /// The same, but the answer says that the outcome is unknown.
    ArriveUnknown,
    /// The oldest answer reaches the client.
    Answer,
    /// A later answer overtakes.
    AnswerLate(u8),
    /// The connection breaks; requests under way stay under way, answers are lost.
    Break,
    /// A request of a broken stream reaches the broker after all, or never does.
    Zombie(u8),
    Forget(u8),
    Wait,
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Push),
        8 => Just(Step::Send),
        12 => Just(Step::Arrive),
        2 => (0u8..4).prop_map(Step::Refuse),
        2 => Just(Step::ArriveUnknown),
        10 => Just(Step::Answer),
        3 => any::<u8>().prop_map(Step::AnswerLate),
        2 => Just(Step::Break),
        3 => any::<u8>().prop_map(Step::Zombie),
        1 => any::<u8>().prop_map(Step::Forget),
        6 => Just(Step::Wait),
        1 => Just(Step::Expire),
    ];
    proptest::collection::vec(step, 1..300)
}

struct World {
    sequencer: Sequencer<u32>,
    broker: Broker,
    now: Instant,
    stream: u32,
    /// On the live stream, not at the broker.
    pipe: VecDeque<Request>,
    /// Of broken streams, not at the broker.
    zombies: Vec<Request>,
    /// From the broker, not at the client.
    answers: VecDeque<(BatchId, Answer)>,
    in_flight: Vec<BatchId>,
    next_batch: u32,
    next_producer: i64,
    acked: Vec<(u32, i64)>,
    refused: Vec<u32>,
    unknown: Vec<u32>,
    /// A batch may have ended in doubt.
    gave_up: bool,
}

impl World {
    fn new(max_in_flight: usize) -> Self {
        Self {
            sequencer: Sequencer::new(
                Rules {
                    idempotent: true,
                    max_in_flight,
                },
                Some(ME),
            ),
            broker: Broker::default(),
            now: Instant::now(),
            stream: 0,
            pipe: VecDeque::new(),
            zombies: Vec::new(),
            answers: VecDeque::new(),
            in_flight: Vec::new(),
            next_batch: 0,
            next_producer: 2,
            acked: Vec::new(),
            refused: Vec::new(),
            unknown: Vec::new(),
            gave_up: false,
        }
    }

    fn records(batch: u32) -> i32 {
        1 + i32::try_from(batch % 7).unwrap()
    }

    fn take(&mut self, done: Vec<Done<u32>>) {
        for done in done {
            match done {
                Done::Stored { batch, base_offset, .. } => self.acked.push((batch, base_offset)),
                Done::Failed { batch, error } => match error.outcome() {
                    Some(WriteOutcome::NotWritten) => self.refused.push(batch),
                    _ => self.unknown.push(batch),
                },
            }
        }
    }

    fn answer(&mut self, id: BatchId, answer: Answer) {
        self.in_flight.retain(|known| *known != id);
        let done = self.sequencer.answer(self.now, id, answer);
        self.take(done);
    }

    fn send(&mut self) {
        if self.sequencer.needs_identity() {
            self.sequencer.set_identity(Identity {
                producer_id: self.next_producer,
                producer_epoch: 0,
            });
            self.next_producer += 1;
        }
        while let Some(order) = self.sequencer.next_to_send(self.now) {
            let (producer, sequence) = order.producer.unwrap();
            let batch = *order.batch;
            let request = Request {
                stream: self.stream,
                id: order.id,
                producer,
                sequence,
                batch,
                records: Self::records(batch),
            };
            self.in_flight.push(request.id);
            self.pipe.push_back(request);
            assert!(self.in_flight.len() <= self.sequencer.rules.max_in_flight);
        }
    }

    fn break_stream(&mut self) {
        self.stream += 1;
        self.zombies.extend(self.pipe.drain(..));
        self.answers.clear();
        for id in std::mem::take(&mut self.in_flight) {
            let lost = Error::new(ErrorKind::Connection, "lost").with_outcome(WriteOutcome::Unknown);
            self.answer(id, Answer::Failed(lost));
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push => {
                let batch = self.next_batch;
                self.next_batch += 1;
                self.sequencer
                    .push(batch, Self::records(batch), self.now + Duration::from_secs(60));
            }
            Step::Send => self.send(),
            Step::Arrive => {
                if let Some(request) = self.pipe.pop_front() {
                    assert_eq!(request.stream, self.stream);
                    let answer = self.broker.append(&request);
                    self.answers.push_back((request.id, answer));
                }
            }
            Step::ArriveUnknown => {
                if let Some(request) = self.pipe.pop_front() {
                    self.broker.append(&request);
                    self.answers
                        .push_back((request.id, refused(ErrorReason::TimedOut, WriteOutcome::Unknown)));
                }
            }
            Step::Refuse(why) => {
                if let Some(request) = self.pipe.pop_front() {
                    let reason = [
                        ErrorReason::NotLeader,
                        ErrorReason::NotEnoughReplicas,
                        ErrorReason::Overloaded,
                        ErrorReason::MessageTooLarge,
                    ][usize::from(why)];
                    // Refused for good, a batch ends; if an attempt before was lost, in doubt.
                    self.gave_up |= reason == ErrorReason::MessageTooLarge;
                    self.answers.push_back((request.id, not_written(reason)));
                }
            }
            Step::Answer => {
                if let Some((id, answer)) = self.answers.pop_front() {
                    self.answer(id, answer);
                }
            }
            Step::AnswerLate(at) => {
                let at = usize::from(at) % self.answers.len().max(1);
                if let Some((id, answer)) = self.answers.remove(at) {
                    self.answer(id, answer);
                }
            }
            Step::Break => self.break_stream(),
            Step::Zombie(at) => {
                if !self.zombies.is_empty() {
                    // Of one stream in order; streams among each other in any.
                    let stream = self.zombies[usize::from(at) % self.zombies.len()].stream;
                    let first = self.zombies.iter().position(|zombie| zombie.stream == stream).unwrap();
                    let zombie = self.zombies.remove(first);
                    self.broker.append(&zombie);
                }
            }
            Step::Forget(at) => {
                if !self.zombies.is_empty() {
                    let stream = self.zombies[usize::from(at) % self.zombies.len()].stream;
                    self.zombies.retain(|zombie| zombie.stream != stream);
                }
            }
            Step::Wait => self.now += limits::MAX_BACKOFF,
            Step::Expire => {
                self.now += Duration::from_secs(61);
                self.gave_up = true;
                let done = self.sequencer.expire(self.now);
                self.take(done);
            }
        }
        self.check();
    }

    /// Heals everything and lets all end.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.sequencer.is_empty() {
                break;
            }
            for step in [Step::Wait, Step::Send, Step::Arrive, Step::Answer] {
                self.step(step);
            }
        }
        assert!(self.sequencer.is_empty(), "all batches end: {:?}", self.sequencer);
    }

    fn check(&self) {
        let stored = |batch: u32| self.broker.log.iter().filter(|(of, _)| *of == batch).count();
        for batch in 0..self.next_batch {
            assert!(stored(batch) <= 1, "batch {batch} is doubled");
        }
        let mut offset = 0;
        let mut offsets = HashMap::new();
        for (batch, records) in &self.broker.log {
            offsets.insert(*batch, offset);
            offset += i64::from(*records);
        }
        for (batch, told) in &self.acked {
            let real = offsets.get(batch).copied();
            assert!(real.is_some(), "batch {batch} was acknowledged and is not there");
            assert!(*told == -1 || Some(*told) == real, "batch {batch} is not at {told}");
        }
        for batch in &self.refused {
            assert_eq!(stored(*batch), 0, "batch {batch} was told not to be written");
        }
        let unknown = |batch: &u32| self.unknown.contains(batch);
        let order: Vec<u32> = self
            .broker
            .log
            .iter()
            .map(|(batch, _)| *batch)
            .filter(|batch| !unknown(batch))
            .collect();
        assert!(order.is_sorted(), "out of order: {order:?}");
    }
}

/// 2,000 runs, or as many more as `PROPTEST_CASES` says.
fn model_runs() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: asked.cases.max(2_000),
        max_shrink_iters: 20_000,
        ..asked
    }
}

proptest! {
    #![proptest_config(model_runs())]

    #[test]
    fn nothing_is_lost_doubled_or_reordered(steps in steps(), max_in_flight in prop_oneof![Just(1), Just(5), Just(16)]) {
        let mut world = World::new(max_in_flight);
        for step in steps {
            world.step(step);
        }
        world.finish();
        // Without deadlines and final refusals, a broker that keeps its word leaves nothing in doubt.
        prop_assert!(world.gave_up || world.unknown.is_empty(), "given up: {:?}", world.unknown);
        let ended = world.acked.len() + world.refused.len() + world.unknown.len();
        prop_assert_eq!(ended, world.next_batch as usize);
    }
}
