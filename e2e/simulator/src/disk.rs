//! A machine's disk, and what the observer knows to be on it.

use std::{path::Path, sync::Arc};

use millrace_engine::BrokerId;
use millrace_log::{DirIdentity, FaultyFileSystem, FileSystem, LogDir, fs::OpenMode};
use uuid::Uuid;

use crate::{shadow::Shadow, slots::SLOTS};

pub(crate) const DIR: &str = "/data";
pub(crate) const CLUSTER: &str = "simulated";

pub(crate) struct Disk {
    pub fs: FaultyFileSystem,
    /// The broker whose identity is on it.
    pub owner: BrokerId,
    pub directory_id: Uuid,
    /// By slot; `None` where it never had a replica.
    pub shadows: Vec<Option<Shadow>>,
    /// Bits have flipped on it: it need not be readable.
    pub damaged: bool,
}

/// A disk as it was at some moment.
pub(crate) struct SavedDisk {
    files: Vec<(std::path::PathBuf, Vec<u8>)>,
    owner: BrokerId,
    directory_id: Uuid,
    shadows: Vec<Option<Shadow>>,
    damaged: bool,
    /// The epoch of the process life in which it was saved, or of the last one before.
    pub life: u64,
}

impl Disk {
    /// A new disk, formatted for a broker.
    pub(crate) fn format(seed: u64, owner: BrokerId, directory_id: Uuid) -> Self {
        let fs = FaultyFileSystem::new(seed);
        let shared: Arc<dyn FileSystem> = fs.shared();
        let identity = DirIdentity {
            cluster_id: CLUSTER.into(),
            node_id: owner,
            directory_id,
        };
        LogDir::format(&shared, Path::new(DIR), &identity).expect("a sound disk can be formatted");
        Self {
            fs,
            owner,
            directory_id,
            shadows: (0..SLOTS).map(|_| None).collect(),
            damaged: false,
        }
    }

    /// All files as a process sees them now.
    pub(crate) fn save(&self, life: u64) -> SavedDisk {
        let files = self.fs.list_files().into_iter();
        SavedDisk {
            files: files
                .filter_map(|(path, _)| self.fs.contents(&path).ok().map(|bytes| (path, bytes)))
                .collect(),
            owner: self.owner,
            directory_id: self.directory_id,
            shadows: self.shadows.clone(),
            damaged: self.damaged,
            life,
        }
    }

    /// A disk with the files of a saved one, all of them durable.
    pub(crate) fn restore(saved: &SavedDisk, seed: u64) -> Self {
        let fs = FaultyFileSystem::new(seed);
        for (path, bytes) in &saved.files {
            let parents: Vec<&Path> = path.ancestors().skip(1).collect();
            for parent in parents.iter().rev() {
                // It may be there already.
                let _ = fs.create_dir(parent);
            }
            let file = fs.open(path, OpenMode::CreateNew).expect("each path was saved once");
            file.write_all_vectored_at(&[std::io::IoSlice::new(bytes)], 0)
                .expect("no fault is on");
            file.sync_all().expect("no fault is on");
            for parent in parents {
                fs.sync_dir(parent).expect("no fault is on");
            }
        }
        Self {
            fs,
            owner: saved.owner,
            directory_id: saved.directory_id,
            shadows: saved.shadows.clone(),
            damaged: saved.damaged,
        }
    }

    /// The shadow of a partition, made where there is none.
    pub(crate) fn shadow(&mut self, partition: u32) -> &mut Shadow {
        self.shadows[partition as usize].get_or_insert_with(Shadow::default)
    }
}
