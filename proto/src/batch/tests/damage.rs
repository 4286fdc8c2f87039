//! Flipped and missing bytes.

use super::*;

/// Whether the checksum leaves this byte to the leader.
fn is_outside_crc(at: usize) -> bool {
    (field::BASE_OFFSET..field::BATCH_LENGTH).contains(&at) || (field::LEADER_EPOCH..field::MAGIC).contains(&at)
}

#[test]
fn any_flipped_bit_is_seen() {
    for codec in Codec::ALL {
        let original = sample(codec);
        let header = BatchHeader::decode(&original).unwrap();
        for at in 0..original.len() {
            for flip in [1u8, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut batch = original.to_vec();
                batch[at] ^= flip;
                // Bytes follow in a log, so that a longer length has something to take.
                batch.extend_from_slice(&original);
                batch.resize(batch.len() + 70_000, 0);
                let checked = BatchView::parse(&batch).and_then(|view| view.verify_crc().map(|()| view));
                match checked {
                    Err(_) => {}
                    Ok(view) => {
                        assert!(is_outside_crc(at), "{codec}: byte {at} ^ {flip} unseen");
                        let found = BatchHeader {
                            base_offset: header.base_offset,
                            partition_leader_epoch: header.partition_leader_epoch,
                            ..*view.header()
                        };
                        assert_eq!(found, header);
                    }
                }
            }
        }
    }
}

#[test]
fn damaged_records_without_the_checksum_cost_no_panic_and_little_memory() {
    let limits = DecodeLimits {
        max_decompressed_bytes: 10_000,
        ..DecodeLimits::default()
    };
    for codec in Codec::ALL {
        let original = sample(codec);
        let mut refused = 0;
        for at in HEADER_LEN..original.len() {
            for flip in 1..=255u8 {
                let mut batch = original.to_vec();
                batch[at] ^= flip;
                let (result, held) = allocations::peak(|| read_all(&batch, &limits));
                refused += usize::from(result.is_err());
                // flate2's inflater holds some 45 KiB of its own, snap's decoder and error texts
                // little.
                assert!(held < 100_000, "{codec}: byte {at} ^ {flip}: {held} bytes held");
            }
        }
        assert!(refused > original.len(), "{codec}: {refused}");
    }
}

#[test]
fn every_truncation_is_incomplete() {
    for codec in Codec::ALL {
        let original = sample(codec);
        for length in 0..original.len() {
            let needed = if length < HEADER_LEN {
                HEADER_LEN
            } else {
                original.len()
            };
            let expected = BatchError::Incomplete {
                needed,
                available: length,
            };
            assert_eq!(BatchView::parse(&original[..length]).unwrap_err(), expected);
            assert_eq!(OwnedBatch::parse(&original.slice(..length)).unwrap_err(), expected);
            assert!(expected.is_incomplete());
        }
    }
}

#[test]
fn a_cut_tail_ends_the_iteration() {
    let first = sample(Codec::Snappy);
    let all = [&first[..], &sample(Codec::None)].concat();
    for length in first.len() + 1..all.len() {
        let mut iterator = batches(&all[..length]);
        assert_eq!(iterator.next().unwrap().unwrap().bytes(), &first[..]);
        assert!(iterator.next().unwrap().unwrap_err().is_incomplete());
        assert!(iterator.next().is_none());
        assert_eq!(iterator.position(), first.len());
        let mut shared = owned_batches(Bytes::copy_from_slice(&all[..length]));
        assert!(shared.next().unwrap().is_ok());
        assert!(shared.next().unwrap().unwrap_err().is_incomplete());
        assert!(shared.next().is_none());
    }
}

#[test]
fn cut_records_are_an_error() {
    for codec in Codec::ALL {
        let original = sample(codec);
        let payload = &original[HEADER_LEN..];
        for length in 0..payload.len() {
            let batch = raw_batch(codec, 3, &payload[..length]);
            BatchView::parse(&batch).unwrap().verify_crc().unwrap();
            let result = read_all(&batch, &DecodeLimits::default());
            assert!(result.is_err(), "{codec}: {length} of {} bytes read", payload.len());
        }
    }
}
