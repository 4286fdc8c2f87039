use std::time::Duration;

use super::{super::*, support::*};

const INTERVAL: Duration = Duration::from_millis(100);

fn static_join(member: &str, instance: &str) -> Heartbeat {
    Heartbeat {
        instance: Some(instance.into()),
        ..join(member)
    }
}

#[test]
fn a_static_member_that_restarts_has_what_it_had() {
    let mut bench = Bench::new(&[4]);
    let (mut a, mut b) = (Known::default(), Known::default());
    a.take(bench.beat(static_join("a1", "a")).unwrap());
    b.take(bench.beat(static_join("b1", "b")).unwrap());
    for _ in 0..2 {
        bench.pass(INTERVAL);
        bench.renew("a1", &mut a);
        bench.renew("b1", &mut b);
    }
    assert_eq!(bench.state(), GroupState::Stable);
    bench.leave("a1", true).unwrap();
    assert_eq!(bench.leave("a1", true), Ok(Answer::Done));
    bench.pass(SESSION - Duration::from_secs(1));
    bench.renew("b1", &mut b);
    let left = GroupRejection::MemberLeft { member: "a1".into() };
    assert_eq!(bench.beat(a.beat("a1")), Err(left));
    let mut next = Known::default();
    next.take(bench.beat(static_join("a2", "a")).unwrap());
    assert_eq!((next.epoch, &next.assignment), (a.epoch, &a.assignment));
    assert_eq!(bench.state(), GroupState::Stable);
    // The old process is told to stop.
    let mut beat = a.beat("a1");
    beat.instance = Some("a".into());
    assert_eq!(
        bench.beat(beat),
        Err(GroupRejection::FencedInstanceId { instance: "a".into() })
    );
    assert!(
        bench
            .commit(Some(("a1", a.epoch)), a.assignment.assigned[0], 1)
            .is_err()
    );
    assert_eq!(
        bench.commit(Some(("a2", next.epoch)), a.assignment.assigned[0], 1),
        Ok(())
    );
    // One that does not come back is removed.
    bench.leave("a2", true).unwrap();
    for _ in 0..6 {
        bench.pass(Duration::from_secs(1));
        bench.renew("b1", &mut b);
    }
    assert_eq!(b.assignment.assigned, places(0..4));
}

#[test]
fn a_second_process_of_an_instance_waits_and_gets_its_share_when_the_first_is_gone() {
    let mut bench = Bench::new(&[4]);
    let (mut a, mut b) = (Known::default(), Known::default());
    a.take(bench.beat(static_join("a1", "a")).unwrap());
    bench.pass(INTERVAL);
    b.take(bench.beat(static_join("b1", "b")).unwrap());
    for _ in 0..2 {
        bench.pass(INTERVAL);
        bench.renew("a1", &mut a);
        bench.renew("b1", &mut b);
    }
    let written = bench.log.len();
    bench.pass(Duration::from_secs(1));
    let unreleased = GroupRejection::UnreleasedInstanceId {
        instance: "a".into(),
        retry_after_ms: 4_000,
    };
    assert_eq!(bench.beat(static_join("a2", "a")), Err(unreleased));
    bench.renew("b1", &mut b);
    assert_eq!(bench.log.len(), written, "the first goes on");
    bench.pass(Duration::from_secs(4));
    bench.renew("b1", &mut b);
    assert_eq!(b.assignment.assigned.len(), 2, "it is kept for who asked");
    let mut next = Known::default();
    next.take(bench.beat(static_join("a2", "a")).unwrap());
    assert_eq!(next.assignment.assigned, a.assignment.assigned);
    assert_eq!(bench.state(), GroupState::Stable);
}

#[test]
fn what_was_kept_and_is_for_others_by_now_is_free() {
    let mut bench = Bench::new(&[4]);
    let mut a = Known::default();
    a.take(bench.beat(static_join("a1", "a")).unwrap());
    bench.leave("a1", true).unwrap();
    bench.pass(INTERVAL);
    let b = bench.join("b");
    assert_eq!(b.assignment.assigned.len(), 2, "nobody uses it");
    let mut next = Known::default();
    next.take(bench.beat(static_join("a2", "a")).unwrap());
    assert_eq!(next.assignment.assigned.len(), 2);
    assert_eq!(next.assignment.revoking, []);
}

/// Who waits for an instance id is forgotten with whom it waited for, however many have waited.
#[test]
fn who_waited_for_an_instance_is_forgotten_with_it() {
    let mut bench = Bench::new(&[4]);
    bench.join("b");
    let waiting = |bench: &Bench| bench.coordinator.hints[&GroupId::from("g")].successors.len();
    for instance in 0..3 {
        let instance = format!("i{instance}");
        let (first, second) = (format!("{instance}-1"), format!("{instance}-2"));
        bench.beat(static_join(&first, &instance)).unwrap();
        let refused = bench.beat(static_join(&second, &instance));
        assert!(
            matches!(refused, Err(GroupRejection::UnreleasedInstanceId { .. })),
            "{refused:?}"
        );
        assert_eq!(waiting(&bench), 1);
        bench.leave(&first, false).unwrap();
        assert_eq!(waiting(&bench), 0);
    }
}
