//! The task that sends a producer's batches: it owns all sequencers and streams.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Instant,
};

use millrace_proto::v1;
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    watch,
};

use super::{
    Shared, init_producer,
    link::Event,
    links::Link,
    sequencer::{Answer, BatchId},
    slot::{Next, Slot, abandon},
};
use crate::{
    cluster::Cluster,
    error::{Error, ErrorKind, WriteOutcome},
    limits,
    record::timestamp_ms,
};

/// The task's state.
#[derive(Debug)]
pub struct Sender {
    pub(super) shared: Arc<Shared>,
    pub(super) events: UnboundedSender<Event>,
    pub(super) inbox: UnboundedReceiver<Event>,
    pub(super) cluster: watch::Receiver<Arc<Cluster>>,
    pub(super) slots: HashMap<u64, Slot>,
    pub(super) next_slot: u64,
    pub(super) links: HashMap<Arc<str>, Link>,
    pub(super) next_stream: u64,
    pub(super) in_flight: HashMap<u64, InFlight>,
    pub(super) next_correlation: u64,
    /// Slots to look at.
    pub(super) ready: Vec<u64>,
    pub(super) timers: BinaryHeap<Reverse<(Instant, u64)>>,
    pub(super) next_tick: Option<Instant>,
}

/// A request that is not answered.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) stream: u64,
    pub(super) sent_at: Instant,
    pub(super) batches: Vec<(u64, BatchId)>,
}

/// A request that is being filled.
#[derive(Debug, Default)]
struct Filling {
    bytes: usize,
    parts: Vec<v1::ProducePartition>,
    batches: Vec<(u64, BatchId)>,
}

impl Sender {
    pub fn new(shared: Arc<Shared>) -> Self {
        let (events, inbox) = unbounded_channel();
        Self {
            cluster: shared.client.inner.cluster.subscribe(),
            shared,
            events,
            inbox,
            slots: HashMap::new(),
            next_slot: 0,
            links: HashMap::new(),
            next_stream: 0,
            in_flight: HashMap::new(),
            next_correlation: 1,
            ready: Vec::new(),
            timers: BinaryHeap::new(),
            next_tick: None,
        }
    }

    /// Sends until the producer is closed and all is done.
    pub async fn run(mut self) {
        let shared = self.shared.clone();
        loop {
            let now = Instant::now();
            self.look_into_mailbox();
            self.take_events(now);
            if self.cluster.has_changed().unwrap_or(false) {
                self.follow_metadata();
            }
            self.fire_timers(now);
            if shared.is_closing() || shared.memory.is_short() {
                self.ready.extend(self.slots.keys());
            }
            self.send_ready(now);
            let busy = self.next_tick.is_some();
            if shared.is_closing() && !busy {
                if !self.has_work(now) {
                    return self.end_links().await;
                }
                self.next_tick = Some(now + limits::DEADLINE_TICK);
            }
            let wake = self.timers.peek().map(|Reverse((at, _))| *at);
            let wake = [wake, self.next_tick].into_iter().flatten().min();
            tokio::select! {
                () = shared.mailbox.bell.notified() => {}
                Some(event) = self.inbox.recv() => self.take_event(event, Instant::now()),
                _ = self.cluster.changed() => {
                    self.cluster.mark_changed();
                }
                () = sleep_until(wake), if wake.is_some() => {}
            }
        }
    }

    /// Records that came between the last look and now: nobody would send them, so they are told.
    pub(super) fn refuse_late_records(&self) {
        let topics: Vec<_> = self.shared.topics.read().values().cloned().collect();
        for partition in topics.iter().flat_map(|topic| &topic.partitions) {
            abandon(partition, &Error::closed("producer"), &self.shared);
        }
    }

    fn look_into_mailbox(&mut self) {
        let told = std::mem::take(&mut *self.shared.mailbox.partitions.lock());
        for (topic, at) in told {
            let buffer = &topic.partitions[at];
            let known = buffer.slot().filter(|slot| self.slots.contains_key(slot));
            let id = known.unwrap_or_else(|| {
                let id = self.next_slot;
                self.next_slot += 1;
                buffer.set_slot(id);
                let mut slot = Slot::new(topic.clone(), at, &self.shared);
                // A topic that was deleted meanwhile is noticed as any other.
                if slot.follow(&self.cluster.borrow(), &self.shared) {
                    self.slots.insert(id, slot);
                } else {
                    forget(&self.shared, &slot);
                }
                id
            });
            self.ready.push(id);
            self.next_tick
                .get_or_insert_with(|| Instant::now() + limits::DEADLINE_TICK);
        }
    }

