//! `millrace-broker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    millrace_server::process::main()
}
