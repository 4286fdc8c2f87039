//! The order of one session's batches in one partition, over changes of the leader.
//!
//! While all goes well, batches are sent one behind the other on one way: to one leader, in one
//! epoch, on one connection. When one of them fails and is to be sent again, the way is closed: nothing
//! new is sent, and those that failed are sent again one at a time, the oldest first. Once one
//! is stored and no other is on its way, its way is open for all that wait.
//!
//! Else a batch that was refused by a leader-to-be could be overtaken by a later one, and its
//! sequence would then be refused for good.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    delivery::{Attempt, Batch, Way},
    place::{Target, has_others},
};
use crate::broker::Broker;

/// Flows of one session that are kept without looking whether they are in use.
const KEPT: usize = 64;

/// The flows of one session: at most twice those that are in use, and a few.
#[derive(Debug, Default)]
pub struct Flows {
    kept: HashMap<(Uuid, i32), Arc<Flow>>,
    /// Those that were in use when it was looked last.
    in_use: usize,
}

impl Flows {
    /// The flow to a partition; none if only this broker holds it, so that nobody else will lead it.
    pub fn to(&mut self, broker: &Broker, target: &Target) -> Option<Arc<Flow>> {
        let cluster = broker.quorum.cluster();
        if !has_others(target.record(&cluster)?, broker.config.node_id) {
            return None;
        }
        if self.kept.len() >= KEPT + 2 * self.in_use {
            self.kept.retain(|_, flow| !flow.is_idle());
            self.kept.shrink_to(KEPT);
            self.in_use = self.kept.len();
        }
        let flow = self.kept.entry((target.topic_id, target.number)).or_default();
        Some(flow.clone())
    }
}

/// One session's batches for one partition that are not answered yet.
#[derive(Debug, Default)]
pub struct Flow(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    next_ticket: u64,
    /// How batches are sent; none while failed ones are sent again.
    way: Option<Arc<Way>>,
    /// By rising ticket. With a way, all are sent on it.
    slots: VecDeque<(u64, Slot)>,
}

#[derive(Debug)]
enum Slot {
    Sent,
    Waiting(Box<Batch>, oneshot::Sender<Go>),
}

/// What a batch has waited for.
#[derive(Debug)]
pub enum Go {
    /// It is the oldest: its turn to be sent alone.
    Turn,
    /// It was sent.
    Sent(Attempt),
}

impl Flow {
    fn is_idle(&self) -> bool {
        self.0.lock().slots.is_empty()
    }

    /// Takes in a batch behind all others, and sends it if there is a way.
    pub fn begin(&self, broker: &Arc<Broker>, batch: &Batch) -> (u64, Attempt) {
        let mut state = self.0.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        if state.slots.is_empty() {
            match batch.target.locate(broker) {
                Ok(place) => state.way = Some(Arc::new(Way::to(broker, place))),
                Err(error) => {
                    state.way = None;
                    state.slots.push_back((ticket, Slot::Sent));
                    return (ticket, Attempt::refused(error));
                }
            }
        }
        match state.way.clone() {
            Some(way) => {
                let attempt = way.send(batch);
                if attempt.must_be_repeated(broker, &batch.target) {
                    state.way = None;
                }
                state.slots.push_back((ticket, Slot::Sent));
                (ticket, attempt)
            }
            None => {
                let (sender, go) = oneshot::channel();
                state
                    .slots
                    .push_back((ticket, Slot::Waiting(Box::new(batch.clone()), sender)));
                (ticket, Attempt::Waiting(go))
            }
        }
    }

    /// A batch failed and is to be sent again: tells when.
    pub fn failed(&self, ticket: u64, batch: &Batch) -> oneshot::Receiver<Go> {
        let (sender, go) = oneshot::channel();
        let mut state = self.0.lock();
        state.way = None;
        let first = state.slots.front().is_some_and(|(first, _)| *first == ticket);
        if first {
            let _ = sender.send(Go::Turn);
        } else if let Some(at) = state.find(ticket) {
            state.slots[at].1 = Slot::Waiting(Box::new(batch.clone()), sender);
        }
        go
    }

