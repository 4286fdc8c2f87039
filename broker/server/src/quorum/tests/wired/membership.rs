//! Members come and go while the quorum serves.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{
    super::{super::network::CHUNKS_RECEIVED, PATIENCE, create_topic, directory_id, eventually, register_broker},
    NewMember, Proxy, Quorum, QuorumError, Wired, converge, forgetful_disk, leader, stop_all, unchanged,
};

pub(super) async fn sole(change: super::Change) -> Wired {
    let member = Wired::new(1, change).await;
    member.quorum.bootstrap().await.unwrap();
    member.quorum.wait_for_leader(PATIENCE).await.unwrap();
    member.quorum.submit(register_broker()).await.unwrap().unwrap();
    member
}

/// Three voters, of which the first has founded the quorum and added the others.
async fn voting(change: super::Change) -> [Wired; 3] {
    let one = sole(change).await;
    let two = Wired::new(2, change).await;
    let three = Wired::new(3, change).await;
    for member in [&two, &three] {
        add(&one.quorum, member).await;
        promote(&one.quorum, member.id).await;
    }
    [one, two, three]
}

pub(super) async fn add(by: &Quorum, member: &Wired) {
    let new = member.member();
    by.add_learner(new.voter_id, new.directory_id, new.address)
        .await
        .unwrap();
}

/// Promotes as soon as the learner has caught up.
pub(super) async fn promote(by: &Quorum, id: u64) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = by.promote(id).await {
        assert!(
            matches!(error, QuorumError::NotCaughtUp { .. } | QuorumError::ChangeInProgress),
            "{error}"
        );
        assert!(Instant::now() < deadline, "it never caught up: {error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn refused(result: Result<(), QuorumError>, why: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, QuorumError::Member { .. }), "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_grows_from_one_to_three_and_shrinks_to_another_one() {
    let one = sole(unchanged).await;
    let two = Wired::new(2, unchanged).await;
    let three = Wired::new(3, unchanged).await;
    let quorum = &one.quorum;
    refused(quorum.promote(2).await, "no member");
    add(quorum, &two).await;
    add(quorum, &two).await;
    let status = quorum.status();
    assert_eq!((status.voters, status.learners), (vec![1], vec![2]));
    two.quorum.wait_for_leader(PATIENCE).await.unwrap();
    // A learner asks the leader: for a command, a read, and a change of the members.
    two.quorum.submit(create_topic(1)).await.unwrap().unwrap();
    assert!(two.quorum.cluster().topics.contains_key("topic-1"));
    two.quorum.read_index().await.unwrap();
    add(&two.quorum, &three).await;
    assert_eq!(two.quorum.status().learners, vec![2, 3]);
    promote(&two.quorum, 2).await;
    promote(&two.quorum, 3).await;
    quorum.promote(3).await.unwrap();
    let status = quorum.status();
    assert_eq!((status.voters, status.learners), (vec![1, 2, 3], vec![]));
    let members = [&one, &two, &three];
    for id in 2..100 {
        members[id as usize % 3]
            .quorum
            .submit(create_topic(id))
            .await
            .unwrap()
            .unwrap();
    }
    converge(members).await;
    let status = quorum.status();
    assert_eq!(status.members.len(), 3);
    for member in &status.members {
        assert!(
            member.is_voter && member.lag_entries.is_some() && member.last_heard.is_some(),
            "{member:?}"
        );
    }

    // The leader goes, then another: the last decides alone.
    let leading = leader(members).await;
    let [by, last]: [&Wired; 2] = members
        .into_iter()
        .filter(|member| member.id != leading)
        .collect::<Vec<_>>()
        .try_into()
        .ok()
        .unwrap();
    by.quorum.remove_voter(leading).await.unwrap();
    let left = leader([by, last]).await;
    let next = [by, last].into_iter().find(|member| member.id == left).unwrap();
    let other = if left == by.id { last } else { by };
    eventually(|| next.quorum.status().voters == [by.id.min(last.id), by.id.max(last.id)]).await;
    next.quorum.submit(create_topic(200)).await.unwrap().unwrap();
    next.quorum.remove_voter(other.id).await.unwrap();
    other.proxy.cut();
    next.quorum.submit(create_topic(201)).await.unwrap().unwrap();
    assert_eq!(next.quorum.status().voters, [next.id]);
    let error = next.quorum.remove_voter(next.id).await.unwrap_err();
    assert!(matches!(error, QuorumError::Member { .. }), "{error}");
    // No id is given a second time, not even after the log that told of it is gone.
    let again = other.member();
    refused(
        next.quorum
            .add_learner(again.voter_id, again.directory_id, again.address)
            .await,
        "never used again",
    );
    stop_all([one, two, three]).await;
}

/// A broker that is no voter any more still has to know what the cluster decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_loses_its_vote_follows_on_and_may_get_it_again() {
    let [one, two, three] = voting(unchanged).await;
    let members = [&one, &two, &three];
    // The leader itself, so that another must take over.
    let leading = leader(members).await;
    let demoted = members.into_iter().find(|member| member.id == leading).unwrap();
    let rest: Vec<&Wired> = members.into_iter().filter(|member| member.id != leading).collect();
    demoted.quorum.demote(leading).await.unwrap();
    let next = leader([rest[0], rest[1]]).await;
    let next = rest.iter().find(|member| member.id == next).unwrap();
    eventually(|| next.quorum.status().learners == [leading]).await;
    next.quorum.demote(leading).await.unwrap();
    next.quorum.submit(create_topic(1)).await.unwrap().unwrap();
    eventually(|| demoted.quorum.cluster().topics.contains_key("topic-1")).await;
    demoted.quorum.submit(create_topic(2)).await.unwrap().unwrap();
    promote(&demoted.quorum, leading).await;
    eventually(|| next.quorum.status().voters == [1, 2, 3]).await;
    converge(members).await;
    stop_all([one, two, three]).await;
}

/// Who was removed takes no part any more, neither emptied nor with its old disk, by which it is a voter still; not even
/// where that disk's two would be a majority. And it raises nobody's term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_comes_back_as_nobody() {
    // More than any stall of a busy machine: an election of the others would raise the term as well.
    let patient: super::Change = |options| options.election_timeout = Duration::from_secs(5);
    let [one, two, three] = voting(patient).await;
    converge([&one, &two, &three]).await;
    let (old_disk, proxy) = three.stop().await;
    one.quorum.remove_voter(3).await.unwrap();
    one.quorum.submit(create_topic(1)).await.unwrap().unwrap();
    converge([&one, &two]).await;
    let term = one.quorum.status().term;

    let emptied = Wired::start(3, forgetful_disk(33), proxy, unchanged).await.unwrap();
    several_elections().await;
    let again = emptied.member();
    let added = one
        .quorum
        .add_learner(again.voter_id, again.directory_id, again.address);
    refused(added.await, "never used again");
    let status = emptied.quorum.status();
    assert_eq!((status.term, status.voters, status.applied_index), (0, vec![], None));
    let (_, proxy) = emptied.stop().await;

    let old = Wired::start(3, old_disk, proxy, unchanged).await.unwrap();
    assert_eq!(old.quorum.status().voters, [1, 2, 3]);
    several_elections().await;
    assert_eq!(
        (one.quorum.status().leader, two.quorum.status().leader),
        (Some(1), Some(1))
    );
    let terms = |members: [&Wired; 2]| members.map(|member| member.quorum.status().term);
    assert_eq!(terms([&one, &two]), [term, term]);
    assert_eq!((old.quorum.status().term, old.quorum.leads_in_term()), (term, None));

    // The leader goes, and the other one that is left knows of none.
    let (first_disk, first_proxy) = one.crash().await;
    let (disk, proxy) = two.crash().await;
    let two = Wired::start(2, disk, proxy, unchanged).await.unwrap();
    several_elections().await;
    assert_eq!(terms([&two, &old]), [term, term]);
    assert_eq!((two.quorum.leads_in_term(), old.quorum.leads_in_term()), (None, None));
    let one = Wired::start(1, first_disk, first_proxy, unchanged).await.unwrap();
    converge([&one, &two]).await;
    assert_eq!(one.quorum.status().voters, [1, 2]);
    assert!(one.quorum.cluster().topics.contains_key("topic-1"));
    assert_eq!(old.quorum.leads_in_term(), None);
    stop_all([one, two, old]).await;
}

