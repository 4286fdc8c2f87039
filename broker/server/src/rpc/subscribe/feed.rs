//! Reading for a subscriber: its partitions in turns, wherever they are led, as far as it takes what is read.
//!
//! What is read is bounded by the channel: a piece of some 512 KiB in it, and one that waits for room. Where reading
//! fails, whoever is told begins it anew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millrace_engine::partition::FetchBound;
use millrace_proto::{batch::BatchHeader, encoded::Answers};
use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
};

use super::{epochs::Epochs, flow::Ready, messages::Marks};
use crate::{
    broker::Broker,
    error::ApiError,
    forward::{Source, Watches},
    memory::ConnectionBudget,
    partition::Offsets,
    rpc::read::{Encoded, Sink, pass_on},
};

/// How long a feed waits at most before it looks at all partitions again.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a feed tells.
#[derive(Debug)]
pub enum Fed {
    /// Messages were read.
    Ready(Ready),
    /// A reading has ended: its partition can't be read where it was.
    Failed(u64, ApiError),
}

/// A partition to be read from an offset on, under a number.
#[derive(Debug)]
struct Place {
    lane: u64,
    source: Source,
    next: i64,
    closed: Gate,
}

/// Closes a reading.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Nothing more is to be read; what was read may still come.
    pub fn close(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The reading of one subscriber.
#[derive(Debug)]
pub struct Feed {
    places: mpsc::UnboundedSender<Place>,
    fed: mpsc::Receiver<Fed>,
    task: AbortHandle,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feed {
    /// Reads nothing yet.
    pub fn new(broker: Arc<Broker>, budget: Option<ConnectionBudget>) -> Self {
        // Bounded by the partitions that one member may have.
        let (places, added) = mpsc::unbounded_channel();
        let (feeding, fed) = mpsc::channel(1);
        let task = tokio::spawn(run(broker, budget, added, feeding)).abort_handle();
        Self { places, fed, task }
    }

    /// Reads a partition as well, under a number of its own.
    pub fn add(&self, lane: u64, source: Source, next: i64) -> Gate {
        let closed = Gate::default();
        let _ = self.places.send(Place {
            lane,
            source,
            next,
            closed: closed.clone(),
        });
        closed
    }

    /// What was read next. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Fed> {
        self.fed.recv().await
    }
}

struct Out<'a> {
    lane: u64,
    closed: &'a Gate,
    offsets: Offsets,
    marks: Marks,
    epochs: Epochs,
    fed: &'a mpsc::Sender<Fed>,
}

impl Sink for Out<'_> {
    const ANSWERS: Answers = Answers::Subscribe;

    fn enter(&mut self, batch: &BatchHeader) {
        let epoch = batch.partition_leader_epoch;
        self.epochs.add(batch.base_offset, batch.next_offset(), epoch);
    }

    fn wants(&self) -> bool {
        !self.closed.is_closed()
    }

    fn count(&mut self, message: Encoded) {
        self.marks.push(message);
    }

    async fn send(&mut self, messages: Bytes, next: i64) {
        let ready = Ready {
            lane: self.lane,
            messages: self.marks.take(messages),
            epochs: std::mem::take(&mut self.epochs),
            next,
            high_watermark: self.offsets.high_watermark,
            log_start: self.offsets.log_start,
        };
        let _ = self.fed.send(Fed::Ready(ready)).await;
    }
}

async fn run(
    broker: Arc<Broker>,
    budget: Option<ConnectionBudget>,
    mut added: mpsc::UnboundedReceiver<Place>,
    fed: mpsc::Sender<Fed>,
) {
    let mut places: Vec<Place> = Vec::new();
    let mut watches = Watches::default();
    loop {
        while let Ok(place) = added.try_recv() {
            places.push(place);
        }
        places.retain(|place| !place.closed.is_closed());
        let waiter = Arc::new(Notify::new());
        let mut progressed = false;
        for place in &mut places {
            place.source.notify_on_data(&waiter);
            match advance(&broker, budget.as_ref(), place, &fed).await {
                Ok(more) => progressed |= more,
                Err(error) => {
                    place.closed.close();
                    let _ = fed.send(Fed::Failed(place.lane, error)).await;
                }
            }
        }
        if progressed {
            continue;
        }
        let open = places.iter().filter(|place| !place.closed.is_closed());
        // By their numbers, which no other reading has.
        let place_of = |lane: u64| usize::try_from(lane).unwrap_or(usize::MAX);
        watches.ask(open.map(|place| (place_of(place.lane), &place.source, place.next)));
        tokio::select! {
            () = waiter.notified() => {}
            news = watches.news() => for (lane, told) in news {
                let Some(place) = places.iter_mut().find(|place| place_of(place.lane) == lane) else {
                    continue;
                };
                match told {
                    Ok(offsets) => place.source.learn(offsets),
                    Err(error) => {
                        place.closed.close();
                        let _ = fed.send(Fed::Failed(place.lane, error)).await;
                    }
                }
            },
            place = added.recv() => match place {
                Some(place) => places.push(place),
                None => return,
            },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Passes on what one partition has next; answers with whether that was anything.
async fn advance(
    broker: &Broker,
    budget: Option<&ConnectionBudget>,
    place: &mut Place,
    fed: &mpsc::Sender<Fed>,
) -> Result<bool, ApiError> {
    if place.closed.is_closed() {
        return Ok(false);
    }
    let bound = match place.source.bound(broker, place.next).await? {
        FetchBound::UpTo(bound) => bound,
        FetchBound::Nothing => return Ok(false),
    };
    if place.next >= bound {
        return Ok(false);
    }
    let before = place.next;
    let mut out = Out {
        lane: place.lane,
        closed: &place.closed,
        offsets: place.source.offsets(),
        marks: Marks::default(),
        epochs: Epochs::default(),
        fed,
    };
    let is_other = !pass_on(broker, budget, &mut place.source, &mut place.next, bound, &mut out).await?;
    Ok(is_other || place.next > before)
}