    /// Gives up waiting. False if the batch was sent, or has its turn, by now.
    pub fn withdraw(&self, broker: &Arc<Broker>, ticket: u64) -> bool {
        let mut state = self.0.lock();
        let waits = state
            .find(ticket)
            .is_some_and(|at| matches!(state.slots[at].1, Slot::Waiting(..)));
        // Under the same lock: else it may be sent in between, and told that it never was.
        if waits {
            state.leave(broker, ticket, None);
        }
        waits
    }

    /// A batch is answered; `alone_on` is the way on which it was stored if it was sent alone.
    pub fn done(&self, broker: &Arc<Broker>, ticket: u64, alone_on: Option<Arc<Way>>) {
        self.0.lock().leave(broker, ticket, alone_on);
    }
}

impl State {
    /// Where a batch stands.
    fn find(&self, ticket: u64) -> Option<usize> {
        self.slots.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()
    }

    /// A batch is no part of the flow any more: others may go on.
    fn leave(&mut self, broker: &Arc<Broker>, ticket: u64, alone_on: Option<Arc<Way>>) {
        if let Some(at) = self.find(ticket) {
            self.slots.remove(at);
        }
        if self.way.is_some() {
            return;
        }
        let all_wait = self.slots.iter().all(|(_, slot)| matches!(slot, Slot::Waiting(..)));
        match alone_on {
            Some(way) if all_wait => self.open(broker, &way),
            _ => {
                if let Some((_, slot)) = self.slots.front_mut()
                    && let Slot::Waiting(_, go) = std::mem::replace(slot, Slot::Sent)
                {
                    let _ = go.send(Go::Turn);
                }
            }
        }
    }

