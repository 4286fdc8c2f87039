//! What operators ask of a cluster, asked of a real broker that is alone.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod common;

use std::time::Duration;

use common::TestBroker;
use millrace_client::{
    Admin, Client, Election, Error, ErrorReason, NewTopic, PartitionMove, VoterName,
    v1::{self, admin_client::AdminClient},
};

async fn broker_id(admin: &Admin) -> i32 {
    admin.describe_cluster().await.unwrap().brokers[0].broker_id
}

fn reason<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorReason {
    result.unwrap_err().reason().unwrap()
}

#[tokio::test]
async fn a_partition_is_described_with_what_it_survives() {
    let (_broker, client) = TestBroker::with_topic("t", 2).await;
    let described = client.admin().describe_topic("t").await.unwrap();
    for partition in &described.partitions {
        assert_eq!(partition.leader_id, Some(partition.replicas[0]));
        assert_eq!(partition.required_in_sync_replicas, 1);
        assert_eq!(partition.log_end, Some(0));
        assert_eq!(partition.problem, "");
        let survival = partition.survival.as_ref().unwrap();
        assert_eq!(
            (survival.promised_losses, survival.losses_now, survival.outages_now),
            (0, 0, 0)
        );
        assert!(survival.text.contains("no broker"), "{}", survival.text);
    }
}

#[tokio::test]
async fn the_cluster_is_described_with_states_and_health() {
    let (_broker, client) = TestBroker::with_topic("t", 3).await;
    let admin = client.admin();
    let cluster = admin.describe_cluster().await.unwrap();
    let only = &cluster.brokers[0];
    assert!(only.available && only.is_voter && !only.cordoned && !only.draining && !only.shutting_down);
    assert_eq!(only.fence_reason(), v1::FenceReason::Unspecified);
    assert_eq!(
        (
            only.partitions,
            only.leader_partitions,
            only.preferred_leader_partitions
        ),
        (3, 3, 3)
    );
    let health = cluster.health.unwrap();
    for list in [
        health.offline,
        health.under_min_in_sync,
        health.at_min_in_sync,
        health.under_replicated,
        health.moving,
    ] {
        assert_eq!(list.unwrap().count, 0);
    }
    assert_eq!(cluster.quorum.unwrap().leader_id, Some(i64::from(only.broker_id)));
    let quorum = admin.describe_quorum().await.unwrap();
    assert_eq!(quorum.leader_broker_id, Some(only.broker_id));
    assert_eq!(quorum.members.len(), 1);
    assert_eq!(quorum.members[0].lag_entries, Some(0));
    assert!(quorum.members[0].is_voter && quorum.committed_index >= quorum.applied_index);
}

#[tokio::test]
async fn a_cordoned_broker_gets_no_new_replicas() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let admin = client.admin();
    let id = broker_id(&admin).await;
    admin.clone().validate_only(true).cordon_broker(id).await.unwrap();
    assert!(
        !admin.describe_cluster().await.unwrap().brokers[0].cordoned,
        "only checked"
    );
    admin.cordon_broker(id).await.unwrap();
    assert!(admin.describe_cluster().await.unwrap().brokers[0].cordoned);
    let error = admin.create_topic(NewTopic::new("u")).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::NotEnoughBrokers));
    assert_eq!(error.metadata("brokers"), Some("0"));
    assert!(error.to_string().contains("uncordon brokers"), "{error}");
    assert_eq!(
        reason(admin.create_partitions("t", 2).await),
        ErrorReason::NotEnoughBrokers
    );
    admin.uncordon_broker(id).await.unwrap();
    admin.create_topic(NewTopic::new("u")).await.unwrap();
    assert_eq!(reason(admin.cordon_broker(id + 1).await), ErrorReason::UnknownBroker);
    assert_eq!(reason(admin.uncordon_broker(-1).await), ErrorReason::UnknownBroker);
}

