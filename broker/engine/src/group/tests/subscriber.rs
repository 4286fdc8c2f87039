//! Members that brokers play for subscribers: of two streams that are the same member only one is.

use uuid::Uuid;

use super::{super::*, support::*};

fn by(beat: Heartbeat, stream: u128, takes_over: bool) -> Heartbeat {
    Heartbeat {
        subscriber: Some(Subscriber {
            stream: Uuid::from_u128(stream),
            takes_over,
        }),
        ..beat
    }
}

fn taken_over(answer: Result<HeartbeatAnswer, GroupRejection>) -> bool {
    matches!(answer, Err(GroupRejection::TakenOver { .. }))
}

#[test]
fn the_stream_that_resumes_is_the_member_and_the_one_before_is_not() {
    let mut bench = Bench::new(&[4]);
    let mut known = Known::default();
    known.take(bench.beat(by(join("a"), 1, true)).unwrap());
    known.take(bench.beat(by(known.beat("a"), 1, false)).unwrap());
    // Its answer is lost, and it comes again.
    for _ in 0..2 {
        let resumed = Heartbeat {
            version: 0,
            ..known.beat("a")
        };
        let told = bench.beat(by(resumed, 2, true)).unwrap();
        assert_eq!(
            (told.epoch, told.version),
            (known.epoch, known.version),
            "nothing moves"
        );
        assert_eq!(told.assignment.map(|told| told.assigned), Some(places(0..4)));
    }
    assert!(taken_over(bench.beat(by(known.beat("a"), 1, false))));
    assert!(bench.beat(by(known.beat("a"), 2, false)).is_ok());
}

/// A coordinator that takes over does not know which is the one; there is only one all the same.
#[test]
fn after_a_failover_one_stream_is_the_member() {
    let mut bench = Bench::new(&[4]);
    let mut known = Known::default();
    known.take(bench.beat(by(join("a"), 1, true)).unwrap());
    bench.beat(by(known.beat("a"), 2, true)).unwrap();
    bench.fail_over();
    assert!(bench.beat(by(known.beat("a"), 2, false)).is_ok());
    assert!(taken_over(bench.beat(by(known.beat("a"), 1, false))));
}

#[test]
fn nothing_is_kept_of_a_member_that_is_gone_or_was_not_let_in() {
    let mut bench = Bench::new(&[4]);
    bench.beat(by(join("a"), 1, true)).unwrap();
    bench.join("b");
    bench.leave("a", false).unwrap();
    let unknown = Heartbeat { epoch: 1, ..join("c") };
    assert!(bench.beat(by(unknown, 3, true)).is_err());
    let hints = format!("{:?}", bench.coordinator);
    assert!(hints.contains("subscribers: {}"), "{hints}");
}
