//! The `Messaging` service: for applications with nothing but stubs.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use millrace_proto::{
    codec,
    encoded::EncodedAnswer,
    v1::{self, messaging_server::Messaging},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    acknowledgements::Acknowledgements,
    log::{budget, permits},
    publish, publish_stream,
    read::Reader,
    subscribe,
};
use crate::{broker::Broker, connection::Client, forward::Flows, limits};

/// The service of one broker.
#[derive(Clone, Debug)]
pub struct MessagingService(pub Arc<Broker>);

/// Encoded answers of a call, as they come.
pub type EncodedAnswers = mpsc::Receiver<Result<EncodedAnswer, Status>>;

impl MessagingService {
    /// The encoded answers of `Read`.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub async fn read_encoded(&self, request: Request<v1::ReadRequest>) -> Result<EncodedAnswers, Status> {
        let budget = budget(&request);
        let reader = Reader::open(self.0.clone(), budget, request.into_inner()).await?;
        let (answers, stream) = mpsc::channel(limits::FETCH_ANSWERS_AHEAD);
        self.0.spawn(reader.serve(answers));
        Ok(stream)
    }

    /// The encoded answers of `Subscribe`.
    pub fn subscribe_encoded(&self, request: Request<Streaming<v1::SubscribeRequest>>) -> EncodedAnswers {
        let (budget, permits) = (budget(&request), permits(&request));
        let client = Client::of(&request);
        let (answers, stream) = mpsc::channel(limits::SUBSCRIBE_ANSWERS_AHEAD);
        let serving = subscribe::serve(self.0.clone(), budget, client, permits, request.into_inner(), answers);
        self.0.spawn(serving);
        stream
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The answers as messages. The client port has its own way (`RawMessagingServer`), where they stay encoded.
fn decoded<T: prost::Message + Default + 'static>(answers: EncodedAnswers) -> Response<Answers<T>> {
    let answers = ReceiverStream::new(answers).map(|answer| codec::decode(answer?.into_buf()));
    Response::new(Box::pin(answers))
}

#[tonic::async_trait]
impl Messaging for MessagingService {
    type PublishStreamStream = Acknowledgements<v1::PublishStreamResponse>;
    type ReadStream = Answers<v1::ReadResponse>;
    type SubscribeStream = Answers<v1::SubscribeResponse>;

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let (budget, permits) = (budget(&request), permits(&request));
        let request = request.into_inner();
        let published = async {
            let begun = match publish::admit(budget.as_ref(), request.messages.len()).await {
                Ok(permit) => {
                    permit.into_iter().for_each(|permit| permits.keep(permit));
                    publish::begin(&self.0, request, None, &mut Flows::default(), permits.last()).await
                }
                Err(error) => Err(error),
            };
            let publishing = begun.inspect_err(|error| {
                self.0.metrics.count_error(error);
            })?;
            // Batches that may be sent again have it still.
            permits.release();
            publishing.finish(&self.0).await
        };
        // A stopping broker waits for it.
        Ok(Response::new(self.0.tasks.track_future(published).await?))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let (budget, permits) = (budget(&request), permits(&request));
        let (answers, stream) = mpsc::channel(limits::PUBLISH_ANSWERS_AHEAD);
        let broker = self.0.clone();
        let serving = publish_stream::serve(broker, budget, permits, request.into_inner(), answers);
        self.0.spawn(serving);
        Ok(Response::new(Acknowledgements::new(stream)))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        Ok(decoded(self.read_encoded(request).await?))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        Ok(decoded(self.subscribe_encoded(request)))
    }
}