#[tokio::test]
async fn an_only_broker_can_be_neither_drained_nor_removed() {
    let (_broker, client) = TestBroker::with_topic("t", 2).await;
    let admin = client.admin();
    let id = broker_id(&admin).await;
    let error = admin.drain_brokers([id]).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::NotEnoughBrokers));
    assert!(error.to_string().contains("t-0"), "by its name: {error}");
    assert!(
        !admin.describe_cluster().await.unwrap().brokers[0].draining,
        "nothing is changed by what is refused"
    );
    assert_eq!(reason(admin.drain_brokers([]).await), ErrorReason::InvalidRequest);
    assert_eq!(reason(admin.drain_brokers([id, id]).await), ErrorReason::InvalidRequest);
    assert_eq!(reason(admin.drain_brokers([id, 77]).await), ErrorReason::UnknownBroker);
    assert_eq!(admin.cancel_drain([id]).await.unwrap().partitions, 0);

    let error = admin.remove_broker(id, true).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::StillNeeded), "{error}");
    assert_eq!(reason(admin.remove_broker(77, false).await), ErrorReason::UnknownBroker);
    assert_eq!(
        reason(admin.may_remove_broker(id).await),
        ErrorReason::StillNeeded,
        "it votes"
    );
    assert_eq!(
        reason(admin.permit_removed_broker(id).await),
        ErrorReason::BrokerState,
        "it is registered"
    );
    assert_eq!(
        reason(admin.permit_removed_broker(77).await),
        ErrorReason::UnknownBroker
    );
    assert_eq!(
        reason(admin.replace_broker_directory(id, None, false).await),
        ErrorReason::BrokerState,
        "it is in service"
    );
    assert_eq!(
        reason(admin.replace_broker_directory(id, Some("no-uuid"), false).await),
        ErrorReason::InvalidRequest
    );
    assert_eq!(
        reason(admin.replace_broker_directory(77, None, true).await),
        ErrorReason::UnknownBroker
    );
}

#[tokio::test]
async fn partitions_without_a_choice_do_not_forbid_a_restart_and_are_told() {
    let (_broker, client) = TestBroker::with_topic("t", 2).await;
    let admin = client.admin();
    let id = broker_id(&admin).await;
    let answer = admin.may_restart(id).await.unwrap();
    assert!(answer.allowed, "{answer:?}");
    assert_eq!(answer.forbidding.unwrap().count, 0);
    let exempt = answer.exempt.unwrap();
    assert_eq!(exempt.count, 2);
    assert_eq!((exempt.first[1].topic.as_str(), exempt.first[1].partition), ("t", 1));
    assert_eq!(reason(admin.may_restart(77).await), ErrorReason::UnknownBroker);
}

#[tokio::test]
async fn one_holder_has_the_maintenance_permission() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let admin = client.admin();
    let id = broker_id(&admin).await;
    let epoch = admin.may_restart(id).await.unwrap().broker_epoch;
    let second = Some(Duration::from_secs(60));

    let checked = admin.clone().validate_only(true);
    let would = checked.acquire_maintenance("a", id, None, None).await.unwrap();
    assert_eq!(would.slot.unwrap().holder, "a");
    assert!(
        admin.describe_cluster().await.unwrap().maintenance.is_none(),
        "only checked"
    );

    let given = admin.acquire_maintenance("a", id, Some(epoch), second).await.unwrap();
    assert_eq!(given.exempt.unwrap().count, 1);
    let slot = given.slot.unwrap();
    assert_eq!((slot.broker_id, slot.broker_epoch), (id, epoch));
    let longer = admin
        .acquire_maintenance("a", id, None, Some(Duration::from_secs(120)))
        .await;
    let longer = longer.unwrap().slot.unwrap();
    assert!(
        longer.until.unwrap().seconds > slot.until.unwrap().seconds,
        "the same holder may have it longer"
    );
    assert_eq!(
        reason(admin.release_maintenance_slot(&slot).await),
        ErrorReason::MaintenanceTaken,
        "it is not the one any more that was given first"
    );
    assert_eq!(
        admin.describe_cluster().await.unwrap().maintenance,
        Some(longer.clone())
    );

    let error = admin.acquire_maintenance("b", id, None, second).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::MaintenanceTaken));
    assert_eq!(error.metadata("holder"), Some("a"));
    assert_eq!(
        reason(admin.release_maintenance("b", id).await),
        ErrorReason::MaintenanceTaken
    );
    let told = admin.may_restart(id).await.unwrap();
    assert_eq!(told.maintenance.unwrap().holder, "a");
    assert!(told.allowed, "it is this broker that is under maintenance");
    admin.release_maintenance_slot(&longer).await.unwrap();
    admin.release_maintenance("a", id).await.unwrap();
    assert!(admin.describe_cluster().await.unwrap().maintenance.is_none());

    for (holder, broker, epoch, ttl, wanted) in [
        ("", id, None, second, ErrorReason::InvalidRequest),
        (&"x".repeat(301), id, None, second, ErrorReason::InvalidRequest),
        ("a", id, None, Some(Duration::ZERO), ErrorReason::InvalidRequest),
        (
            "a",
            id,
            None,
            Some(Duration::from_secs(86_401)),
            ErrorReason::InvalidRequest,
        ),
        ("a", id, Some(epoch + 1), second, ErrorReason::BrokerState),
        ("a", 77, None, second, ErrorReason::UnknownBroker),
    ] {
        let result = admin.acquire_maintenance(holder, broker, epoch, ttl).await;
        assert_eq!(reason(result), wanted, "{holder:?} {broker} {epoch:?} {ttl:?}");
    }
    assert_eq!(
        reason(admin.release_maintenance("", id).await),
        ErrorReason::InvalidRequest
    );
}

