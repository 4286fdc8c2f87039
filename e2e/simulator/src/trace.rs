//! What happened, as a hash and, where somebody wants to read it, as text.

use std::{collections::VecDeque, time::Duration};

/// The last lines that a failure shows, unless `MILLRACE_SIM_LINES` says otherwise.
const KEPT_LINES: usize = 200;

/// The trace of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    text: bool,
    lines: VecDeque<String>,
    kept: usize,
    count: u64,
}

pub(crate) fn mix(hash: u64, value: u64) -> u64 {
    let mut mixed = (hash ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^= mixed >> 32;
    mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(23)
}

impl Trace {
    /// With `text` each line is made and hashed too; without, only the numbers.
    pub(crate) fn new(text: bool) -> Self {
        Self {
            hash: 0,
            text,
            lines: VecDeque::new(),
            kept: std::env::var("MILLRACE_SIM_LINES")
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(KEPT_LINES),
            count: 0,
        }
    }

    pub(crate) fn note(&mut self, now: Duration, numbers: [u64; 3], line: impl FnOnce() -> String) {
        self.count += 1;
        self.hash = mix(self.hash, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX));
        for number in numbers {
            self.hash = mix(self.hash, number);
        }
        if self.text {
            let line = format!("{:>9.3}s {}", now.as_secs_f64(), line());
            for byte in line.bytes() {
                self.hash = mix(self.hash, u64::from(byte));
            }
            if self.lines.len() >= self.kept {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
