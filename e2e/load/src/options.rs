//! The command line.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;

use crate::values::MIN_SIZE;

/// Writes to topics and reads them, and checks what it was promised.
#[derive(Clone, Debug, Parser)]
#[command(name = "millrace-load", version, about, max_term_width = 100)]
pub struct Options {
    /// Brokers to begin with.
    #[arg(long, value_name = "HOST:PORT,...")]
    pub bootstrap: String,

    /// The topics. They are waited for.
    #[arg(long, required = true, value_delimiter = ',', value_name = "NAME,...")]
    pub topics: Vec<String>,

    /// How many idempotent producers there are; each writes to all partitions.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub producers: u32,

    /// Messages a second, of all producers; 0: as many as go.
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,

    /// Bytes of each value.
    #[arg(long, default_value_t = 200, value_parser = size)]
    pub value_size: usize,

    /// How long a message may take until it counts as failed, in seconds.
    #[arg(long, default_value_t = 600)]
    pub delivery_timeout_seconds: u64,

    /// Where /livez, /status, /pause, /resume, /mark and /finish are served.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub http: SocketAddr,
}

impl Options {
    /// How long a message may take.
    pub fn delivery_timeout(&self) -> Duration {
        Duration::from_secs(self.delivery_timeout_seconds)
    }
}

fn size(text: &str) -> Result<usize, String> {
    let size: usize = text.parse().map_err(|_| "expected a number of bytes".to_owned())?;
    if (MIN_SIZE..=1 << 20).contains(&size) {
        Ok(size)
    } else {
        Err(format!("expected {MIN_SIZE} to {}", 1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }
}
