//! What a consumer knows of its partitions, and which of them are fetched next. No IO here.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millrace_proto::v1::{self, ErrorReason};

use super::{
    Placed,
    builder::ConsumerConfig,
    records::{FetchedRecords, Scanned, corrupt},
};
use crate::{
    cluster::Cluster,
    error::{Error, ErrorKind, Result},
    limits,
    offsets::{TopicPartition, out_of_range},
    record::Start,
};

/// Where a partition and its reader stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The offset of the next record that is given out.
    pub position: i64,
    /// Records below this are committed; `None` before the first answer.
    pub high_watermark: Option<i64>,
    /// Records below this belong to no open transaction.
    pub last_stable_offset: Option<i64>,
    /// The oldest offset that is kept.
    pub log_start: Option<i64>,
}

impl PartitionStatus {
    /// How many offsets lie between the position and the high watermark.
    #[must_use]
    pub fn lag(&self) -> Option<i64> {
        self.high_watermark.map(|end| (end - self.position).max(0))
    }
}

/// One assigned partition.
#[derive(Debug)]
pub struct PartitionState {
    topic_id: Bytes,
    /// Rises with each seek; answers of an older one are thrown away.
    generation: u64,
    /// To be looked up before anything is fetched.
    pub start: Option<Start>,
    fetch_offset: i64,
    status: PartitionStatus,
    last_fetched_epoch: Option<i32>,
    leader: Option<(Arc<str>, i32)>,
    /// Requests for it that are not answered: one, or also the one that follows it.
    in_flight: u32,
    buffered: usize,
    paused: bool,
    /// An error was told; nothing more until a seek.
    stopped: bool,
    failures: u32,
    retry_at: Option<Instant>,
}

/// All partitions of a consumer.
#[derive(Debug, Default)]
pub struct State {
    pub partitions: HashMap<TopicPartition, PartitionState>,
    queue: VecDeque<(TopicPartition, Result<FetchedRecords>)>,
    buffered: usize,
    reserved: usize,
    /// Requests that are not answered, by leader.
    requests: HashMap<Arc<str>, usize>,
    turn: usize,
    leader_count: usize,
    next_generation: u64,
}

/// A request to make.
#[derive(Debug)]
pub struct Asked {
    pub request: v1::FetchRequest,
    pub max_wait: Duration,
    reserved: usize,
    partitions: HashMap<TopicPartition, (u64, i64)>,
}

/// What a lane is to do.
#[derive(Debug)]
pub enum Plan {
    Fetch(Box<Asked>),
    /// Nothing before this time, unless something changes.
    Wait(Option<Instant>),
}

/// One partition's answer, its batches walked over.
#[derive(Debug)]
pub struct Answered {
    pub partition: v1::FetchedPartition,
    pub scanned: Scanned,
}

impl Asked {
    /// The offset asked for of a partition, or where the parts that came of it end; `None` if nothing
    /// was asked for.
    pub fn offset(&self, topic: &str, partition: i32) -> Option<i64> {
        self.partitions
            .get(&(topic.into(), partition))
            .map(|(_, offset)| *offset)
    }
}

impl State {
    /// Adds a partition, or puts it to another place. `start`: an offset, or to be looked up.
    pub fn place(&mut self, placed: Placed, cluster: &Cluster) {
        let Placed {
            key,
            topic_id,
            start,
            leader_epoch,
        } = placed;
        self.discard(&key);
        self.next_generation += 1;
        let paused = self.partitions.get(&key).is_some_and(|known| known.paused);
        let offset = match start {
            Start::Offset(offset) => Some(offset),
            _ => None,
        };
        let position = offset.unwrap_or(0);
        let state = PartitionState {
            topic_id,
            generation: self.next_generation,
            start: offset.is_none().then_some(start),
            fetch_offset: position,
            status: PartitionStatus {
                position,
                high_watermark: None,
                last_stable_offset: None,
                log_start: None,
            },
            last_fetched_epoch: leader_epoch,
            leader: cluster.leader(&key.0, key.1),
            in_flight: 0,
            buffered: 0,
            paused,
            stopped: false,
            failures: 0,
            retry_at: None,
        };
        self.partitions.insert(key, state);
    }

    pub fn remove(&mut self, key: &TopicPartition) {
        self.discard(key);
        self.partitions.remove(key);
    }

    pub fn set_paused(&mut self, key: &TopicPartition, paused: bool) -> bool {
        self.partitions.get_mut(key).is_some_and(|state| {
            state.paused = paused;
            true
        })
    }

    /// Throws away what is buffered of a partition.
    fn discard(&mut self, key: &TopicPartition) {
        self.queue.retain(|(of, _)| of != key);
        if let Some(state) = self.partitions.get_mut(key) {
            self.buffered -= std::mem::take(&mut state.buffered);
        }
    }

