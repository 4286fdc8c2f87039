//! The twin itself must lose what a disk may lose, and keep what it must keep.

use std::io::IoSlice;

use super::*;
use crate::fs::{read_whole, write_atomic};

fn write(fs: &FaultyFileSystem, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = fs.open(Path::new(path), OpenMode::CreateOrOpen).unwrap();
    file.write_all_vectored_at(&[IoSlice::new(bytes)], 0).unwrap();
    file
}

#[test]
fn a_name_needs_a_synced_directory_and_bytes_a_synced_file() {
    let (mut lost_name, mut lost_bytes, mut kept) = (0, 0, 0);
    for seed in 0..200 {
        let fs = FaultyFileSystem::new(seed);
        write(&fs, "/name-not-synced", b"x").sync_all().unwrap();
        fs.crash();
        lost_name += usize::from(!fs.exists(Path::new("/name-not-synced")).unwrap());

        write(&fs, "/bytes-not-synced", b"some bytes");
        fs.sync_dir(Path::new("/")).unwrap();
        write(&fs, "/both", b"durable").sync_data().unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        fs.crash();
        lost_bytes += usize::from(fs.contents(Path::new("/bytes-not-synced")).unwrap() != b"some bytes");
        kept += usize::from(fs.contents(Path::new("/both")).unwrap() == b"durable");
    }
    assert!(lost_name > 50 && lost_name < 150, "{lost_name}");
    assert!(lost_bytes > 50 && lost_bytes < 190, "{lost_bytes}");
    assert_eq!(kept, 200);
}

#[test]
fn atomic_replacement_shows_the_old_or_the_new_contents() {
    for seed in 0..300 {
        let fs = FaultyFileSystem::new(seed);
        let path = Path::new("/checkpoint");
        write_atomic(&fs, path, b"old contents").unwrap();
        fs.set_plan(FaultPlan {
            write_error_per_million: 200_000,
            sync_error_per_million: 200_000,
            ..FaultPlan::default()
        });
        let replaced = write_atomic(&fs, path, b"new").is_ok();
        fs.set_plan(FaultPlan::default());
        fs.crash();
        let found = read_whole(&fs, path, 100).unwrap();
        assert!(
            &found[..] == b"new" || (!replaced && &found[..] == b"old contents"),
            "seed {seed}: {found:?}"
        );
    }
}

#[test]
fn a_failed_sync_drops_dirty_pages_and_the_next_one_lies() {
    let fs = FaultyFileSystem::new(1);
    let file = write(&fs, "/f", b"first");
    file.sync_all().unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    file.write_all_vectored_at(&[IoSlice::new(b"SECOND")], 5).unwrap();
    fs.set_plan(FaultPlan {
        fail_next_syncs: 1,
        ..FaultPlan::default()
    });
    assert!(file.sync_data().is_err());
    assert!(file.sync_data().is_ok(), "the second one succeeds, as on Linux");
    assert_eq!(
        fs.contents(Path::new("/f")).unwrap(),
        b"firstSECOND",
        "the cache still shows it"
    );
    fs.kill_process();
    let file = fs.open(Path::new("/f"), OpenMode::Read).unwrap();
    file.drop_cache(0);
    assert_eq!(fs.contents(Path::new("/f")).unwrap(), b"first");
}

#[test]
fn a_full_disk_takes_what_fits_and_refuses() {
    let fs = FaultyFileSystem::new(1);
    fs.set_plan(FaultPlan {
        capacity_bytes: 10,
        ..FaultPlan::default()
    });
    let file = write(&fs, "/f", b"12345678");
    let error = file.write_all_vectored_at(&[IoSlice::new(b"abcdef")], 8).unwrap_err();
    assert!(crate::fs::is_disk_full(&error));
    assert_eq!(fs.contents(Path::new("/f")).unwrap(), b"12345678ab");
    assert_eq!(fs.available_bytes(Path::new("/")).unwrap(), 0);
    file.set_len(4).unwrap();
    assert_eq!(fs.available_bytes(Path::new("/")).unwrap(), 6);
}

#[test]
fn locks_are_exclusive_and_die_with_the_process() {
    let fs = FaultyFileSystem::new(1);
    let guard = fs.lock(Path::new("/.lock")).unwrap();
    assert_eq!(
        fs.lock(Path::new("/.lock")).err().unwrap().kind(),
        io::ErrorKind::WouldBlock
    );
    fs.crash();
    let second = fs.lock(Path::new("/.lock")).unwrap();
    drop(guard);
    assert!(
        fs.lock(Path::new("/.lock")).is_err(),
        "a guard from before the crash frees nothing"
    );
    drop(second);
    assert!(fs.lock(Path::new("/.lock")).is_ok());
}

#[test]
fn one_seed_one_outcome() {
    let run = |seed| {
        let fs = FaultyFileSystem::new(seed);
        let file = write(&fs, "/f", &[1; 3000]);
        fs.sync_dir(Path::new("/")).unwrap();
        file.write_all_vectored_at(&[IoSlice::new(&[2; 3000])], 1000).unwrap();
        fs.crash();
        fs.contents(Path::new("/f")).unwrap()
    };
    assert_eq!(run(7), run(7));
    assert!((0..20).any(|seed| run(seed) != run(7)));
}

#[test]
fn a_copy_goes_its_own_way() {
    let fs = FaultyFileSystem::new(1);
    let path = Path::new("/file");
    write(&fs, "/file", b"durable").sync_data().unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    write(&fs, "/file", b"changed");
    let copy = fs.copy();
    copy.flip_bit(path, 0, 0).unwrap();
    assert_eq!(copy.contents(path).unwrap(), b"bhanged");
    assert_eq!(fs.contents(path).unwrap(), b"changed");
    assert_eq!(fs.durable_contents(path).unwrap(), b"durable");
}

#[test]
fn a_file_takes_room_until_neither_a_name_nor_a_handle_reaches_it() {
    let fs = FaultyFileSystem::new(1);
    let root = Path::new("/");
    write(&fs, "/a", b"12345").sync_all().unwrap();
    write(&fs, "/b", b"67").sync_all().unwrap();
    fs.sync_dir(root).unwrap();
    assert_eq!(fs.used_bytes(), 7);
    // On the disk it has its name until the directory is synced.
    fs.rename(Path::new("/b"), Path::new("/a")).unwrap();
    assert_eq!(fs.used_bytes(), 7);
    fs.sync_dir(root).unwrap();
    assert_eq!(
        (fs.used_bytes(), fs.contents(Path::new("/a")).unwrap()),
        (2, b"67".to_vec())
    );
    // A handle keeps it, as long as the process lives.
    let handle = fs.open(Path::new("/a"), OpenMode::Read).unwrap();
    fs.remove_file(Path::new("/a")).unwrap();
    fs.sync_dir(root).unwrap();
    assert_eq!(fs.used_bytes(), 2);
    let copy = fs.copy();
    copy.kill_process();
    assert_eq!((copy.used_bytes(), fs.used_bytes()), (0, 2));
    drop(handle);
    fs.sync_dir(root).unwrap();
    assert_eq!(fs.used_bytes(), 0);
    // What was never synced is gone with a crash, or has its name again.
    write(&fs, "/c", b"8");
    fs.remove_file(Path::new("/c")).unwrap();
    fs.crash();
    let found = fs.exists(Path::new("/c")).unwrap();
    assert_eq!(found, fs.list_files().len() == 1);
    assert!(fs.used_bytes() <= u64::from(found));
}
