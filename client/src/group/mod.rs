//! A group's consumer: partitions that the group's members share, with committed offsets.

mod builder;
mod commit;
mod driver;
mod partitions;
mod positions;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_member::{Member, PartitionId};
use millrace_proto::v1::ErrorReason;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};

pub use builder::{Assignor, GroupConsumerBuilder};

use self::{
    builder::GroupConfig,
    driver::{Command, Shared, Told},
    positions::Positions,
};
use crate::{
    client::Client,
    consumer::{Consumer, FetchedRecords, RecordIterator},
    error::{Error, Result},
    limits,
    offsets::TopicPartition,
    record::ConsumedRecord,
};

/// What [`GroupConsumer::poll`] gives.
#[derive(Debug)]
pub enum GroupEvent {
    /// Records of one partition. With automatic commits they count as processed when `poll` is called again.
    Records(FetchedRecords),
    /// The member reads these from now on.
    Assigned(Vec<(Arc<str>, i32)>),
    /// These are to be given back, which the next call of `poll` does: nothing more comes of them. What was handed out
    /// before counts as processed; commit it now where the application commits by itself.
    Revoking(Vec<(Arc<str>, i32)>),
    /// Others have these, or may have: stop to process them. Nothing of them can be committed.
    Lost(Vec<(Arc<str>, i32)>),
}

