//! A replica whose disk has lost records that it held.

use super::harness::{Subject, floor, life, members, ms, proposals, request, view};
use crate::partition::{
    Alarm, Effect, Event, FetchOutcome, FetchRequest, LogPositions, OfflineReason, PartitionView, Replica,
    ReplicaConfig, epochs::tests::Table,
};

/// Broker 0 with records 0..20 of epoch 3, damaged from 12 on.
fn damaged() -> Subject {
    let table = Table::new(&[(3, 0)], 20);
    let log = LogPositions {
        start: 0,
        durable_end: 20,
        end: 20,
    };
    Subject {
        replica: Replica::new(ReplicaConfig::new(0, life(0)), log, 0).with_damage(Some(12)),
        table,
    }
}

fn alarm() -> Effect {
    Effect::Alarm(Alarm::DamagedReplica { from: 12, log_end: 20 })
}

/// Broker 1 leads, broker 0 is in the in-sync set or among the eligible.
fn led_by_one(partition_epoch: i32, isr: &[i32], elr: &[i32]) -> PartitionView {
    let mut seen = view(Some(1), 5, partition_epoch, isr);
    seen.partition.elr = elr.to_vec();
    seen
}

#[test]
fn a_damaged_log_is_cut_and_fetched_again() {
    let mut subject = damaged();
    assert_eq!(subject.replica.log().durable_end, 12);
    let out = subject.metadata(0, &led_by_one(7, &[1, 2], &[]));
    assert_eq!(out[1..], [alarm(), Effect::Truncate { to: 12 }]);
    subject.table.truncate(12);
    let out = subject.step(
        1,
        Event::Truncated {
            log_start: 0,
            log_end: 12,
        },
    );
    let expected = FetchRequest {
        replica: 0,
        broker_epoch: life(0),
        leader_epoch: 5,
        sequence: 1,
        offset: 12,
        last_fetched_epoch: Some(3),
        durable_end: 12,
        log_start: 0,
        high_watermark: 0,
    };
    assert_eq!(
        out,
        [Effect::Fetch {
            to: 1,
            request: expected
        }]
    );
    assert_eq!(subject.replica.damaged_from(), None);
    // What was fetched again counts.
    subject.table.append(3);
    subject
        .replica
        .step(ms(2), Event::Appended { log_end: 13 }, &subject.table, &mut Vec::new());
    subject.flushed(3, 13);
    assert_eq!(subject.replica.log().durable_end, 13);
}

/// Once cut, its log end looks like that of a replica that never had more.
#[test]
fn a_damaged_log_stays_as_it_is_while_its_replica_may_be_chosen_to_lead() {
    for (isr, elr) in [(&[1, 0][..], &[][..]), (&[1][..], &[0][..])] {
        let mut subject = damaged();
        let out = subject.metadata(0, &led_by_one(7, isr, elr));
        assert_eq!(out.len(), 1, "{out:?}");
        assert_eq!(subject.replica.next_deadline(), None, "it waits for the controller");
        assert_eq!(subject.step(1, Event::Tick), []);
        assert_eq!(subject.flushed(2, 20), []);
        assert_eq!(subject.replica.log().durable_end, 12, "what is damaged is on no disk");
        let out = subject.metadata(3, &led_by_one(8, &[1], &[]));
        assert_eq!(out, [alarm(), Effect::Truncate { to: 12 }]);
    }
}

#[test]
fn nothing_is_cut_while_nobody_leads() {
    let mut subject = damaged();
    let mut seen = led_by_one(7, &[], &[]);
    seen.partition.leader = None;
    seen.partition.floor = floor(20, 4);
    assert_eq!(subject.metadata(0, &seen).len(), 1);
    assert_eq!(subject.replica.following(), Some(None));
    assert_eq!(subject.replica.next_deadline(), None);
    // The floor keeps committed records from a leader without them; these are gone already.
    seen = led_by_one(8, &[1], &[]);
    seen.partition.leader_epoch = 6;
    seen.partition.floor = floor(20, 4);
    assert_eq!(subject.metadata(1, &seen)[1..], [alarm(), Effect::Truncate { to: 12 }]);
}

