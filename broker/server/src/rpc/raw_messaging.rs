//! `Messaging.Read` and `Messaging.Subscribe` with answers that are encoded from the log's batches, not from messages.

use std::sync::Arc;

use millrace_proto::{
    codec::MessageDecoder,
    v1::{ReadRequest, messaging_server::MessagingServer},
};
use tonic::{Request, Status, body::Body as GrpcBody, server::NamedService};
use tower::Service;

use super::{
    framed::{Answering, AnswersBody, Calls, answer, messages},
    messaging::MessagingService,
};
use crate::{broker::Broker, limits};

const READ_PATH: &str = "/millrace.v1.Messaging/Read";
const SUBSCRIBE_PATH: &str = "/millrace.v1.Messaging/Subscribe";

/// The `Messaging` service with its own way for `Read` and `Subscribe`.
#[derive(Clone, Debug)]
pub struct RawMessagingServer {
    service: MessagingService,
    generated: MessagingServer<MessagingService>,
}

impl RawMessagingServer {
    /// Puts the ways for `Read` and `Subscribe` in front of the generated service.
    pub fn new(broker: Arc<Broker>) -> Self {
        let service = MessagingService(broker);
        let generated = MessagingServer::new(service.clone()).max_decoding_message_size(limits::MAX_RPC_MESSAGE_BYTES);
        Self { service, generated }
    }

    async fn read(
        service: MessagingService,
        request: http::Request<GrpcBody>,
    ) -> Result<http::Response<GrpcBody>, Status> {
        let (metadata, extensions, mut requests) =
            messages(request, MessageDecoder::<ReadRequest>::default()).into_parts();
        let request = requests.message().await?;
        let request = request.ok_or_else(|| Status::internal("Missing request message."))?;
        requests.trailers().await?;
        // Nobody reads the request any more: its memory goes back with the answer's beginning.
        drop(requests);
        let answers = service.read_encoded(Request::from_parts(metadata, extensions, request));
        Ok(answer(AnswersBody::new(answers.await?)))
    }
}

impl NamedService for RawMessagingServer {
    const NAME: &'static str = <MessagingServer<MessagingService> as NamedService>::NAME;
}

impl Calls for RawMessagingServer {
    fn call(&mut self, request: http::Request<GrpcBody>) -> Answering {
        match request.uri().path() {
            READ_PATH => {
                let reading = Self::read(self.service.clone(), request);
                Box::pin(async { Ok(reading.await.unwrap_or_else(Status::into_http)) })
            }
            SUBSCRIBE_PATH => {
                let answers = self
                    .service
                    .subscribe_encoded(messages(request, MessageDecoder::default()));
                Box::pin(std::future::ready(Ok(answer(AnswersBody::new(answers)))))
            }
            _ => Box::pin(self.generated.call(request)),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use millrace_proto::v1::{self, messaging_client::MessagingClient, messaging_server::Messaging as _};
    use tonic::{Code, Streaming, transport::Channel};

    use super::*;
    use crate::testing::{TestBroker, append, committed};

    async fn connect(test: &TestBroker) -> MessagingClient<Channel> {
        let address = test.running.address();
        MessagingClient::connect(format!("http://{address}")).await.unwrap()
    }

    async fn with_three(test: &TestBroker) {
        let partition = test.partition("orders", &[0]).await;
        (0..3).for_each(|_| append(&partition));
        committed(&partition, 3).await;
    }

    fn read(topic: &str) -> v1::ReadRequest {
        v1::ReadRequest {
            topic: topic.into(),
            ..v1::ReadRequest::default()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_generated_client_reads_what_the_generated_service_tells() {
        let test = TestBroker::start().await;
        with_three(&test).await;
        let mut stub = connect(&test).await;
        let answers: Vec<_> = stub.read(read("orders")).await.unwrap().into_inner().collect().await;
        let answers: Vec<v1::ReadResponse> = answers.into_iter().map(Result::unwrap).collect();
        let messages = answers.iter().flat_map(|answer| &answer.messages);
        let offsets: Vec<i64> = messages.map(|message| message.offset).collect();
        assert_eq!(offsets, [0, 1, 2]);
        let service = MessagingService(test.broker().clone());
        let generated = service.read(Request::new(read("orders"))).await.unwrap().into_inner();
        let generated: Vec<_> = generated.map(Result::unwrap).collect().await;
        assert_eq!(generated, answers);
        let refused = stub.read(read("none")).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_generated_client_subscribes() {
        // A group may be coordinated by any broker.
        let test = TestBroker::alone().await;
        with_three(&test).await;
        let mut stub = connect(&test).await;
        let open = v1::SubscribeOpen {
            group: "g".into(),
            topics: vec!["orders".into()],
            credit: Some(v1::SubscribeCredit {
                messages: 2,
                ..v1::SubscribeCredit::default()
            }),
            ..v1::SubscribeOpen::default()
        };
        let request = |request| v1::SubscribeRequest {
            id: 0,
            request: Some(request),
        };
        let open = request(v1::subscribe_request::Request::Open(open));
        let (requests, queue) = tokio::sync::mpsc::channel(2);
        requests.send(open.clone()).await.unwrap();
        let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
        let mut told = stub.subscribe(queue).await.unwrap().into_inner();
        let delivery = delivery(&mut told).await;
        let offsets: Vec<i64> = delivery.messages.iter().map(|message| message.offset).collect();
        assert_eq!((delivery.delivery_id, offsets), (1, vec![0, 1]));
        assert_eq!(delivery.progress.unwrap().next_offset, 2);
        // A second one is refused in the stream, which goes on.
        requests.send(open).await.unwrap();
        let error = loop {
            match told.message().await.unwrap().unwrap().response.unwrap() {
                v1::subscribe_response::Response::Error(error) => break error.error.unwrap(),
                other => assert!(!matches!(other, v1::subscribe_response::Response::Messages(_))),
            }
        };
        assert_eq!(error.reason(), v1::ErrorReason::InvalidRequest);
        let leave = v1::subscribe_request::Request::Leave(v1::SubscribeLeave::default());
        requests.send(request(leave)).await.unwrap();
        while told.message().await.unwrap().is_some() {}
    }

    async fn delivery(told: &mut Streaming<v1::SubscribeResponse>) -> v1::SubscribeMessages {
        loop {
            if let v1::subscribe_response::Response::Messages(delivery) =
                told.message().await.unwrap().unwrap().response.unwrap()
            {
                return delivery;
            }
        }
    }
}
