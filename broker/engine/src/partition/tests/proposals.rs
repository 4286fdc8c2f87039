//! Proposals for the in-sync set: when they are made, and what their answers do.

use uuid::Uuid;

use super::harness::{Subject, floor, life, members, ms, proposals, record, request, view};
use crate::{
    cluster::PartitionRef,
    partition::{Effect, Event, FetchRequest, PartitionView, Proof, Proposal, ProposalAnswer, ProposalError as E},
};

const LAG: u64 = 30_000;

fn failed(subject: &mut Subject, at: u64, id: u64, error: E) -> Vec<Effect> {
    let answer = ProposalAnswer::Failed(error);
    subject.step(at, Event::ProposalAnswered { id, answer })
}

fn applied(subject: &mut Subject, at: u64, id: u64, partition_epoch: i32, isr: &[i32]) -> Vec<Effect> {
    let partition = record(Some(0), 5, partition_epoch, isr);
    let answer = ProposalAnswer::Applied {
        partition: &partition,
        required: 2,
    };
    subject.step(at, Event::ProposalAnswered { id, answer })
}

/// Leads {0, 1}; both are at 20, all is committed; broker 2 has just asked to join.
fn expanding() -> (Subject, Proposal) {
    let mut subject = Subject::leading(&[0, 1]);
    subject.fetch(1, request(1, 1, 20, 3));
    let out = subject.fetch(2, request(2, 1, 20, 3));
    let proposal = proposals(&out).remove(0);
    (subject, proposal)
}

#[test]
fn a_replica_that_has_caught_up_is_proposed_with_its_life() {
    let (_, proposal) = expanding();
    assert_eq!(
        proposal,
        Proposal {
            id: 1,
            leader: 0,
            broker_epoch: life(0),
            leader_epoch: 5,
            partition_epoch: 7,
            isr: vec![(0, life(0)), (1, life(1)), (2, life(2))],
            floor: floor(20, 5),
            supersedes: false,
            lost: vec![],
        }
    );
}

#[test]
fn each_condition_of_joining_is_needed() {
    type Change = fn(&mut PartitionView, &mut FetchRequest);
    let cases: [(&str, Change, bool); 9] = [
        ("sound", |_, _| {}, true),
        (
            "below the epoch's start (KAFKA-7128)",
            |_, fetch| fetch.offset = 19,
            false,
        ),
        ("not yet on its disk", |_, fetch| fetch.durable_end = 19, false),
        ("of another leader epoch", |_, fetch| fetch.leader_epoch = 4, false),
        (
            "of an earlier life (KIP-903)",
            |_, fetch| fetch.broker_epoch -= 1,
            false,
        ),
        ("of a later life", |_, fetch| fetch.broker_epoch += 1, false),
        ("fenced (KIP-841)", |view, _| view.brokers[2].fenced = true, false),
        ("shutting down", |view, _| view.brokers[2].shutting_down = true, false),
        ("not registered", |view, _| view.brokers.truncate(2), false),
    ];
    for (name, change, joins) in cases {
        let mut subject = Subject::new();
        let mut seen = view(Some(0), 5, 7, &[0, 1]);
        let mut fetch = request(2, 1, 20, 3);
        change(&mut seen, &mut fetch);
        subject.metadata(0, &seen);
        let out = subject.fetch(1, fetch);
        assert_eq!(proposals(&out).len() == 1, joins, "{name}: {out:?}");
    }
    // Below the high watermark, though above the epoch's start.
    let mut subject = Subject::leading(&[0, 1]);
    subject.produce(1, 5);
    subject.fetch(2, request(1, 1, 25, 5));
    assert_eq!(subject.replica.high_watermark(), 25);
    assert_eq!(proposals(&subject.fetch(3, request(2, 1, 24, 5))), []);
    assert_eq!(proposals(&subject.fetch(4, request(2, 2, 25, 5))).len(), 1);
}

/// The high watermark of a new leader lags: to have reached it proves nothing (KAFKA-7128).
#[test]
fn who_is_between_the_watermark_and_the_epochs_start_does_not_join() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    subject.fetch(1, request(1, 1, 15, 3));
    let mut left = view(Some(0), 5, 8, &[0, 2]);
    left.brokers[1].fenced = true;
    subject.metadata(2, &left);
    left.version += 1;
    left.brokers[1].fenced = false;
    assert_eq!(subject.metadata(3, &left), []);
    // It still counts as caught up, from when this epoch began.
    assert_eq!(proposals(&subject.fetch(4, request(1, 2, 19, 3))), []);
    assert_eq!(subject.replica.high_watermark(), 10);
    assert_eq!(proposals(&subject.fetch(5, request(1, 3, 20, 3))).len(), 1);
}