#[tokio::test]
async fn elections_are_judged_each_on_its_own() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let admin = client.admin();
    let id = broker_id(&admin).await;
    let results = admin
        .elect_leaders([("t", 0), ("t", 1), ("none", 0), ("t", -1)], Election::Preferred)
        .await
        .unwrap();
    let reasons: Vec<ErrorReason> = results
        .iter()
        .map(|result| result.error.as_ref().unwrap().reason())
        .collect();
    assert_eq!(
        reasons,
        [
            ErrorReason::ElectionNotNeeded,
            ErrorReason::UnknownPartition,
            ErrorReason::UnknownTopic,
            ErrorReason::UnknownPartition
        ]
    );
    let none: [(&str, i32); 0] = [];
    assert!(admin.elect_leaders(none, Election::Preferred).await.unwrap().is_empty());
    let in_sync = Election::InSync { broker_id: 77 };
    assert_eq!(
        reason(admin.elect_leaders(none, in_sync).await),
        ErrorReason::InvalidRequest,
        "only preferred leaders are chosen everywhere"
    );
    let results = admin.elect_leaders([("t", 0)], in_sync).await.unwrap();
    assert_eq!(
        results[0].error.as_ref().unwrap().reason(),
        ErrorReason::EligibleLeaderNotAvailable
    );
    let unclean = |accept_data_loss| Election::Unclean {
        broker_id: Some(id),
        accept_data_loss,
    };
    assert_eq!(
        reason(admin.elect_leaders([("t", 0)], unclean(false)).await),
        ErrorReason::InvalidRequest
    );
    let results = admin.elect_leaders([("t", 0)], unclean(true)).await.unwrap();
    assert_eq!(
        results[0].error.as_ref().unwrap().reason(),
        ErrorReason::NotSupported,
        "it has a leader, so nothing must be given up"
    );
}

#[tokio::test]
async fn moves_that_can_not_be_are_refused_by_field() {
    let (_broker, client) = TestBroker::with_topic("t", 2).await;
    let admin = client.admin();
    let id = broker_id(&admin).await;
    let stays = admin
        .reassign_partitions([PartitionMove::to("t", 0, [id]), PartitionMove::to("t", 1, [id])])
        .await
        .unwrap();
    assert_eq!(stays.len(), 2);
    assert!(
        stays
            .iter()
            .all(|one| one.adding_replicas.is_empty() && one.removing_replicas.is_empty())
    );
    assert_eq!(stays[1].leader_log_end, Some(0));
    for (moves, wanted) in [
        (vec![], ErrorReason::InvalidRequest),
        (vec![PartitionMove::to("t", 0, [])], ErrorReason::InvalidRequest),
        (vec![PartitionMove::to("t", 0, [id, id])], ErrorReason::InvalidRequest),
        (vec![PartitionMove::to("t", 0, [id, 77])], ErrorReason::InvalidRequest),
        (vec![PartitionMove::to("t", 0, [id]); 2], ErrorReason::InvalidRequest),
        (vec![PartitionMove::to("t", 2, [id])], ErrorReason::UnknownPartition),
        (vec![PartitionMove::to("t", -1, [id])], ErrorReason::UnknownPartition),
        (vec![PartitionMove::to("none", 0, [id])], ErrorReason::UnknownTopic),
        (
            vec![PartitionMove::cancel("t", 0)],
            ErrorReason::NoReassignmentInProgress,
        ),
    ] {
        let shown = format!("{moves:?}");
        assert_eq!(reason(admin.reassign_partitions(moves).await), wanted, "{shown}");
    }
    assert!(admin.list_reassignments(None).await.unwrap().is_empty());
    assert!(admin.list_reassignments(Some("t")).await.unwrap().is_empty());
    assert_eq!(
        reason(admin.list_reassignments(Some("none")).await),
        ErrorReason::UnknownTopic
    );
}

#[tokio::test]
async fn the_replication_factor_is_bounded_by_the_brokers_and_changes_with_settings_or_not_at_all() {
    let (_broker, client) = TestBroker::with_topic("t", 1).await;
    let admin = client.admin();
    let none: [&str; 0] = [];
    let moves = admin
        .alter_topic("t", [("retention.ms", "70000")], none, Some(1))
        .await
        .unwrap();
    assert_eq!(moves.partitions, 0);
    let result = admin.alter_topic("t", [("retention.ms", "80000")], none, Some(3)).await;
    let error = result.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::NotEnoughBrokers), "{error}");
    let configs = admin.describe_configs("t").await.unwrap();
    let retention = configs.iter().find(|config| config.name == "retention.ms").unwrap();
    assert_eq!(retention.value, "70000", "all or nothing");
    let alter = |topic: &'static str, factor| {
        let admin = admin.clone();
        async move { admin.alter_topic(topic, [] as [(&str, &str); 0], none, factor).await }
    };
    assert_eq!(reason(alter("t", Some(0)).await), ErrorReason::InvalidRequest);
    assert_eq!(reason(alter("t", Some(-2)).await), ErrorReason::InvalidRequest);
    assert_eq!(reason(alter("t", Some(i32::MAX)).await), ErrorReason::NotEnoughBrokers);
    assert_eq!(reason(alter("none", Some(1)).await), ErrorReason::UnknownTopic);
    assert_eq!(reason(alter("t", None).await), ErrorReason::InvalidRequest);
}

