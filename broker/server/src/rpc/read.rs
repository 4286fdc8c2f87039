//! `Messaging.Read`: decoded messages from given positions, without a group.

mod answer;

pub(super) use answer::{Encoded, Sink, pass_on};

use std::{collections::BTreeSet, sync::Arc};

use millrace_proto::{
    encoded::EncodedAnswer,
    v1::{self, start::At},
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tonic::Status;
use uuid::Uuid;

use super::convert;
use crate::{
    broker::Broker,
    error::{ApiError, broker_stopping, unknown_topic},
    forward::{LOST_LOOK_EVERY, READER_LEADER_WAIT, Source, Watches, find_sources, open_sources},
    limits,
    memory::{ConnectionBudget, StreamState, no_stream_memory},
};

/// A reader's place in one partition.
#[derive(Debug)]
struct Cursor {
    source: Source,
    /// Whether the partition can't be read where it was: its new leader is looked for.
    lost: bool,
    /// Since when it can't be read.
    trouble_since: Option<Instant>,
    next: i64,
    /// Where a reader that does not follow stops.
    stop: Option<i64>,
    /// Whether the reader was told where this partition stands.
    told: bool,
}

impl Cursor {
    fn has_ended(&self) -> bool {
        self.stop.is_some_and(|stop| self.next >= stop)
    }
}

/// A reader.
#[derive(Debug)]
pub struct Reader {
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    topic: String,
    topic_id: Uuid,
    /// Partitions that the topic gets later are read as well.
    all: bool,
    cursors: Vec<Cursor>,
    /// The cursors' memory.
    memory: StreamState,
    /// Waits for news of partitions that are led elsewhere.
    watches: Watches,
    /// When leaders were looked for last.
    looked_at: Option<Instant>,
    remaining: Option<u64>,
    follow: bool,
}

type Answers = mpsc::Sender<Result<EncodedAnswer, Status>>;

impl Reader {
    /// Checks the request and finds where each partition's reading begins.
    ///
    /// # Errors
    /// The request is wrong, a position is outside of its partition, or there is no memory for so many
    /// partitions.
    pub async fn open(
        broker: Arc<Broker>,
        budget: Option<ConnectionBudget>,
        request: v1::ReadRequest,
    ) -> Result<Self, ApiError> {
        convert::check_isolation(request.isolation)?;
        let (cluster, topic) = broker.topic(&request.topic).await?;
        let topic_id = topic.id;
        let all = request.partitions.is_empty();
        let common = request.start.and_then(|start| start.at);
        let starts: Vec<(i32, Option<At>)> = if request.partitions.is_empty() {
            (0..)
                .zip(&topic.partitions)
                .map(|(number, _)| (number, common))
                .collect()
        } else {
            if request.partitions.len() > limits::MAX_PARTITIONS_PER_REQUEST {
                let problem = format!("has over {} entries", limits::MAX_PARTITIONS_PER_REQUEST);
                return Err(ApiError::field("partitions", problem));
            }
            request
                .partitions
                .into_iter()
                .map(|part| (part.partition, part.start.and_then(|start| start.at).or(common)))
                .collect()
        };
        let distinct: BTreeSet<i32> = starts.iter().map(|(number, _)| *number).collect();
        if distinct.len() != starts.len() {
            return Err(ApiError::field("partitions", "names a partition twice"));
        }
        let beginning = At::Edge(v1::Edge::Beginning.into());
        let starts: Vec<(i32, At)> = starts
            .into_iter()
            .map(|(number, at)| (number, at.unwrap_or(beginning)))
            .collect();
        for (number, _) in &starts {
            // Says if there is no such partition.
            broker.partitions.config_of(&cluster, &topic, *number)?;
        }
        let mut memory = budget.as_ref().map(ConnectionBudget::stream_state).unwrap_or_default();
        if !memory.hold(cursors_bytes(starts.len(), &request.topic)) {
            return Err(no_stream_memory());
        }
        let sources = open_sources(&broker, &topic, &starts, !request.follow).await?;
        let cursors = sources
            .into_iter()
            .map(|(source, next)| Cursor {
                stop: (!request.follow).then(|| source.offsets().last_stable),
                source,
                lost: false,
                trouble_since: None,
                next,
                told: false,
            })
            .collect();
        Ok(Self {
            broker,
            budget,
            topic: request.topic,
            topic_id,
            all,
            cursors,
            memory,
            watches: Watches::default(),
            looked_at: None,
            remaining: Some(request.max_messages).filter(|count| *count > 0),
            follow: request.follow,
        })
    }

    /// Sends messages until the end, or the caller goes away.
    pub async fn serve(mut self, answers: Answers) {
        let stopping = self.broker.stopping.clone();
        let served = tokio::select! {
            served = self.run(&answers) => served,
            () = answers.closed() => return,
            () = stopping.cancelled() => Err(broker_stopping()),
        };
        if let Err(error) = served {
            self.broker.metrics.count_error(&error);
            let _ = answers.send(Err(error.into())).await;
        }
    }

    async fn run(&mut self, answers: &Answers) -> Result<(), ApiError> {
        loop {
            let waiter = Arc::new(Notify::new());
            let mut progressed = false;
            for at in 0..self.cursors.len() {
                if self.cursors[at].lost {
                    continue;
                }
                self.cursors[at].source.notify_on_data(&waiter);
                match self.advance(at, answers).await {
                    Ok(more) => {
                        progressed |= more;
                        self.cursors[at].trouble_since = None;
                    }
                    Err(error) => self.lose(at, error)?,
                }
                if self.remaining == Some(0) {
                    return Ok(());
                }
            }
            if self.cursors.iter().all(Cursor::has_ended) {
                return Ok(());
            }
            if !progressed {
                self.wait(&waiter).await?;
            }
            self.find_lost().await?;
        }
    }

    /// Waits for more to read.
    async fn wait(&mut self, waiter: &Notify) -> Result<(), ApiError> {
        let watched = self
            .cursors
            .iter()
            .enumerate()
            .filter(|(_, cursor)| !cursor.lost && !cursor.has_ended());
        self.watches
            .ask(watched.map(|(at, cursor)| (at, &cursor.source, cursor.next)));
        let longest = if self.cursors.iter().any(|cursor| cursor.lost) {
            LOST_LOOK_EVERY
        } else {
            limits::NEW_PARTITIONS_CHECK
        };
        tokio::select! {
            () = waiter.notified() => {}
            news = self.watches.news() => {
                for (at, told) in news {
                    match told {
                        Ok(offsets) => self.cursors[at].source.learn(offsets),
                        Err(error) => self.lose(at, error)?,
                    }
                }
            }
            () = tokio::time::sleep(longest) => {}
        }
        if self.follow {
            self.add_new_partitions().await?;
        }
        Ok(())
    }

    /// A partition can't be read where it was. The error, if that is not for the reason that its leader
    /// has changed.
    fn lose(&mut self, at: usize, error: ApiError) -> Result<(), ApiError> {
        let cursor = &mut self.cursors[at];
        let since = *cursor.trouble_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= READER_LEADER_WAIT || !cursor.source.may_have_moved(&self.broker, &error) {
            return Err(error.with("partition", cursor.source.target().number));
        }
        cursor.lost = true;
        Ok(())
    }

    /// Looks for the leaders of partitions that can't be read where they were; goes on there from the
    /// same position.
    async fn find_lost(&mut self) -> Result<(), ApiError> {
        let lost: Vec<usize> = (0..self.cursors.len()).filter(|at| self.cursors[*at].lost).collect();
        // Others may have much to read meanwhile.
        let lately = self.looked_at.is_some_and(|at| at.elapsed() < LOST_LOOK_EVERY);
        if lost.is_empty() || lately {
            return Ok(());
        }
        self.looked_at = Some(Instant::now());
        let cluster = self.broker.quorum.cluster();
        let topic = cluster.topics.get(&self.topic);
        let topic = topic
            .filter(|topic| topic.id == self.topic_id)
            .ok_or_else(|| unknown_topic(&self.topic))?;
        let starts: Vec<(i32, At)> = lost
            .iter()
            .map(|at| {
                let cursor = &self.cursors[*at];
                (cursor.source.target().number, At::Offset(cursor.next))
            })
            .collect();
        let found = find_sources(&self.broker, topic, &starts, false).await;
        for (at, found) in lost.into_iter().zip(found) {
            match found {
                Ok((source, _)) => {
                    self.cursors[at].source = source;
                    self.cursors[at].lost = false;
                }
                Err(error) => self.lose(at, error)?,
            }
        }
        Ok(())
    }

    /// Takes in partitions that the topic got meanwhile, from their beginning: whatever came
    /// since must not be passed over (KAFKA-20742 tells of a reader that did).
    ///
    /// # Errors
    /// There is no memory for them.
    async fn add_new_partitions(&mut self) -> Result<(), ApiError> {
        let cluster = self.broker.quorum.cluster();
        let Some(topic) = cluster
            .topics
            .get(&self.topic)
            .filter(|topic| self.all && topic.id == self.topic_id)
        else {
            return Ok(());
        };
        let beginning = At::Edge(v1::Edge::Beginning.into());
        let added: Vec<(i32, At)> = (self.cursors.len()..topic.partitions.len())
            .map(|number| (i32::try_from(number).unwrap_or(i32::MAX), beginning))
            .collect();
        if added.is_empty() {
            return Ok(());
        }
        if !self.memory.hold(cursors_bytes(topic.partitions.len(), &self.topic)) {
            return Err(no_stream_memory());
        }
        for found in find_sources(&self.broker, topic, &added, false).await {
            // One that is not open yet is there at the next look; those behind it too, as cursors are
            // in the order of partitions.
            let Ok((source, next)) = found else { break };
            self.cursors.push(Cursor {
                source,
                lost: false,
                trouble_since: None,
                next,
                stop: None,
                told: false,
            });
        }
        Ok(())
    }
}

/// What a reader remembers of so many partitions of a topic.
fn cursors_bytes(count: usize, topic: &str) -> usize {
    count * (size_of::<Cursor>() + topic.len() + limits::READER_PARTITION_BYTES)
}

#[cfg(test)]
mod tests {
    use millrace_proto::v1::ErrorReason;

    use super::*;
    use crate::{memory::MemoryBudget, testing::TestBroker};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_counts_what_it_remembers() {
        let test = TestBroker::start().await;
        test.partition("orders", &[0]).await;
        let memory = MemoryBudget::new(8 << 20, 1 << 20);
        let connection = memory.connection();
        let request = || v1::ReadRequest {
            topic: "orders".into(),
            follow: true,
            ..Default::default()
        };
        let open = || Reader::open(test.broker().clone(), Some(connection.clone()), request());
        let reader = open().await.unwrap();
        let one = memory.streams_used();
        assert!(one >= size_of::<Cursor>());
        let mut others = connection.stream_state();
        assert!(others.hold((1 << 20) - one));
        let refused = open().await.unwrap_err();
        assert_eq!(refused.reason(), ErrorReason::Overloaded);
        drop(reader);
        assert!(open().await.is_ok());
        drop(others);
        assert_eq!(memory.streams_used(), 0);
    }
}