    fn take_events(&mut self, now: Instant) {
        while let Ok(event) = self.inbox.try_recv() {
            self.take_event(event, now);
        }
    }

    fn take_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Up { stream, requests } => self.link_up(stream, requests),
            Event::Taken { correlation_id } => {
                if let Some(request) = self.in_flight.remove(&correlation_id) {
                    for (slot, id) in request.batches {
                        self.answer(
                            slot,
                            id,
                            Answer::Stored {
                                base_offset: -1,
                                log_append_time: None,
                            },
                            now,
                        );
                    }
                }
            }
            Event::Answer { response } => self.answered(response, now),
            Event::Lost { stream, error, taken } => self.lost(stream, &error, taken, now),
            Event::Identity { slot, identity } => {
                let Some(known) = self.slots.get_mut(&slot) else { return };
                match identity {
                    Ok(identity) => known.set_identity(identity),
                    // Asked again when the slot is looked at; the call itself has waited.
                    Err(error) => {
                        tracing::debug!(%error, "no producer id yet");
                        known.identity_asked = false;
                    }
                }
                self.ready.push(slot);
            }
        }
    }

    fn answered(&mut self, response: v1::ProduceResponse, now: Instant) {
        let Some(request) = self.in_flight.remove(&response.correlation_id) else {
            return;
        };
        if response.partitions.len() != request.batches.len() {
            let error = Error::new(
                ErrorKind::Connection,
                "The broker answered for other partitions than were sent: update the client.",
            )
            .with_outcome(WriteOutcome::Unknown);
            for (slot, id) in request.batches {
                self.answer(slot, id, Answer::Failed(error.clone()), now);
            }
            return;
        }
        for ((slot, id), produced) in request.batches.into_iter().zip(response.partitions) {
            let answer = match produced.error {
                None => Answer::Stored {
                    base_offset: produced.base_offset,
                    log_append_time: produced.log_append_time.as_ref().map(timestamp_ms),
                },
                Some(error) => {
                    let (topic, partition) = (&produced.topic, produced.partition);
                    Answer::Failed(Error::from_item(error).context(format_args!("{topic}-{partition}")))
                }
            };
            self.answer(slot, id, answer, now);
        }
    }

    pub(super) fn answer(&mut self, slot: u64, id: BatchId, answer: Answer, now: Instant) {
        if let Answer::Failed(error) = &answer
            && error.is_retriable()
        {
            self.shared.client.inner.note_retry(error);
            self.shared.client.inner.refresh.notify_one();
        }
        if let Some(known) = self.slots.get_mut(&slot) {
            known.answer(now, id, answer, &self.shared);
            self.ready.push(slot);
        }
    }

    fn follow_metadata(&mut self) {
        let cluster = self.cluster.borrow_and_update().clone();
        let shared = &self.shared;
        self.slots.retain(|_, slot| {
            let kept = slot.follow(&cluster, shared);
            if !kept {
                forget(shared, slot);
            }
            kept
        });
        self.ready.extend(self.slots.keys());
        // Topics may have grown, or be gone before anything was sent to them.
        let known: Vec<_> = shared.topics.read().values().cloned().collect();
        for topic in known {
            match cluster.topics.get(&topic.name).filter(|now| now.id == topic.id) {
                Some(now) if now.partitions.len() > topic.partitions.len() => {
                    if let Err(error) = shared.insert(now) {
                        tracing::warn!(topic = %topic.name, %error, "new partitions can't be used");
                    }
                }
                Some(_) => {}
                None => {
                    shared
                        .topics
                        .write()
                        .retain(|name, known| *name != topic.name || known.id != topic.id);
                }
            }
        }
        self.links.retain(|address, link| {
            matches!(link, Link::Up { .. } | Link::Opening { .. })
                || cluster.brokers.values().any(|broker| broker.address == *address)
        });
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(Reverse((at, slot))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            if let Some(known) = self.slots.get_mut(&slot) {
                known.timer = None;
                self.ready.push(slot);
            }
        }
        if self.next_tick.is_some_and(|at| at <= now) {
            self.tick(now);
        }
    }

    /// Deadlines, and what nothing else wakes.
    fn tick(&mut self, now: Instant) {
        // A producer that is being closed does not wait for answers to what was given up.
        let mut busy = !self.in_flight.is_empty() && !self.shared.is_closing();
        for (id, slot) in &mut self.slots {
            if slot.expire(now, &self.shared) {
                busy = true;
                self.ready.push(*id);
            }
        }
        self.next_tick = busy.then(|| now + limits::DEADLINE_TICK);
        self.give_up_stuck(now);
    }

    fn has_work(&mut self, now: Instant) -> bool {
        let shared = self.shared.clone();
        let told = !shared.mailbox.partitions.lock().is_empty();
        told || self.slots.values_mut().any(|slot| slot.expire(now, &shared))
    }

    /// Sends what can be sent: one batch per partition and request, as many rounds as needed.
    fn send_ready(&mut self, now: Instant) {
        let mut ready = std::mem::take(&mut self.ready);
        ready.sort_unstable();
        ready.dedup();
        while !ready.is_empty() {
            let mut filling: HashMap<Arc<str>, Filling> = HashMap::new();
            ready.retain(|slot| self.fill(*slot, &mut filling, now));
            for (address, request) in filling {
                self.send(&address, request, now);
            }
        }
    }

    /// Adds the slot's next batch to its leader's request. Whether there may be more.
    fn fill(&mut self, id: u64, filling: &mut HashMap<Arc<str>, Filling>, now: Instant) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        let leader = slot.leader.as_ref().map(|(address, _)| address.clone());
        let state = leader.as_ref().map(|address| self.links.get(address));
        let connected = matches!(state, Some(Some(Link::Up { .. })));
        let next = slot.next(now, connected, &self.shared);
        match next {
            Next::Send { id: batch, part } => {
                let Some(address) = leader else { return false };
                let request = filling.entry(address.clone()).or_default();
                let bytes = part.records.len();
                let full = request.bytes + bytes > limits::PRODUCE_REQUEST_BYTES && request.bytes > 0;
                if full || request.parts.len() >= limits::MAX_PARTITIONS_PER_REQUEST {
                    let full = std::mem::take(request);
                    self.send(&address, full, now);
                }
                let request = filling.entry(address).or_default();
                request.bytes += bytes;
                request.parts.push(part);
                request.batches.push((id, batch));
                return true;
            }
            Next::NeedsIdentity => {
                slot.identity_asked = true;
                let (client, events) = (self.shared.client.clone(), self.events.clone());
                tokio::spawn(async move {
                    let identity = init_producer(&client).await;
                    let _ = events.send(Event::Identity { slot: id, identity });
                });
            }
            Next::Wait(at) => {
                if slot.timer.is_none_or(|timer| timer > at) {
                    slot.timer = Some(at);
                    self.timers.push(Reverse((at, id)));
                }
            }
            Next::Nothing => {}
        }
        if !connected && let Some(address) = leader {
            self.open_link(&address, id, now);
        }
        false
    }

    fn send(&mut self, address: &str, request: Filling, now: Instant) {
        if request.parts.is_empty() {
            return;
        }
        let Some(Link::Up { stream, requests, .. }) = self.links.get(address) else {
            return;
        };
        let correlation_id = self.next_correlation;
        self.next_correlation += 1;
        let config = &self.shared.config;
        let message = v1::ProduceRequest {
            correlation_id,
            acks: config.acks.to_proto().into(),
            timeout: prost_types::Duration::try_from(config.request_timeout).ok(),
            partitions: request.parts,
        };
        self.in_flight.insert(
            correlation_id,
            InFlight {
                stream: *stream,
                sent_at: now,
                batches: request.batches,
            },
        );
        // If the stream just ended, its loss is told next and these batches with it.
        let _ = requests.send(message);
    }
}

/// A topic that is gone: the next record looks it up anew.
fn forget(shared: &Shared, slot: &Slot) {
    shared
        .topics
        .write()
        .retain(|name, known| *name != slot.topic.name || known.id != slot.topic.id);
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
