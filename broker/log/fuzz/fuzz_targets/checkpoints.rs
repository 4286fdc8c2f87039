//! Any bytes as each checkpoint file: what is accepted is written back as something that is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_log::DirIdentity;
use millrace_log::checkpoint::{clean_mark, flushed, leader_epochs, partition_metadata, start_offsets};
use millrace_log::producer::snapshot;

fuzz_target!(|data: &[u8]| {
    if let Ok(identity) = DirIdentity::decode_foreign(data) {
        assert_eq!(DirIdentity::decode(&identity.encode()).unwrap(), identity);
    }
    if let Ok(points) = flushed::decode(data) {
        assert_eq!(flushed::decode(&flushed::encode(&points)).unwrap(), points);
    }
    if let Ok(starts) = start_offsets::decode(data) {
        assert_eq!(start_offsets::decode(&start_offsets::encode(&starts)).unwrap(), starts);
    }
    if let Ok(epochs) = leader_epochs::decode(data) {
        assert_eq!(leader_epochs::decode(&leader_epochs::encode(&epochs)).unwrap(), epochs);
    }
    if let Ok(id) = partition_metadata::decode(data) {
        assert_eq!(partition_metadata::decode(&partition_metadata::encode(id)).unwrap(), id);
    }
    if let Ok(epoch) = clean_mark::decode(data) {
        assert_eq!(clean_mark::decode(&clean_mark::encode(epoch)).unwrap(), epoch);
    }
    if let Ok(state) = snapshot::decode(data) {
        assert_eq!(snapshot::encode(&state), data);
    }
});
