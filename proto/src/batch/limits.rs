//! What reading one batch may cost.

/// Bounds on decoding one batch, so that a hostile or damaged one costs bounded memory and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Bytes that compressed records may decompress to. Uncompressed records are read in place and
    /// are bounded by the batch itself. Default 64 MiB: 64 times Kafka's default
    /// `message.max.bytes`; lz4 and snappy can't reach it from there by any honest data, zstd and
    /// gzip only with zeros and the like.
    pub max_decompressed_bytes: usize,
    /// Records in a batch. Default 10 million: about as many as fit 64 MiB, as the smallest record
    /// has 7 bytes.
    pub max_records: usize,
    /// Headers in one record. Default 65,536: a header of two bytes becomes some 64 in memory once
    /// it is owned.
    pub max_headers_per_record: usize,
}

impl DecodeLimits {
    /// The defaults, for constants.
    pub const DEFAULT: DecodeLimits = DecodeLimits {
        max_decompressed_bytes: 64 << 20,
        max_records: 10_000_000,
        max_headers_per_record: 65_536,
    };
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
