//! A real broker and its quorum, with brokers beside it that are only registered: what is decided
//! by the metadata alone. They copy nothing, so that a move which adds one of them stays under way.

use std::collections::BTreeMap;

use millrace_engine::cluster::{CreateTopic, FenceReason, RegisterBroker};
use tempfile::TempDir;
use uuid::Uuid;

use super::{testing::roomy, *};
use crate::{RunningBroker, config::BrokerConfig};

/// The brokers that are only registered; the real one is 0.
const PHANTOMS: [BrokerId; 3] = [1, 2, 3];

struct TestCluster {
    _dir: TempDir,
    running: RunningBroker,
    service: AdminService,
}

impl TestCluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data").display().to_string();
        let values = [
            ("data.dir", data.as_str()),
            ("listen.client", "127.0.0.1:0"),
            ("listen.http", "127.0.0.1:0"),
            ("listen.internal", "127.0.0.1:0"),
            ("node.id", "0"),
            ("rack", "rack-0"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let config = BrokerConfig::load(None, std::iter::empty(), &values).unwrap();
        crate::format(&config).unwrap();
        let running = crate::start(config).await.unwrap();
        let service = AdminService(running.broker().clone());
        let cluster = Self {
            _dir: dir,
            running,
            service,
        };
        for id in PHANTOMS {
            let registration = RegisterBroker {
                broker_id: id,
                incarnation: Uuid::new_v4(),
                cluster_id: cluster.now().cluster_id.clone(),
                directory_id: testing::directory_of(id),
                address: format!("broker-{id}:9650"),
                rack: format!("rack-{id}"),
                version: "1".into(),
                now_ms: 0,
            };
            cluster.submit(Command::RegisterBroker(registration)).await;
        }
        cluster
    }

    async fn with_topic(replication_factor: i32, partitions: i32, min_in_sync: i32) -> Self {
        let cluster = Self::start().await;
        let request = v1::CreateTopicRequest {
            name: "t".into(),
            partitions: Some(partitions),
            replication_factor: Some(replication_factor),
            configs: vec![v1::ConfigEntry {
                name: "min.insync.replicas".into(),
                value: min_in_sync.to_string(),
            }],
            validate_only: false,
            owner: None,
        };
        topics::create(&cluster.service, request).await.unwrap();
        cluster
    }

    /// A topic with one replica on this broker.
    async fn create_on(&self, broker: BrokerId) {
        let create = CreateTopic {
            name: "t".into(),
            id: Uuid::new_v4(),
            assignments: vec![vec![broker]],
            configs: BTreeMap::new(),
            now_ms: 0,
            owner: None,
        };
        self.submit(Command::CreateTopic(create)).await;
    }

    async fn submit(&self, command: Command) -> Outcome {
        self.service.submit(command).await.unwrap()
    }

    fn now(&self) -> Arc<Cluster> {
        self.service.0.quorum.cluster()
    }

    fn replicas(&self, partition: usize) -> Vec<BrokerId> {
        self.now().topics["t"].partitions[partition].replicas.clone()
    }

    fn held_by(&self, broker: BrokerId) -> usize {
        self.now().replicas_of(broker).count()
    }

    async fn fence(&self, broker_id: BrokerId) {
        let broker_epoch = self.now().brokers[&broker_id].epoch;
        let reason = FenceReason::LeaseExpired;
        self.submit(Command::FenceBroker {
            broker_id,
            broker_epoch,
            reason,
        })
        .await;
    }

    async fn reassign(&self, replicas: &[BrokerId], cancel: bool) -> Result<v1::Reassignment, ApiError> {
        let request = v1::ReassignPartitionsRequest {
            reassignments: vec![v1::PartitionReassignment {
                topic: "t".into(),
                partition: 0,
                replicas: replicas.to_vec(),
                cancel,
                throttle_bytes_per_second: 0,
            }],
            validate_only: false,
        };
        let answer = reassign::start(&self.service, request).await?;
        Ok(answer.reassignments.into_iter().next().unwrap())
    }

    async fn drain(&self, brokers: &[BrokerId], cancel: bool, validate_only: bool) -> v1::PlannedMoves {
        let request = v1::DrainBrokersRequest {
            broker_ids: brokers.to_vec(),
            cancel,
            validate_only,
            throttle_bytes_per_second: 0,
        };
        let now = self.now();
        let told = roomy(&now);
        let drained = drain::drain_told(&self.service, request, &now, &told);
        drained.await.unwrap().moves.unwrap()
    }

    async fn may_restart(&self, broker_id: BrokerId) -> v1::MayRestartResponse {
        maintenance::may_restart(&self.service, &v1::MayRestartRequest { broker_id })
            .await
            .unwrap()
    }

    async fn elect(&self, kind: v1::ElectionKind, broker_id: Option<i32>) -> Vec<v1::ElectionResult> {
        let request = v1::ElectLeadersRequest {
            partitions: match kind {
                v1::ElectionKind::Preferred => Vec::new(),
                _ => vec![v1::PartitionName {
                    topic: "t".into(),
                    partition: 0,
                }],
            },
            kind: kind.into(),
            broker_id,
            accept_data_loss: kind == v1::ElectionKind::Unclean,
            validate_only: false,
        };
        elections::elect(&self.service, request).await.unwrap().results
    }

    async fn moving(&self) -> Vec<v1::Reassignment> {
        let request = v1::ListReassignmentsRequest::default();
        let listed = reassign::list(&self.service.0, &request).await;
        listed.unwrap().reassignments
    }

    async fn stop(self) {
        self.running.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_replicas_are_spread_and_avoid_who_may_not_get_any() {
    let cluster = TestCluster::with_topic(3, 4, 1).await;
    let held: Vec<usize> = (0..4).map(|id| cluster.held_by(id)).collect();
    assert_eq!(held, [3, 3, 3, 3]);
    brokers::cordon(&cluster.service, 1, true, false).await.unwrap();
    let request = |partitions| v1::CreatePartitionsRequest {
        name: "t".into(),
        partitions,
        validate_only: false,
        as_owner: None,
    };
    topics::create_partitions(&cluster.service, request(6)).await.unwrap();
    assert_eq!(cluster.held_by(1), 3);
    for added in [4, 5] {
        assert_eq!(cluster.replicas(added).len(), 3);
    }
    // Without one of the three that may get some it is waited for that one.
    cluster.fence(2).await;
    topics::create_partitions(&cluster.service, request(7)).await.unwrap();
    let mut replicas = cluster.replicas(6);
    replicas.sort_unstable();
    assert_eq!(replicas, [0, 2, 3]);
    brokers::cordon(&cluster.service, 2, true, false).await.unwrap();
    let error = topics::create_partitions(&cluster.service, request(8))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), ErrorReason::NotEnoughBrokers, "{error}");
    cluster.stop().await;
}

