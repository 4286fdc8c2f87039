//! Groups as a whole: they are listed, their lag is told, and their offsets are reset.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_listed_their_lag_told_and_their_offsets_reset() {
    let cluster = Cluster::start().await;
    cluster.create_topic("t", 2).await;
    cluster.publish_ten("t").await;
    let mut groups = cluster.groups().await;
    for group in ["b", "a", "c", "aa"] {
        let request = v1::CommitOffsetsRequest {
            group: group.into(),
            ..commit("t", 0, 4, false)
        };
        groups.commit_offsets(request).await.unwrap();
    }
    let list = |prefix: &str, page_size, page_token: &str| v1::ListGroupsRequest {
        prefix: prefix.into(),
        page_size,
        page_token: page_token.into(),
    };
    for (request, expected, next) in [
        (list("", 0, ""), vec!["a", "aa", "b", "c"], ""),
        (list("", 3, ""), vec!["a", "aa", "b"], "b"),
        (list("", 3, "b"), vec!["c"], ""),
        (list("a", 1, ""), vec!["a"], "a"),
        (list("a", 1, "a"), vec!["aa"], ""),
        (list("d", 0, ""), vec![], ""),
    ] {
        let listed = groups.list_groups(request).await.unwrap().into_inner();
        let names: Vec<&str> = listed.groups.iter().map(|group| group.group.as_str()).collect();
        assert_eq!((names, listed.next_page_token.as_str()), (expected, next));
        assert!(listed.groups.iter().all(|group| group.state() == v1::GroupState::Empty));
    }
    let fetch = v1::FetchOffsetsRequest {
        group: "a".into(),
        with_lag: true,
        topics: vec![partitions("t", &[1, 0])],
        ..v1::FetchOffsetsRequest::default()
    };
    let told = groups.fetch_offsets(fetch).await.unwrap().into_inner().offsets;
    assert_eq!(
        (told[0].partition, told[0].high_watermark, told[0].lag),
        (1, Some(0), None),
        "it has no offset"
    );
    assert_eq!(
        (told[1].log_start, told[1].high_watermark, told[1].lag),
        (Some(0), Some(10), Some(6))
    );
    assert!(told[1].time_lag.is_some());

    let reset = |target, topics: &[v1::TopicPartitions]| v1::ResetOffsetsRequest {
        group: "a".into(),
        topics: topics.to_vec(),
        target,
        ..v1::ResetOffsetsRequest::default()
    };
    use v1::reset_offsets_request::Target;
    let all = [partitions("t", &[])];
    for (target, expected) in [
        (
            Target::Edge(v1::Edge::End.into()),
            vec![(Some(4), Some(10)), (None, Some(0))],
        ),
        (Target::Offset(7), vec![(Some(10), Some(7)), (Some(0), Some(0))]),
        (Target::ShiftBy(-100), vec![(Some(7), Some(0)), (Some(0), Some(0))]),
        (
            Target::Time(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            vec![(Some(0), Some(0)), (Some(0), Some(0))],
        ),
        (
            Target::Forget(v1::ForgetOffsets {}),
            vec![(Some(0), None), (Some(0), None)],
        ),
    ] {
        let done = groups
            .reset_offsets(reset(Some(target), &all))
            .await
            .unwrap()
            .into_inner();
        let moved: Vec<_> = done.partitions.iter().map(|part| (part.before, part.after)).collect();
        assert_eq!(moved, expected, "{target:?}");
        assert!(done.partitions.iter().all(|part| part.error.is_none()), "{done:?}");
    }
    for (field, request) in [
        ("target", reset(None, &all)),
        ("edge", reset(Some(Target::Edge(0)), &all)),
        ("offset", reset(Some(Target::Offset(-1)), &all)),
        (
            "topics",
            reset(Some(Target::Offset(1)), &[partitions("t", &[0]), partitions("t", &[0])]),
        ),
        (
            "topics.partitions",
            reset(Some(Target::Offset(1)), &[partitions("t", &[-1])]),
        ),
    ] {
        let refused = groups.reset_offsets(request).await.unwrap_err();
        let details = refused.get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["field"], field, "{refused:?}");
    }
    // What a member has is left alone, and where the group has no offset there is nothing to shift.
    let member = Member::join(&cluster, "one").await;
    let owned = v1::ResetOffsetsRequest {
        group: "g".into(),
        ..reset(Some(Target::Offset(1)), &all)
    };
    let done = groups.reset_offsets(owned).await.unwrap().into_inner();
    let reasons: Vec<_> = done
        .partitions
        .iter()
        .map(|part| part.error.as_ref().unwrap().reason())
        .collect();
    assert_eq!(reasons, [ErrorReason::GroupNotEmpty; 2]);
    drop(member);
    let unknown = v1::ResetOffsetsRequest {
        group: "new".into(),
        ..reset(Some(Target::ShiftBy(1)), &all)
    };
    let done = groups.reset_offsets(unknown).await.unwrap().into_inner();
    assert_eq!(
        done.partitions[0].error.as_ref().unwrap().reason(),
        ErrorReason::InvalidRequest
    );
    assert!(done.is_new, "it would have been made, had there been an offset");
    // What a dry run has planned is done to the group that it has seen, and to no other.
    let plan = |validate_only, expected_version: &str| v1::ResetOffsetsRequest {
        group: "new".into(),
        validate_only,
        expected_version: expected_version.into(),
        ..reset(Some(Target::Offset(3)), &all)
    };
    let planned = groups.reset_offsets(plan(true, "")).await.unwrap().into_inner();
    assert!(planned.is_new);
    let done = groups.reset_offsets(plan(false, &planned.version)).await;
    let done = done.unwrap().into_inner();
    assert!(done.is_new && done.version != planned.version, "{done:?}");
    let again = groups.reset_offsets(plan(false, &planned.version)).await.unwrap_err();
    assert_eq!(reason(&again), ErrorReason::GroupChanged, "{again:?}");
    let again = groups.reset_offsets(plan(false, &done.version)).await.unwrap();
    assert!(!again.into_inner().is_new);
    let no_version = groups.reset_offsets(plan(false, "+123456789abcdef")).await.unwrap_err();
    assert_eq!(reason(&no_version), ErrorReason::InvalidRequest);
    // A misspelt name is no group without offsets.
    for (group, expected) in [("b", None), ("nobody", Some(ErrorReason::UnknownGroup))] {
        let everything = v1::ResetOffsetsRequest {
            group: group.into(),
            ..reset(Some(Target::Offset(1)), &[])
        };
        let refused = groups.reset_offsets(everything).await.err();
        assert_eq!(refused.as_ref().map(reason), expected, "{refused:?}");
    }
    let metrics = cluster.running.broker().metrics.render();
    assert!(
        metrics.contains("millrace_consumer_group_coordinator_loads_total 4"),
        "{metrics}"
    );
}
