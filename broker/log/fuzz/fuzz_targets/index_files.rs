//! Any bytes as an index file: opened, searched, cut, never a panic, never an entry that does not rise.
#![no_main]

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use millrace_log::fs::OpenMode;
use millrace_log::index::{IndexEntry, IndexFile, OffsetEntry, TimeEntry, txn};
use millrace_log::{FaultyFileSystem, FileSystem, dump};

fn try_index<E: IndexEntry>(fs: &dyn FileSystem, path: &Path) {
    let prefix = IndexFile::<E>::read_valid_prefix(fs, path).unwrap();
    let mut last = None;
    for entry in &prefix {
        assert!(entry.follows(last));
        last = Some(*entry);
    }
    if let Some(mut index) = IndexFile::<E>::open(fs, PathBuf::from(path)).unwrap() {
        let _ = index.last_where(fs, |_| true).unwrap();
        let _ = index.first_not(fs, |_| false).unwrap();
        let half = index.len() / 2;
        let seen = std::cell::Cell::new(0);
        index
            .truncate_where(fs, |_| {
                seen.set(seen.get() + 1);
                seen.get() <= half
            })
            .unwrap();
    }
}

fuzz_target!(|data: &[u8]| {
    let disk = FaultyFileSystem::new(0);
    for name in ["/00000000000000000000.index", "/00000000000000000000.timeindex"] {
        disk.open(Path::new(name), OpenMode::CreateNew)
            .unwrap()
            .write_all_vectored_at(&[IoSlice::new(data)], 0)
            .unwrap();
    }
    let _ = dump::dump_offset_index(&disk, Path::new("/00000000000000000000.index"));
    let _ = dump::dump_time_index(&disk, Path::new("/00000000000000000000.timeindex"));
    try_index::<OffsetEntry>(&disk, Path::new("/00000000000000000000.index"));
    try_index::<TimeEntry>(&disk, Path::new("/00000000000000000000.timeindex"));
    let _ = txn::decode(data);
});
