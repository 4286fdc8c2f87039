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
const KEPT: usize = 1_024;

/// The flows of one session.
#[derive(Debug, Default)]
pub struct Flows(HashMap<(Uuid, i32), Arc<Flow>>);

impl Flows {
    /// The flow to a partition; none if only this broker holds it, so that nobody else will lead it.
    pub fn to(&mut self, broker: &Broker, target: &Target) -> Option<Arc<Flow>> {
        let cluster = broker.quorum.cluster();
        if !has_others(target.record(&cluster)?, broker.config.node_id) {
            return None;
        }
        if self.0.len() >= KEPT {
            self.0.retain(|_, flow| !flow.is_idle());
        }
        let flow = self.0.entry((target.topic_id, target.number)).or_default();
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
    Waiting(Batch, oneshot::Sender<Go>),
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
                state.slots.push_back((ticket, Slot::Waiting(batch.clone(), sender)));
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
        } else if let Ok(at) = state.slots.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
            state.slots[at].1 = Slot::Waiting(batch.clone(), sender);
        }
        go
    }

    /// Gives up waiting. False if the batch was sent, or has its turn, by now.
    pub fn withdraw(&self, broker: &Arc<Broker>, ticket: u64) -> bool {
        let waits = |(_, slot): &(u64, Slot)| matches!(slot, Slot::Waiting(..));
        {
            let state = self.0.lock();
            let at = state.slots.binary_search_by_key(&ticket, |(ticket, _)| *ticket);
            if !at.is_ok_and(|at| waits(&state.slots[at])) {
                return false;
            }
        }
        self.done(broker, ticket, None);
        true
    }

    /// A batch is answered; `alone_on` is the way on which it was stored if it was sent alone.
    pub fn done(&self, broker: &Arc<Broker>, ticket: u64, alone_on: Option<Arc<Way>>) {
        let mut state = self.0.lock();
        let state = &mut *state;
        if let Ok(at) = state.slots.binary_search_by_key(&ticket, |(ticket, _)| *ticket) {
            state.slots.remove(at);
        }
        if state.way.is_some() {
            return;
        }
        let all_wait = state.slots.iter().all(|(_, slot)| matches!(slot, Slot::Waiting(..)));
        match alone_on {
            Some(way) if all_wait => {
                state.way = Some(way.clone());
                for (_, slot) in &mut state.slots {
                    let Slot::Waiting(batch, go) = std::mem::replace(slot, Slot::Sent) else {
                        continue;
                    };
                    let attempt = way.send(&batch);
                    let stop = attempt.must_be_repeated(broker, &batch.target);
                    let _ = go.send(Go::Sent(attempt));
                    if stop {
                        // The later ones wait on, behind this one.
                        state.way = None;
                        break;
                    }
                }
            }
            _ => {
                if let Some((_, slot)) = state.slots.front_mut()
                    && let Slot::Waiting(_, go) = std::mem::replace(slot, Slot::Sent)
                {
                    let _ = go.send(Go::Turn);
                }
            }
        }
    }
}
