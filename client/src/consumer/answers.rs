//! The answers of a `Log.Fetch` stream, taken from the connection's frames without a copy of the
//! records.
//!
//! The generated client copies each HTTP/2 frame into one buffer before it decodes. At the rate
//! of a page cache that copy is the largest single cost of a consumer; here the records stay
//! where the connection read them, wherever a frame holds them whole.

use std::{collections::VecDeque, pin::Pin};

use bytes::{Buf, Bytes, BytesMut};
use futures::future::poll_fn;
use http_body::Body as _;
use millrace_proto::{codec::MessageEncoder, v1};
use prost::Message as _;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status, body::Body, codec::EncodeBody, transport::Channel};
use tower::{Service as _, ServiceExt as _};

use crate::limits;

const PATH: &str = "/millrace.v1.Log/Fetch";
/// A gRPC message begins with a byte for "not compressed" and its length.
const PREFIX_LEN: usize = 5;

/// An open stream's answers.
pub struct Answers {
    body: Body,
    frames: Frames,
}

impl Answers {
    /// Opens the stream.
    ///
    /// # Errors
    /// What the connection or the broker says.
    pub async fn open(
        mut channel: Channel,
        requests: impl Stream<Item = v1::FetchRequest> + Send + 'static,
    ) -> Result<Self, Status> {
        let requests = EncodeBody::new_client(
            MessageEncoder::default(),
            requests.map(Ok),
            None,
            Some(limits::MAX_RPC_MESSAGE_BYTES),
        );
        let mut request = http::Request::new(Body::new(requests));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static(PATH);
        let headers = request.headers_mut();
        headers.insert(http::header::TE, http::HeaderValue::from_static("trailers"));
        headers.insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
        let sent = async { channel.ready().await?.call(request).await };
        let (head, body) = sent
            .await
            .map_err(|error| Status::from_error(error.into()))?
            .into_parts();
        // A refusal may come with the head alone.
        match Status::from_header_map(&head.headers) {
            Some(status) if status.code() != Code::Ok => return Err(status),
            _ if head.status != http::StatusCode::OK => {
                return Err(Status::unavailable(format!(
                    "the peer answered HTTP status {}",
                    head.status
                )));
            }
            _ => {}
        }
        Ok(Self {
            body,
            frames: Frames::default(),
        })
    }

    /// The next answer; `None` at the stream's end.
    ///
    /// # Errors
    /// What the broker ended the stream with; an answer that is none. No answer follows.
    pub async fn next(&mut self) -> Result<Option<v1::FetchResponse>, Status> {
        loop {
            if let Some(answer) = self.frames.message()? {
                return Ok(Some(answer));
            }
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            let Some(frame) = frame.transpose()? else {
                return self.frames.ended().map(|()| None);
            };
            match frame.into_data() {
                Ok(data) => self.frames.push(data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return match Status::from_header_map(&trailers) {
                        Some(status) if status.code() != Code::Ok => Err(status),
                        _ => self.frames.ended().map(|()| None),
                    };
                }
            }
        }
    }
}

/// Frames that were not decoded yet: at most one message and one frame.
#[derive(Default)]
struct Frames {
    chunks: VecDeque<Bytes>,
    /// Bytes in all chunks.
    len: usize,
}

impl Frames {
    fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// The first message, once it is whole.
    fn message(&mut self) -> Result<Option<v1::FetchResponse>, Status> {
        let Some(length) = self.message_len()? else {
            return Ok(None);
        };
        if self.len < PREFIX_LEN + length {
            return Ok(None);
        }
        self.advance(PREFIX_LEN);
        let rest = self.len - length;
        let answer = v1::FetchResponse::decode(&mut Buf::take(&mut *self, length))
            .map_err(|error| Status::data_loss(format!("the answer is no valid message ({error})")))?;
        debug_assert_eq!(self.len, rest);
        Ok(Some(answer))
    }