    /// Sends all that wait on one way, until one of them fails.
    fn open(&mut self, broker: &Arc<Broker>, way: &Arc<Way>) {
        self.way = Some(way.clone());
        for (_, slot) in &mut self.slots {
            let Slot::Waiting(batch, go) = std::mem::replace(slot, Slot::Sent) else {
                continue;
            };
            let attempt = way.send(&batch);
            let stop = attempt.must_be_repeated(broker, &batch.target);
            let _ = go.send(Go::Sent(attempt));
            if stop {
                // The later ones wait on, behind this one.
                self.way = None;
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, time::Duration};

    use tokio::time::Instant;

    use super::*;
    use crate::{
        forward::place::Place,
        partition::{Partition, SequenceRule},
        rpc::convert::Acks,
        testing::{self, PHANTOM, TestBroker},
    };

    struct Fixture {
        test: TestBroker,
        partition: Arc<Partition>,
        batch: Batch,
        flow: Arc<Flow>,
    }

    impl Fixture {
        async fn new() -> Self {
            let test = TestBroker::start().await;
            let partition = test.partition("t", &[0, PHANTOM]).await;
            let target = Target {
                topic: "t".into(),
                topic_id: partition.key().0,
                number: 0,
            };
            Self {
                batch: Batch {
                    target,
                    records: Some(testing::batch(None)),
                    acks: Acks::Leader,
                    expected_offset: None,
                    sequence_rule: SequenceRule::Contiguous,
                    deadline: Instant::now() + Duration::from_secs(60),
                    memory: None,
                },
                flow: Arc::default(),
                test,
                partition,
            }
        }

        fn broker(&self) -> &Arc<Broker> {
            self.test.broker()
        }

        fn way(&self) -> Arc<Way> {
            Arc::new(Way::to(self.broker(), Place::Here(self.partition.clone())))
        }

        fn end(&self) -> i64 {
            self.partition.offsets().log_end
        }

        fn begin(&self) -> (u64, Attempt) {
            self.flow.begin(self.broker(), &self.batch)
        }

        /// A batch that waits as those before it do.
        fn begin_waiting(&self) -> (u64, oneshot::Receiver<Go>) {
            match self.begin() {
                (ticket, Attempt::Waiting(go)) => (ticket, go),
                (_, sent) => panic!("{sent:?}"),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn after_a_failure_batches_are_sent_again_one_at_a_time() {
        let fixture = Fixture::new().await;
        let (flow, broker) = (&fixture.flow, fixture.broker());
        let (first, sent) = fixture.begin();
        let (second, _) = fixture.begin();
        assert!(matches!(sent, Attempt::Here(result) if result.is_ok()));
        assert_eq!(fixture.end(), 2, "one behind the other, none waits");
        // The second one hears of it first, and waits for the first.
        let mut second_go = flow.failed(second, &fixture.batch);
        assert!(second_go.try_recv().is_err());
        let mut first_go = flow.failed(first, &fixture.batch);
        assert!(matches!(first_go.try_recv(), Ok(Go::Turn)));
        let (_, mut third_go) = fixture.begin_waiting();
        assert_eq!(fixture.end(), 2);
        // Stored on a way that is open for all from now on.
        flow.done(broker, first, Some(fixture.way()));
        assert!(matches!(second_go.try_recv(), Ok(Go::Sent(_))));
        assert!(matches!(third_go.try_recv(), Ok(Go::Sent(_))));
        assert_eq!(fixture.end(), 4);
        assert!(matches!(fixture.begin().1, Attempt::Here(_)));
        assert!(!flow.is_idle());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_gives_up_lets_the_next_one_go() {
        let fixture = Fixture::new().await;
        let (flow, broker) = (&fixture.flow, fixture.broker());
        let (first, _) = fixture.begin();
        let _turn = flow.failed(first, &fixture.batch);
        let (second, _go) = fixture.begin_waiting();
        let (third, mut third_go) = fixture.begin_waiting();
        assert!(!flow.withdraw(broker, first), "it has its turn");
        assert!(flow.withdraw(broker, second));
        assert!(!flow.withdraw(broker, second), "it is not there any more");
        assert!(third_go.try_recv().is_err());
        // Refused for good: no way is known, and the next one tries.
        flow.done(broker, first, None);
        assert!(matches!(third_go.try_recv(), Ok(Go::Turn)));
        flow.done(broker, third, None);
        assert!(flow.is_idle());
        assert_eq!(fixture.end(), 1);
    }

    /// Who is told that it gave up in time was not sent.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_batch_is_sent_or_withdrawn_never_both() {
        const WAITING: usize = 8;
        let fixture = Fixture::new().await;
        let broker = fixture.broker();
        for _ in 0..300 {
            let flow = Flow::default();
            let (first, _) = flow.begin(broker, &fixture.batch);
            let _turn = flow.failed(first, &fixture.batch);
            let waiting: Vec<_> = (0..WAITING).map(|_| flow.begin(broker, &fixture.batch)).collect();
            let (end, way) = (fixture.end(), fixture.way());
            let together = Barrier::new(WAITING + 1);
            let withdrawn = std::thread::scope(|scope| {
                scope.spawn(|| {
                    together.wait();
                    flow.done(broker, first, Some(way));
                });
                let threads = waiting.iter().map(|(ticket, _)| {
                    scope.spawn(|| {
                        together.wait();
                        flow.withdraw(broker, *ticket)
                    })
                });
                let threads: Vec<_> = threads.collect();
                let gave_up = threads.into_iter().map(|thread| thread.join().unwrap());
                gave_up.filter(|gave_up| *gave_up).count()
            });
            let sent = fixture.end() - end;
            assert_eq!(
                sent + i64::try_from(withdrawn).unwrap(),
                8,
                "{withdrawn} were withdrawn"
            );
        }
    }
}
