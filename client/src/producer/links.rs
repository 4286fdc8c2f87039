//! The sender's streams: one to each leader, opened when needed, given up when stuck.

use std::{
    cmp::Reverse,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_proto::v1;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    Acks,
    link::{self, Event},
    sender::Sender,
    sequencer::Answer,
    slot::Slot,
};
use crate::{
    error::{Error, ErrorKind, WriteOutcome},
    limits,
};

/// The stream to one broker.
#[derive(Debug)]
pub enum Link {
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

impl Sender {
    /// Ends the streams and waits a little for the brokers to take what is still in them: records
    /// without acknowledgement count as done before that.
    pub(super) async fn end_links(mut self) {
        self.refuse_late_records();
        // All that is still in flight was given up: nobody is interested in an answer.
        let given_up: Vec<u64> = self.in_flight.values().map(|request| request.stream).collect();
        let mut open = 0;
        for (_, link) in self.links.drain() {
            match link {
                Link::Up { stream, task, .. } if given_up.contains(&stream) => task.abort(),
                Link::Up { .. } => open += 1,
                _ => {}
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

    pub(super) fn link_up(&mut self, up: u64, requests: UnboundedSender<v1::ProduceRequest>) {
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
        self.shared.client.inner.connections.reach.reached(&address);
        self.wake_slots_of(&address);
    }

    fn wake_slots_of(&mut self, address: &str) {
        let led = |slot: &Slot| slot.leader.as_ref().is_some_and(|(leader, _)| &**leader == address);
        self.ready
            .extend(self.slots.iter().filter(|(_, slot)| led(slot)).map(|(id, _)| *id));
    }

    pub(super) fn lost(&mut self, lost: u64, error: &Error, taken: u64, now: Instant) {
        let found = self.links.iter_mut().find_map(|(address, link)| match link {
            Link::Opening { stream, failures, .. } if *stream == lost => Some((address.clone(), *failures + 1, link)),
            Link::Up { stream, .. } if *stream == lost => Some((address.clone(), 0, link)),
            _ => None,
        });
        if let Some((address, failures, link)) = found {
            tracing::debug!(%address, %error, "a produce stream ended");
            self.shared.client.inner.connections.reach.failed(&address, error);
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

    /// Ends streams whose broker does not answer. One that works answers in time by itself.
    pub(super) fn give_up_stuck(&mut self, now: Instant) {
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

    pub(super) fn open_link(&mut self, address: &Arc<str>, slot: u64, now: Instant) {
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
