//! The member's rules, with the exact effects of each event.

use std::time::{Duration, Instant};

use super::*;

const SESSION: Duration = Duration::from_secs(6);
const INTERVAL: Duration = Duration::from_secs(1);
const REBALANCE: Duration = Duration::from_secs(60);

/// An error of a stream: one of a broken connection has no reason.
#[derive(Clone, Debug, PartialEq)]
struct Fault {
    reason: Option<ErrorReason>,
    fact: Option<(&'static str, &'static str)>,
}

impl Refusal for Fault {
    fn reason(&self) -> Option<ErrorReason> {
        self.reason
    }

    fn is_retriable(&self) -> bool {
        self.reason.is_none_or(ErrorReason::is_retriable)
    }

    fn retry_after(&self) -> Option<Duration> {
        None
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        self.fact.and_then(|(known, fact)| (known == key).then_some(fact))
    }
}

fn refused(reason: ErrorReason) -> Fault {
    Fault {
        reason: Some(reason),
        fact: None,
    }
}

struct Test {
    member: Member,
    begin: Instant,
}

fn topic() -> Bytes {
    Bytes::from_static(&[7; 16])
}

fn parts(numbers: &[i32]) -> Vec<PartitionId> {
    numbers.iter().map(|number| (topic(), *number)).collect()
}

