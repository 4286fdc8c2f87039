//! The gRPC codec of all services: protobuf, with typed errors for what can't be decoded
//! and one allocation for a message of known size.

use std::marker::PhantomData;

use bytes::{Buf, BufMut as _, Bytes};
use prost::Message;
use tonic::{
    Code, Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::v1::{ERROR_DOMAIN, ErrorReason};

/// Protobuf over gRPC.
#[derive(Debug)]
pub struct MillraceCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MillraceCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for MillraceCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = MessageEncoder<T>;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        MessageEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder::default()
    }
}

/// Encodes messages into a buffer that is sized once.
#[derive(Debug)]
pub struct MessageEncoder<T>(PhantomData<T>);

impl<T> Default for MessageEncoder<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message> Encoder for MessageEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // A buffer that grows while it is filled would copy large batches several times.
        buffer.reserve(item.encoded_len());
        debug_assert!(buffer.remaining_mut() >= item.encoded_len());
        item.encode(buffer)
            .map_err(|error| Status::internal(format!("can't encode: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Decodes messages; what is no message is the sender's fault and says so.
#[derive(Debug)]
pub struct MessageDecoder<U>(PhantomData<U>);

impl<U> Default for MessageDecoder<U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<U: Message + Default> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        decode(buffer).map(Some)
    }
}

/// Gives messages as they came: for a receiver that must know what one becomes in memory before
/// it decodes it by [`decode`].
#[derive(Clone, Copy, Debug, Default)]
pub struct EncodedDecoder;

impl Decoder for EncodedDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Decodes one message.
///
/// # Errors
/// What is no message is its sender's fault, and the status says so.
pub fn decode<U: Message + Default>(buffer: impl Buf) -> Result<U, Status> {
    U::decode(buffer).map_err(|error| undecodable(&error))
}

fn undecodable(error: &prost::DecodeError) -> Status {
    let reason = ErrorReason::InvalidRequest.reason_name();
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, ERROR_DOMAIN, [("outcome".to_owned(), "not_written".to_owned())]);
    details.add_bad_request_violation("request", error.to_string());
    Status::with_error_details(
        Code::InvalidArgument,
        format!(
            "The request is no valid protobuf message ({error}): generate the client from the same .proto files; text fields must be UTF-8."
        ),
        details,
    )
}
