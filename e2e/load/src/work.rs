//! What the tasks share, and how they are started.

use std::{
    process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use millrace_client::Client;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    consume,
    gaps::Gaps,
    health::{self, Writability},
    http,
    options::Options,
    partition::Partition,
    produce,
};

/// Failures beyond these are counted and not described.
const MAX_FAILURES: usize = 10;
/// Between two attempts at what must succeed before anything can be done.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What the producers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Send.
    Producing,
    /// Send nothing for the moment.
    Paused,
    /// Send nothing any more.
    Ending,
}

/// What the tasks share.
pub struct Work {
    /// The command line.
    pub options: Options,
    /// What this process's messages carry, so that another one's are not taken for them.
    pub run: u32,
    /// What the producers are to do.
    pub mode: watch::Sender<Mode>,
    /// How many producers have ended, with all that they had sent answered.
    pub ended: watch::Sender<u32>,
    /// Waits for any acknowledgement.
    pub gaps: Mutex<Gaps>,
    /// What the cluster told of partitions that can't be written.
    pub writability: Mutex<Writability>,
    /// Messages that were given to the client.
    pub sent: AtomicU64,
    /// Bytes of values that were acknowledged.
    pub bytes: AtomicU64,
    /// Messages that were acknowledged in the last second.
    pub rate: AtomicU64,
    /// The first few failures.
    pub failures: Mutex<Vec<String>>,
    /// The producers' clients.
    pub clients: Mutex<Vec<Client>>,
    /// How the end came, once.
    pub end: tokio::sync::Mutex<Option<Vec<String>>>,
    partitions: OnceLock<Vec<Mutex<Partition>>>,
}

impl Work {
    fn new(options: Options) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            options,
            run: now.subsec_nanos() ^ process::id().rotate_left(20),
            mode: watch::Sender::new(Mode::Producing),
            ended: watch::Sender::new(0),
            gaps: Mutex::default(),
            writability: Mutex::default(),
            sent: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            failures: Mutex::default(),
            clients: Mutex::default(),
            end: tokio::sync::Mutex::new(None),
            partitions: OnceLock::new(),
        }
    }

    /// All partitions; none before the topics are known.
    pub fn partitions(&self) -> &[Mutex<Partition>] {
        self.partitions.get().map_or(&[], Vec::as_slice)
    }

    /// Keeps a failure in words.
    pub fn note_failure(&self, text: String) {
        let mut failures = self.failures.lock();
        if failures.len() < MAX_FAILURES {
            tracing::warn!("{text}");
            failures.push(text);
        }
    }

    /// Tells the producers what to do. What was ended is not begun again.
    pub fn set_mode(&self, mode: Mode) {
        let changed = self.mode.send_if_modified(|present| {
            let changes = *present != mode && *present != Mode::Ending;
            if changes {
                *present = mode;
            }
            changes
        });
        if changed {
            let now = Instant::now();
            let each = |gaps: &mut Gaps| match mode {
                Mode::Producing => gaps.resume(now),
                Mode::Paused | Mode::Ending => gaps.pause(now),
            };
            each(&mut self.gaps.lock());
            self.partitions()
                .iter()
                .for_each(|partition| each(&mut partition.lock().gaps));
        }
    }

    /// Begins to measure waits anew.
    pub fn mark(&self) {
        let now = Instant::now();
        self.gaps.lock().mark(now);
        self.writability.lock().mark(now);
        self.partitions()
            .iter()
            .for_each(|partition| partition.lock().gaps.mark(now));
    }

    /// A client of its own, as each program has; waits until the cluster answers.
    pub async fn connect(&self, name: &str) -> Client {
        loop {
            let client = Client::builder().bootstrap(&self.options.bootstrap).client_id(name);
            match client.build().await {
                Ok(client) => return client,
                Err(error) => tracing::warn!(%error, "no cluster yet"),
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    async fn wait_for_topics(&self) {
        let client = self.connect("millrace-load").await;
        let mut all = Vec::new();
        for name in &self.options.topics {
            let topic = loop {
                match client.topic(name).await {
                    Ok(topic) => break topic,
                    Err(error) => tracing::warn!(%error, "no topic yet"),
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            };
            let numbers = (0..).take(topic.partitions.len());
            all.extend(numbers.map(|number| Mutex::new(Partition::new(topic.name.clone(), number))));
        }
        tracing::info!(partitions = all.len(), run = self.run, "begins");
        let _ = self.partitions.set(all);
    }
}

/// Works until the process ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let work = Arc::new(Work::new(options));
    let served = tokio::spawn(http::serve(work.clone()));
    work.wait_for_topics().await;
    tokio::spawn(measure(work.clone()));
    tokio::spawn(consume::follow(work.clone()));
    tokio::spawn(health::watch(work.clone()));
    for number in 0..work.options.producers {
        tokio::spawn(produce::run(work.clone(), number));
    }
    served.await?
}

/// Messages a second.
async fn measure(work: Arc<Work>) {
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let total = work
            .partitions()
            .iter()
            .map(|partition| partition.lock().acknowledged_total())
            .sum();
        work.rate.store(total - before, Ordering::Relaxed);
        before = total;
    }
}
