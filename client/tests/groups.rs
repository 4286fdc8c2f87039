//! What the client makes of groups, against a server that answers as the test says.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod fake;

use fake::{FakeServer, refused, refused_with};
use millrace_client::{Client, ErrorReason, OffsetTarget, v1};

fn summary(group: &str) -> v1::GroupSummary {
    v1::GroupSummary {
        group: group.into(),
        ..v1::GroupSummary::default()
    }
}

fn member(id: &str) -> v1::GroupMember {
    v1::GroupMember {
        member_id: id.into(),
        ..v1::GroupMember::default()
    }
}

async fn client(server: &FakeServer) -> Client {
    Client::connect(server.address()).await.unwrap()
}

#[tokio::test]
async fn lists_and_descriptions_are_of_all_pages() {
    let server = FakeServer::start().await;
    for (group, next) in [("a", "1"), ("b", "")] {
        server.script().lists.push_back(Ok(v1::ListGroupsResponse {
            groups: vec![summary(group)],
            next_page_token: next.into(),
        }));
    }
    for (member_id, next) in [("m1", "x"), ("m2", "")] {
        server.script().descriptions.push_back(Ok(v1::DescribeGroupResponse {
            group: "g".into(),
            members: vec![member(member_id)],
            member_count: 2,
            next_page_token: next.into(),
            ..v1::DescribeGroupResponse::default()
        }));
    }
    let admin = client(&server).await.admin();
    assert_eq!(admin.list_groups("p").await.unwrap(), [summary("a"), summary("b")]);
    let described = admin.describe_group("g").await.unwrap();
    assert_eq!(described.members, [member("m1"), member("m2")]);
    assert_eq!(described.member_count, 2);
    let asked = server.script().asked.clone();
    assert_eq!(asked, ["list p ", "list p 1", "describe g ", "describe g x"]);
}

#[tokio::test]
async fn a_server_that_repeats_a_page_is_told_and_not_asked_for_ever() {
    let server = FakeServer::start().await;
    for _ in 0..2 {
        server.script().lists.push_back(Ok(v1::ListGroupsResponse {
            groups: vec![summary("a")],
            next_page_token: "same".into(),
        }));
    }
    let error = client(&server).await.admin().list_groups("").await.unwrap_err();
    assert!(error.to_string().contains("same page"), "{error}");
}

#[tokio::test]
async fn reads_wait_for_the_coordinator() {
    let server = FakeServer::start().await;
    let loading = refused(ErrorReason::CoordinatorNotAvailable, None);
    server.script().descriptions.push_back(Err(loading));
    server
        .script()
        .descriptions
        .push_back(Ok(v1::DescribeGroupResponse::default()));
    client(&server).await.admin().describe_group("g").await.unwrap();
    assert_eq!(server.script().asked.len(), 2);
}

#[tokio::test]
async fn a_reset_is_made_again_only_where_nothing_was_done() {
    let server = FakeServer::start().await;
    let admin = client(&server).await.admin();
    let moved = |outcome| refused(ErrorReason::NotCoordinator, Some(outcome));
    server
        .script()
        .resets
        .extend([Err(moved("not_written")), Ok(v1::ResetOffsetsResponse::default())]);
    admin
        .reset_group_offsets("g", Vec::new(), OffsetTarget::ShiftBy(5), None)
        .await
        .unwrap();
    assert_eq!(server.script().asked.len(), 2, "made again");
    server.script().resets.push_back(Err(moved("unknown")));
    let error = admin
        .reset_group_offsets("g", Vec::new(), OffsetTarget::ShiftBy(5), None)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::NotCoordinator));
    assert_eq!(
        server.script().asked.len(),
        3,
        "not made again: it may have been shifted"
    );
}

#[tokio::test]
async fn a_dry_run_is_one_for_the_server_as_well() {
    let server = FakeServer::start().await;
    server
        .script()
        .resets
        .push_back(Ok(v1::ResetOffsetsResponse::default()));
    server.script().deletions.push_back(Ok(v1::DeleteGroupResponse {}));
    let admin = client(&server).await.admin().validate_only(true);
    admin
        .reset_group_offsets("g", Vec::new(), OffsetTarget::Forget, None)
        .await
        .unwrap();
    admin.delete_group("g").await.unwrap();
    assert_eq!(server.script().asked, ["reset g dry", "delete g dry"]);
}

#[tokio::test]
async fn a_broker_that_does_not_coordinate_the_group_is_asked_for_the_one_that_does() {
    let (first, second) = (FakeServer::start().await, FakeServer::start().await);
    let elsewhere = refused_with(
        ErrorReason::NotCoordinator,
        &[("coordinator", &second.address()), ("outcome", "not_written")],
    );
    first.script().descriptions.push_back(Err(elsewhere));
    second.script().descriptions.push_back(Ok(v1::DescribeGroupResponse {
        group: "g".into(),
        ..v1::DescribeGroupResponse::default()
    }));
    let admin = client(&first).await.admin();
    assert_eq!(admin.describe_group("g").await.unwrap().group, "g");
    assert_eq!(first.script().asked, ["describe g "]);
    assert_eq!(second.script().asked, ["describe g "]);
}
