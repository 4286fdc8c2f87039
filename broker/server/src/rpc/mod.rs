//! The gRPC services: checking requests, calling what decides or stores, answering.

/// Runs a call of a service and counts its failure.
macro_rules! answer {
    ($service:expr, $call:expr) => {
        match $service.0.tasks.track_future($call).await {
            Ok(answer) => Ok(tonic::Response::new(answer)),
            Err(error) => {
                $service.0.metrics.count_error(&error);
                Err(error.into())
            }
        }
    };
}

mod acknowledgements;
pub mod admin;
pub mod convert;
mod fetch;
pub mod framed;
pub mod groups;
pub mod log;
pub mod messaging;
mod metadata;
mod produce;
mod publish;
mod publish_stream;
pub mod raw_fetch;
pub mod raw_messaging;
mod read;
mod read_ahead;
mod subscribe;

pub use fetch::{check_position, no_memory, read_within};
pub use log::{budget, permits, resolve};
pub use produce::{acknowledge, timed_out};
pub use publish_stream::PublishSessions;
