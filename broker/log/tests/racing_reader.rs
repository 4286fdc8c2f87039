//! Readers beside a log that is cut and written to again, as a follower's is: what they get was in the log at one moment,
//! never the beginning of one history and the end of another (KAFKA-9824 and its kind).
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use millrace_log::{AppendOptions, FaultyFileSystem, Log, LogConfig, ReadError};
use millrace_proto::batch::{BatchBuilder, Codec, batches};

use common::{TOPIC_ID, format, open};

/// Cuts, and so histories.
const CUTS: i64 = 400;
/// Records that the log has after each of them.
const RECORDS: usize = 24;

/// The log as it was after each change: of each offset, in which history its record was written. All batches have one
/// record and the same size, so that only this tells them apart.
struct Histories(Mutex<Vec<Vec<i64>>>);

impl Histories {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn last(&self) -> Vec<i64> {
        self.0.lock().unwrap().last().unwrap().clone()
    }

    fn push(&self, log: Vec<i64>) {
        self.0.lock().unwrap().push(log);
    }

    /// Whether some of these held `read` from `offset` on.
    fn held(&self, moments: Range<usize>, offset: usize, read: &[i64]) -> bool {
        let all = self.0.lock().unwrap();
        all[moments]
            .iter()
            .any(|log| log.get(offset..offset + read.len()) == Some(read))
    }
}

fn batch(history: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(history, None, Some(b"a value"), &[]).unwrap();
    builder.build().unwrap()
}

fn append(log: &Log, histories: &Histories, history: i64) {
    let mut next = histories.last();
    next.push(history);
    // First, so that nobody reads what is not known yet.
    histories.push(next);
    log.append_as_leader(&batch(history), 0, history, &AppendOptions::default())
        .unwrap();
}

/// Cuts to a place that is another one each time, rolls now and then, and fills the log up again.
fn write(log: &Log, histories: &Histories) {
    for history in 1..=CUTS {
        let to = usize::try_from(history * 7).unwrap() % RECORDS;
        let mut cut = histories.last();
        cut.truncate(to);
        log.truncate_to(i64::try_from(to).unwrap()).unwrap();
        histories.push(cut);
        for at in to..RECORDS {
            if at == 3 * RECORDS / 4 {
                log.roll().unwrap();
            }
            append(log, histories, history);
        }
    }
}

/// Reads from each offset; returns how many records.
fn read(log: &Log, histories: &Histories, offset: usize) -> usize {
    // The moment before may last still.
    let before = histories.count() - 1;
    let data = match log.read(i64::try_from(offset).unwrap(), 1 << 20, true, i64::MAX) {
        Ok(data) => data,
        Err(ReadError::OffsetOutOfRange { .. }) => return 0,
        Err(error) => panic!("offset {offset}: {error}"),
    };
    let after = histories.count();
    let read: Vec<i64> = batches(&data.bytes)
        .map(|batch| batch.unwrap().header().base_timestamp)
        .collect();
    let from = usize::try_from(data.base_offset).unwrap();
    assert!(
        histories.held(before..after, from, &read),
        "offset {from}: {read:?} was in no log of {before}..{after}"
    );
    read.len()
}

/// Ends the readers, also if the writer fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn a_reader_gets_what_was_in_the_log_at_one_moment() {
    let disk = FaultyFileSystem::new(1);
    let dir = open(&format(&disk));
    let log = dir.create_log("t", 0, TOPIC_ID, LogConfig::default()).unwrap();
    let histories = Histories(Mutex::new(vec![Vec::new()]));
    let (done, records) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for reader in 0..2 {
            let (log, histories, done, records) = (&log, &histories, &done, &records);
            scope.spawn(move || {
                let mut offset = reader;
                while !done.load(Ordering::Acquire) {
                    records.fetch_add(read(log, histories, offset), Ordering::Relaxed);
                    offset = (offset + 5) % RECORDS;
                }
            });
        }
        let _end = Ends(&done);
        write(&log, &histories);
    });
    assert!(records.load(Ordering::Relaxed) > 0);
}
