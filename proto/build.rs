//! Generates the gRPC code from the `.proto` files, without a `protoc` binary.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// What clients speak.
const PUBLIC: [&str; 4] = [
    "millrace/v1/types.proto",
    "millrace/v1/messaging.proto",
    "millrace/v1/log.proto",
    "millrace/v1/admin.proto",
];

/// What brokers speak among themselves.
const INTERNAL: [&str; 4] = [
    "millrace/internal/v1/cluster.proto",
    "millrace/internal/v1/forward.proto",
    "millrace/internal/v1/quorum.proto",
    "millrace/internal/v1/replication.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=millrace");
    let descriptors = protox::compile(PUBLIC, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Server reflection answers from this; `compile_fds` does not write it itself. It tells
    // nothing of what brokers speak among themselves.
    fs::write(out.join("millrace.bin"), descriptors.encode_to_vec())?;
    for descriptors in [descriptors, protox::compile(INTERNAL, ["."])?] {
        tonic_prost_build::configure()
            // Payloads as slices of the receive buffer, not copies.
            .bytes(".")
            .codec_path("crate::codec::MillraceCodec")
            .compile_fds(descriptors)?;
    }
    Ok(())
}