fn topics(numbers: &[i32]) -> Vec<v1::TopicPartitions> {
    by_topic(&parts(numbers).into_iter().collect())
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn answer(epoch: i32, version: u32, assigned: &[i32], revoking: &[i32]) -> Box<v1::HeartbeatAnswer> {
    Box::new(v1::HeartbeatAnswer {
        assignment: Some(v1::MemberAssignment {
            assigned: topics(assigned),
            revoking: topics(revoking),
            revoke_within: seconds(45).filter(|_| !revoking.is_empty()),
        }),
        ..*unchanged(epoch, version)
    })
}

fn unchanged(epoch: i32, version: u32) -> Box<v1::HeartbeatAnswer> {
    Box::new(v1::HeartbeatAnswer {
        member_epoch: epoch,
        assignment_version: version,
        heartbeat_interval: seconds(INTERVAL.as_secs() as i64),
        assignment: None,
    })
}

fn request(id: &str, epoch: i32, version: u32, first: bool, owned: Option<&[i32]>) -> Box<v1::HeartbeatRequest> {
    Box::new(v1::HeartbeatRequest {
        group: "g".into(),
        member_id: id.into(),
        member_epoch: epoch,
        assignment_version: version,
        settings: first.then(settings),
        owned: owned.map(|numbers| v1::OwnedPartitions {
            topics: topics(numbers),
        }),
        instance_id: None,
    })
}

fn settings() -> v1::MemberSettings {
    v1::MemberSettings {
        topics: vec!["t".into()],
        ..v1::MemberSettings::default()
    }
}

fn broken() -> Fault {
    Fault {
        reason: None,
        fact: None,
    }
}

impl Test {
    fn new() -> Self {
        let begin = Instant::now();
        let config = MemberConfig {
            group: "g".into(),
            instance_id: None,
            settings: settings(),
            session_timeout: SESSION,
            rebalance_timeout: REBALANCE,
        };
        Self {
            member: Member::new(config, begin),
            begin,
        }
    }

    /// One that uses partitions and has said so, in epoch 1, at 0 s, on stream 1.
    fn using(numbers: &[i32]) -> Self {
        let mut test = Self::new();
        test.at(0, Event::MemberId("m1".into()));
        let used = test.at(0, Event::Answer(1, answer(1, 1, numbers, &[])));
        let report = Effect::Send(request("m1", 1, 1, false, Some(numbers)));
        assert_eq!(used, [Effect::Use(parts(numbers)), report]);
        assert_eq!(test.at(0, Event::Answer(1, unchanged(1, 1))), []);
        test
    }

    fn time(&self, ms: u64) -> Instant {
        self.begin + Duration::from_millis(ms)
    }

    fn at(&mut self, ms: u64, event: Event<Fault>) -> Vec<Effect<Fault>> {
        let now = self.time(ms);
        self.member.step(now, event)
    }
}

#[test]
fn it_joins_uses_what_it_is_given_and_says_so_at_once() {
    let mut test = Test::new();
    assert_eq!(test.at(0, Event::Tick), [], "without an id there is nobody");
    assert_eq!(
        test.at(0, Event::MemberId("m1".into())),
        [Effect::Open(1, request("m1", 0, 0, true, Some(&[])))]
    );
    assert_eq!(test.member.identity(), None);
    let effects = test.at(5, Event::Answer(1, answer(3, 1, &[0, 1], &[])));
    assert_eq!(
        effects,
        [
            Effect::Use(parts(&[0, 1])),
            Effect::Send(request("m1", 3, 1, false, Some(&[0, 1])))
        ]
    );
    assert_eq!(test.member.identity(), Some(("m1".into(), 3)));
}

#[test]
fn it_is_heard_of_once_an_interval_and_at_once_when_there_is_news() {
    let mut test = Test::using(&[0]);
    assert_eq!(test.member.wake_at(), Some(test.time(1_000)));
    assert_eq!(test.at(999, Event::Tick), []);
    let beat = Effect::Send(request("m1", 1, 1, false, None));
    assert_eq!(test.at(1_000, Event::Tick), std::slice::from_ref(&beat));
    assert_eq!(test.at(1_001, Event::HeartbeatNow(1)), [], "one at a time");
    assert_eq!(
        test.at(1_002, Event::Answer(1, unchanged(1, 1))),
        [beat],
        "then at once"
    );
    assert_eq!(test.at(1_003, Event::Answer(1, unchanged(1, 1))), []);
}

#[test]
fn what_is_revoked_is_released_first_and_then_reported() {
    let mut test = Test::using(&[0, 1]);
    test.at(1_000, Event::HeartbeatNow(1));
    let deadline = test.time(1_000) + Duration::from_secs(45);
    assert_eq!(
        test.at(1_000, Event::Answer(1, answer(1, 2, &[0], &[1]))),
        [Effect::Release(parts(&[1]), deadline)]
    );
    // While it is processed, it is still owned, and told once only.
    assert_eq!(
        test.at(2_000, Event::Tick),
        [Effect::Send(request("m1", 1, 2, false, None))]
    );
    assert_eq!(test.at(2_001, Event::Answer(1, answer(1, 2, &[0], &[1]))), []);
    assert_eq!(
        test.at(2_500, Event::Released(parts(&[1]))),
        [Effect::Send(request("m1", 1, 2, false, Some(&[0])))]
    );
}

#[test]
fn what_comes_back_during_its_release_is_used_anew_only_after_it() {
    let mut test = Test::using(&[0, 1]);
    test.at(1_000, Event::Tick);
    test.at(1_001, Event::Answer(1, answer(1, 2, &[0], &[1])));
    test.at(2_001, Event::Tick);
    assert_eq!(test.at(2_002, Event::Answer(1, answer(2, 3, &[0, 1], &[]))), []);
    assert_eq!(test.at(2_003, Event::Released(parts(&[1]))), [Effect::Use(parts(&[1]))]);
}

#[test]
fn what_is_in_neither_list_is_lost_at_once() {
    let mut test = Test::using(&[0, 1, 2]);
    test.at(1_000, Event::Tick);
    test.at(1_001, Event::Answer(1, answer(1, 2, &[0], &[1, 2])));
    test.at(2_001, Event::Tick);
    assert_eq!(
        test.at(2_002, Event::Answer(1, answer(2, 3, &[0], &[1]))),
        [
            Effect::Lose(parts(&[2])),
            Effect::Send(request("m1", 2, 3, false, Some(&[0, 1])))
        ]
    );
    assert_eq!(
        test.at(2_003, Event::Released(parts(&[2]))),
        [],
        "it was lost meanwhile"
    );
}

#[test]
fn a_stream_that_breaks_is_opened_again_with_the_epoch_it_has_and_all_it_uses() {
    let mut test = Test::using(&[0]);
    assert_eq!(test.at(500, Event::Broken(1, broken())), []);
    assert_eq!(test.member.wake_at(), Some(test.time(500) + limits::MIN_BACKOFF));
    let again = Effect::Open(2, request("m1", 1, 1, true, Some(&[0])));
    assert_eq!(test.at(520, Event::Tick), [again]);
    assert_eq!(
        test.at(530, Event::Answer(1, answer(9, 9, &[], &[]))),
        [],
        "of the stream before"
    );
    assert_eq!(test.at(530, Event::Broken(1, broken())), []);
    assert_eq!(test.at(540, Event::Answer(2, unchanged(1, 1))), []);
}

#[test]
fn an_answer_that_does_not_come_is_asked_for_elsewhere() {
    let mut test = Test::using(&[0]);
    test.at(1_000, Event::Tick);
    assert_eq!(test.member.wake_at(), Some(test.time(3_000)));
    assert_eq!(
        test.at(3_000, Event::Tick),
        [Effect::Close, Effect::Open(2, request("m1", 1, 1, true, Some(&[0])))]
    );
}

#[test]
fn without_an_answer_it_stops_by_itself_counted_from_when_the_last_answered_request_was_sent() {
    let mut test = Test::using(&[0]);
    test.at(1_000, Event::Tick);
    // Answered late: what counts is when it was sent.
    test.at(2_500, Event::Answer(1, unchanged(1, 1)));
    test.at(2_500, Event::Broken(1, broken()));
    test.at(2_520, Event::Tick);
    test.at(4_520, Event::Tick);
    test.at(6_520, Event::Tick);
    assert_eq!(test.at(6_999, Event::Tick), []);
    assert_eq!(test.member.wake_at(), Some(test.time(7_000)));
    // The answer that comes now comes too late.
    let stream = test.member.stream_number;
    let effects = test.at(7_000, Event::Answer(stream, unchanged(1, 1)));
    let anew = Effect::Open(stream + 1, request("m1", 1, 0, true, Some(&[])));
    assert_eq!(effects, [Effect::Lose(parts(&[0])), Effect::Close, anew]);
    // The coordinator may still have it as a member, and tells the whole assignment.
    let used = test.at(7_010, Event::Answer(stream + 1, answer(1, 1, &[0], &[])));
    assert_eq!(used[0], Effect::Use(parts(&[0])));
}

#[test]
fn fenced_or_unknown_it_gives_all_up_and_joins_under_another_id() {
    for reason in [ErrorReason::FencedMember, ErrorReason::UnknownMember] {
        let mut test = Test::using(&[0, 1]);
        let effects = test.at(500, Event::Broken(1, refused(reason)));
        assert_eq!(effects, [Effect::Lose(parts(&[0, 1])), Effect::DrawMemberId]);
        assert_eq!(test.member.identity(), None);
        assert_eq!(test.at(500, Event::MemberId("m2".into())), [], "not in a circle");
        let join = Effect::Open(2, request("m2", 0, 0, true, Some(&[])));
        assert_eq!(test.at(520, Event::Tick), [join]);
    }
}

#[test]
fn a_newer_process_of_its_instance_ends_it_and_one_that_may_be_alive_is_waited_for() {
    let mut test = Test::using(&[0]);
    let fenced = refused(ErrorReason::FencedInstance);
    assert_eq!(
        test.at(500, Event::Broken(1, fenced.clone())),
        [Effect::Lose(parts(&[0])), Effect::Fail(fenced)]
    );
    assert_eq!(test.at(600, Event::Tick), []);
    assert_eq!(test.member.wake_at(), None);

    let mut test = Test::new();
    test.at(0, Event::MemberId("m1".into()));
    let in_use = Fault {
        fact: Some(("retry_after_ms", "2500")),
        ..refused(ErrorReason::InstanceInUse)
    };
    assert_eq!(test.at(10, Event::Broken(1, in_use)), []);
    assert_eq!(test.member.wake_at(), Some(test.time(2_510)));
}

#[test]
fn what_waiting_does_not_mend_ends_it() {
    let mut test = Test::new();
    test.at(0, Event::MemberId("m1".into()));
    let wrong = refused(ErrorReason::InvalidTopicPattern);
    assert_eq!(test.at(10, Event::Broken(1, wrong.clone())), [Effect::Fail(wrong)]);
}

#[test]
fn attempts_are_farther_and_farther_apart_until_one_is_answered() {
    let mut test = Test::new();
    test.at(0, Event::MemberId("m1".into()));
    let mut now = 0;
    for (stream, wait) in [(1, 20), (2, 40), (3, 80)] {
        test.at(now, Event::Broken(stream, broken()));
        now += wait;
        assert_eq!(test.member.wake_at(), Some(test.time(now)));
        assert_eq!(test.at(now, Event::Tick).len(), 1);
    }
    test.at(now, Event::Answer(4, unchanged(1, 1)));
    test.at(now, Event::Broken(4, broken()));
    assert_eq!(test.member.wake_at(), Some(test.time(now + 20)));
}

#[test]
fn who_leaves_says_so_once() {
    let mut test = Test::using(&[0]);
    assert_eq!(test.at(500, Event::Leave), [Effect::Close, Effect::Leave("m1".into())]);
    assert_eq!(test.at(500, Event::Leave), []);
    let mut never = Test::new();
    assert_eq!(never.at(0, Event::Leave), [], "who never joined");
}

/// A coordinator that dies takes its connections with it, and the next one has to be found.
#[test]
fn a_connection_that_is_gone_takes_nothing_before_the_session_ends() {
    let loses = |effects: &[Effect<Fault>]| effects.iter().any(|effect| matches!(effect, Effect::Lose(_)));
    let mut test = Test::using(&[0]);
    assert_eq!(test.at(1_000, Event::Broken(1, broken())), []);
    let again = Effect::Open(2, request("m1", 1, 1, true, Some(&[0])));
    assert_eq!(test.at(1_020, Event::Tick), [again]);
    // Another stream that breaks prolongs nothing, and neither does one without an answer.
    assert_eq!(test.at(1_400, Event::Broken(2, broken())), []);
    for at in (1_440..6_000).step_by(20) {
        assert!(!loses(&test.at(at, Event::Tick)), "{at}");
    }
    assert!(loses(&test.at(6_000, Event::Tick)));

    // A connection in time gives the whole session again, from when the request that is answered was sent.
    let mut test = Test::using(&[0]);
    test.at(1_000, Event::Broken(1, broken()));
    test.at(1_020, Event::Tick);
    assert_eq!(test.at(1_400, Event::Answer(2, unchanged(1, 1))), []);
    for at in (1_420..7_020).step_by(20) {
        assert!(!loses(&test.at(at, Event::Tick)), "{at}");
    }
    assert!(loses(&test.at(7_020, Event::Tick)));
}

#[test]
fn what_it_uses_is_said_again_to_a_coordinator_that_had_moved_on_and_waits_for_it() {
    // The answer that assigned partition 1 was lost, and then it was revoked: 1 was never used.
    let mut test = Test::using(&[0]);
    test.at(1_000, Event::Tick);
    let again = Effect::Send(request("m1", 1, 3, false, Some(&[0])));
    assert_eq!(test.at(1_001, Event::Answer(1, answer(1, 3, &[0], &[1]))), [again]);
    // Said under this version, so it is taken.
    assert_eq!(test.at(1_002, Event::Answer(1, unchanged(1, 3))), []);

    // It stopped by itself, and is still a member that is waited for.
    let mut test = Test::using(&[0]);
    assert_eq!(test.at(6_000, Event::Tick)[0], Effect::Lose(parts(&[0])));
    let again = Effect::Send(request("m1", 1, 2, false, Some(&[])));
    assert_eq!(test.at(6_001, Event::Answer(2, answer(1, 2, &[], &[0]))), [again]);
    assert_eq!(test.at(6_002, Event::Answer(2, answer(1, 2, &[], &[0]))), []);
}

#[test]
fn the_time_to_give_back_is_bounded_by_its_own_and_never_none() {
    for (told, waits) in [
        (seconds(315_576_000_000), REBALANCE),
        (seconds(i64::MAX), REBALANCE),
        (seconds(-1), limits::LEAST_REVOKE_WAIT),
        (seconds(0), limits::LEAST_REVOKE_WAIT),
        (None, limits::LEAST_REVOKE_WAIT),
    ] {
        let mut test = Test::using(&[0]);
        test.at(1_000, Event::Tick);
        let mut revoking = answer(1, 2, &[], &[0]);
        revoking.assignment.as_mut().unwrap().revoke_within = told;
        let until = test.time(1_001) + waits;
        assert_eq!(
            test.at(1_001, Event::Answer(1, revoking)),
            [Effect::Release(parts(&[0]), until)],
            "{told:?}"
        );
    }
}

#[test]
fn its_session_is_over_by_the_clock_alone() {
    let mut test = Test::using(&[0]);
    assert!(!test.member.is_over(test.time(5_999)));
    assert!(test.member.is_over(test.time(6_000)));
    test.at(6_000, Event::Tick);
    assert!(!test.member.is_over(test.time(6_000)), "it was told");
    let mut nothing = Test::new();
    nothing.at(0, Event::MemberId("m1".into()));
    assert_eq!(nothing.at(0, Event::Answer(1, unchanged(1, 1))), []);
    assert!(!nothing.member.is_over(nothing.time(6_000)), "there is nothing to lose");
}

fn resuming(epoch: i32, owned: &[i32]) -> Test {
    let mut test = Test::new();
    let config = test.member.config.clone();
    test.member = Member::resumed(config, "m1".into(), epoch, parts(owned), test.begin);
    assert_eq!(
        test.at(0, Event::Tick),
        [Effect::Open(1, request("m1", epoch, 0, true, Some(owned)))]
    );
    test
}

#[test]
fn one_that_resumes_is_told_all_that_it_has_and_goes_on_giving_back() {
    let mut test = resuming(3, &[0, 1, 2]);
    let deadline = test.time(5) + Duration::from_secs(45);
    assert_eq!(
        test.at(5, Event::Answer(1, answer(4, 7, &[0, 3], &[1]))),
        [
            Effect::Lose(parts(&[2])),
            Effect::Use(parts(&[0, 1])),
            Effect::Release(parts(&[1]), deadline),
            Effect::Use(parts(&[3])),
            Effect::Send(request("m1", 4, 7, false, Some(&[0, 1, 3]))),
        ]
    );
    // Once only.
    test.at(6, Event::Answer(1, unchanged(4, 7)));
    test.at(7, Event::Broken(1, broken()));
    test.at(27, Event::Tick);
    assert_eq!(test.at(28, Event::Answer(2, answer(4, 7, &[0, 3], &[1]))), []);
}

/// The group may have been assigned anew, more than once, since its application was last told an epoch.
#[test]
fn one_that_resumes_takes_the_epoch_that_its_member_has_now() {
    let mut test = resuming(3, &[0]);
    let fenced = Fault {
        fact: Some(("member_epoch", "9")),
        ..refused(ErrorReason::FencedMember)
    };
    assert_eq!(
        test.at(5, Event::Broken(1, fenced.clone())),
        [Effect::Open(2, request("m1", 9, 0, true, Some(&[0])))]
    );
    // Fenced under its own epoch it is none any more.
    assert_eq!(
        test.at(6, Event::Broken(2, fenced.clone())),
        [Effect::Lose(parts(&[0])), Effect::Fail(fenced)]
    );
}

#[test]
fn one_that_is_no_member_any_more_does_not_join_under_another_id_unasked() {
    for reason in [ErrorReason::UnknownMember, ErrorReason::FencedMember] {
        let mut test = resuming(3, &[]);
        assert_eq!(
            test.at(5, Event::Broken(1, refused(reason))),
            [Effect::Fail(refused(reason))]
        );
    }
    let mut test = resuming(3, &[]);
    test.at(5, Event::Answer(1, answer(3, 1, &[], &[])));
    let effects = test.at(6, Event::Broken(1, refused(ErrorReason::UnknownMember)));
    assert_eq!(effects, [Effect::DrawMemberId], "one that was answered does");
}