#[tokio::test]
async fn the_only_voter_stays() {
    let broker = TestBroker::start().await;
    let admin = broker.client().await.admin();
    let id = broker_id(&admin).await;
    let voter_id = admin.add_voter(id).await.unwrap();
    assert_eq!(
        admin.describe_quorum().await.unwrap().members[0].voter_id,
        voter_id,
        "it votes already"
    );
    assert_eq!(reason(admin.add_voter(77).await), ErrorReason::UnknownBroker);
    for name in [VoterName::Broker(id), VoterName::Id(voter_id)] {
        assert_eq!(reason(admin.remove_voter(name).await), ErrorReason::StillNeeded);
        let checked = admin.clone().validate_only(true);
        assert_eq!(reason(checked.remove_voter(name).await), ErrorReason::StillNeeded);
    }
    assert_eq!(
        reason(admin.remove_voter(VoterName::Broker(77)).await),
        ErrorReason::UnknownBroker
    );
    for unknown in [voter_id + 70, -1] {
        assert_eq!(
            reason(admin.remove_voter(VoterName::Id(unknown)).await),
            ErrorReason::UnknownVoter
        );
    }
}

/// What the client's own types can't say.
#[tokio::test]
async fn requests_that_contradict_themselves_name_the_field() {
    let (broker, client) = TestBroker::with_topic("t", 1).await;
    let mut raw = AdminClient::connect(format!("http://{}", broker.address()))
        .await
        .unwrap();
    let id = broker_id(&client.admin()).await;

    let mut both = v1::PartitionReassignment {
        topic: "t".into(),
        partition: 0,
        replicas: vec![id],
        cancel: true,
        throttle_bytes_per_second: 0,
    };
    let reassign = |one: &v1::PartitionReassignment, count| v1::ReassignPartitionsRequest {
        reassignments: vec![one.clone(); count],
        validate_only: false,
    };
    let status = raw.reassign_partitions(reassign(&both, 1)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    both.cancel = false;
    let status = raw.reassign_partitions(reassign(&both, 10_001)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");

    let election = |kind, broker_id, accept_data_loss| v1::ElectLeadersRequest {
        partitions: vec![v1::PartitionName {
            topic: "t".into(),
            partition: 0,
        }],
        kind,
        broker_id,
        accept_data_loss,
        validate_only: false,
    };
    for request in [
        election(99, None, false),
        election(0, Some(id), false),
        election(0, None, true),
        election(v1::ElectionKind::InSync.into(), None, false),
        election(v1::ElectionKind::InSync.into(), Some(id), true),
        election(v1::ElectionKind::Unclean.into(), None, false),
    ] {
        let status = raw.elect_leaders(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{request:?}");
    }

    for (page_size, page_token) in [(-1, ""), (0, "t"), (0, "t:x"), (0, ":")] {
        let request = v1::ListReassignmentsRequest {
            page_size,
            page_token: page_token.into(),
            ..v1::ListReassignmentsRequest::default()
        };
        let status = raw.list_reassignments(request).await.unwrap_err();
        assert_eq!(
            status.code(),
            tonic::Code::InvalidArgument,
            "{page_size} {page_token:?}"
        );
    }
    let status = raw.remove_voter(v1::RemoveVoterRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let negative = v1::AcquireMaintenanceRequest {
        broker_id: id,
        holder: "h".into(),
        ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..v1::AcquireMaintenanceRequest::default()
    };
    let status = raw.acquire_maintenance(negative).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
}

/// All futures can be spawned.
#[tokio::test]
async fn administration_can_move_between_threads() {
    fn movable<F: Send + 'static>(future: F) -> F {
        future
    }
    let broker = TestBroker::start().await;
    let client: Client = broker.client().await;
    let admin = client.admin();
    movable(async move {
        let id = broker_id(&admin).await;
        admin.describe_quorum().await.unwrap();
        admin.list_reassignments(None).await.unwrap();
        admin.may_restart(id).await.unwrap();
        admin
            .elect_leaders(Vec::<(String, i32)>::new(), Election::Preferred)
            .await
            .unwrap();
        admin.acquire_maintenance("h", id, None, None).await.unwrap();
        admin.release_maintenance("h", id).await.unwrap();
    })
    .await;
}
