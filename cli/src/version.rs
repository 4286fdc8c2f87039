//! `millrace version`.

use serde::Serialize;

use crate::output::{OutputFormat, print, print_json};

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

/// Prints this command's version. The brokers' are in `millrace cluster describe`.
pub fn run(format: OutputFormat) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        OutputFormat::Text => Ok(print(&format!("millrace {version}\n"))?),
        OutputFormat::Json => print_json(&Version { version }),
    }
}
