//! What brokers speak among themselves, generated from `proto/millrace/internal`.

/// Package `millrace.internal.v1`.
pub mod v1 {
    #![allow(
        missing_docs,
        clippy::doc_lazy_continuation,
        clippy::large_enum_variant,
        reason = "generated from the .proto files, whose comments are the documentation"
    )]

    tonic::include_proto!("millrace.internal.v1");

    impl Refusal {
        /// The name as sent in `google.rpc.ErrorInfo.reason`: `WRONG_CLUSTER`, without the
        /// enum's prefix.
        #[must_use]
        pub fn reason_name(self) -> &'static str {
            self.as_str_name().strip_prefix("REFUSAL_").unwrap_or("UNSPECIFIED")
        }

        /// The refusal with this name, without the enum's prefix.
        #[must_use]
        pub fn from_reason_name(name: &str) -> Option<Self> {
            Self::from_str_name(&format!("REFUSAL_{name}"))
        }
    }
}
