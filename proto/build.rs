//! Generates the gRPC code from `millrace/v1/*.proto`, without a `protoc` binary.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 4] = [
    "millrace/v1/types.proto",
    "millrace/v1/messaging.proto",
    "millrace/v1/log.proto",
    "millrace/v1/admin.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=millrace");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Server reflection answers from this; `compile_fds` does not write it itself.
    fs::write(out.join("millrace.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Payloads as slices of the receive buffer, not copies.
        .bytes(".")
        .codec_path("crate::codec::MillraceCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
