//! A producer as a user would have it: idempotent, acks=all, patient.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use millrace_client::{Delivery, Producer, WriteOutcome};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    values::{Value, encode},
    work::{Mode, Work},
};

/// How far behind its pace a producer may fall and still catch up; what it misses in longer troubles is not sent later.
const CATCHES_UP: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(5);
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A message on its way.
struct Sent {
    sequence: u64,
    delivery: Delivery,
}

/// Sends until it is told to end, then waits until all is answered.
pub async fn run(work: Arc<Work>, number: u32) {
    let client = work.connect(&format!("millrace-load-producer-{number}")).await;
    work.clients.lock().push(client.clone());
    let producer = loop {
        match client
            .producer()
            .delivery_timeout(work.options.delivery_timeout())
            .build()
            .await
        {
            Ok(producer) => break producer,
            Err(error) => tracing::warn!(%error, "no producer id yet"),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    };
    let mut lanes = Vec::new();
    let mut answers = JoinSet::new();
    for at in 0..work.partitions().len() {
        let (lane, sent) = mpsc::unbounded_channel();
        lanes.push(lane);
        // Each partition for itself: one that stands still must not hold up what is known of the others.
        answers.spawn(take_answers(work.clone(), number, at, sent));
    }
    send(&work, number, &producer, &lanes).await;
    drop(lanes);
    // All that was sent goes at once, without waiting for more.
    let _ = producer.flush().await;
    while answers.join_next().await.is_some() {}
    work.ended.send_modify(|ended| *ended += 1);
}

async fn send(work: &Work, number: u32, producer: &Producer, lanes: &[mpsc::UnboundedSender<Sent>]) {
    let mut mode = work.mode.subscribe();
    let mut sequences = vec![0; lanes.len()];
    let mut pace = Pace::new(work.options.rate, work.options.producers);
    for at in (0..lanes.len()).cycle() {
        let present = *mode.borrow_and_update();
        match present {
            Mode::Producing => {}
            Mode::Paused => {
                if mode.wait_for(|mode| *mode != Mode::Paused).await.is_err() {
                    return;
                }
                pace = Pace::new(work.options.rate, work.options.producers);
                continue;
            }
            Mode::Ending => return,
        }
        pace.wait().await;
        let (topic, partition) = {
            let partition = work.partitions()[at].lock();
            (partition.topic.clone(), partition.number)
        };
        let sequence = sequences[at];
        sequences[at] += 1;
        let value = Value {
            run: work.run,
            producer: number,
            sequence,
        };
        let bytes = encode(&topic, partition, value, work.options.value_size);
        work.sent.fetch_add(1, Ordering::Relaxed);
        match producer.send_to(&topic, Some(partition), None, Some(&bytes)).await {
            // The other end is there until this one is dropped.
            Ok(delivery) => drop(lanes[at].send(Sent { sequence, delivery })),
            Err(error) => {
                work.partitions()[at].lock().failed(number, sequence, true);
                work.note_failure(format!(
                    "{topic}-{partition}: message {sequence} of {number} was not taken: {error}"
                ));
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

async fn take_answers(work: Arc<Work>, number: u32, at: usize, mut sent: mpsc::UnboundedReceiver<Sent>) {
    while let Some(Sent { sequence, delivery }) = sent.recv().await {
        let result = delivery.await;
        let now = Instant::now();
        let mut partition = work.partitions()[at].lock();
        match result {
            Ok(stored) => {
                let offset = Some(stored.offset).filter(|offset| *offset >= 0);
                partition.acknowledged(number, sequence, offset, now);
                work.gaps.lock().acknowledged(now);
                work.bytes.fetch_add(work.options.value_size as u64, Ordering::Relaxed);
            }
            Err(error) => {
                let surely = error.outcome() == Some(WriteOutcome::NotWritten);
                partition.failed(number, sequence, surely);
                let place = format!("{}-{}", partition.topic, partition.number);
                work.note_failure(format!(
                    "{place}: message {sequence} of {number}: {error} ({:?})",
                    error.outcome()
                ));
            }
        }
    }
}

/// So many messages a second, in ticks.
struct Pace {
    interval: Option<Duration>,
    next: tokio::time::Instant,
}

impl Pace {
    fn new(rate: u32, producers: u32) -> Self {
        let interval = (rate > 0).then(|| Duration::from_secs(1) * producers / rate);
        Self {
            interval,
            next: tokio::time::Instant::now(),
        }
    }

    async fn wait(&mut self) {
        let Some(interval) = self.interval else { return };
        let now = tokio::time::Instant::now();
        if self.next > now + TICK {
            tokio::time::sleep_until(self.next).await;
        } else if now > self.next + CATCHES_UP {
            self.next = now;
        }
        self.next += interval;
    }
}
