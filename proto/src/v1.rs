//! The gRPC contract, package `millrace.v1`, generated from `proto/millrace/v1`.

#![allow(
    missing_docs,
    clippy::doc_lazy_continuation,
    clippy::large_enum_variant,
    reason = "generated from the .proto files, whose comments are the documentation"
)]

tonic::include_proto!("millrace.v1");

/// The contract as an encoded `FileDescriptorSet`, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/millrace.bin"));

/// The domain of each `google.rpc.ErrorInfo` that Millrace sends.
pub const ERROR_DOMAIN: &str = "millrace.dev";

/// The contract's time for stored milliseconds; `None` for a record without a time.
#[must_use]
pub fn ms_to_timestamp(ms: i64) -> Option<prost_types::Timestamp> {
    (ms >= 0).then(|| prost_types::Timestamp {
        seconds: ms / 1_000,
        nanos: i32::try_from(ms % 1_000 * 1_000_000).unwrap_or_default(),
    })
}

impl ErrorReason {
    /// The name as sent in `google.rpc.ErrorInfo.reason`: `UNKNOWN_TOPIC`, without the
    /// enum's prefix.
    #[must_use]
    pub fn reason_name(self) -> &'static str {
        self.as_str_name()
            .strip_prefix("ERROR_REASON_")
            .unwrap_or("UNSPECIFIED")
    }

    /// The reason with this name, with or without the enum's prefix.
    #[must_use]
    pub fn from_reason_name(name: &str) -> Option<Self> {
        Self::from_str_name(name).or_else(|| Self::from_str_name(&format!("ERROR_REASON_{name}")))
    }

    /// Whether the same call may succeed later without anything else being changed: waiting helps, or fetching
    /// metadata again and going to another broker (Kafka's `RetriableException`). For a write this says nothing of
    /// whether the first attempt may still show up; that is the error's `outcome`.
    #[must_use]
    pub fn is_retriable(self) -> bool {
        matches!(
            self,
            Self::NotLeader
                | Self::LeaderNotAvailable
                | Self::FencedLeaderEpoch
                | Self::UnknownLeaderEpoch
                | Self::OffsetNotAvailable
                | Self::NotEnoughReplicas
                | Self::NotEnoughReplicasAfterAppend
                | Self::BrokerNotReady
                | Self::StorageFailed
                | Self::QuorumUnavailable
                | Self::CoordinatorNotAvailable
                | Self::NotCoordinator
                | Self::TimedOut
                | Self::DiskFull
                | Self::Overloaded
        )
    }
}