    /// The starts to look up: where there is a leader to ask.
    pub fn to_resolve(&self) -> Vec<(TopicPartition, u64, Start)> {
        let askable = |state: &PartitionState| !state.stopped && state.leader.is_some();
        let pending = self.partitions.iter().filter(|(_, state)| askable(state));
        pending
            .filter_map(|(key, state)| Some((key.clone(), state.generation, state.start?)))
            .collect()
    }

    /// Takes the offset that a start was looked up as.
    pub fn resolved(&mut self, key: &TopicPartition, generation: u64, offset: Result<i64>) {
        let Some(state) = self
            .partitions
            .get_mut(key)
            .filter(|state| state.generation == generation)
        else {
            return;
        };
        match offset {
            Ok(offset) => {
                state.start = None;
                state.fetch_offset = offset;
                state.status.position = offset;
                state.last_fetched_epoch = None;
            }
            Err(error) => self.stop(key, error),
        }
    }

    /// Records of a partition turned out to be damaged behind `position`: lets it stand there.
    pub fn damaged(&mut self, key: &TopicPartition, position: i64, error: Error) {
        self.discard(key);
        if let Some(state) = self.partitions.get_mut(key) {
            state.status.position = position;
        }
        self.stop(key, error);
    }

    /// A request failed in a way that repeating it does not mend: lets its partitions stand.
    pub fn failed(&mut self, asked: &Asked, error: &Error) {
        for (key, (generation, _)) in &asked.partitions {
            let told = |state: &PartitionState| state.stopped || state.generation != *generation;
            if !self.partitions.get(key).is_none_or(told) {
                self.stop(key, error.clone().context(format_args!("{}-{}", key.0, key.1)));
            }
        }
    }

    /// Tells an error and lets the partition stand.
    fn stop(&mut self, key: &TopicPartition, error: Error) {
        if let Some(state) = self.partitions.get_mut(key) {
            state.stopped = true;
            self.queue.push_back((key.clone(), Err(error)));
        }
    }

    /// Takes over leaders. Topics that are gone are told.
    pub fn follow(&mut self, cluster: &Cluster) {
        let mut gone = Vec::new();
        for (key, state) in &mut self.partitions {
            match cluster.topics.get(&key.0).filter(|topic| topic.id == state.topic_id) {
                Some(_) => {
                    let leader = cluster.leader(&key.0, key.1);
                    if leader != state.leader {
                        state.leader = leader;
                        state.retry_at = None;
                    }
                }
                None if !state.stopped => gone.push(key.clone()),
                None => {}
            }
        }
        self.leader_count = self.leaders().len();
        for key in gone {
            let error = Error::server(
                ErrorReason::UnknownTopic,
                format!(
                    "Topic {:?} was deleted: assign its partitions anew if it was created again.",
                    key.0
                ),
            );
            self.stop(&key, error);
        }
    }

    /// The leaders of all partitions.
    pub fn leaders(&self) -> Vec<Arc<str>> {
        let mut leaders: Vec<_> = self
            .partitions
            .values()
            .filter_map(|state| Some(state.leader.as_ref()?.0.clone()))
            .collect();
        leaders.sort_unstable();
        leaders.dedup();
        leaders
    }

    /// What a lane of `leader` is to fetch now.
    pub fn plan(&mut self, leader: &Arc<str>, now: Instant, config: &ConsumerConfig) -> Plan {
        let (mut ready, mut left_out, mut wake) = (Vec::new(), false, None);
        for (key, state) in &self.partitions {
            if !state.may_be_fetched(leader) || state.in_flight > 0 {
                continue;
            }
            if let Some(at) = state.retry_at.filter(|at| *at > now) {
                wake = Some(wake.map_or(at, |wake: Instant| wake.min(at)));
            } else if state.buffered >= config.fetch_max_bytes {
                left_out = true;
            } else {
                ready.push(key.clone());
            }
        }
        let max_bytes = self.request_bytes(config);
        if ready.is_empty() || !self.has_room(max_bytes, config) {
            return Plan::Wait(wake);
        }
        // Each in turn is the first to be served.
        ready.sort_unstable();
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn % ready.len();
        ready.rotate_left(turn);
        let requests = self.requests.entry(leader.clone()).or_default();
        if *requests == 0 {
            // The other lane fetches the other half meanwhile.
            ready.truncate(ready.len().div_ceil(limits::FETCH_LANES));
        }
        *requests += 1;
        ready.truncate(limits::MAX_PARTITIONS_PER_REQUEST);
        let max_wait = if left_out {
            config.fetch_max_wait.min(limits::PARTIAL_FETCH_WAIT)
        } else {
            config.fetch_max_wait
        };
        Plan::Fetch(Box::new(self.ask(ready, max_wait, max_bytes, config)))
    }