/// Time for several election timeouts of a member that is not patient: what should not happen would have.
pub(super) async fn several_elections() {
    tokio::time::sleep(Duration::from_millis(2_500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_there_gets_no_vote_and_no_majority_is_given_away() {
    let one = sole(unchanged).await;
    let two = Wired::new(2, unchanged).await;
    // Not there, another broker, another disk: none becomes a member.
    let new = two.member();
    refused(
        one.quorum
            .add_learner(3, directory_id(3), Proxy::start().await.address())
            .await,
        "",
    );
    refused(
        one.quorum.add_learner(3, new.directory_id, new.address.clone()).await,
        "WRONG_MEMBER",
    );
    refused(
        one.quorum.add_learner(2, directory_id(9), new.address).await,
        "WRONG_DISK",
    );
    add(&one.quorum, &two).await;
    promote(&one.quorum, 2).await;
    let three = Wired::new(3, unchanged).await;
    add(&one.quorum, &three).await;
    three.quorum.wait_for_leader(PATIENCE).await.unwrap();
    three.proxy.cut();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leading = leader([&one, &two]).await;
        let status = [&one, &two][usize::from(leading == 2)].quorum.status();
        let silent = status.members[2].last_heard;
        if silent.is_none_or(|ago| ago > Duration::from_millis(1_100)) {
            break;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = one.quorum.promote(3).await.unwrap_err();
    assert!(matches!(error, QuorumError::NotCaughtUp { voter_id: 3, .. }), "{error}");
    three.proxy.heal();
    promote(&one.quorum, 3).await;
    // With three gone, neither of the other two may be removed.
    three.proxy.cut();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leading = leader([&one, &two]).await;
        let by = [&one, &two][usize::from(leading == 2)];
        let silent = by.quorum.status().members[2].last_heard;
        if silent.is_none_or(|ago| ago > Duration::from_millis(1_100)) {
            let error = by.quorum.remove_voter(3 - leading).await.unwrap_err();
            assert!(matches!(error, QuorumError::QuorumAtRisk { .. }), "{error}");
            by.quorum.remove_voter(3).await.unwrap();
            break;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(one.quorum.status().voters, [1, 2]);
    stop_all([one, two, three]).await;
}

/// A learner that lost its disk gets everything again under a new id, in chunks; under its old
/// one it gets nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_learner_catches_up_by_a_snapshot_in_chunks() {
    let often: super::Change = |options| options.snapshot_every = 200;
    let one = sole(often).await;
    let two = Wired::new(2, often).await;
    add(&one.quorum, &two).await;
    let long = "x".repeat(150);
    for number in 0..2_600u64 {
        let mut command = create_topic(number);
        if let millrace_engine::Command::CreateTopic(topic) = &mut command {
            topic.name = format!("{long}-{number}");
        }
        one.quorum.submit(command).await.unwrap().unwrap();
    }
    eventually(|| one.quorum.log().purged().is_some_and(|purged| purged.index > 500)).await;
    converge([&one, &two]).await;
    let (_, proxy) = two.crash().await;

    let wiped = Wired::start(2, forgetful_disk(22), proxy, often).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let status = wiped.quorum.status();
    assert_eq!((status.applied_index, status.voters), (None, vec![]));
    let new = wiped.member();
    // It is a member still, with the disk that it had; nothing changes that.
    one.quorum.add_learner(2, new.directory_id, new.address).await.unwrap();
    assert!(wiped.quorum.status().applied_index.is_none());
    assert!(one.quorum.failed().borrow().is_none());
    wiped.stop().await;
    one.quorum.remove_voter(2).await.unwrap();

    let three = Wired::new(3, often).await;
    let before = CHUNKS_RECEIVED.load(Relaxed);
    add(&one.quorum, &three).await;
    converge([&one, &three]).await;
    let chunks = CHUNKS_RECEIVED.load(Relaxed) - before;
    println!("{chunks} chunks");
    assert!(chunks >= 3, "{chunks} chunks");
    // The ids that were used came with it.
    promote(&one.quorum, 3).await;
    let (disk, proxy) = three.stop().await;
    let three = Wired::start(3, disk, proxy, often).await.unwrap();
    converge([&one, &three]).await;
    assert_eq!(three.quorum.used_ids(), [1, 2, 3].into());
    stop_all([one, three]).await;
}

fn tell(told: &Wired, moved: &Wired) {
    let NewMember {
        directory_id, address, ..
    } = moved.member();
    told.quorum.told_of_address(directory_id, &address);
}

/// The leader looks for it where somebody else was told that it is; another disk is another member wherever it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_under_another_address_is_found_there() {
    let [one, two, three] = voting(unchanged).await;
    converge([&one, &two, &three]).await;
    let (disk, old_place) = three.crash().await;
    let three = Wired::start(3, disk, Proxy::start().await, unchanged).await.unwrap();
    one.quorum.submit(create_topic(1)).await.unwrap().unwrap();
    several_elections().await;
    assert!(three.quorum.cluster().topics.is_empty(), "nobody knows where it is");

    let deadline = Instant::now() + PATIENCE;
    while !three.quorum.cluster().topics.contains_key("topic-1") {
        assert!(Instant::now() < deadline, "it was never found");
        let leading = leader([&one, &two]).await;
        tell([&one, &two][usize::from(leading == 1)], &three);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let leading = leader([&one, &two, &three]).await;
    let by = [&one, &two, &three][usize::try_from(leading).unwrap() - 1];
    assert_eq!(by.quorum.status().members[2].address, three.member().address);
    // With one of the others gone it is needed, and asked if it leads.
    let (gone, proxy) = two.crash().await;
    for (number, by) in [(2, &one), (3, &three)] {
        let deadline = Instant::now() + PATIENCE;
        while by.quorum.submit(create_topic(number)).await.is_err() {
            assert!(Instant::now() < deadline, "{} asks in vain", by.id);
            tell(&one, &three);
        }
    }
    let two = Wired::start(2, gone, proxy, unchanged).await.unwrap();
    converge([&one, &two, &three]).await;

    // Not even at the old place.
    three.crash().await;
    let wiped = Wired::start(3, forgetful_disk(33), old_place, unchanged).await.unwrap();
    for told in [&one, &two] {
        tell(told, &wiped);
    }
    several_elections().await;
    let status = wiped.quorum.status();
    assert_eq!((status.term, status.voters, status.applied_index), (0, vec![], None));
    stop_all([one, two, wiped]).await;
}
