//! What a step costs. Prints, judges nothing: `cargo test --release -p millrace-engine cost -- --ignored --nocapture`.

use std::{hint::black_box, time::Instant};

use super::harness::{Subject, life, ms, request, view};
use crate::partition::{Event, FetchRequest};

#[test]
#[ignore = "prints how long steps take"]
fn the_cost_of_a_record_at_a_leader_of_three() {
    const ROUNDS: u32 = 1_000_000;
    let mut subject = Subject::leading(&[0, 1, 2]);
    let mut out = Vec::with_capacity(16);
    subject.metadata(0, &view(Some(0), 5, 8, &[0, 1, 2]));
    let generation = subject.replica.generation();
    let begin = Instant::now();
    let mut end = 20;
    for round in 0..ROUNDS {
        end += 1;
        if round == 0 {
            subject.table.append(5);
        } else {
            subject.table.end = end;
        }
        let now = ms(u64::from(round) / 100);
        let (replica, table) = (&mut subject.replica, &subject.table);
        replica.step(now, Event::Appended { log_end: end }, table, &mut out);
        let flushed = Event::Flushed {
            durable_end: end,
            generation,
        };
        replica.step(now, flushed, table, &mut out);
        for id in [1, 2] {
            let fetch = FetchRequest {
                broker_epoch: life(id),
                ..request(id, u64::from(round) + 1, end, 5)
            };
            replica.step(now, Event::ReplicaFetch(fetch), table, &mut out);
        }
        black_box(&out);
        assert!(out.len() <= 3);
        out.clear();
    }
    let each = begin.elapsed() / ROUNDS;
    assert_eq!(subject.replica.high_watermark(), end);
    eprintln!("append, flush and two fetches: {each:?}");
}