    /// The length of the first message, if its prefix is here.
    fn message_len(&self) -> Result<Option<usize>, Status> {
        if self.len < PREFIX_LEN {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX_LEN];
        let bytes = self.chunks.iter().flatten();
        prefix.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let [compressed, length @ ..] = prefix;
        if compressed != 0 {
            return Err(Status::data_loss("the answer is compressed, which was not asked for"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > limits::MAX_RPC_MESSAGE_BYTES {
            return Err(Status::out_of_range(format!(
                "an answer of {length} bytes is above the limit of {}",
                limits::MAX_RPC_MESSAGE_BYTES
            )));
        }
        Ok(Some(length))
    }

    /// Whether an end here is one between messages.
    fn ended(&self) -> Result<(), Status> {
        if self.len == 0 {
            Ok(())
        } else {
            Err(Status::unavailable("the stream ended in the middle of an answer"))
        }
    }
}

impl Buf for Frames {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advanced beyond the end");
        self.len -= count;
        while count > 0 {
            let Some(front) = self.chunks.front_mut() else { return };
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.chunks.pop_front();
        }
    }

    /// A part of a frame as it is; only what lies in several is joined.
    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        assert!(count <= self.len, "copied beyond the end");
        if let Some(front) = self.chunks.front_mut()
            && front.len() >= count
        {
            self.len -= count;
            let part = front.split_to(count);
            if front.is_empty() {
                self.chunks.pop_front();
            }
            return part;
        }
        let mut joined = BytesMut::with_capacity(count);
        while joined.len() < count {
            let part = self.chunk().len().min(count - joined.len());
            joined.extend_from_slice(&self.chunk()[..part]);
            self.advance(part);
        }
        joined.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(correlation_id: u64, records: &[usize]) -> v1::FetchResponse {
        v1::FetchResponse {
            correlation_id,
            partitions: records
                .iter()
                .enumerate()
                .map(|(partition, len)| v1::FetchedPartition {
                    topic: "orders".into(),
                    partition: partition as i32,
                    records: vec![partition as u8; *len].into(),
                    ..Default::default()
                })
                .collect(),
        }
    }

    fn framed(answers: &[v1::FetchResponse]) -> Bytes {
        let mut bytes = Vec::new();
        for answer in answers {
            bytes.push(0);
            bytes.extend((answer.encoded_len() as u32).to_be_bytes());
            answer.encode(&mut bytes).unwrap();
        }
        bytes.into()
    }

    #[test]
    fn answers_come_out_whole_wherever_the_frames_are_cut() {
        let sent = [answer(1, &[300, 0, 5]), answer(2, &[]), answer(3, &[1])];
        let bytes = framed(&sent);
        for size in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut came = Vec::new();
            for start in (0..bytes.len()).step_by(size) {
                frames.push(bytes.slice(start..bytes.len().min(start + size)));
                while let Some(answer) = frames.message().unwrap() {
                    came.push(answer);
                }
            }
            assert_eq!(came, sent, "frames of {size} bytes");
            frames.ended().unwrap();
        }
    }

    #[test]
    fn records_inside_of_a_frame_are_not_copied() {
        let bytes = framed(&[answer(1, &[1_000])]);
        let mut frames = Frames::default();
        frames.push(bytes.clone());
        let answer = frames.message().unwrap().unwrap();
        let records = &answer.partitions[0].records;
        assert!(bytes.as_ptr_range().contains(&records.as_ptr()));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let cut = |at: usize| {
            let mut frames = Frames::default();
            frames.push(framed(&[answer(1, &[9])]).slice(..at));
            frames
        };
        for at in [1, 4, 5, 12] {
            let mut frames = cut(at);
            assert!(frames.message().unwrap().is_none());
            assert_eq!(frames.ended().unwrap_err().code(), Code::Unavailable);
        }
        let refused = |bytes: &'static [u8]| {
            let mut frames = Frames::default();
            frames.push(Bytes::from_static(bytes));
            frames.message().unwrap_err().code()
        };
        assert_eq!(refused(b"\x01\0\0\0\0"), Code::DataLoss, "compressed");
        assert_eq!(refused(b"\0\xff\xff\xff\xff"), Code::OutOfRange, "too long");
        assert_eq!(refused(b"\0\0\0\0\x02\xff\xff"), Code::DataLoss, "no protobuf");
    }
}
