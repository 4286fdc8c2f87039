//! `millrace-broker`.

use std::process::ExitCode;

/// glibc's allocator keeps large buffers of the past in its arenas for ever; this one gives
/// them back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    millrace_server::process::main()
}
