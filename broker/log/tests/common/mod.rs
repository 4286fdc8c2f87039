//! One directory on a faulty disk, as several tests begin.

use std::path::Path;
use std::sync::Arc;

use millrace_log::{DirIdentity, DirOptions, FaultyFileSystem, FileSystem, LogDir};
use uuid::Uuid;

/// The topic's id.
pub const TOPIC_ID: Uuid = Uuid::from_u128(9);

/// Formats the directory.
pub fn format(disk: &FaultyFileSystem) -> Arc<dyn FileSystem> {
    let fs = disk.shared();
    let identity = DirIdentity {
        cluster_id: "c".into(),
        node_id: 1,
        directory_id: Uuid::from_u128(7),
    };
    LogDir::format(&fs, Path::new("/data"), &identity).unwrap();
    fs
}

/// Opens it.
pub fn open(fs: &Arc<dyn FileSystem>) -> LogDir {
    LogDir::open(fs, Path::new("/data"), &DirOptions::default()).unwrap()
}
