//! The task that sends a producer's batches: it owns all sequencers and streams.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_proto::v1;
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    watch,
};

use super::{
    Acks, Shared, init_producer,
    link::{self, Event},
    sequencer::{Answer, BatchId},
    slot::{Next, Slot},
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
    shared: Arc<Shared>,
    events: UnboundedSender<Event>,
    inbox: UnboundedReceiver<Event>,
    cluster: watch::Receiver<Arc<Cluster>>,
    slots: HashMap<u64, Slot>,
    next_slot: u64,
    links: HashMap<Arc<str>, Link>,
    next_stream: u64,
    in_flight: HashMap<u64, InFlight>,
    next_correlation: u64,
    /// Slots to look at.
    ready: Vec<u64>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    next_tick: Option<Instant>,
}

/// The stream to one broker.
#[derive(Debug)]
enum Link {
    Opening {
        stream: u64,
        failures: u32,
        task: tokio::task::AbortHandle,
    },
    Up {
        stream: u64,
        requests: UnboundedSender<v1::ProduceRequest>,
        task: tokio::task::AbortHandle,
    },
    Down {
        until: Instant,
        failures: u32,
    },
}

/// A request that is not answered.
#[derive(Debug)]
struct InFlight {
    stream: u64,
    sent_at: Instant,
    batches: Vec<(u64, BatchId)>,
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

    /// Ends the streams and waits a little for the brokers to take what is still in them: records
    /// without acknowledgement count as done before that.
    async fn end_links(mut self) {
        let mut open = 0;
        for (_, link) in self.links.drain() {
            if matches!(link, Link::Up { .. }) {
                open += 1;
            }
        }
        let ended = async {
            while open > 0 {
                match self.inbox.recv().await {
                    Some(Event::Lost { .. }) => open -= 1,
                    Some(_) => {}
                    None => return,
                }
            }
        };
        let _ = tokio::time::timeout(limits::CLOSE_WAIT, ended).await;
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

    fn answer(&mut self, slot: u64, id: BatchId, answer: Answer, now: Instant) {
        if let Answer::Failed(error) = &answer
            && error.is_retriable()
        {
            self.shared.client.inner.refresh.notify_one();
        }
        if let Some(known) = self.slots.get_mut(&slot) {
            known.answer(now, id, answer, &self.shared);
            self.ready.push(slot);
        }
    }

    fn link_up(&mut self, up: u64, requests: UnboundedSender<v1::ProduceRequest>) {
        let opening = self
            .links
            .iter_mut()
            .find(|(_, link)| matches!(link, Link::Opening { stream, .. } if *stream == up));
        let Some((address, link)) = opening else { return };
        let Link::Opening { task, .. } = link else { return };
        *link = Link::Up {
            stream: up,
            requests,
            task: task.clone(),
        };
        let address = address.clone();
        self.wake_slots_of(&address);
    }

    fn wake_slots_of(&mut self, address: &str) {
        let led = |slot: &Slot| slot.leader.as_ref().is_some_and(|(leader, _)| &**leader == address);
        self.ready
            .extend(self.slots.iter().filter(|(_, slot)| led(slot)).map(|(id, _)| *id));
    }

    fn lost(&mut self, lost: u64, error: &Error, taken: u64, now: Instant) {
        let found = self.links.iter_mut().find_map(|(address, link)| match link {
            Link::Opening { stream, failures, .. } if *stream == lost => Some((address.clone(), *failures + 1, link)),
            Link::Up { stream, .. } if *stream == lost => Some((address.clone(), 0, link)),
            _ => None,
        });
        if let Some((address, failures, link)) = found {
            tracing::debug!(%address, %error, "a produce stream ended");
            let backoff = limits::MIN_BACKOFF
                .saturating_mul(1 << failures.min(10))
                .min(limits::MAX_BACKOFF);
            *link = Link::Down {
                until: now + backoff,
                failures,
            };
            self.shared.client.inner.refresh.notify_one();
            self.wake_slots_of(&address);
        }
        let gone: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, request)| request.stream == lost)
            .map(|(id, _)| *id)
            .collect();
        for correlation_id in gone {
            let Some(request) = self.in_flight.remove(&correlation_id) else {
                continue;
            };
            let outcome = if correlation_id > taken {
                WriteOutcome::NotWritten
            } else {
                WriteOutcome::Unknown
            };
            let error = error.clone().with_outcome(outcome);
            for (slot, id) in request.batches {
                self.answer(slot, id, Answer::Failed(error.clone()), now);
            }
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
        let mut busy = !self.in_flight.is_empty();
        for (id, slot) in &mut self.slots {
            if slot.expire(now, &self.shared) {
                busy = true;
                self.ready.push(*id);
            }
        }
        self.next_tick = busy.then(|| now + limits::DEADLINE_TICK);
        // The broker answers in time by itself; one that does not is stuck.
        let patience = self.shared.config.request_timeout + Duration::from_secs(5);
        let stuck: Vec<u64> = self
            .in_flight
            .values()
            .filter(|request| now.saturating_duration_since(request.sent_at) > patience)
            .map(|request| request.stream)
            .collect();
        for stream in stuck {
            let task = self.links.values().find_map(|link| match link {
                Link::Up { stream: up, task, .. } if *up == stream => Some(task.clone()),
                _ => None,
            });
            if let Some(task) = task {
                task.abort();
                let error = Error::new(
                    ErrorKind::TimedOut,
                    "The broker did not answer within the request timeout.",
                );
                self.lost(stream, &error, u64::MAX, now);
            }
        }
    }

    fn has_work(&mut self, now: Instant) -> bool {
        let shared = self.shared.clone();
        let told = !shared.mailbox.partitions.lock().is_empty();
        told || !self.in_flight.is_empty() || self.slots.values_mut().any(|slot| slot.expire(now, &shared))
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

    fn open_link(&mut self, address: &Arc<str>, slot: u64, now: Instant) {
        let failures = match self.links.get(address) {
            Some(Link::Down { until, .. }) if *until > now => {
                self.timers.push(Reverse((*until, slot)));
                return;
            }
            Some(Link::Down { failures, .. }) => *failures,
            Some(_) => return,
            None => 0,
        };
        let stream = self.next_stream;
        self.next_stream += 1;
        let answered = self.shared.config.acks != Acks::None;
        let task = tokio::spawn(link::run(
            self.shared.client.clone(),
            address.clone(),
            stream,
            answered,
            self.events.clone(),
        ));
        let task = task.abort_handle();
        self.links
            .insert(address.clone(), Link::Opening { stream, failures, task });
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        for link in self.links.values() {
            // An open stream ends by itself once all that went in is sent: with no acknowledgements
            // to wait for, that may be later than now.
            if let Link::Opening { task, .. } = link {
                task.abort();
            }
        }
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
