//! One Produce stream to one broker.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::StreamExt as _;
use millrace_proto::v1;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::sequencer::Identity;
use crate::{
    client::Client,
    error::{Error, Result},
};

/// What the sender hears.
#[derive(Debug)]
pub enum Event {
    /// A stream is open. What goes in is bounded by the buffer and by the batches in flight.
    Up {
        stream: u64,
        requests: UnboundedSender<v1::ProduceRequest>,
    },
    /// A request was taken by the connection; told only where no answer comes.
    Taken { correlation_id: u64 },
    /// A request was answered.
    Answer { response: v1::ProduceResponse },
    /// A stream is over. Requests above `taken` never left.
    Lost { stream: u64, error: Error, taken: u64 },
    /// A new identity for a partition.
    Identity { slot: u64, identity: Result<Identity> },
}

/// Opens a stream and tells `events` all that happens on it, until it is over.
pub async fn run(client: Client, address: Arc<str>, stream: u64, answered: bool, events: UnboundedSender<Event>) {
    let taken = Arc::new(AtomicU64::new(0));
    let error = serve(&client, &address, stream, answered, &events, &taken).await;
    // Nobody listens if the producer is gone.
    let _ = events.send(Event::Lost {
        stream,
        error,
        taken: taken.load(Ordering::Acquire),
    });
}

async fn serve(
    client: &Client,
    address: &Arc<str>,
    stream: u64,
    answered: bool,
    events: &UnboundedSender<Event>,
    taken: &Arc<AtomicU64>,
) -> Error {
    let (requests, queue) = unbounded_channel();
    let mut log = match client.inner.connections.log(address) {
        Ok(log) => log,
        Err(error) => return error,
    };
    // The answer's head comes at once: until then nothing is sent, so nothing is in doubt.
    let mut answers = match log
        .produce(watched(queue, taken.clone(), answered, events.clone()))
        .await
    {
        Ok(answers) => answers.into_inner(),
        Err(status) => return Error::connection(address, Error::from(status)),
    };
    if events.send(Event::Up { stream, requests }).is_err() {
        return Error::closed("producer");
    }
    loop {
        match answers.message().await {
            Ok(Some(response)) => {
                if events.send(Event::Answer { response }).is_err() {
                    return Error::closed("producer");
                }
            }
            Ok(None) => return Error::connection(address, "the broker is stopping"),
            Err(status) => return Error::connection(address, Error::from(status)),
        }
    }
}

/// The requests, with note of which ones were taken.
fn watched(
    queue: UnboundedReceiver<v1::ProduceRequest>,
    taken: Arc<AtomicU64>,
    answered: bool,
    events: UnboundedSender<Event>,
) -> impl futures::Stream<Item = v1::ProduceRequest> + Send + 'static {
    UnboundedReceiverStream::new(queue).inspect(move |request| {
        taken.store(request.correlation_id, Ordering::Release);
        if !answered {
            let _ = events.send(Event::Taken {
                correlation_id: request.correlation_id,
            });
        }
    })
}
