//! Lines from standard input as bytes: any bytes, any length up to a limit.

use std::{
    io::{self, Read},
    thread,
};

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;
use tokio::sync::mpsc;

use crate::{limits, output::count};

/// Why no more lines come.
#[derive(Debug, Error)]
pub enum InputError {
    /// A line is longer than a message may be.
    #[error("line {line} is longer than {} bytes, {}", count(*limit as u64), way_out(*limit))]
    TooLong {
        /// From 1.
        line: u64,
        /// Bytes.
        limit: usize,
    },
    /// The input can't be read.
    #[error("can't read standard input: {0}")]
    Io(#[from] io::Error),
}

/// Whose limit it is, and what can be done.
fn way_out(limit: usize) -> String {
    if limit >= limits::MAX_LINE_BYTES {
        return "the most that any message may have: split the line".to_owned();
    }
    format!(
        "the topic's max.message.bytes: raise that (no message has more than {} bytes), compress with --compression, \
         or split the line",
        count(limits::MAX_LINE_BYTES as u64)
    )
}

/// Cuts a stream of bytes at newlines.
#[derive(Debug)]
struct LineCutter {
    buffer: BytesMut,
    /// The buffer's bytes below this are known to hold no newline.
    scanned: usize,
    /// Lines given out.
    lines: u64,
    limit: usize,
}

impl LineCutter {
    fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            lines: 0,
            limit,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its newline.
    fn next_line(&mut self) -> Result<Option<Bytes>, InputError> {
        let found = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n');
        let length = self.scanned + found.unwrap_or(self.buffer.len() - self.scanned);
        if length > self.limit {
            return Err(InputError::TooLong {
                line: self.lines + 1,
                limit: self.limit,
            });
        }
        if found.is_none() {
            self.scanned = length;
            return Ok(None);
        }
        let line = self.buffer.split_to(length).freeze();
        self.buffer.advance(1);
        self.scanned = 0;
        self.lines += 1;
        Ok(Some(line))
    }

    /// What stands behind the last newline, if anything.
    fn rest(&mut self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }
}

/// Lines that a thread of its own reads: a blocked read must not hold up anything else, and
/// standard input can't be read without blocking.
#[derive(Debug)]
pub struct Lines {
    chunks: mpsc::Receiver<Result<Vec<Bytes>, InputError>>,
}

impl Lines {
    /// Begins to read; lines may have `limit` bytes.
    pub fn read(mut input: impl Read + Send + 'static, limit: usize) -> io::Result<Self> {
        let (sender, chunks) = mpsc::channel(limits::INPUT_CHUNKS_AHEAD);
        thread::Builder::new().name("input".to_owned()).spawn(move || {
            if let Err(error) = read_all(&mut input, limit, &sender) {
                // The receiver may be gone: then nobody wants to know.
                let _ = sender.blocking_send(Err(error));
            }
        })?;
        Ok(Self { chunks })
    }

    /// The next lines, at least one; `None` at the end. Can be cancelled without losing any.
    ///
    /// # Errors
    /// A line is too long or the input can't be read; the lines before it were given out.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<Bytes>>, InputError> {
        self.chunks.recv().await.transpose()
    }
}

fn read_all(
    input: &mut impl Read,
    limit: usize,
    sender: &mpsc::Sender<Result<Vec<Bytes>, InputError>>,
) -> Result<(), InputError> {
    let mut cutter = LineCutter::new(limit);
    let mut chunk = vec![0; limits::INPUT_CHUNK_BYTES];
    loop {
        let read = match input.read(&mut chunk) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        cutter.push(&chunk[..read]);
        let mut lines = Vec::new();
        let ended = loop {
            match cutter.next_line() {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if read == 0 && ended.is_ok() {
            lines.extend(cutter.rest());
        }
        if !lines.is_empty() && sender.blocking_send(Ok(lines)).is_err() {
            return Ok(());
        }
        ended?;
        if read == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives out what it holds in pieces of one to three bytes.
    struct Dribble(Vec<u8>, usize);

    impl Read for Dribble {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            let size = (1 + self.1 % 3).min(self.0.len()).min(out.len());
            out[..size].copy_from_slice(&self.0[..size]);
            self.0.drain(..size);
            Ok(size)
        }
    }

    fn lines(input: &[u8], limit: usize) -> (Vec<Vec<u8>>, Option<InputError>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut lines = Lines::read(Dribble(input.to_vec(), 0), limit).unwrap();
            let mut all = Vec::new();
            loop {
                match lines.next_chunk().await {
                    Ok(Some(chunk)) => all.extend(chunk.iter().map(|line| line.to_vec())),
                    Ok(None) => return (all, None),
                    Err(error) => return (all, Some(error)),
                }
            }
        })
    }

    #[test]
    fn lines_are_bytes_without_their_newline() {
        for (input, expected) in [
            (&b""[..], vec![]),
            (b"\n", vec![&b""[..]]),
            (b"one\ntwo", vec![b"one", b"two"]),
            (b"one\ntwo\n", vec![b"one", b"two"]),
            (b"\n\n\r\n\0\xff\n", vec![b"", b"", b"\r", b"\0\xff"]),
        ] {
            let (lines, error) = lines(input, 100);
            assert!(error.is_none());
            assert_eq!(lines, expected, "{input:?}");
        }
    }

    #[test]
    fn a_line_may_have_exactly_the_limit() {
        assert!(lines(b"12345\n12345", 5).1.is_none());
        for input in [&b"1\n123456\n2\n"[..], b"1\n123456", b"1\n12345678901234567890"] {
            let (before, error) = lines(input, 5);
            assert_eq!(before, [b"1"], "what stands before is not lost");
            assert!(
                matches!(error, Some(InputError::TooLong { line: 2, limit: 5 })),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_limit_is_told_with_what_can_be_done() {
        let told = |limit| InputError::TooLong { line: 2, limit }.to_string();
        assert_eq!(
            told(8 << 20),
            "line 2 is longer than 8,388,608 bytes, the topic's max.message.bytes: raise that (no message has more than \
             16,776,156 bytes), compress with --compression, or split the line"
        );
        assert_eq!(
            told(limits::MAX_LINE_BYTES),
            "line 2 is longer than 16,776,156 bytes, the most that any message may have: split the line"
        );
    }
}
