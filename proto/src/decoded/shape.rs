//! Which parts of a message take memory of their own.

/// A message's type, as far as it tells what one takes in memory.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The size of the decoded message itself, in bytes.
    pub size: usize,
    /// The fields that take more than their place in it. Numbers do not, and neither do bytes: they
    /// stay in the buffer in which they came.
    pub fields: &'static [Field],
}

/// A field that takes memory beside its message.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its number in the contract.
    pub number: u32,
    /// What it holds.
    pub content: Content,
}

/// What such a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// A message that stands in its parent, with fields of its own.
    Message(&'static Shape),
    /// A list of messages.
    Messages(&'static Shape),
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// A list of numbers of so many bytes each, which are sent as varints, packed or not.
    Varints(usize),
}

/// A message whose shape is known.
pub trait Shaped {
    /// Its shape.
    const SHAPE: &'static Shape;
}

include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn every_call_of_the_contract_has_a_shape() {
        let calls = [
            ("/millrace.v1.Messaging/Publish", size_of::<v1::PublishRequest>(), 2),
            (
                "/millrace.v1.Messaging/PublishStream",
                size_of::<v1::PublishStreamRequest>(),
                1,
            ),
            ("/millrace.v1.Log/Produce", size_of::<v1::ProduceRequest>(), 1),
            ("/millrace.v1.Log/InitProducer", size_of::<v1::InitProducerRequest>(), 0),
            (
                "/millrace.v1.Admin/AlterConfigs",
                size_of::<v1::AlterConfigsRequest>(),
                3,
            ),
        ];
        for (path, size, fields) in calls {
            let shape = shape_of_request(path).unwrap();
            assert_eq!((shape.size, shape.fields.len()), (size, fields), "{path}");
        }
        assert!(shape_of_request("/grpc.health.v1.Health/Check").is_none());
    }

    #[test]
    fn calls_with_one_request_and_one_answer_are_known() {
        for path in ["/millrace.v1.Messaging/Publish", "/millrace.v1.Admin/AlterConfigs"] {
            assert!(is_unary(path), "{path}");
        }
        for path in ["/millrace.v1.Messaging/Read", "/millrace.v1.Log/Produce", "/x"] {
            assert!(!is_unary(path), "{path}");
        }
    }

    /// [`super::super::DecodedSize`] remembers by bits which lists of a message it has met.
    #[test]
    fn no_message_has_more_fields_than_there_are_bits() {
        fn check(shape: &Shape) {
            assert!(shape.fields.len() <= 64);
            for field in shape.fields {
                if let Content::Message(inner) | Content::Messages(inner) = field.content {
                    check(inner);
                }
            }
        }
        check(v1::PublishStreamRequest::SHAPE);
        check(v1::ReassignPartitionsRequest::SHAPE);
    }
}
