//! The answers of a `Log.Fetch` stream, taken from the connection's frames without a copy of the
//! records.
//!
//! The generated client copies each HTTP/2 frame into one buffer before it decodes. At the rate
//! of a page cache that copy is the largest single cost of a consumer; here the records stay
//! where the connection read them, wherever a frame holds them whole. And each partition of an
//! answer is given out as it comes, while the rest is still under way.

use std::{collections::VecDeque, pin::Pin};

use bytes::{Buf, Bytes, BytesMut};
use futures::future::poll_fn;
use http_body::Body as _;
use millrace_proto::{codec::MessageEncoder, v1};
use prost::{
    Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Status, body::Body, codec::EncodeBody, transport::Channel};
use tower::{Service as _, ServiceExt as _};

use crate::limits;

const PATH: &str = "/millrace.v1.Log/Fetch";
/// A gRPC message begins with a byte for "not compressed" and its length.
const PREFIX_LEN: usize = 5;
/// Fields of an answer.
const CORRELATION_ID: u32 = 1;
const PARTITIONS: u32 = 2;
/// The longest head of a field: its key and its length or value.
const HEAD_LEN: usize = 5 + 10;

/// What comes of an answer.
#[derive(Debug, PartialEq)]
pub enum Part {
    /// One partition, or a part of it.
    Partition(Box<v1::FetchedPartition>),
    /// The answer is whole.
    End,
}

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

    /// What comes next, and of the answer to which request; `None` at the stream's end.
    ///
    /// # Errors
    /// What the broker ended the stream with; an answer that is none. Nothing follows.
    pub async fn next(&mut self) -> Result<Option<(u64, Part)>, Status> {
        loop {
            if let Some(part) = self.frames.part()? {
                return Ok(Some((self.frames.correlation_id, part)));
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
    /// Bytes of the present message that were not decoded; `None` between two.
    left: Option<usize>,
    /// The present message's; it comes before its partitions.
    correlation_id: u64,
}

impl Frames {
    fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// The next part, once it is here.
    fn part(&mut self) -> Result<Option<Part>, Status> {
        loop {
            let left = match self.left {
                Some(0) => {
                    self.left = None;
                    return Ok(Some(Part::End));
                }
                Some(left) => left,
                None => {
                    let Some(length) = self.message_len()? else {
                        return Ok(None);
                    };
                    self.advance(PREFIX_LEN);
                    self.correlation_id = 0;
                    self.left = Some(length);
                    continue;
                }
            };
            let Some(head) = self.head(left)? else {
                return Ok(None);
            };
            match head {
                Head {
                    field: CORRELATION_ID,
                    wire_type: WireType::Varint,
                    len,
                    value,
                } => {
                    self.correlation_id = value;
                    self.take_of_message(left, len);
                }
                Head {
                    field: PARTITIONS,
                    wire_type: WireType::LengthDelimited,
                    len,
                    value,
                } => {
                    let Some(after) = usize::try_from(value)
                        .ok()
                        .and_then(|value| (left - len).checked_sub(value))
                    else {
                        return Err(invalid("a partition is longer than the answer"));
                    };
                    let length = left - len - after;
                    if self.len < len + length {
                        return Ok(None);
                    }
                    self.take_of_message(left, len);
                    let partition =
                        v1::FetchedPartition::decode(&mut Buf::take(&mut *self, length)).map_err(invalid)?;
                    self.left = Some(after);
                    return Ok(Some(Part::Partition(Box::new(partition))));
                }
                // Of a later version: passed over, once it is here for certain.
                Head { field, wire_type, .. } => {
                    if self.len < left {
                        return Ok(None);
                    }
                    let before = self.len;
                    let mut message = Buf::take(&mut *self, left);
                    decode_key(&mut message).map_err(invalid)?;
                    skip_field(wire_type, field, &mut message, DecodeContext::default()).map_err(invalid)?;
                    self.left = Some(left - (before - self.len));
                }
            }
        }
    }

    /// The head of the next field of a message, if it is here. Takes nothing.
    fn head(&self, left: usize) -> Result<Option<Head>, Status> {
        let mut copy = [0; HEAD_LEN];
        let here = self.len.min(left).min(HEAD_LEN);
        let bytes = self.chunks.iter().flatten();
        copy.iter_mut().zip(bytes.take(here)).for_each(|(to, from)| *to = *from);
        let mut rest = &copy[..here];
        // What is cut may be whole with the next frame.
        let is_cut = here < left.min(HEAD_LEN);
        let wanting = |error| if is_cut { Ok(None) } else { Err(invalid(error)) };
        let (field, wire_type) = match decode_key(&mut rest) {
            Ok(key) => key,
            Err(error) => return wanting(error),
        };
        let value = match wire_type {
            WireType::Varint | WireType::LengthDelimited => match decode_varint(&mut rest) {
                Ok(value) => value,
                Err(error) => return wanting(error),
            },
            _ => 0,
        };
        Ok(Some(Head {
            field,
            wire_type,
            len: here - rest.len(),
            value,
        }))
    }

    fn take_of_message(&mut self, left: usize, count: usize) {
        self.advance(count);
        self.left = Some(left - count);
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
        if self.len == 0 && self.left.is_none() {
            Ok(())
        } else {
            Err(Status::unavailable("the stream ended in the middle of an answer"))
        }
    }
}

/// The head of a field.
struct Head {
    field: u32,
    wire_type: WireType,
    /// Bytes of the key and the value or length.
    len: usize,
    value: u64,
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::data_loss(format!("the answer is no valid message ({error})"))
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

    /// What comes of the frames that are here.
    fn parts(frames: &mut Frames) -> Vec<(u64, Part)> {
        std::iter::from_fn(|| {
            let part = frames.part().unwrap()?;
            Some((frames.correlation_id, part))
        })
        .collect()
    }

    fn parts_of(answers: &[v1::FetchResponse]) -> Vec<(u64, Part)> {
        let parts = |answer: &v1::FetchResponse| {
            let id = answer.correlation_id;
            let partitions = answer.partitions.clone().into_iter();
            partitions
                .map(move |partition| (id, Part::Partition(Box::new(partition))))
                .chain([(id, Part::End)])
        };
        answers.iter().flat_map(parts).collect()
    }

    #[test]
    fn answers_come_out_whole_wherever_the_frames_are_cut() {
        let sent = [answer(1, &[300, 0, 5]), answer(2, &[]), answer(300, &[1])];
        let bytes = framed(&sent);
        for size in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut came = Vec::new();
            for start in (0..bytes.len()).step_by(size) {
                frames.push(bytes.slice(start..bytes.len().min(start + size)));
                came.extend(parts(&mut frames));
            }
            assert_eq!(came, parts_of(&sent), "frames of {size} bytes");
            frames.ended().unwrap();
        }
    }

    #[test]
    fn a_partition_is_given_out_before_the_answer_is_whole() {
        let sent = answer(7, &[40, 40]);
        let bytes = framed(std::slice::from_ref(&sent));
        let mut frames = Frames::default();
        frames.push(bytes.slice(..bytes.len() - 1));
        assert_eq!(parts(&mut frames), parts_of(&[sent])[..1]);
        assert_eq!(frames.ended().unwrap_err().code(), Code::Unavailable);
    }

    #[test]
    fn records_inside_of_a_frame_are_not_copied() {
        let bytes = framed(&[answer(1, &[1_000])]);
        let mut frames = Frames::default();
        frames.push(bytes.clone());
        let Some(Part::Partition(partition)) = frames.part().unwrap() else {
            panic!("no partition");
        };
        assert!(bytes.as_ptr_range().contains(&partition.records.as_ptr()));
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let mut message = vec![8, 7];
        let partition = answer(0, &[3]).encode_to_vec();
        for unknown in [
            &b"\x18\x05"[..],
            b"\x22\x02xy",
            b"\x2d\0\0\0\0",
            b"\x31\0\0\0\0\0\0\0\0",
        ] {
            message.extend_from_slice(unknown);
            message.extend_from_slice(&partition);
        }
        let mut bytes = vec![0];
        bytes.extend((message.len() as u32).to_be_bytes());
        bytes.extend(message);
        for size in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut came = Vec::new();
            for chunk in bytes.chunks(size) {
                frames.push(Bytes::copy_from_slice(chunk));
                came.extend(parts(&mut frames));
            }
            assert_eq!(came.len(), 5, "four partitions and the end, in frames of {size} bytes");
            assert!(came.iter().all(|(id, _)| *id == 7));
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let cut = |at: usize| {
            let mut frames = Frames::default();
            frames.push(framed(&[answer(1, &[9])]).slice(..at));
            frames
        };
        for at in [1, 4, 5, 6, 7, 8, 12] {
            let mut frames = cut(at);
            assert!(frames.part().unwrap().is_none());
            assert_eq!(frames.ended().unwrap_err().code(), Code::Unavailable);
        }
        let refused = |bytes: &'static [u8]| {
            let mut frames = Frames::default();
            frames.push(Bytes::from_static(bytes));
            frames.part().unwrap_err().code()
        };
        assert_eq!(refused(b"\x01\0\0\0\0"), Code::DataLoss, "compressed");
        assert_eq!(refused(b"\0\xff\xff\xff\xff"), Code::OutOfRange, "too long");
        assert_eq!(refused(b"\0\0\0\0\x02\xff\xff"), Code::DataLoss, "no protobuf");
        assert_eq!(
            refused(b"\0\0\0\0\x03\x12\x02\0"),
            Code::DataLoss,
            "longer than the answer"
        );
        assert_eq!(
            refused(b"\0\0\0\0\x02\x08\xff"),
            Code::DataLoss,
            "a value cut by the end"
        );
        assert_eq!(
            refused(b"\0\0\0\0\x03\x1a\x09\0"),
            Code::DataLoss,
            "an unknown field beyond the end"
        );
    }
}