    /// Half of the bound is for requests, an equal share for each lane: whatever waits at brokers
    /// without data, there is room for the one that has some. The other half is for what came.
    fn request_bytes(&self, config: &ConsumerConfig) -> usize {
        let lanes = self.leader_count.max(1) * limits::FETCH_LANES;
        (config.max_prefetch_bytes / 2 / lanes).clamp(1, config.fetch_max_bytes)
    }

    fn has_room(&self, max_bytes: usize, config: &ConsumerConfig) -> bool {
        let taken = self.buffered + self.reserved;
        taken == 0 || taken + max_bytes <= config.max_prefetch_bytes
    }

    /// What a lane of `leader` is to ask for while the rest of the answer to `asked`, of which
    /// `part` has come, is still under way: so that the connection does not stand still between two
    /// answers. Only for a reader that catches up with one partition, and has no other to turn to.
    pub fn follow_on(
        &mut self,
        leader: &Arc<str>,
        asked: &Asked,
        part: &v1::FetchedPartition,
        config: &ConsumerConfig,
    ) -> Option<Box<Asked>> {
        let next_offset = part.next_offset.filter(|offset| *offset < part.high_watermark)?;
        let (key, (generation, offset)) = asked.partitions.iter().next()?;
        let is_alone = self
            .partitions
            .iter()
            .all(|(other, state)| other == key || !state.may_be_fetched(leader) || state.in_flight > 0);
        let state = self.partitions.get(key)?;
        let may_follow = asked.partitions.len() == 1
            && is_alone
            && state.generation == *generation
            && state.may_be_fetched(leader)
            && state.in_flight == 1
            && state.retry_at.is_none()
            && state.buffered < config.fetch_max_bytes
            && next_offset > *offset
            // With it the broker refuses to go on where the log may have changed; what is behind the
            // last batch of an answer that is not here can't be told it.
            && state.leader.as_ref().is_some_and(|(_, epoch)| *epoch == part.leader_epoch);
        let max_bytes = self.request_bytes(config);
        if !may_follow || !self.has_room(max_bytes, config) {
            return None;
        }
        let key = key.clone();
        *self.requests.entry(leader.clone()).or_default() += 1;
        let mut following = self.ask(vec![key], config.fetch_max_wait, max_bytes, config);
        for part in &mut following.request.partitions {
            part.fetch_offset = next_offset;
            part.last_fetched_epoch = None;
        }
        for (_, offset) in following.partitions.values_mut() {
            *offset = next_offset;
        }
        Some(Box::new(following))
    }

    fn ask(
        &mut self,
        ready: Vec<TopicPartition>,
        max_wait: Duration,
        max_bytes: usize,
        config: &ConsumerConfig,
    ) -> Asked {
        self.reserved += max_bytes;
        let bytes = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
        let mut asked = Asked {
            request: v1::FetchRequest {
                correlation_id: 0,
                max_wait: prost_types::Duration::try_from(max_wait).ok(),
                min_bytes: bytes(config.fetch_min_bytes.min(max_bytes)),
                max_bytes: bytes(max_bytes),
                isolation: config.isolation.to_proto().into(),
                partitions: Vec::with_capacity(ready.len()),
            },
            max_wait,
            reserved: max_bytes,
            partitions: HashMap::with_capacity(ready.len()),
        };
        for key in ready {
            let Some(state) = self.partitions.get_mut(&key) else {
                continue;
            };
            state.in_flight += 1;
            asked.request.partitions.push(v1::FetchPartition {
                topic: key.0.to_string(),
                topic_id: state.topic_id.clone(),
                partition: key.1,
                fetch_offset: state.fetch_offset,
                current_leader_epoch: state.leader.as_ref().map(|(_, epoch)| *epoch),
                last_fetched_epoch: state.last_fetched_epoch,
                max_bytes: 0,
            });
            asked.partitions.insert(key, (state.generation, state.fetch_offset));
        }
        asked
    }

    /// Ends a request, answered or not.
    pub fn ended(&mut self, leader: &Arc<str>, asked: &Asked) {
        self.reserved -= asked.reserved;
        if let Some(requests) = self.requests.get_mut(leader) {
            *requests -= 1;
        }
        for (key, (generation, _)) in &asked.partitions {
            if let Some(state) = self
                .partitions
                .get_mut(key)
                .filter(|state| state.generation == *generation)
            {
                state.in_flight = state.in_flight.saturating_sub(1);
            }
        }
    }

