use millrace_client::v1;
use serde_json::json;

use super::*;
use crate::{
    cluster::{act::Refused, decide::decide, roll::Stuck},
    render::Kind,
};

/// Three brokers that vote and serve, those in `away` excepted; the cluster has been ready before.
fn seen(away: &[i32]) -> Seen {
    let now = Timestamp::from_second(100_000).unwrap();
    let pod = |id: i32| Pod {
        running: true,
        scheduled: true,
        ready_since: (!away.contains(&id)).then_some(now),
        ..Pod::default()
    };
    let broker = |broker_id| v1::BrokerDescription {
        broker_id,
        available: !away.contains(&broker_id),
        ..v1::BrokerDescription::default()
    };
    let voter = |broker_id| v1::QuorumMember {
        broker_id: Some(broker_id),
        is_voter: true,
        ..v1::QuorumMember::default()
    };
    let spec = json!({ "replicas": 3, "storage": { "size": "1Gi" } });
    let mut seen = Seen {
        pods: (0..3).map(|id| (id, pod(id))).collect(),
        brokers: Reach::Reached(Box::new(Told {
            cluster: v1::DescribeClusterResponse {
                cluster_id: "ours".into(),
                brokers: (0..3).map(broker).collect(),
                quorum: Some(v1::QuorumDescription {
                    leader_id: Some(0),
                    ..v1::QuorumDescription::default()
                }),
                ..v1::DescribeClusterResponse::default()
            },
            members: (0..3).map(voter).collect(),
            ..Told::default()
        })),
        ..Seen::bare(now, &spec)
    };
    let status = json!({ "clusterId": "ours", "conditions": [{
        "type": "Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }] });
    seen.cluster.status = serde_json::from_value(status).unwrap();
    seen
}

/// Takes a broker's vote away.
fn without_vote(seen: &mut Seen, id: usize) {
    told(seen).members[id].is_voter = false;
}

fn told(seen: &mut Seen) -> &mut Told {
    match &mut seen.brokers {
        Reach::Reached(told) => told,
        _ => unreachable!(),
    }
}

fn decision() -> Decision {
    let mut decision = Decision::default();
    decision.record.cluster_id = Some("ours".into());
    decision.record.created = true;
    decision
}

/// What is decided of a cluster that was never whole.
fn creating() -> Decision {
    let mut decision = decision();
    decision.record.created = false;
    decision
}

/// A condition: its status, reason and message.
fn condition(status: &ClusterStatus, kind: &str) -> Option<(String, String, String)> {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

fn is(status: &str, reason: &str, message: &str) -> Option<(String, String, String)> {
    Some((status.into(), reason.into(), message.into()))
}

#[test]
fn what_failed_is_told_with_what_is_under_way() {
    let reconciling = |decision: &Decision, error| {
        let status = status(&seen(&[2]), decision, &Outcome::default(), error);
        condition(&status, "Reconciling").map(|(_, reason, message)| (reason, message))
    };
    let mut forming = decision();
    forming.forming = true;
    let mut rolling = decision();
    rolling.roll.outdated = vec![1];
    let mut draining = decision();
    draining.scale.waiting = Some("4 replicas are still on broker 3".into());
    let mut coming = decision();
    coming.scale.coming = vec![2];
    for (decision, expected) in [
        (forming, "Creating"),
        (rolling, "Rolling"),
        (draining, "Draining"),
        (coming, "Recovering"),
    ] {
        let (reason, calm) = reconciling(&decision, None).unwrap();
        assert_eq!(reason, expected);
        assert!(!calm.contains("failed"), "{calm}");
        let told = reconciling(&decision, Some("reach the brokers: timeout")).unwrap();
        let text = format!("{calm}; a step failed: reach the brokers: timeout");
        assert_eq!(told, (reason, text));
    }
    let idle = decision();
    assert_eq!(reconciling(&idle, None), None);
    let told = reconciling(&idle, Some("timeout"));
    assert_eq!(told, Some(("Retrying".into(), "timeout".into())));
}

#[test]
fn moves_do_not_hide_what_failed() {
    let mut seen = seen(&[]);
    told(&mut seen).moves.push(v1::Reassignment::default());
    let status = status(&seen, &decision(), &Outcome::default(), Some("timeout"));
    assert_eq!(
        condition(&status, "Reconciling"),
        is(
            "True",
            "MovingReplicas",
            "1 partitions are being moved; a step failed: timeout"
        )
    );
}

/// Its reason is what `kubectl get` shows.
#[test]
fn a_cluster_that_serves_says_what_goes_on_and_first_what_is_stuck() {
    let mut decision = decision();
    let ready = |away: &[i32], decision: &Decision, outcome: &Outcome| {
        condition(&status(&seen(away), decision, outcome, None), "Ready")
    };
    let mut outcome = Outcome::default();
    assert_eq!(
        ready(&[], &decision, &outcome),
        is("True", "Ready", "3 of 3 brokers serve")
    );
    decision.scale.waiting = Some("4 replicas are still on broker 3".into());
    let text = "3 of 3 brokers serve; see the condition Reconciling";
    assert_eq!(ready(&[], &decision, &outcome), is("True", "Draining", text));
    outcome.refused.push(Refused {
        reason: "ScaleInBlocked",
        text: "cannot empty broker 3".into(),
    });
    let text = "3 of 3 brokers serve; see the condition Stalled";
    assert_eq!(ready(&[], &decision, &outcome), is("True", "ScaleInBlocked", text));
    // An outage is the first that a person needs.
    let text = "1 of 3 brokers are ready; not yet: brokers 1 and 2";
    assert_eq!(ready(&[1, 2], &decision, &outcome), is("False", "BrokersUnready", text));
}

#[test]
fn a_right_that_is_lacking_stalls() {
    let mut outcome = Outcome {
        forbidden: Some("apply Service orders: services is forbidden.".into()),
        ..Outcome::default()
    };
    outcome.refused.push(Refused {
        reason: "AdmissionDenied",
        text: "quota".into(),
    });
    let mut decision = decision();
    let stuck = Stuck {
        reason: "BrokerNotReady",
        text: String::new(),
    };
    decision.roll.stuck.insert(2, stuck);
    let status = status(&seen(&[2]), &decision, &outcome, Some("services is forbidden"));
    let text = "the operator lacks a right: apply Service orders: services is forbidden. Install the chart's roles for \
                this namespace.";
    assert_eq!(condition(&status, "Stalled"), is("True", "Forbidden", text));
}

#[test]
fn brokers_of_another_cluster_are_not_this_ones() {
    let mut decision = decision();
    decision.hold = Some(Hold::OtherCluster {
        known: "ours".into(),
        found: "theirs".into(),
    });
    let status = status(&seen(&[]), &decision, &Outcome::default(), None);
    let text =
        "the brokers are of cluster theirs, and this is ours: their disks were exchanged; bring the right ones back";
    assert_eq!(condition(&status, "Ready"), is("False", "OtherCluster", text));
    assert_eq!(condition(&status, "Stalled"), is("True", "OtherCluster", text));
}

#[test]
fn who_is_missing_is_named_also_while_nothing_is_done() {
    let mut decision = decision();
    decision.hold = Some(Hold::Paused);
    let mut seen = seen(&[2]);
    seen.pods.remove(&1);
    let status = status(&seen, &decision, &Outcome::default(), None);
    let text = "1 of 3 brokers are ready; not yet: brokers 1 and 2";
    assert_eq!(condition(&status, "Ready"), is("False", "BrokersUnready", text));
}

#[test]
fn what_keeps_a_broker_from_going_is_no_matter_of_the_roll() {
    let kept = Outcome {
        held: Some(("scale-in", "broker 3 cannot go yet: it votes".into())),
        ..Outcome::default()
    };
    let told = |decision: &Decision, outcome: &Outcome| {
        let status = status(&seen(&[]), decision, outcome, None);
        let reconciling = condition(&status, "Reconciling").map(|(_, reason, message)| (reason, message));
        (
            reconciling.unwrap(),
            status.rollout.and_then(|rollout| rollout.waiting_for),
        )
    };
    let mut draining = decision();
    draining.scale.waiting = Some("empty, and being taken away: broker 3".into());
    let text = "empty, and being taken away: broker 3; broker 3 cannot go yet: it votes";
    assert_eq!(told(&draining, &kept), (("Draining".into(), text.into()), None));
    let text = "broker 3 cannot go yet: it votes";
    let its_claim = told(&decision(), &kept);
    assert_eq!(its_claim, (("Draining".into(), text.into()), None));

    let mut rolling = draining;
    rolling.roll.outdated = vec![1];
    let text = "to be restarted: broker 1; broker 3 cannot go yet: it votes";
    assert_eq!(told(&rolling, &kept), (("Rolling".into(), text.into()), None));
    let held = Outcome {
        held: Some(("may-restart", "broker 1: 2 partitions need it".into())),
        ..Outcome::default()
    };
    let text = "to be restarted: broker 1; waiting: broker 1: 2 partitions need it";
    let waits = Some("broker 1: 2 partitions need it".into());
    assert_eq!(told(&rolling, &held), (("Rolling".into(), text.into()), waits));
}

#[test]
fn a_cluster_is_created_when_as_many_vote_as_come_by_themselves() {
    let ready = |seen: &Seen| condition(&status(seen, &creating(), &Outcome::default(), None), "Ready");
    let mut created = seen(&[]);
    created.cluster.status = None;
    assert_eq!(ready(&created), is("True", "Ready", "3 of 3 brokers serve"));
    without_vote(&mut created, 2);
    let text = "2 of 3 votes on the metadata are given; without one: broker 2 could, and its turn is next";
    let waits = is("False", "Creating", text);
    assert_eq!(ready(&created), waits);

    // What comes between does not end the creation.
    let mut leaderless = created.clone();
    told(&mut leaderless).cluster.quorum = None;
    let between = status(&leaderless, &creating(), &Outcome::default(), None);
    let text = "the metadata quorum has no leader: most of its voters must run";
    assert_eq!(condition(&between, "Ready"), is("False", "Creating", text));
    created.cluster.status = Some(between);
    assert_eq!(ready(&created), waits);

    // Who wants fewer voters has them.
    created.cluster.spec.quorum = serde_json::from_value(json!({ "voters": 1 })).unwrap();
    assert_eq!(ready(&created), is("True", "Ready", "3 of 3 brokers serve"));
}

#[test]
fn a_vote_that_is_missing_later_is_told_and_no_outage() {
    let mut seen = seen(&[]);
    without_vote(&mut seen, 1);
    let status = status(&seen, &decision(), &Outcome::default(), None);
    let ready = "3 of 3 brokers serve; see the condition Reconciling";
    assert_eq!(condition(&status, "Ready"), is("True", "AddingVoters", ready));
    let text = "2 of 3 votes on the metadata are given; without one: broker 1 could, and its turn is next";
    assert_eq!(condition(&status, "Reconciling"), is("True", "AddingVoters", text));
}

#[test]
fn the_fourth_and_fifth_vote_keep_nobody_waiting() {
    let mut seen = seen(&[]);
    seen.cluster.spec.replicas = 5;
    for id in 3..5 {
        let pod = seen.pods[&0].clone();
        seen.pods.insert(id, pod);
        let told = told(&mut seen);
        let broker = v1::BrokerDescription {
            broker_id: id,
            ..told.cluster.brokers[0].clone()
        };
        told.cluster.brokers.push(broker);
    }
    seen.cluster.status = None;
    let status = status(&seen, &creating(), &Outcome::default(), None);
    assert_eq!(condition(&status, "Ready"), is("True", "Ready", "5 of 5 brokers serve"));
    assert_eq!(condition(&status, "Reconciling"), None);
}

/// Its status says nothing of that: an operator without rights has written it, or one that could not read the Cluster.
#[test]
fn whether_it_was_whole_once_is_on_record() {
    let told_by_another = |status: &str, reason: &str, record: &[(&str, &str)]| {
        let mut seen = seen(&[]);
        without_vote(&mut seen, 2);
        let known = &mut seen.cluster.status.as_mut().unwrap().conditions[0];
        (known.status, known.reason) = (status.into(), reason.into());
        let annotations: BTreeMap<&str, &str> = record.iter().copied().collect();
        let metadata = json!({ "annotations": annotations, "ownerReferences": [{ "uid": "" }] });
        seen.objects.insert(Kind::ConfigMap, json!({ "metadata": metadata }));
        seen
    };
    let ready = |seen: &Seen| {
        let decision = decide(seen);
        let status = super::status(seen, &decision, &Outcome::default(), None);
        let ready = condition(&status, "Ready").map(|(status, reason, _)| (status, reason));
        (ready.unwrap(), decision.record.created)
    };
    let id = ("millrace.dev/cluster-id", "ours");
    let no = |reason: &str| ("False".to_owned(), reason.to_owned());
    let mut new = told_by_another("Unknown", "Forbidden", &[id]);
    assert_eq!(ready(&new), (no("Creating"), false));
    told(&mut new).members[2].is_voter = true;
    // Its pods were made by nobody: they are to be replaced.
    let yes = ("True".to_owned(), "Rolling".to_owned());
    assert_eq!(ready(&new), (yes.clone(), true));
    let created = ("millrace.dev/created", "true");
    let mut serving = told_by_another("False", "InvalidSpec", &[id, created]);
    assert_eq!(ready(&serving), (yes.clone(), true));
    serving.pods.retain(|id, _| *id == 0);
    assert_eq!(ready(&serving), (no("BrokersUnready"), true));
    // Of a time before that was recorded, also in the midst of an outage.
    let (_, created) = ready(&told_by_another("False", "QuorumLost", &[id]));
    assert!(created);
    assert_eq!(ready(&told_by_another("True", "Ready", &[id])), (yes, true));
}

#[test]
fn a_vote_that_does_not_come_is_told_with_the_reason_and_stalls_in_the_end() {
    let mut seen = seen(&[]);
    without_vote(&mut seen, 1);
    let reconciling = |seen: &Seen| {
        let status = status(seen, &decision(), &Outcome::default(), None);
        condition(&status, "Reconciling").unwrap().2
    };
    let named = |why: &str| format!("2 of 3 votes on the metadata are given; without one: broker 1 {why}");
    let with = |change: &dyn Fn(&mut Told)| {
        let mut seen = seen.clone();
        change(told(&mut seen));
        reconciling(&seen)
    };
    assert_eq!(
        with(&|told| drop(told.cluster.brokers.remove(1))),
        named("is not registered")
    );
    assert_eq!(
        with(&|told| told.cluster.brokers[1].available = false),
        named("does not serve")
    );
    assert_eq!(
        with(&|told| told.cluster.brokers[1].draining = true),
        named("is about to leave")
    );
    assert_eq!(
        with(&|told| drop(told.members.remove(1))),
        named("does not follow the metadata")
    );
    let lacks = named("lacks 1001 entries of the metadata's log");
    assert_eq!(with(&|told| told.members[1].lag_entries = Some(1001)), lacks);

    // Both have to last: a broker that has just come, and a vote that has just been wanted, have their time.
    let stalled_by = |reason: &str, ready_for: i64, waited_for: i64| {
        let ago = |seconds: i64| seen.now.checked_sub(SignedDuration::from_secs(seconds)).unwrap();
        let mut seen = seen.clone();
        seen.pods.get_mut(&1).unwrap().ready_since = Some(ago(ready_for));
        let known = json!({
            "type": "Reconciling", "status": "True", "reason": reason, "message": "",
            "lastTransitionTime": ago(waited_for).to_string(),
        });
        let conditions = &mut seen.cluster.status.as_mut().unwrap().conditions;
        conditions.push(serde_json::from_value(known).unwrap());
        condition(&status(&seen, &decision(), &Outcome::default(), None), "Stalled")
    };
    // Of another wait before nothing is known of how long votes are missing.
    assert_eq!(stalled_by("Recovering", 90_000, 90_000), None);
    let stalled = |ready_for, waited_for| stalled_by("AddingVoters", ready_for, waited_for);
    assert_eq!(stalled(1_800, 90_000), None);
    assert_eq!(stalled(90_000, 1_800), None);
    let (status, reason, text) = stalled(1_801, 1_801).unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "VotersMissing"));
    assert!(text.starts_with(&named("could")) && text.contains("1800 s"), "{text}");
}