/// The watermark stands, so that a follower with a hanging disk is never below it.
#[test]
fn who_left_for_its_lag_does_not_come_back_with_it() {
    let mut subject = Subject::leading(&[0, 1]);
    subject.fetch(1, request(1, 1, 20, 3));
    subject.produce(2, 5);
    let out = subject.step(LAG + 2, Event::Tick);
    assert_eq!(members(&proposals(&out)[0]), [0]);
    assert_eq!(applied(&mut subject, LAG + 3, 1, 8, &[0]), []);
    let hanging = FetchRequest {
        durable_end: 20,
        ..request(1, 2, 25, 5)
    };
    assert_eq!(proposals(&subject.fetch(LAG + 4, hanging)), []);
    assert_eq!(subject.replica.high_watermark(), 20);
    assert_eq!(proposals(&subject.fetch(LAG + 5, request(1, 3, 25, 5))).len(), 1);
}

#[test]
fn a_member_that_lags_too_long_is_proposed_to_leave() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    subject.fetch(1000, request(1, 1, 20, 3));
    subject.fetch(1000, request(2, 1, 20, 3));
    assert_eq!(subject.replica.next_deadline(), None, "nobody lags an idle log");
    subject.produce(2000, 5);
    subject.fetch(2000, request(1, 2, 25, 5));
    let deadline = ms(1000 + LAG) + std::time::Duration::from_nanos(1);
    assert_eq!(subject.replica.next_deadline(), Some(deadline));
    assert_eq!(subject.step(1000 + LAG, Event::Tick), []);
    let out = subject.step(1001 + LAG, Event::Tick);
    assert_eq!(members(&proposals(&out)[0]), [0, 1]);
    assert_eq!(subject.replica.high_watermark(), 20, "it still counts");
    let out = applied(&mut subject, 1002 + LAG, 1, 8, &[0, 1]);
    assert_eq!(out, [Effect::HighWatermark(25)]);
}

#[test]
fn a_member_that_is_never_heard_leaves_after_the_allowance() {
    let mut subject = Subject::leading(&[0, 1, 2]);
    subject.fetch(1, request(1, 1, 20, 3));
    assert_eq!(subject.step(LAG, Event::Tick), []);
    let out = subject.step(LAG + 1, Event::Tick);
    assert_eq!(members(&proposals(&out)[0]), [0, 1]);
}

/// The four orders of proposal, answer, fetch and metadata (KIP-497).
#[test]
fn a_new_member_counts_from_the_proposal_on() {
    let (mut subject, _) = expanding();
    subject.produce(3, 5);
    assert_eq!(subject.fetch(4, request(1, 2, 25, 5)).len(), 1);
    assert_eq!(subject.replica.high_watermark(), 20, "proposed: counts");
    let confirmed = view(Some(0), 5, 8, &[0, 1, 2]);
    for order in 0..3 {
        let (mut subject, _) = expanding();
        subject.produce(3, 5);
        subject.fetch(4, request(1, 2, 25, 5));
        match order {
            0 => drop(applied(&mut subject, 5, 1, 8, &[0, 1, 2])),
            1 => drop(subject.metadata(5, &confirmed)),
            _ => {
                subject.metadata(5, &confirmed);
                assert_eq!(applied(&mut subject, 6, 1, 8, &[0, 1, 2]), [], "known by now");
            }
        }
        assert_eq!(subject.replica.high_watermark(), 20, "confirmed: counts");
        let out = subject.fetch(7, request(2, 2, 25, 5));
        assert_eq!(out[0], Effect::HighWatermark(25));
    }
}

