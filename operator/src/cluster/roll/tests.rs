use k8s_openapi::jiff::Timestamp;
use millrace_client::v1;
use serde_json::json;

use super::*;
use crate::cluster::seen::Reach;

const NOW: i64 = 1_000_000;

fn ago(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp::from_second(NOW - seconds).unwrap())
}

/// Two brokers: broker 0 serves and is outdated, broker 1 is as given, of a template that is new.
fn seen(other: Pod) -> Seen {
    let serving = Pod {
        running: true,
        scheduled: true,
        ready_since: ago(3_600),
        ..Pod::default()
    };
    let other = Pod {
        name: "orders-broker-1".into(),
        hash: "new".into(),
        scheduled: true,
        ..other
    };
    let spec = json!({ "replicas": 2, "storage": { "size": "1Gi" }, "rollout": { "deadlineSeconds": 600 } });
    Seen {
        pods: [(0, serving), (1, other)].into(),
        brokers: Reach::Reached(Box::new(Told {
            cluster: v1::DescribeClusterResponse {
                quorum: Some(v1::QuorumDescription {
                    leader_id: Some(0),
                    ..v1::QuorumDescription::default()
                }),
                ..v1::DescribeClusterResponse::default()
            },
            ..Told::default()
        })),
        ..Seen::bare(Timestamp::from_second(NOW).unwrap(), &spec)
    }
}

fn planned(other: Pod) -> Roll {
    let seen = seen(other);
    plan(&seen, &Wishes::of(&seen.cluster), "new".into(), None)
}

/// Why broker 1 does not come: the reason and the words.
fn why(other: Pod) -> Option<(&'static str, String)> {
    let stuck = planned(other).stuck.remove(&1);
    stuck.map(|stuck| (stuck.reason, stuck.text))
}

#[test]
fn a_broker_is_late_by_when_it_became_unready() {
    let old = |unready_since| Pod {
        running: true,
        created: ago(100_000),
        unready_since,
        ..Pod::default()
    };
    assert_eq!(why(old(ago(5))), None, "it was well until a moment ago");
    assert_eq!(why(old(ago(600))), None);
    let (reason, text) = why(old(ago(601))).unwrap();
    assert_eq!(reason, "BrokerNotReady");
    assert_eq!(
        text,
        "broker 1 is not ready after 600 s: see `kubectl logs -n demo orders-broker-1`"
    );
    let (reason, _) = why(old(None)).unwrap();
    assert_eq!(reason, "BrokerNotReady", "by its age where nothing else is known");
}

#[test]
fn a_broker_whose_container_never_starts_is_late_too() {
    let stays = |since| Pod {
        created: ago(since),
        unready_since: ago(since),
        waiting: Some(("ContainerCreating".into(), String::new())),
        ..Pod::default()
    };
    assert_eq!(why(stays(500)), None);
    let (reason, text) = why(stays(700)).unwrap();
    assert_eq!(reason, "BrokerNotReady");
    assert_eq!(
        text,
        "broker 1 does not run after 600 s (ContainerCreating): see `kubectl describe pod -n demo orders-broker-1`"
    );
    let unknown = Pod {
        waiting: None,
        ..stays(700)
    };
    let (_, text) = why(unknown).unwrap();
    assert!(text.starts_with("broker 1 does not run after 600 s: see"), "{text}");
}

#[test]
fn what_a_roll_waits_for_says_what_the_broker_does() {
    let waits = |pod| planned(pod).waiting.unwrap().text;
    let running = Pod {
        running: true,
        ..Pod::default()
    };
    assert_eq!(waits(running.clone()), "broker 1 catches up");
    assert_eq!(waits(Pod::default()), "broker 1 starts");
    let ended = Pod {
        last_end: Some("no such directory".into()),
        ..Pod::default()
    };
    assert_eq!(waits(ended.clone()), "broker 1 has ended and is started again");
    let again = Pod { running: true, ..ended };
    assert_eq!(waits(again), "broker 1 catches up");
}

/// Runs again, after it has ended so many seconds ago.
fn again(restarts: i32, ended: i64, ran_for: i64) -> Pod {
    Pod {
        running: true,
        created: ago(1_000_000),
        unready_since: ago(ended + 1),
        restarts,
        last_end: Some("no such directory".into()),
        last_ended: ago(ended),
        last_run: Some(SignedDuration::from_secs(ran_for)),
        ..Pod::default()
    }
}