/// It would have fewer replicas for good, for a restart of a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_has_as_many_replicas_as_ever_while_a_broker_restarts() {
    let cluster = TestCluster::start().await;
    brokers::cordon(&cluster.service, 3, true, false).await.unwrap();
    cluster.fence(2).await;
    for (name, replication_factor) in [("usual", None), ("named", Some(3))] {
        let request = v1::CreateTopicRequest {
            name: name.into(),
            replication_factor,
            ..v1::CreateTopicRequest::default()
        };
        let created = topics::create(&cluster.service, request).await.unwrap();
        assert_eq!(created.replication_factor, 3);
        let partition = cluster.now().topics[name].partitions[0].clone();
        let sorted = |mut ids: Vec<BrokerId>| {
            ids.sort_unstable();
            ids
        };
        assert_eq!(sorted(partition.replicas), [0, 1, 2]);
        assert_eq!(sorted(partition.isr), [0, 1]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_listed_until_it_is_cancelled() {
    let cluster = TestCluster::with_topic(1, 1, 1).await;
    let home = cluster.replicas(0)[0];
    let away = PHANTOMS.into_iter().find(|id| *id != home).unwrap();
    let begun = cluster.reassign(&[away], false).await.unwrap();
    assert_eq!(
        (begun.adding_replicas, begun.removing_replicas),
        (vec![away], vec![home])
    );
    let listed = cluster.moving().await;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0].original_replicas, &listed[0].target_replicas),
        (&vec![home], &vec![away])
    );
    assert_eq!(listed[0].progress[0].broker_id, away);
    assert!(!listed[0].progress[0].in_sync);
    let health = cluster::describe(&cluster.service.0).health.unwrap();
    assert_eq!(health.moving.unwrap().count, 1);
    let back = cluster.reassign(&[], true).await.unwrap();
    assert!(back.adding_replicas.is_empty() && back.removing_replicas.is_empty());
    assert!(cluster.moving().await.is_empty());
    assert_eq!(cluster.replicas(0), [home]);
    let error = cluster.reassign(&[], true).await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::NoReassignmentInProgress);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_planned_begun_and_ended() {
    let cluster = TestCluster::with_topic(2, 4, 1).await;
    let held = cluster.held_by(1);
    assert!(held > 0);
    let planned = cluster.drain(&[1], false, true).await;
    assert_eq!(usize::try_from(planned.partitions).unwrap(), held);
    assert!(!cluster.now().brokers[&1].draining, "only checked");
    assert!(cluster.moving().await.is_empty());

    let begun = cluster.drain(&[1], false, false).await;
    assert_eq!(begun, planned, "what was shown is what is done");
    let moving = cluster.moving().await;
    assert_eq!(moving.len(), held);
    assert!(
        moving
            .iter()
            .all(|one| one.removing_replicas == [1] && !one.target_replicas.contains(&1))
    );
    let described = cluster::describe(&cluster.service.0);
    let drained = described.brokers.iter().find(|broker| broker.broker_id == 1).unwrap();
    assert!(drained.draining);
    assert_eq!(
        cluster.drain(&[1], false, false).await.partitions,
        0,
        "all of it is under way"
    );

    let ended = cluster.drain(&[1], true, false).await;
    assert_eq!(usize::try_from(ended.partitions).unwrap(), held);
    assert!(cluster.moving().await.is_empty());
    assert!(!cluster.now().brokers[&1].draining);
    assert_eq!(cluster.held_by(1), held);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_may_not_go_where_the_first_is_missed() {
    let cluster = TestCluster::with_topic(3, 1, 2).await;
    let replicas = cluster.replicas(0);
    let mut phantoms = replicas.iter().copied().filter(|id| *id != 0);
    let (down, wanted) = (phantoms.next().unwrap(), phantoms.next().unwrap());
    assert!(cluster.may_restart(wanted).await.allowed);
    cluster.fence(down).await;
    let answer = cluster.may_restart(wanted).await;
    assert!(!answer.allowed);
    let forbidding = answer.forbidding.unwrap();
    assert_eq!((forbidding.count, forbidding.first[0].topic.as_str()), (1, "t"));
    let wish = |validate_only| v1::AcquireMaintenanceRequest {
        broker_id: wanted,
        holder: "h".into(),
        validate_only,
        ..v1::AcquireMaintenanceRequest::default()
    };
    for validate_only in [true, false] {
        let error = maintenance::acquire(&cluster.service, wish(validate_only))
            .await
            .unwrap_err();
        assert_eq!(error.reason(), ErrorReason::StillNeeded, "{error}");
    }
    assert!(cluster.may_restart(down).await.allowed, "it is down already");
    let health = cluster::describe(&cluster.service.0).health.unwrap();
    assert_eq!(health.at_min_in_sync.unwrap().count, 1);
    assert_eq!(health.under_replicated.unwrap().count, 1);
    cluster.stop().await;
}

/// It is allowed, as there never is a better time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_stops_writes_to_replicated_partitions_says_so() {
    for (min_in_sync, notices) in [(1, 0), (2, 1)] {
        let cluster = TestCluster::with_topic(2, 2, min_in_sync).await;
        let holder = cluster.replicas(0).into_iter().find(|id| *id != 0).unwrap();
        let held = cluster.held_by(holder);
        let answer = cluster.may_restart(holder).await;
        assert!(answer.allowed);
        assert_eq!(answer.notices.len(), notices, "{:?}", answer.notices);
        let exempt = usize::try_from(answer.exempt.unwrap().count).unwrap();
        assert_eq!(exempt, notices * held);
        let wish = v1::AcquireMaintenanceRequest {
            broker_id: holder,
            holder: "h".into(),
            ..v1::AcquireMaintenanceRequest::default()
        };
        let given = maintenance::acquire(&cluster.service, wish).await.unwrap();
        assert_eq!(given.notices, answer.notices);
        for notice in answer.notices {
            assert!(notice.contains("(t-0 is the first)"), "{notice}");
        }
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_chosen_and_brought_back() {
    let cluster = TestCluster::with_topic(3, 1, 1).await;
    let replicas = cluster.replicas(0);
    let elected = cluster.elect(v1::ElectionKind::InSync, Some(replicas[1])).await;
    assert_eq!((elected[0].leader_id, &elected[0].error), (Some(replicas[1]), &None));
    assert!(
        cluster.elect(v1::ElectionKind::Preferred, None).await.is_empty(),
        "it is to stay"
    );
    assert_eq!(cluster.replicas(0)[0], replicas[1]);
    let taken = cluster.elect(v1::ElectionKind::InSync, Some(replicas[2])).await;
    assert_eq!(taken[0].leader_id, Some(replicas[2]));
    assert!(taken[0].leader_epoch > elected[0].leader_epoch);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_is_told_after_an_unclean_election() {
    let cluster = TestCluster::start().await;
    let (home, away) = (2, 1);
    cluster.create_on(home).await;
    let _ = cluster.reassign(&[away], false).await.unwrap();
    // The partition's only clean replica goes.
    cluster.fence(home).await;
    let request = v1::DescribeTopicRequest { name: "t".into() };
    let described = topics::describe(&cluster.service.0, &request).await.unwrap();
    let partition = &described.partitions[0];
    assert_eq!(
        (partition.leader_id, &partition.eligible_leader_replicas),
        (None, &vec![home])
    );
    assert!(
        partition
            .problem
            .contains(&format!("start one of the brokers [{home}]")),
        "{}",
        partition.problem
    );
    let results = cluster.elect(v1::ElectionKind::Unclean, Some(away)).await;
    assert_eq!(
        (results[0].leader_id, results[0].committed_before),
        (Some(away), Some(0))
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_holds_nothing_is_removed_and_stays_away() {
    let cluster = TestCluster::start().await;
    let remove = |force, validate_only| v1::RemoveBrokerRequest {
        broker_id: 3,
        force,
        validate_only,
        if_down: false,
    };
    let error = brokers::remove(&cluster.service, remove(false, false))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), ErrorReason::BrokerState, "it is in service: {error}");
    cluster.fence(3).await;
    brokers::remove(&cluster.service, remove(false, true)).await.unwrap();
    assert!(cluster.now().brokers.contains_key(&3), "only checked");
    brokers::remove(&cluster.service, remove(false, false)).await.unwrap();
    assert!(cluster.now().removed_brokers.contains_key(&3));
    brokers::remove(&cluster.service, remove(false, false)).await.unwrap();
    let permit = |broker_id, validate_only| v1::ReplaceBrokerDirectoryRequest {
        broker_id,
        validate_only,
        only_if_removed: true,
        ..v1::ReplaceBrokerDirectoryRequest::default()
    };
    let permitted = async |broker_id, validate_only| {
        let request = permit(broker_id, validate_only);
        let answer = brokers::replace_directory(&cluster.service, request).await;
        answer.map(|_| ()).map_err(|error| error.reason())
    };
    for validate_only in [true, false] {
        assert_eq!(permitted(2, validate_only).await, Err(ErrorReason::BrokerState));
        assert_eq!(permitted(77, validate_only).await, Err(ErrorReason::UnknownBroker));
    }
    assert_eq!(permitted(3, true).await, Ok(()));
    assert!(cluster.now().removed_brokers[&3].expected_directory.is_none());
    assert_eq!(permitted(3, false).await, Ok(()));
    assert!(cluster.now().removed_brokers[&3].expected_directory.is_some());
    assert!(cluster.now().brokers[&2].expected_directory.is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_known_before_a_broker_stops_whether_it_can_be_removed() {
    let cluster = TestCluster::start().await;
    let ask = async |broker_id, validate_only| {
        let request = v1::RemoveBrokerRequest {
            broker_id,
            validate_only,
            if_down: true,
            ..v1::RemoveBrokerRequest::default()
        };
        let answer = brokers::remove(&cluster.service, request).await;
        answer.map(|_| ()).map_err(|error| error.reason())
    };
    cluster.create_on(3).await;
    assert_eq!(ask(3, false).await, Err(ErrorReason::InvalidRequest));
    assert_eq!(ask(77, true).await, Err(ErrorReason::UnknownBroker));
    assert_eq!(ask(3, true).await, Err(ErrorReason::BrokerState), "it is not drained");
    let mark = |broker_id| Command::DrainBroker {
        broker_id,
        draining: true,
    };
    cluster.submit(mark(3)).await;
    assert_eq!(ask(3, true).await, Err(ErrorReason::StillNeeded), "it holds a replica");
    // A move onto a broker that is drained since: it holds one as soon as it is filled.
    let _ = cluster.reassign(&[2], false).await.unwrap();
    cluster.submit(mark(2)).await;
    for broker_id in [2, 3] {
        assert_eq!(
            ask(broker_id, true).await,
            Err(ErrorReason::StillNeeded),
            "a move is under way"
        );
    }
    cluster.submit(mark(1)).await;
    assert_eq!(ask(1, true).await, Ok(()));
    assert!(cluster.now().brokers[&1].is_active(), "only asked");
    cluster.submit(mark(0)).await;
    assert_eq!(ask(0, true).await, Err(ErrorReason::StillNeeded), "it votes");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_disk_with_the_only_clean_replica_is_given_up_only_on_request() {
    let cluster = TestCluster::start().await;
    cluster.create_on(2).await;
    cluster.fence(2).await;
    let permit = |accept_data_loss, validate_only| v1::ReplaceBrokerDirectoryRequest {
        broker_id: 2,
        directory_id: Uuid::from_u128(5).to_string(),
        accept_data_loss,
        validate_only,
        only_if_removed: false,
    };
    for validate_only in [true, false] {
        let refused = brokers::replace_directory(&cluster.service, permit(false, validate_only)).await;
        let error = refused.unwrap_err();
        assert_eq!(error.reason(), ErrorReason::StillNeeded);
        assert!(error.to_string().contains("t-0"), "{error}");
    }
    brokers::replace_directory(&cluster.service, permit(true, false))
        .await
        .unwrap();
    assert!(cluster.now().brokers[&2].expected_directory.is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_plans_first_and_then_begins_throttled_moves() {
    let cluster = TestCluster::start().await;
    let create = CreateTopic {
        name: "t".into(),
        id: Uuid::new_v4(),
        assignments: vec![vec![0]; 8],
        configs: BTreeMap::new(),
        now_ms: 0,
        owner: None,
    };
    cluster.submit(Command::CreateTopic(create)).await;
    let request = |validate_only, throttle_bytes_per_second| v1::RebalanceRequest {
        broker_ids: vec![3],
        throttle_bytes_per_second,
        validate_only,
    };
    // Nobody answers for this broker, which may be full.
    let error = rebalance::rebalance(&cluster.service, request(true, 1 << 20))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), ErrorReason::BrokerNotReady, "{error}");
    assert!(error.message().contains("Broker 3 is in service"), "{error}");
    let now = cluster.now();
    let told = roomy(&now);
    let rebalance = |request| rebalance::rebalance_told(&cluster.service, request, &now, &told);
    let error = rebalance(request(true, 1)).await.unwrap_err();
    assert_eq!(error.reason(), ErrorReason::InvalidRequest, "{error}");
    let planned = rebalance(request(true, 1 << 20)).await.unwrap();
    assert!(cluster.moving().await.is_empty(), "only planned");
    let begun = rebalance(request(false, 1 << 20)).await.unwrap();
    assert_eq!(begun, planned);
    let moving = cluster.moving().await;
    assert_eq!(moving.len(), 4, "no broker but the named one is filled: {moving:?}");
    assert!(moving.iter().all(|one| one.target_replicas == [3]), "{moving:?}");
    assert!(
        moving.iter().all(|one| one.throttle_bytes_per_second == 1 << 20),
        "{moving:?}"
    );
    // Leaving in order would wait for it to come into sync.
    cluster.fence(3).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_replication_factor_grows_by_moves_and_settings_come_with_it() {
    let cluster = TestCluster::with_topic(1, 2, 1).await;
    let request = |validate_only| v1::AlterTopicRequest {
        name: "t".into(),
        set_configs: vec![v1::ConfigEntry {
            name: "retention.ms".into(),
            value: "70000".into(),
        }],
        unset_configs: Vec::new(),
        throttle_bytes_per_second: 0,
        as_owner: None,
        validate_only,
        replication_factor: Some(3),
    };
    let told = roomy(&cluster.now());
    let alter = |request| topics::alter_told(&cluster.service, request, &told);
    let planned = alter(request(true)).await.unwrap().moves.unwrap();
    assert_eq!((planned.partitions, planned.replicas_to_copy), (2, 4));
    assert!(cluster.moving().await.is_empty());
    assert!(!cluster.now().topics["t"].configs.contains_key("retention.ms"));
    let begun = alter(request(false)).await.unwrap().moves.unwrap();
    assert_eq!(begun, planned);
    assert_eq!(cluster.moving().await.len(), 2);
    assert_eq!(cluster.now().topics["t"].configs["retention.ms"], "70000");
    cluster.stop().await;
}