#[test]
fn what_an_error_proves() {
    for (error, proof) in [
        (E::IneligibleReplica, Proof::NotApplied),
        (E::OperationNotAttempted, Proof::NotApplied),
        (E::FencedLeaderEpoch, Proof::Refused),
        (E::NotLeader, Proof::Refused),
        (E::InvalidUpdateVersion, Proof::Refused),
        (E::StaleBrokerEpoch, Proof::Refused),
        (E::InvalidRequest, Proof::Refused),
        (E::UnknownPartition, Proof::Refused),
        (E::NotController, Proof::Nothing),
        (E::Unknown, Proof::Nothing),
    ] {
        assert_eq!(error.proof(), proof, "{error:?}");
        let (mut subject, proposal) = expanding();
        failed(&mut subject, 5, 1, error);
        assert!(
            subject.replica.leader().unwrap().in_maximal_isr(2),
            "{error:?}: it may yet be"
        );
        // What is sent next, and when.
        let again = match proof {
            Proof::Nothing => (55, proposal),
            Proof::Refused => (1005, proposal),
            Proof::NotApplied => (55, Proposal { id: 2, ..proposal }),
        };
        assert_eq!(proposals(&subject.step(again.0 - 1, Event::Tick)), []);
        assert_eq!(proposals(&subject.step(again.0, Event::Tick)), [again.1], "{error:?}");
    }
}

#[test]
fn an_unknown_outcome_is_sent_again_with_the_same_bytes() {
    let (mut subject, proposal) = expanding();
    assert_eq!(failed(&mut subject, 10, 1, E::Unknown), []);
    // All that it was made of has changed meanwhile.
    let mut seen = view(Some(0), 5, 7, &[0, 1]);
    seen.version += 1;
    seen.brokers[2].broker_epoch = 999;
    seen.brokers[1].fenced = true;
    subject.metadata(20, &seen);
    assert_eq!(subject.replica.next_deadline(), Some(ms(60)));
    assert_eq!(subject.step(59, Event::Tick), []);
    assert_eq!(subject.step(60, Event::Tick), [Effect::ProposeIsr(proposal.clone())]);
    // No answer at all.
    assert_eq!(subject.step(1059, Event::Tick), []);
    assert_eq!(subject.step(1060, Event::Tick), [Effect::ProposeIsr(proposal)]);
}

#[test]
fn at_most_one_is_under_way_and_answers_of_others_are_not_heard() {
    let (mut subject, _) = expanding();
    subject.produce(3, 5);
    assert_eq!(subject.step(LAG * 2, Event::Tick).len(), 1, "sent again, no other");
    let before = subject.replica.clone();
    assert_eq!(failed(&mut subject, LAG * 2, 9, E::IneligibleReplica), []);
    assert_eq!(subject.replica, before);
    applied(&mut subject, LAG * 2, 1, 8, &[0, 1, 2]);
    let settled = subject.replica.clone();
    // A repeated answer.
    failed(&mut subject, LAG * 2, 1, E::IneligibleReplica);
    assert_eq!(subject.replica, settled);
}

/// A controller that was deposed answers success with its old record (KAFKA-14154).
#[test]
fn success_with_an_old_record_is_not_believed() {
    let (mut subject, proposal) = expanding();
    for (partition_epoch, isr) in [(6, vec![0, 1, 2]), (7, vec![0, 1, 2]), (7, vec![0, 1])] {
        applied(&mut subject, 3, 1, partition_epoch, &isr);
        assert_eq!(subject.replica.leader().unwrap().isr(), [0, 1]);
        assert!(subject.replica.leader().unwrap().in_maximal_isr(2));
    }
    assert_eq!(subject.step(53, Event::Tick), [Effect::ProposeIsr(proposal)]);
    // Nor one that shows another leadership.
    let partition = record(Some(1), 6, 9, &[1]);
    let answer = ProposalAnswer::Applied {
        partition: &partition,
        required: 2,
    };
    subject.step(60, Event::ProposalAnswered { id: 1, answer });
    assert!(subject.replica.leader().is_some());
    assert_eq!(subject.replica.leader_epoch(), 5);
}

