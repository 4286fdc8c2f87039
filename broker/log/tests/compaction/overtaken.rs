//! A log that is deleted, made again or emptied after each change that a round makes to the disk.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use millrace_log::producer::ProducerState;
use millrace_log::{CompactionError, CompactionStep, Log, LogConfig, LogDir};
use millrace_proto::batch::Codec;

use crate::broker::{Broker, PARTITION, config, options};
use crate::common::TOPIC_ID;
use crate::model::{Model, build, record};
use crate::stopping::Stopping;

/// Where an emptied log begins: below what was compacted.
const EMPTY_START: i64 = 5;

/// What happens to the log in the midst of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Deleted,
    /// And then another one is made under the same name.
    MadeAgain,
    Emptied,
}

impl Event {
    fn happen(self, dir: &LogDir, log: &Log) {
        match self {
            Event::Deleted => dir.delete_log("t", 0).unwrap(),
            Event::MadeAgain => {
                dir.delete_log("t", 0).unwrap();
                drop(dir.create_log("t", 0, TOPIC_ID, log.config().as_ref().clone()).unwrap());
            }
            Event::Emptied => log
                .truncate_fully_and_start_at(EMPTY_START, ProducerState::default())
                .unwrap(),
        }
    }
}

/// An event under way.
struct Happening {
    /// It came between the change and the next one.
    at_once: bool,
    thread: JoinHandle<()>,
}

/// A compacted segment and two dirty ones, which are copied one by one.
fn dirty_log() -> Broker {
    let mut broker = Broker::new(
        LogConfig {
            segment_bytes: 400,
            ..config()
        },
        1,
    );
    for number in 0..16 {
        broker.put(&[&format!("k{}={number}", number % 2)]);
        if number % 4 == 3 {
            broker.roll();
        }
        if number == 7 {
            broker.compact().unwrap().unwrap();
        }
    }
    broker.put(&["active=1"]);
    broker.log().flush().unwrap();
    broker.dir.as_ref().unwrap().write_checkpoints().unwrap();
    broker
}

/// Nothing but a copy is written without a lock that each event takes.
fn is_copy(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cleaned")
}

/// The names of the files in the partition's directory that compaction makes.
fn files_of_compaction(broker: &Broker) -> Vec<PathBuf> {
    let is_one = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        path.starts_with(PARTITION) && (name.starts_with("cleaned-offset") || is_copy(path) || name.ends_with(".swap"))
    };
    let files = broker.disk.list_files().into_iter().map(|(path, _)| path);
    files.filter(|path| is_one(path)).collect()
}

/// Lets it happen after so many changes that a round makes. False if it makes no more than these.
fn happens_after(broker: &Broker, event: Event, at: u64) -> bool {
    let disk = broker.disk.copy();
    let (fs, left) = Stopping::around(disk.shared());
    let mut fork = broker.fork(disk.clone(), &fs);
    let begun = fork.log().begin_compaction(|| fork.bounds(), &options(), fork.now_ms);
    let mut round = begun.unwrap().unwrap();
    let (log, dir) = (fork.log().clone(), Arc::new(fork.dir.take().unwrap()));
    let happening: Arc<Mutex<Option<Happening>>> = Arc::default();
    let (slot, acted_on, made) = (happening.clone(), dir.clone(), AtomicU64::new(0));
    left.after_each(move |path| {
        if made.fetch_add(1, Ordering::SeqCst) != at {
            return;
        }
        let (log, dir) = (log.clone(), acted_on.clone());
        let (done, is_done) = mpsc::channel();
        let thread = thread::spawn(move || {
            event.happen(&dir, &log);
            // Nobody may wait for it any more.
            let _ = done.send(());
        });
        let at_once = is_copy(path);
        if at_once {
            is_done.recv().unwrap();
        } else {
            // If it has to wait for the round it happens later: then that is what is tried.
            let _ = is_done.recv_timeout(Duration::from_millis(50));
        }
        *slot.lock().unwrap() = Some(Happening { at_once, thread });
    });
    let end = loop {
        match round.step(u64::MAX, fork.now_ms) {
            Ok(CompactionStep::More) => {}
            end => break end,
        }
    };
    drop(round);
    let Some(Happening { at_once, thread }) = happening.lock().unwrap().take() else {
        return false;
    };
    thread.join().unwrap();
    assert_eq!(dir.offline(), None, "{event:?} after change {at}");
    match end {
        Ok(CompactionStep::Done(report)) if event == Event::Emptied => {
            assert!(!at_once || report.cleaned_offset.is_none(), "after change {at}");
        }
        Err(CompactionError::Closed) if event != Event::Emptied => {}
        // It was at its end before.
        Ok(CompactionStep::Done(report)) => assert!(!at_once && report.cleaned_offset.is_some()),
        other => panic!("{event:?} after change {at}: {other:?}"),
    }
    assert_eq!(
        files_of_compaction(&fork),
        Vec::<PathBuf>::new(),
        "{event:?} after change {at}"
    );
    fork.model = Model::default();
    match event {
        Event::Deleted => {
            let mut files = disk.list_files().into_iter();
            assert!(!files.any(|(path, _)| path.starts_with(PARTITION)));
            return true;
        }
        Event::MadeAgain => {}
        Event::Emptied => {
            let need = fork.log().compaction_need(&fork.bounds(), fork.now_ms).unwrap();
            assert_eq!(need.first_dirty_offset, EMPTY_START, "after change {at}");
            fork.model.cut_to(EMPTY_START);
            fork.model.log_start = EMPTY_START;
        }
    }
    // What is there now is a log like any other.
    disk.kill_process();
    fork.reopen();
    assert_eq!(fork.log().damage(), []);
    fork.check();
    fork.put(&["k0=new", "k1=new"]);
    fork.put(&["k0=newer"]);
    fork.roll();
    assert_eq!(fork.compact().unwrap().unwrap().superseded_records, 1);
    fork.check();
    true
}

fn happens_everywhere(event: Event) {
    let broker = dirty_log();
    let mut at = 0;
    while happens_after(&broker, event, at) {
        at += 1;
    }
    assert!(at > 20, "{at} changes are too few for a round");
}

#[test]
fn a_log_that_is_deleted_ends_its_round_and_nothing_else() {
    happens_everywhere(Event::Deleted);
}

/// A group of three segments, of which the first one is more than a copy keeps in memory before it writes, and the second
/// one is not open before it is copied.
fn log_of_a_large_group() -> Broker {
    let mut broker = Broker::new(
        LogConfig {
            segment_bytes: 1_400_000,
            ..config()
        },
        1,
    );
    let large = "x".repeat(600_000);
    for keys in [&["a", "b"][..], &["c"]] {
        for key in keys {
            let batch = build(&[record(key, Some(&large))], broker.now_ms, Codec::None, None);
            broker.append(&batch);
        }
        broker.roll();
    }
    broker.compact().unwrap().unwrap();
    broker.put(&["c=1"]);
    broker.roll();
    broker.dir.as_ref().unwrap().write_checkpoints().unwrap();
    broker.config.segment_bytes = 16 << 20;
    broker
}

#[test]
fn files_that_are_gone_with_their_log_are_no_other_error() {
    let broker = log_of_a_large_group();
    for event in [Event::Deleted, Event::MadeAgain] {
        assert!(happens_after(&broker, event, 0));
    }
}

#[test]
fn a_round_leaves_alone_the_log_that_has_the_place_of_its_own() {
    happens_everywhere(Event::MadeAgain);
}

#[test]
fn an_emptied_log_is_not_told_to_be_compacted() {
    happens_everywhere(Event::Emptied);
}