/// A member of a group: reads its share of the topics' partitions, from where the group has committed.
///
/// A task of its own keeps the membership alive, however long records are processed; only partitions that are to be
/// given back must be done with within the rebalance timeout. A process that ends closes its connection, so that others
/// get its partitions soon; one that only drops this keeps them from others for its session timeout.
/// [`close`](Self::close) commits and leaves at once.
///
/// At least once, with automatic commits: an offset is committed only after the call that follows shows that the
/// record was processed.
///
/// ```no_run
/// # async fn example(client: millrace_client::Client) -> Result<(), millrace_client::Error> {
/// let mut consumer = client.group_consumer("billing").topics(["orders"]).build()?;
/// for _ in 0..100 {
///     let record = consumer.next().await?;
///     println!("{:?}", record.value);
/// }
/// consumer.close().await
/// # }
/// ```
///
/// At most once: committed before it is processed.
///
/// ```no_run
/// # async fn example(client: millrace_client::Client) -> Result<(), millrace_client::Error> {
/// let mut consumer = client.group_consumer("billing").topics(["orders"]).auto_commit(None).build()?;
/// loop {
///     let record = consumer.next().await?;
///     let refused = consumer.commit([(&*record.topic, record.partition, record.offset + 1)]).await?;
///     if refused.is_empty() {
///         println!("{:?}", record.value);
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct GroupConsumer {
    shared: Arc<Shared>,
    config: GroupConfig,
    consumer: Consumer,
    commands: mpsc::Sender<Command>,
    task: tokio::task::AbortHandle,
    positions: Positions,
    /// What it reads.
    held: HashMap<PartitionId, TopicPartition>,
    /// To be begun, once their offsets are known.
    beginning: Vec<PartitionId>,
    /// To be given back, once the application was told of it, and until when the coordinator waits for that.
    to_release: BTreeMap<PartitionId, Instant>,
    /// What it was not told yet: at most one of each kind.
    events: VecDeque<GroupEvent>,
    /// To be given back by the next call.
    releasing: BTreeMap<PartitionId, Instant>,
    begin_at: Instant,
    backoff: Duration,
    commit_at: Instant,
    /// What `next` is in the middle of.
    current: Option<RecordIterator>,
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl GroupConsumer {
    fn begin(client: Client, consumer: Consumer, config: GroupConfig) -> Self {
        let now = Instant::now();
        let shared = Arc::new(Shared {
            client,
            group: config.group.clone(),
            member: Mutex::new(Member::new(config.member(), now)),
            coordinator: Mutex::default(),
            told: Mutex::new(Told::default()),
            news: Notify::new(),
            wake: Notify::new(),
        });
        // The application sends one and waits.
        let (commands, queue) = mpsc::channel(1);
        let task = tokio::spawn(driver::run(shared.clone(), queue)).abort_handle();
        Self {
            shared,
            commit_at: now + config.commit_interval.unwrap_or_default(),
            config,
            consumer,
            commands,
            task,
            positions: Positions::default(),
            held: HashMap::new(),
            events: VecDeque::new(),
            to_release: BTreeMap::new(),
            beginning: Vec::new(),
            releasing: BTreeMap::new(),
            begin_at: now,
            backoff: limits::MIN_BACKOFF,
            current: None,
        }
    }

    /// What comes next; waits for it. Calling it says that what it gave before is processed. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// Those of [`Consumer::next_batch`] for one partition, while the others go on. That one gives nothing more until it
    /// is assigned anew: where its committed offset is not in the log any more, close this consumer and set the group's
    /// offset, or build it with another [`reset`](GroupConsumerBuilder::reset). After an error of the group
    /// (FENCED_INSTANCE, INVALID_TOPIC_PATTERN) nothing more comes.
    pub async fn poll(&mut self) -> Result<GroupEvent> {
        self.positions.processed();
        loop {
            if let Some(event) = self.keep_up().await? {
                return Ok(event);
            }
            if self.has_news() {
                continue;
            }
            let rest = self.current.take().map(RecordIterator::rest);
            let event = match rest.filter(|rest| rest.start_offset() < rest.next_offset()) {
                Some(rest) => Some(GroupEvent::Records(rest)),
                None => self.turn().await?,
            };
            let Some(event) = event else { continue };
            if let GroupEvent::Records(records) = &event {
                let key = (records.topic().clone(), records.partition());
                self.positions.fetched(records);
                self.positions.handed(&key, records.next_offset());
            }
            return Ok(event);
        }
    }

    /// The next record; waits until there is one. Partitions come and go meanwhile: what was handed out of one that
    /// goes counts as processed. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub async fn next(&mut self) -> Result<ConsumedRecord> {
        self.positions.processed();
        self.commit_if_due().await;
        loop {
            // Before each record, so that nothing is handed out of what others may have.
            let has_news = self.has_news();
            if let Some(current) = &mut self.current
                && !has_news
                && self.releasing.is_empty()
                && self.events.is_empty()
            {
                let key = current.key();
                match current.next() {
                    Some(Ok(record)) => {
                        self.positions.handed(&key, record.offset + 1);
                        return Ok(record);
                    }
                    Some(Err(error)) => {
                        // It stands there, and is told when it is taken next.
                        let reached = current.reached();
                        self.current = None;
                        self.consumer.stand(&key, reached, error);
                    }
                    None => {
                        // Also past what compaction and transactions left behind the last record.
                        self.positions.handed(&key, current.reached());
                        self.positions.processed();
                        self.current = None;
                    }
                }
                continue;
            }
            if self.current.is_some() {
                self.keep_up().await?;
                continue;
            }
            if let Some(GroupEvent::Records(records)) = self.turn().await? {
                self.positions.fetched(&records);
                self.current = Some(records.into_iter());
            }
        }
    }

    /// What is due beside records: partitions that come and go, commits.
    async fn keep_up(&mut self) -> Result<Option<GroupEvent>> {
        self.notice_the_end().await;
        self.give_back().await;
        self.take_told();
        if let Some(event) = self.events.pop_front() {
            if let GroupEvent::Revoking(partitions) = &event {
                // Those of another event that waits are told first.
                let is_told = |id: &PartitionId| self.held.get(id).is_some_and(|key| partitions.contains(key));
                self.releasing
                    .extend(self.to_release.extract_if(.., |id, _| is_told(id)));
            }
            return Ok(Some(event));
        }
        if let Some(error) = self.shared.told.lock().failed.clone() {
            return Err(error);
        }
        if self.commands.is_closed() {
            // It told no reason: it was aborted, or has panicked.
            return Err(Error::closed("group consumer"));
        }
        self.commit_if_due().await;
        Ok(None)
    }

    /// Whether something is to be looked at before a record is handed out.
    fn has_news(&self) -> bool {
        // In this order: what ends the session is told before the member is unlocked.
        self.shared.member.lock().is_over(Instant::now()) || !self.shared.told.lock().is_empty()
    }

    /// Once the session is over, waits until the member's task has told what is lost by it: that task may have been
    /// stopped just as this one.
    async fn notice_the_end(&self) {
        loop {
            let mut news = pin!(self.shared.news.notified());
            news.as_mut().enable();
            if !self.shared.member.lock().is_over(Instant::now()) || self.commands.is_closed() {
                return;
            }
            self.shared.wake.notify_one();
            tokio::select! {
                () = news => {}
                () = self.commands.closed() => return,
            }
        }
    }

    async fn commit_if_due(&mut self) {
        let Some(interval) = self.config.commit_interval else {
            return;
        };
        if Instant::now() >= self.commit_at {
            self.commit_at = Instant::now() + interval;
            self.take_told();
            self.auto_commit(None, limits::AUTO_COMMIT_WAIT).await;
        }
    }

    /// One turn: an event, or nothing yet. Records are not noted as handed out.
    async fn turn(&mut self) -> Result<Option<GroupEvent>> {
        if let Some(event) = self.keep_up().await? {
            return Ok(Some(event));
        }
        if !self.beginning.is_empty() && Instant::now() >= self.begin_at {
            let begun = self.start_reading().await?;
            if !begun.is_empty() {
                return Ok(Some(GroupEvent::Assigned(begun)));
            }
        }
        let mut wake_at = Instant::now() + limits::MAX_FETCH_WAIT;
        if !self.beginning.is_empty() {
            wake_at = wake_at.min(self.begin_at);
        }
        if self.config.commit_interval.is_some() && !self.positions.to_commit(None).is_empty() {
            wake_at = wake_at.min(self.commit_at);
        }
        let mut news = pin!(self.shared.news.notified());
        // Registered before looking, so that nothing told in between is missed.
        news.as_mut().enable();
        if !self.shared.told.lock().is_empty() || !self.releasing.is_empty() {
            return Ok(None);
        }
        let is_reading = !self.held.is_empty();
        tokio::select! {
            biased;
            () = news => Ok(None),
            records = self.consumer.next_batch(), if is_reading => match records {
                // Looked at once more before it is handed out: it may be lost by now.
                Ok(records) if self.has_news() => {
                    self.current = Some(records.into_iter());
                    Ok(None)
                }
                Ok(records) => Ok(Some(GroupEvent::Records(records))),
                // Its topic was deleted: the coordinator takes it away.
                Err(error) if error.reason() == Some(ErrorReason::UnknownTopic) => Ok(None),
                Err(error) => Err(error),
            },
            () = tokio::time::sleep_until(wake_at.into()) => Ok(None),
        }
    }

    /// The partitions it reads, sorted.
    #[must_use]
    pub fn assignment(&self) -> Vec<(Arc<str>, i32)> {
        self.consumer.assignment()
    }

    /// Gives out nothing of a partition until [`resume`](Self::resume), or until it comes anew.
    ///
    /// # Errors
    /// The partition is not assigned.
    pub fn pause(&mut self, topic: &str, partition: i32) -> Result<()> {
        self.consumer.pause(topic, partition)
    }

    /// Ends: with automatic commits all that was handed out is committed, as processed; then it leaves the group. A
    /// static member leaves to come back, and its partitions are kept for its session timeout, unless
    /// [`leave_on_close`](GroupConsumerBuilder::leave_on_close) is set.
    ///
    /// # Errors
    /// The coordinator was not told: the session ends in its time.
    pub async fn close(mut self) -> Result<()> {
        if self.config.commit_interval.is_some() {
            self.take_told();
            self.positions.processed();
            self.auto_commit(None, limits::CLOSE_WAIT).await;
        }
        let temporary = self.config.instance_id.is_some() && !self.config.leave_on_close;
        let (done, left) = oneshot::channel();
        if self.commands.send(Command::Leave { temporary, done }).await.is_err() {
            return Ok(());
        }
        left.await.unwrap_or(Ok(()))
    }
}