/// Another copy may be applied when broker 2 is eligible again.
#[test]
fn who_was_refused_counts_until_no_copy_can_be_applied_any_more() {
    let (mut subject, _) = expanding();
    let mut fenced = view(Some(0), 5, 7, &[0, 1]);
    fenced.version += 1;
    fenced.brokers[2].fenced = true;
    subject.metadata(61, &fenced);
    subject.produce(62, 5);
    subject.fetch(62, request(1, 2, 25, 5));
    assert_eq!(failed(&mut subject, 63, 1, E::IneligibleReplica), []);
    assert_eq!(
        subject.replica.high_watermark(),
        20,
        "another copy may still be applied"
    );
    // So the record's version must move past it.
    let out = subject.step(113, Event::Tick);
    let superseding = proposals(&out).remove(0);
    assert_eq!(members(&superseding), [0, 1]);
    assert!(superseding.supersedes && superseding.id == 2 && superseding.partition_epoch == 7);
    assert_eq!(subject.replica.high_watermark(), 20);
    // A controller that did not raise it has not done it.
    assert_eq!(applied(&mut subject, 114, 2, 7, &[0, 1]), []);
    assert!(subject.replica.leader().unwrap().in_maximal_isr(2));
    assert_eq!(proposals(&subject.step(164, Event::Tick)), [superseding]);
    // It is done, by the answer or by any other change of the record.
    assert_eq!(applied(&mut subject, 165, 2, 8, &[0, 1]), [Effect::HighWatermark(25)]);
    assert!(!subject.replica.leader().unwrap().in_maximal_isr(2));
}

#[test]
fn the_number_required_comes_with_the_set() {
    // The minimum was raised to 2 and the set shrunk; the leader hears of the set first.
    let mut subject = Subject::new();
    let mut seen = view(Some(0), 5, 7, &[0, 1]);
    seen.required = 1;
    subject.metadata(0, &seen);
    subject.fetch(1, request(1, 1, 20, 3));
    subject.produce(2, 5);
    let out = subject.step(LAG + 2, Event::Tick);
    assert_eq!(members(&proposals(&out)[0]), [0]);
    assert_eq!(applied(&mut subject, LAG + 3, 1, 8, &[0]), []);
    assert_eq!(subject.replica.high_watermark(), 20);
}

#[test]
fn a_recovered_partition_says_so_and_no_old_floor_binds_it() {
    let mut subject = Subject::new();
    let mut seen = view(Some(0), 5, 7, &[0]);
    seen.partition.recovering = true;
    seen.partition.floor = floor(500, 4);
    let out = subject.metadata(0, &seen);
    let proposal = proposals(&out).remove(0);
    assert_eq!(members(&proposal), [0]);
    assert_eq!(proposal.floor, floor(10, 5));
    assert!(!proposal.supersedes);
}

#[test]
fn after_a_refusal_the_next_proposal_waits() {
    let (mut subject, _) = expanding();
    assert_eq!(failed(&mut subject, 3, 1, E::OperationNotAttempted), []);
    assert_eq!(subject.fetch(4, request(2, 2, 20, 3)).len(), 1, "only an answer");
    assert_eq!(subject.replica.next_deadline(), Some(ms(53)));
    let out = subject.step(53, Event::Tick);
    assert_eq!(proposals(&out)[0].id, 2);
}

/// Who has lost what it had acknowledged must not be eligible to lead, in sync or not; and the
/// controller is told again by the next leadership that knows of it.
#[test]
fn a_proposal_names_who_has_lost_data() {
    let mut subject = Subject::leading(&[0, 1]);
    subject.fetch(1, request(1, 1, 20, 3));
    let out = subject.fetch(2, request(1, 2, 15, 3));
    let proposal = proposals(&out).remove(0);
    assert_eq!((members(&proposal), &proposal.lost[..]), (vec![0], &[1][..]));
    let change = proposal.change(PartitionRef {
        topic: "t".into(),
        topic_id: Uuid::nil(),
        partition: 0,
    });
    assert_eq!(
        (&change.lost[..], change.supersedes, change.isr.len()),
        (&[1][..], false, 1)
    );

    // Out of the set already, and eligible to lead by the controller's record.
    let mut subject = Subject::new();
    let mut seen = view(Some(0), 5, 7, &[0]);
    seen.partition.elr = vec![1];
    subject.metadata(0, &seen);
    subject.produce(1, 5);
    subject.fetch(2, request(1, 1, 20, 3));
    let out = subject.fetch(3, request(1, 2, 15, 3));
    let proposal = proposals(&out).remove(0);
    assert_eq!((members(&proposal), &proposal.lost[..]), (vec![0], &[1][..]));
    // Neither in sync nor eligible: there is nothing to tell.
    let mut seen = view(Some(0), 5, 8, &[0]);
    seen.partition.last_known_elr = vec![1];
    subject.metadata(4, &seen);
    assert_eq!(proposals(&subject.step(5_000, Event::Tick)), []);
}