    /// Takes one partition's answer to `asked`, which has ended, or the next part of it.
    pub fn answered(&mut self, asked: &mut Asked, answered: Answered, now: Instant, config: &ConsumerConfig) {
        let Answered {
            partition: told,
            scanned,
        } = answered;
        let key: TopicPartition = (told.topic.as_str().into(), told.partition);
        let Some((generation, offset)) = asked.partitions.get_mut(&key) else {
            return;
        };
        let fetch_offset = *offset;
        let Some(state) = self
            .partitions
            .get_mut(&key)
            // What follows a damaged part is not given out, nor what follows an answer that ended
            // elsewhere than it was said to.
            .filter(|state| {
                state.generation == *generation
                    && !state.stopped
                    && state.start.is_none()
                    && state.fetch_offset == fetch_offset
            })
        else {
            return;
        };
        if let Some(error) = told.error {
            let error = Error::from_item(error);
            return self.refused(&key, fetch_offset, error, now, config);
        }
        state.failures = 0;
        state.status.high_watermark = Some(told.high_watermark);
        state.status.last_stable_offset = Some(told.last_stable_offset);
        state.status.log_start = Some(told.log_start);
        if let Some(end) = told.diverging {
            let end_offset = end.end_offset.max(0);
            let error = Error::new(
                ErrorKind::Truncated {
                    topic: key.0.clone(),
                    partition: key.1,
                    position: fetch_offset,
                    end_offset,
                },
                format!(
                    "The log of {}-{} was cut to offset {end_offset}, below the position {fetch_offset}: records seen from there on are gone; seek to go on.",
                    key.0, key.1
                ),
            );
            return self.stop(&key, error);
        }
        if scanned.next_offset > fetch_offset {
            *offset = scanned.next_offset;
            state.fetch_offset = scanned.next_offset;
            state.last_fetched_epoch = scanned.leader_epoch.filter(|epoch| *epoch >= 0);
            state.buffered += scanned.bytes.len();
            self.buffered += scanned.bytes.len();
            let fetched = FetchedRecords {
                topic: key.0.clone(),
                partition: key.1,
                start: fetch_offset,
                next_offset: scanned.next_offset,
                bytes: scanned.bytes,
                high_watermark: told.high_watermark,
                log_start: told.log_start,
            };
            self.queue.push_back((key.clone(), Ok(fetched)));
        } else if scanned.error.is_none() && !told.records.is_empty() {
            // Only what was read before: asked again a little later, not in a circle.
            state.back_off(now);
        }
        if let Some(error) = scanned.error {
            self.stop(&key, corrupt(&key.0, key.1, scanned.next_offset, &error));
        }
    }

    fn refused(
        &mut self,
        key: &TopicPartition,
        fetch_offset: i64,
        error: Error,
        now: Instant,
        config: &ConsumerConfig,
    ) {
        let Some(state) = self.partitions.get_mut(key) else {
            return;
        };
        match error.reason() {
            Some(ErrorReason::OffsetOutOfRange) => match config.reset.start() {
                Some(start) => {
                    tracing::warn!(topic = %key.0, partition = key.1, offset = fetch_offset, ?start, "the position is out of range: reset");
                    state.start = Some(start);
                }
                None => self.stop(key, out_of_range(error, &key.0, key.1, fetch_offset)),
            },
            // Metadata tells whether the topic is gone.
            Some(ErrorReason::UnknownTopic | ErrorReason::UnknownPartition) => state.back_off(now),
            _ if error.is_retriable() => state.back_off(now),
            _ => self.stop(key, error.context(format_args!("{}-{}", key.0, key.1))),
        }
    }

    /// What is given out next.
    pub fn take(&mut self) -> Option<Result<FetchedRecords>> {
        let paused = |key: &TopicPartition| self.partitions.get(key).is_some_and(|state| state.paused);
        let at = self.queue.iter().position(|(key, _)| !paused(key))?;
        let (key, item) = self.queue.remove(at)?;
        if let (Ok(fetched), Some(state)) = (&item, self.partitions.get_mut(&key)) {
            state.buffered -= fetched.bytes.len();
            self.buffered -= fetched.bytes.len();
            state.status.position = fetched.next_offset;
        }
        Some(item)
    }
}

impl PartitionState {
    pub fn status(&self) -> PartitionStatus {
        self.status
    }

    fn may_be_fetched(&self, leader: &Arc<str>) -> bool {
        let led = self.leader.as_ref().is_some_and(|(address, _)| address == leader);
        led && !self.paused && !self.stopped && self.start.is_none()
    }

    fn back_off(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let backoff = limits::MIN_BACKOFF.saturating_mul(1 << self.failures.min(6));
        self.retry_at = Some(now + backoff.min(limits::MAX_BACKOFF));
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
