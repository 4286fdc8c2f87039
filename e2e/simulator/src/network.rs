//! Which messages arrive, and when.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    message::{Body, Envelope, Node},
    world::{Event, World},
};

/// All clients, as an end of a link.
pub(crate) const CLIENTS: usize = usize::MAX;

/// Which directed links are cut: between brokers by their index, and from and to the clients.
#[derive(Debug, Default)]
pub(crate) struct Network {
    cuts: BTreeSet<(usize, usize)>,
}

impl Network {
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        self.cuts.remove(&(from, to));
    }

    pub(crate) fn mend_all(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn cuts(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.cuts.iter().copied()
    }

    pub(crate) fn is_up(&self, from: usize, to: usize) -> bool {
        from == to || !self.cuts.contains(&(from, to))
    }
}

impl World {
    /// Sends a message on its way; it may be lost, arrive late, or arrive twice.
    pub(crate) fn send(&mut self, from: Node, to: Node, body: Body) {
        if !self.network.is_up(end(from), end(to)) {
            return;
        }
        let envelope = Envelope { from, to, body };
        if self.hold.as_ref().is_some_and(|hold| hold(&envelope)) {
            self.held.push(envelope);
            return;
        }
        let faults = self.settings.network.clone();
        if from != to {
            if self.rng.chance(faults.drop_per_million) {
                self.seen("message lost");
                return;
            }
            // A stream does not repeat a client's request: a proxy that did would make the answer
            // to the first copy a lie.
            let may_repeat = !matches!(envelope.body, Body::Produce(_));
            if may_repeat && self.rng.chance(faults.repeat_per_million) {
                let delay = self.delay();
                self.seen("message repeated");
                self.schedule(delay, Event::Deliver(Box::new(envelope.clone())));
            }
        }
        let delay = self.delay();
        self.schedule(delay, Event::Deliver(Box::new(envelope)));
    }

    fn delay(&mut self) -> Duration {
        let faults = &self.settings.network;
        let (slow, slow_max, delay_max) = (faults.slow_per_million, faults.slow_max, faults.delay_max);
        if self.rng.chance(slow) {
            self.seen("message late");
            return self.up_to(slow_max);
        }
        self.up_to(delay_max) + Duration::from_micros(50)
    }

    /// Whether two brokers can talk in both directions.
    pub(crate) fn connected(&self, one: usize, other: usize) -> bool {
        self.network.is_up(one, other) && self.network.is_up(other, one)
    }
}

/// A node as an end of a link.
fn end(node: Node) -> usize {
    match node {
        Node::Broker(at) => at,
        Node::Client => CLIENTS,
    }
}
