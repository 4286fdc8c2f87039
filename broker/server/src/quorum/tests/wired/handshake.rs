//! Whoever is not meant refuses, and what makes no sense never reaches the log.

use std::time::Duration;

use millrace_proto::internal::v1::{
    AppendEntriesRequest, Header, InstallSnapshotRequest, LeaderVote, LogId, Refusal, SnapshotBegin, VoteRequest,
    install_snapshot_request::Part, quorum_client::QuorumClient,
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    super::{PATIENCE, create_topic, directory_id, eventually, register_broker},
    NewMember, QuorumError, Wired, forgetful_disk, founded, leader, stop_all, unchanged,
};

fn header(change: impl FnOnce(&mut Header)) -> Option<Header> {
    let mut header = Header {
        cluster_id: "c".into(),
        from: 9,
        to: 1,
        directory_id: directory_id(1).as_bytes().to_vec().into(),
        state_id: bytes::Bytes::new(),
    };
    change(&mut header);
    Some(header)
}

fn vote(term: u64, committed: bool) -> Option<LeaderVote> {
    Some(LeaderVote {
        term,
        voter_id: 9,
        committed,
    })
}

fn reason(status: Status) -> String {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    status.get_details_error_info().unwrap().reason
}

async fn client(member: &Wired) -> QuorumClient<Channel> {
    QuorumClient::connect(format!("http://{}", member.proxy.address()))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_another_is_refused_and_changes_nothing() {
    let one = Wired::new(1, unchanged).await;
    one.quorum.bootstrap().await.unwrap();
    one.quorum.wait_for_leader(PATIENCE).await.unwrap();
    let before = one.quorum.status();
    let mut client = client(&one).await;
    type Spoil = fn(&mut Header);
    let wrong: [(Spoil, Refusal); 4] = [
        (|header| header.cluster_id = "other".into(), Refusal::WrongCluster),
        (|header| header.to = 2, Refusal::WrongMember),
        (
            |header| header.directory_id = directory_id(2).as_bytes().to_vec().into(),
            Refusal::WrongDisk,
        ),
        (|header| header.state_id = vec![7; 16].into(), Refusal::WrongDisk),
    ];
    for (spoil, refusal) in wrong {
        let asked = client
            .vote(VoteRequest {
                header: header(spoil),
                vote: vote(1_000, false),
                last: Some(LogId { term: 900, index: 900 }),
                leadership_transfer: true,
                pre_vote: false,
            })
            .await;
        assert_eq!(reason(asked.unwrap_err()), refusal.reason_name());
        let appended = client
            .append_entries(AppendEntriesRequest {
                header: header(spoil),
                vote: vote(1_000, true),
                ..AppendEntriesRequest::default()
            })
            .await;
        assert_eq!(reason(appended.unwrap_err()), refusal.reason_name());
        let begin = SnapshotBegin {
            header: header(spoil),
            vote: vote(1_000, true),
            last: Some(LogId { term: 900, index: 900 }),
            size_bytes: 10,
        };
        let part = Some(Part::Begin(begin));
        let sent = client
            .install_snapshot(futures::stream::iter([InstallSnapshotRequest { part }]))
            .await;
        assert_eq!(reason(sent.unwrap_err()), refusal.reason_name());
    }
    assert_eq!(one.quorum.status(), before);
    stop_all([one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let one = Wired::new(1, unchanged).await;
    one.quorum.bootstrap().await.unwrap();
    one.quorum.wait_for_leader(PATIENCE).await.unwrap();
    let before = one.quorum.status();
    let mut client = client(&one).await;
    let append = |change: fn(&mut AppendEntriesRequest)| {
        let mut request = AppendEntriesRequest {
            header: header(|_| ()),
            vote: vote(1_000, true),
            ..AppendEntriesRequest::default()
        };
        change(&mut request);
        request
    };
    let nonsense: [fn(&mut AppendEntriesRequest); 8] = [
        |request| request.header = None,
        |request| request.vote = None,
        |request| request.vote = vote(1_000, false),
        |request| request.vote = vote(u64::MAX, true),
        |request| request.header = header(|header| header.from = 8),
        |request| request.entries = vec![1; 200].into(),
        |request| request.previous = Some(LogId { term: 1_001, index: 3 }),
        |request| {
            request.committed = Some(LogId {
                term: 1,
                index: u64::MAX,
            });
        },
    ];
    for spoil in nonsense {
        let status = client.append_entries(append(spoil)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    // Too large a message, and snapshots that are not what they say.
    let large = client.append_entries(append(|request| request.entries = vec![0; 11 << 20].into()));
    assert!(large.await.is_err());
    let mut client = self::client(&one).await;
    let last = Some(LogId { term: 900, index: 900 });
    for (size_bytes, chunks) in [
        (10, vec![5]),
        (10, vec![11]),
        (10, vec![10]),
        (2 << 30, vec![]),
        (0, vec![]),
    ] {
        let begin = SnapshotBegin {
            header: header(|_| ()),
            vote: vote(1_000, true),
            last,
            size_bytes,
        };
        let chunks = chunks.into_iter().map(|size| Part::Chunk(vec![b'x'; size].into()));
        let parts: Vec<_> = std::iter::once(Part::Begin(begin))
            .chain(chunks)
            .map(|part| InstallSnapshotRequest { part: Some(part) })
            .collect();
        let status = client.install_snapshot(futures::stream::iter(parts)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert_eq!(one.quorum.status(), before);
    assert!(one.quorum.failed().borrow().is_none());
    stop_all([one]).await;
}

/// A voter whose disk comes back empty has forgotten what it promised: it votes for no one, and
/// a majority is not made with it (KAFKA-12181).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_voter_does_not_vote() {
    let mut members = founded(3, |options| options.request_timeout = Duration::from_secs(2)).await;
    let first = leader(members.values()).await;
    members[&first].quorum.submit(register_broker()).await.unwrap().unwrap();
    let [a, b] = members.keys().copied().filter(|id| *id != first).collect::<Vec<_>>()[..] else {
        panic!("three voters")
    };
    let lost = members.remove(&a).unwrap();
    let (_, proxy) = lost.crash().await;
    members
        .get(&first)
        .unwrap()
        .quorum
        .submit(create_topic(1))
        .await
        .unwrap()
        .unwrap();
    let away = members.remove(&first).unwrap().crash().await;
    let emptied = Wired::start(a, forgetful_disk(77), proxy, unchanged).await.unwrap();
    // Several election timeouts.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(emptied.quorum.status().term, 0, "it took part in an election");
    assert!(emptied.quorum.status().voters.is_empty());
    let error = members[&b].quorum.submit(create_topic(2)).await.unwrap_err();
    // It may have led itself for a moment before the others were gone.
    assert!(
        matches!(
            error,
            QuorumError::NotLeader { .. } | QuorumError::NoMajority | QuorumError::OutcomeUnknown { .. }
        ),
        "{error}"
    );
    let (disk, proxy) = away;
    members.insert(first, Wired::start(first, disk, proxy, unchanged).await.unwrap());
    leader(members.values()).await;
    for member in members.values() {
        eventually(|| member.quorum.cluster().topics.contains_key("topic-1")).await;
    }
    // The way back: out with the old id, in with a new one.
    members[&b].quorum.remove_voter(a).await.unwrap();
    stop_all([emptied]).await;
    let new = Wired::new(7, unchanged).await;
    let NewMember {
        voter_id,
        directory_id,
        address,
    } = new.member();
    members[&b]
        .quorum
        .add_learner(voter_id, directory_id, address)
        .await
        .unwrap();
    eventually(|| new.quorum.cluster().topics.contains_key("topic-1")).await;
    members.insert(7, new);
    stop_all(members.into_values()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_is_begun_once_and_with_voters_that_make_sense() {
    let one = Wired::new(1, unchanged).await;
    let me = one.member();
    let other = |id: u64, address: &str| NewMember {
        voter_id: id,
        directory_id: directory_id(id),
        address: address.into(),
    };
    let moved = NewMember {
        address: "elsewhere:1".into(),
        ..me.clone()
    };
    let many: Vec<_> = (2..11).map(|id| other(id, &format!("h{id}:1"))).collect();
    for voters in [
        vec![],
        vec![other(2, "h:1")],
        vec![moved],
        vec![me.clone(), me.clone()],
        vec![me.clone(), other(2, &me.address)],
        vec![me.clone(), other(2, "")],
        [vec![me.clone()], many].concat(),
    ] {
        let error = one.quorum.bootstrap_with(&voters).await.unwrap_err();
        assert!(matches!(error, QuorumError::Config(_)), "{error}");
        assert!(!one.quorum.is_bootstrapped());
    }
    one.quorum.bootstrap_with(std::slice::from_ref(&me)).await.unwrap();
    let again = one
        .quorum
        .bootstrap_with(&[me.clone(), other(2, "h:1")])
        .await
        .unwrap_err();
    assert!(matches!(again, QuorumError::AlreadyBootstrapped), "{again}");
    assert_eq!(one.quorum.wait_for_leader(PATIENCE).await.unwrap(), 1);
    stop_all([one]).await;
}
