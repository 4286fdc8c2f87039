//! What a broker asks of a group's coordinator as a member that it is for a subscriber.

use std::sync::Arc;

use millrace_engine::group::Subscriber;
use millrace_member::Event;
use millrace_proto::v1;
use tokio::sync::mpsc;

use super::{Origin, heartbeat::Session, route::call};
use crate::{broker::Broker, connection::Client, error::ApiError};

/// Passes on a member's heartbeats, one after the other, and tells as stream `number` what comes of them; ends with the
/// first error, or once nobody sends any more.
pub async fn beat(
    broker: Arc<Broker>,
    client: Client,
    subscriber: Subscriber,
    number: u64,
    mut requests: mpsc::Receiver<v1::HeartbeatRequest>,
    came: mpsc::Sender<Event<ApiError>>,
) {
    let stopping = broker.stopping.clone();
    let mut session = Session::new(broker, client.host().to_owned(), Some(subscriber));
    let mut is_member = false;
    let failed = loop {
        let event = tokio::select! {
            () = session.news() => Event::HeartbeatNow(number),
            request = requests.recv() => {
                let Some(request) = request else { break None };
                match session.answer(request, None).await {
                    Ok(answer) => {
                        is_member = true;
                        Event::Answer(number, Box::new(answer))
                    }
                    Err(error) => break Some(error),
                }
            }
        };
        if came.send(event).await.is_err() {
            break None;
        }
    };
    match failed {
        Some(error) => {
            session.end_quietly();
            let _ = came.send(Event::Broken(number, error)).await;
        }
        None if is_member => session.end_with(&client, &stopping).await,
        None => session.end_quietly(),
    }
}

/// Stores a member's offsets.
///
/// # Errors
/// The coordinator's; there is none in time.
pub async fn commit_offsets(
    broker: &Broker,
    request: v1::CommitOffsetsRequest,
) -> Result<v1::CommitOffsetsResponse, ApiError> {
    call(broker, request, &Origin::default()).await
}

/// Tells where a member goes on to read.
///
/// # Errors
/// The coordinator's; there is none in time.
pub async fn fetch_offsets(
    broker: &Broker,
    request: v1::FetchOffsetsRequest,
) -> Result<v1::FetchOffsetsResponse, ApiError> {
    call(broker, request, &Origin::default()).await
}

/// A member leaves.
///
/// # Errors
/// The coordinator's; there is none in time.
pub async fn leave_group(broker: &Broker, request: v1::LeaveGroupRequest) -> Result<v1::LeaveGroupResponse, ApiError> {
    call(broker, request, &Origin::default()).await
}
