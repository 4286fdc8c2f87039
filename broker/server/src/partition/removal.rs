//! Files of deleted partitions, removed on a thread of their own: that may take a disk long, and a broker that waits for
//! it hears of no change of leaders meanwhile.

use std::{collections::VecDeque, sync::Arc, thread};

use millrace_log::DeletedLog;
use parking_lot::Mutex;

/// What is to be removed, in the order in which it was deleted.
#[derive(Default)]
pub(super) struct Removal {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    deleted: VecDeque<DeletedLog>,
    /// Whether a thread is at it.
    runs: bool,
}

impl Removal {
    /// Adds one. What is left when the process ends is removed after its next start.
    pub(super) fn push(self: &Arc<Self>, deleted: DeletedLog) {
        let mut state = self.state.lock();
        state.deleted.push_back(deleted);
        if std::mem::replace(&mut state.runs, true) {
            return;
        }
        drop(state);
        let working = self.clone();
        let spawned = thread::Builder::new()
            .name("removal".into())
            .spawn(move || working.run());
        if let Err(error) = spawned {
            tracing::warn!(%error, "deleted partitions are removed by the thread that deletes them");
            self.run();
        }
    }

    fn run(&self) {
        while let Some(deleted) = self.next() {
            if let Err(error) = deleted.remove() {
                tracing::error!(%error, "what a deletion left can't be removed");
            }
        }
    }

    fn next(&self) -> Option<DeletedLog> {
        let mut state = self.state.lock();
        let next = state.deleted.pop_front();
        state.runs = next.is_some();
        next
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use millrace_log::{DirIdentity, DirOptions, LogConfig, LogDir, OsFileSystem};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_deleted_partition_gives_way_at_once_and_its_files_go_later() {
        let folder = tempfile::tempdir().unwrap();
        let fs = OsFileSystem::shared();
        let identity = DirIdentity {
            cluster_id: "c".into(),
            node_id: 1,
            directory_id: Uuid::from_u128(7),
        };
        LogDir::format(&fs, folder.path(), &identity).unwrap();
        let dir = LogDir::open(&fs, folder.path(), &DirOptions::default()).unwrap();
        let create = |topic| dir.create_log("t", 0, Uuid::from_u128(topic), LogConfig::default());
        let mut deleted = Vec::new();
        for topic in 1..20 {
            create(topic).unwrap();
            deleted.push(dir.begin_deletion("t", 0).unwrap());
        }
        create(20).unwrap();
        assert_eq!(dir.deleted_logs().unwrap().len(), 19, "the files are still there");
        let removal = Arc::new(Removal::default());
        for deleted in deleted {
            removal.push(deleted);
        }
        // As the start does, beside the thread that may be at it.
        for deleted in dir.deleted_logs().unwrap() {
            deleted.remove().unwrap();
        }
        let until = Instant::now() + Duration::from_secs(60);
        while removal.state.lock().runs {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(1));
        }
        assert!(dir.deleted_logs().unwrap().is_empty() && dir.offline().is_none());
        dir.open_log("t", 0, Uuid::from_u128(20), LogConfig::default()).unwrap();
    }
}