#[test]
fn a_crash_loop_is_told_without_a_break() {
    let waiting = Pod {
        running: false,
        waiting: Some(("CrashLoopBackOff".into(), "back-off 10s".into())),
        ..again(1, 5, 2)
    };
    let told = why(waiting).unwrap();
    let words = "broker 1 ends again and again: no such directory";
    assert_eq!(told, ("BrokerCrashLooping", words.to_owned()));
    // It runs, has ended and is not waiting yet, or waits: the same words, so that nothing flaps.
    for running in [true, false] {
        let pod = Pod {
            running,
            ..again(2, 15, 2)
        };
        assert_eq!(why(pod), Some(told.clone()));
    }
    // After the longest pause, at the end of the longest run that the kubelet still counts.
    assert_eq!(why(again(9, 899, 599)).unwrap().0, "BrokerCrashLooping");
    let unknown = Pod {
        last_run: None,
        ..again(3, 15, 0)
    };
    assert_eq!(why(unknown).unwrap().0, "BrokerCrashLooping");
    let ready = Pod {
        ready_since: ago(1),
        unready_since: None,
        ..again(9, 15, 2)
    };
    assert_eq!(why(ready), None);
}

#[test]
fn a_broker_that_catches_up_after_it_has_ended_is_in_no_crash_loop() {
    assert_eq!(why(again(1, 15, 2)), None, "once");
    assert_eq!(
        why(Pod {
            unready_since: ago(20),
            ..again(7, 86_400, 2)
        }),
        None,
        "long ago"
    );
    assert_eq!(why(again(7, 15, 86_400)), None, "seldom: it ran for a day before");
}

/// `kubectl delete pvc` of a claim in use does nothing until the pod goes.
#[test]
fn a_broker_whose_claim_was_deleted_is_not_restarted() {
    let ready = |hash: &str| Pod {
        hash: hash.into(),
        running: true,
        ready_since: ago(3_600),
        ..Pod::default()
    };
    let of_claims = |deleted: &[i32], pods: [Pod; 2]| {
        let mut seen = seen(ready("new"));
        for (id, pod) in (0..).zip(pods) {
            let scheduled = true;
            seen.pods.insert(id, Pod { scheduled, ..pod });
            let terminating = deleted.contains(&id);
            let claim = crate::cluster::seen::Claim {
                bound: true,
                terminating,
                ..Default::default()
            };
            seen.claims.insert(id, claim);
        }
        let cluster_id = Some("known".into());
        let status = millrace_crds::ClusterStatus {
            cluster_id,
            ..Default::default()
        };
        seen.cluster.status = Some(status);
        plan(&seen, &Wishes::of(&seen.cluster), "new".into(), None)
    };
    let restarted = |roll: Roll| match roll.step {
        Some(Step::Restart { candidates, .. }) => candidates,
        Some(Step::Replace { broker, .. }) => vec![broker],
        _ => Vec::new(),
    };
    let outdated = || [ready("old"), ready("old")];
    // Its leader is last.
    assert_eq!(restarted(of_claims(&[], outdated())), [1]);
    assert_eq!(restarted(of_claims(&[1], outdated())), [0], "the other one goes on");
    let all = of_claims(&[0, 1], outdated());
    assert!(all.step.is_none());
    let waiting = all.waiting.unwrap();
    assert_eq!(waiting.gate, "claim");
    assert!(
        waiting.text.contains("persistentVolumeReclaimPolicy"),
        "{}",
        waiting.text
    );
    // One that does not run would take its disk along all the same.
    let stopped = Pod {
        hash: "old".into(),
        ..Pod::default()
    };
    let roll = of_claims(&[1], [ready("new"), stopped.clone()]);
    assert_eq!(roll.waiting.as_ref().map(|waiting| waiting.gate), Some("claim"));
    assert!(roll.step.is_none());
    assert_eq!(restarted(of_claims(&[], [ready("new"), stopped])), [1]);
}

/// Brokers that all crashed come back one by one: the first with the newest template waits for a majority.
#[test]
fn who_waits_for_those_that_are_stuck_does_not_keep_them() {
    let stopped = Pod::default();
    let of_first = |running| {
        let mut seen = seen(Pod {
            scheduled: true,
            ..stopped.clone()
        });
        let first = Pod {
            hash: "new".into(),
            running,
            scheduled: true,
            ..Pod::default()
        };
        seen.pods.insert(0, first);
        seen.pods.get_mut(&1).unwrap().hash = "old".into();
        seen.brokers = Reach::Unreachable("no answer".into());
        seen.cluster.status = Some(millrace_crds::ClusterStatus {
            cluster_id: Some("known".into()),
            ..Default::default()
        });
        plan(&seen, &Wishes::of(&seen.cluster), "new".into(), None)
    };
    let waits = of_first(true);
    assert!(
        matches!(waits.step, Some(Step::Replace { broker: 1, .. })),
        "{:?}",
        waits.waiting
    );
    // It may be the newest template that is wrong.
    assert!(of_first(false).step.is_none());
}
