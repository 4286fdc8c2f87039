//! Decodes arbitrary bytes as record batches under small limits. It must not panic, and must hold
//! no more memory than the limits allow.
//!
//! The input is decoded as it is, and again with length, magic and checksum made right: else hardly
//! any would get to the records.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace_proto::batch::{
    BatchView, ControlRecord, DecodeLimits, HEADER_LEN, LENGTH_PREFIX_LEN, MAGIC, OwnedBatch, OwnedRecord, Record,
    batches, crc, owned_batches, stamp_log_append_time, stamp_offset_and_epoch,
};

const LIMITS: DecodeLimits = DecodeLimits {
    max_decompressed_bytes: 64 << 10,
    max_records: 1_000,
    max_headers_per_record: 50,
};
/// A growing buffer's old and new self, twice over for the borrowed and the owned reader, and
/// decoders' own state.
const MAX_HELD: usize = 4 * LIMITS.max_decompressed_bytes + (256 << 10);
/// Where the fields are that are made right, and what the checksum covers.
const LENGTH: usize = 8;
const MAGIC_AT: usize = 16;
const CRC: usize = 17;
const CRC_COVERS_FROM: usize = 21;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fuzz_target!(|data: &[u8]| {
    for batch in batches(data) {
        let _ = batch.map(|batch| batch.verify_crc());
    }
    let mut batch = data.to_vec();
    if batch.len() < HEADER_LEN {
        return;
    }
    let length = (batch.len() - LENGTH_PREFIX_LEN) as i32;
    batch[LENGTH..][..4].copy_from_slice(&length.to_be_bytes());
    batch[MAGIC_AT] = MAGIC as u8;
    let sum = crc::crc32c(&batch[CRC_COVERS_FROM..]);
    batch[CRC..][..4].copy_from_slice(&sum.to_be_bytes());
    if BatchView::parse(&batch).is_err() {
        return;
    }
    let shared = Bytes::from(batch.clone());

    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    read(&batch, &shared);
    let held = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(held <= MAX_HELD, "{held} bytes held");

    // Whatever the records are, a leader may stamp them.
    stamp_offset_and_epoch(&mut batch, 7, 3);
    stamp_log_append_time(&mut batch, 11);
    let stamped = BatchView::parse(&batch).expect("a stamped batch parses");
    stamped.verify_crc().expect("a stamped batch has its checksum");
    assert_eq!(stamped.header().encode()[..], batch[..HEADER_LEN]);
    assert_eq!((stamped.header().base_offset, stamped.header().max_timestamp), (7, 11));
});

/// Reads both ways and compares.
fn read(batch: &[u8], shared: &Bytes) {
    let view = BatchView::parse(batch).expect("parsed before");
    view.verify_crc().expect("the checksum was set");
    let owned = OwnedBatch::parse(shared).expect("parsed before");
    assert_eq!(owned_batches(shared.clone()).count(), 1);
    let (borrowed, owned) = match (view.records(&LIMITS), owned.records(&LIMITS)) {
        (Ok(borrowed), Ok(owned)) => (borrowed, owned),
        (Err(borrowed), Err(owned)) => return assert_eq!(borrowed, owned),
        (borrowed, owned) => panic!("{borrowed:?} {owned:?}"),
    };
    assert!(borrowed.bytes().len() <= LIMITS.max_decompressed_bytes.max(batch.len()));
    let mut last_offset = view.header().base_offset - 1;
    let mut owned = owned;
    for record in &borrowed {
        match (record, owned.next()) {
            (Ok(record), Some(Ok(owned))) => {
                assert!(record.offset > last_offset && record.offset <= view.header().last_offset());
                last_offset = record.offset;
                assert!(are_equal(&record, &owned));
                let _ = ControlRecord::decode(&record);
            }
            (Err(record), Some(Err(owned))) => assert_eq!(record, owned),
            (record, owned) => panic!("{record:?} {owned:?}"),
        }
    }
    assert!(owned.next().is_none());
}

fn are_equal(record: &Record<'_>, owned: &OwnedRecord) -> bool {
    record.key == owned.key.as_deref()
        && record.value == owned.value.as_deref()
        && record.headers.len() == owned.headers.len()
        && record
            .headers
            .zip(&owned.headers)
            .all(|(header, owned)| header.key == &owned.key[..] && header.value == owned.value.as_deref())
}