#[test]
fn a_damaged_replica_leads_only_where_it_was_chosen_by_hand() {
    let mut subject = damaged();
    let mut seen = view(Some(0), 5, 7, &[0, 1]);
    assert_eq!(
        subject.metadata(0, &seen),
        [alarm(), Effect::GoOffline(OfflineReason::Damaged)]
    );
    // The same leadership again changes nothing.
    seen.partition.partition_epoch = 8;
    seen.version = 80;
    assert_eq!(subject.metadata(1, &seen), []);
    let mut subject = damaged();
    seen = view(Some(0), 5, 7, &[0]);
    seen.partition.recovering = true;
    let out = subject.metadata(0, &seen);
    assert_eq!(out[0], alarm());
    assert!(out.contains(&Effect::Flush));
    assert!(subject.replica.leader().is_some());
    subject.flushed(1, 20);
    assert_eq!(subject.replica.log().durable_end, 20, "its log is what there is");
}

/// Nobody else has what it lacks: it serves what is sound.
#[test]
fn the_only_replica_of_a_partition_leads_with_damage() {
    for adding in [&[][..], &[1, 2]] {
        let mut subject = damaged();
        let mut seen = view(Some(0), 5, 7, &[0]);
        seen.required = 1;
        seen.partition.replicas = [&[0], adding].concat();
        seen.partition.adding = adding.to_vec();
        let out = subject.metadata(0, &seen);
        assert!(out.contains(&Effect::Flush) && !out.contains(&alarm()), "{out:?}");
        assert_eq!(subject.flushed(1, 20), [Effect::HighWatermark(20)]);
    }
}

/// A read met it: the leader goes on until others lead, and only then has its log fetched again.
#[test]
fn a_leader_that_finds_damage_leads_until_it_is_replaced() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    assert!(!subject.replica.is_to_be_replaced());
    assert_eq!(subject.step(1, Event::DamageFound { from: 12 }), []);
    assert!(subject.replica.is_to_be_replaced());
    assert!(subject.replica.leader().is_some());
    assert_eq!(
        subject.replica.log().durable_end,
        20,
        "the others count on what it has told"
    );
    assert_eq!(subject.step(2, Event::DamageFound { from: 15 }), []);
    assert_eq!(subject.replica.damaged_from(), Some(12), "the first one counts");
    let mut seen = led_by_one(8, &[1, 2], &[]);
    seen.partition.leader_epoch = 6;
    let out = subject.metadata(3, &seen);
    assert!(out.ends_with(&[alarm(), Effect::Truncate { to: 12 }]), "{out:?}");
    assert!(!subject.replica.is_to_be_replaced());
}

#[test]
fn a_leader_with_damage_stays_where_nobody_else_is_in_sync() {
    let mut subject = Subject::leading(&[0]);
    subject.step(1, Event::DamageFound { from: 12 });
    assert!(!subject.replica.is_to_be_replaced());
    subject.metadata(2, &view(Some(0), 5, 8, &[0, 1]));
    assert!(subject.replica.is_to_be_replaced());
}

/// What it told its leader is not so any more: nothing is cut before the controller knows.
#[test]
fn a_follower_that_finds_damage_waits_until_it_may_not_be_chosen() {
    let mut subject = Subject::following();
    assert_eq!(subject.step(1, Event::DamageFound { from: 12 }), []);
    assert!(subject.replica.is_to_be_replaced());
    assert_eq!(subject.replica.log().durable_end, 12);
    assert_eq!(subject.replica.next_deadline(), None);
    // The answer to the fetch that was under way when it was found is not waited for.
    let out = subject.metadata(2, &led_by_one(8, &[1, 2], &[]));
    assert_eq!(out, [alarm(), Effect::Truncate { to: 12 }]);
    assert!(!subject.replica.is_to_be_replaced());
    assert_eq!(subject.reply(3, 1, FetchOutcome::Failed), []);
}

/// It has told the controller, and is in no set any more.
#[test]
fn a_leader_takes_a_follower_back_that_has_cut_itself_to_its_damage() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    subject.fetch(1, request(1, 1, 20, 3));
    subject.fetch(1, request(2, 1, 20, 3));
    let out = subject.metadata(2, &view(Some(0), 5, 8, &[0, 2]));
    assert_eq!(proposals(&out), [], "what it told before does not bring it back");
    let out = subject.fetch(3, request(1, 2, 12, 3));
    assert!(!out.iter().any(|effect| matches!(effect, Effect::Alarm(_))), "{out:?}");
    assert_eq!(subject.replica.leader().unwrap().durable_end_of(1), Some(12));
    let out = subject.fetch(4, request(1, 3, 20, 3));
    assert_eq!(members(&proposals(&out)[0]), [0, 1, 2]);
}
