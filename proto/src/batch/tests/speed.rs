//! Prints how fast batches of 1 KiB records are built, verified and read. Not run by default:
//! `cargo test --release -p millrace-proto batch::tests::speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::*;

const RECORD_LEN: usize = 1024;
const RECORDS: usize = 1000;
const RUN: Duration = Duration::from_millis(400);

fn measure(what: &str, mut run: impl FnMut()) {
    run();
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < RUN {
        run();
        rounds += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let records = (rounds * RECORDS) as f64 / seconds;
    let mib = records * RECORD_LEN as f64 / f64::from(1 << 20);
    println!("{what:<24} {mib:>10.0} MiB/s {:>8.2} M records/s", records / 1e6);
}

#[test]
#[ignore = "prints measurements; needs an optimised build"]
fn speed() {
    // Text-like: words from a small set, so that codecs have something to do.
    let mut state = 7u32;
    let values: Vec<Vec<u8>> = (0..RECORDS)
        .map(|_| {
            let mut value = Vec::new();
            while value.len() < RECORD_LEN {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                value.extend_from_slice(format!("field{}={} ", state >> 28, state >> 16 & 0xfff).as_bytes());
            }
            value.truncate(RECORD_LEN);
            value
        })
        .collect();
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec);
        builder.reserve(RECORDS * (RECORD_LEN + 30));
        let mut batch = Bytes::new();
        measure(&format!("{codec} build"), || {
            batch = Bytes::new();
            for (time, value) in values.iter().enumerate() {
                builder.append(time as i64, None, Some(value), &[]).unwrap();
            }
            batch = builder.build().unwrap();
        });
        measure(&format!("{codec} parse, verify"), || {
            BatchView::parse(&batch).unwrap().verify_crc().unwrap()
        });
        measure(&format!("{codec} iterate borrowed"), || {
            let records = BatchView::parse(&batch)
                .unwrap()
                .records(&DecodeLimits::DEFAULT)
                .unwrap();
            let total: usize = records.iter().map(|record| record.unwrap().value.unwrap().len()).sum();
            assert_eq!(total, RECORDS * RECORD_LEN);
        });
        measure(&format!("{codec} iterate owned"), || {
            let batch = OwnedBatch::parse(&batch).unwrap();
            let records = batch.records(&DecodeLimits::DEFAULT).unwrap();
            let total: usize = records.map(|record| record.unwrap().value.unwrap().len()).sum();
            assert_eq!(total, RECORDS * RECORD_LEN);
        });
        println!(
            "{codec} ratio {:.3}",
            batch.len() as f64 / (RECORDS * RECORD_LEN) as f64
        );
    }
}
