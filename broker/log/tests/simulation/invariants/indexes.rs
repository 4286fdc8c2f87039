//! The index files of sealed segments are what a scan of the segment yields: each entry points to a batch's last
//! offset and position, times are the largest so far.

use std::path::Path;

use millrace_log::FaultyFileSystem;

use crate::world::{Lie, PARTITION_DIR, World};

pub fn check(world: &mut World) {
    // Decoding every file at every step is slow; one in eight finds the same. A bit that the simulation flipped stays
    // in the file until somebody stumbles over it.
    if world.choices.flip_derived_files || world.rng.below(8) != 0 {
        return;
    }
    let disk = match world.lie {
        Lie::IndexWrong => with_wrong_index(world),
        _ => world.disk.clone(),
    };
    let fs = disk.shared();
    let options = millrace_log::dump::VerifyOptions { records: false };
    let report = millrace_log::dump::verify_partition(&*fs, Path::new(PARTITION_DIR), &options).unwrap();
    // The epoch file is written with the next flush.
    let problems: Vec<_> = report
        .problems
        .iter()
        .filter(|problem| !problem.file.ends_with("leader-epoch-checkpoint"))
        .collect();
    assert!(problems.is_empty(), "{problems:#?}");
}

/// A copy of the disk with one bit of an index flipped.
fn with_wrong_index(world: &mut World) -> FaultyFileSystem {
    let disk = world.disk.copy();
    let is_index = |path: &Path| path.to_string_lossy().ends_with("index");
    let files = disk.list_files();
    if let Some((path, len)) = files.iter().find(|(path, len)| *len > 0 && is_index(path)) {
        disk.flip_bit(path, world.rng.below(*len), world.rng.below(8) as u8)
            .unwrap();
    }
    disk
}
