//! Any bytes as each checkpoint file: what is accepted is written back as something that is read as the same.
//!
//! The input is decoded as it is, and again with the checksum made right: else hardly any would get past it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_log::DirIdentity;
use millrace_log::checkpoint::{clean_mark, cleaned, flushed, leader_epochs, partition_metadata, start_offsets};
use millrace_log::producer::snapshot;
use millrace_proto::batch::crc::crc32c;

/// The line that ends a text file.
const CHECKSUM: &[u8] = b"checksum=";
/// What the checksum of a snapshot covers, and the size of its entries behind their count.
const COVERED_FROM: usize = 6;
const COUNT_LEN: usize = 4;
const ENTRY_SIZE: usize = 46;

fuzz_target!(|data: &[u8]| {
    if let Ok(starts) = start_offsets::decode(data) {
        assert_eq!(start_offsets::decode(&start_offsets::encode(&starts)).unwrap(), starts);
    }
    if let Ok(epochs) = leader_epochs::decode(data) {
        assert_eq!(leader_epochs::decode(&leader_epochs::encode(&epochs)).unwrap(), epochs);
    }
    if let Ok(id) = partition_metadata::decode(data) {
        assert_eq!(partition_metadata::decode(&partition_metadata::encode(id)).unwrap(), id);
    }
    text_with_checksum(data);
    text_with_checksum(&sealed_text(data));
    producers(data);
    if let Some(sealed) = sealed_snapshot(data) {
        producers(&sealed);
    }
});

fn text_with_checksum(data: &[u8]) {
    if let Ok(identity) = DirIdentity::decode_foreign(data) {
        assert_eq!(DirIdentity::decode(&identity.encode()).unwrap(), identity);
    }
    if let Ok(points) = flushed::decode(data) {
        assert_eq!(flushed::decode(&flushed::encode(&points)).unwrap(), points);
    }
    if let Ok(epoch) = clean_mark::decode(data) {
        assert_eq!(clean_mark::decode(&clean_mark::encode(epoch)).unwrap(), epoch);
    }
    if let Ok(state) = cleaned::decode(data) {
        assert_eq!(cleaned::decode(&cleaned::encode(&state)).unwrap(), state);
    }
}

fn producers(data: &[u8]) {
    if let Ok(state) = snapshot::decode(data) {
        let again = snapshot::decode(&snapshot::encode(&state)).unwrap();
        assert_eq!(again.entries(), state.entries());
    }
}

/// The lines, and the right checksum at the end.
fn sealed_text(data: &[u8]) -> Vec<u8> {
    let lines = data.windows(CHECKSUM.len()).rposition(|window| window == CHECKSUM);
    let mut text = data[..lines.unwrap_or(data.len())].to_vec();
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    let checksum = crc32c(&text);
    text.extend_from_slice(CHECKSUM);
    text.extend_from_slice(format!("{checksum:08x}\n").as_bytes());
    text
}

/// As many whole entries as there are, with version, checksum and count.
fn sealed_snapshot(data: &[u8]) -> Option<Vec<u8>> {
    let entries = data.get(COVERED_FROM + COUNT_LEN..)?;
    let count = entries.len() / ENTRY_SIZE;
    let mut body = i32::try_from(count).ok()?.to_be_bytes().to_vec();
    body.extend_from_slice(&entries[..count * ENTRY_SIZE]);
    let mut file = 1_i16.to_be_bytes().to_vec();
    file.extend_from_slice(&crc32c(&body).to_be_bytes());
    file.extend_from_slice(&body);
    Some(file)
}
