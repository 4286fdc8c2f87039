//! A quorum that has lost most of its voters for good begins anew.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use millrace_log::FileSystem;
use tokio::time::Instant;

use super::{
    super::{
        super::{
            recovery::{RecoveryError, Stake, recover_on},
            state_file::QuorumState,
        },
        PATIENCE, create_topic, eventually,
    },
    FaultyFileSystem, Wired, converge, leader,
    membership::{add, promote, several_elections, sole},
    stop_all, unchanged,
};

fn recover(disk: &FaultyFileSystem, lost: &[u64], accept: bool) -> Result<Stake, RecoveryError> {
    let lost: BTreeSet<u64> = lost.iter().copied().collect();
    recover_on(&disk.shared(), Path::new("/data"), |_| lost, accept)
}

fn state(disk: &FaultyFileSystem) -> QuorumState {
    let fs: Arc<dyn FileSystem> = disk.shared();
    let path = Path::new("/data/__metadata-0/quorum-state");
    QuorumState::load(&*fs, path).unwrap().unwrap()
}

/// Three voters and a member without a vote; two of the voters are taken for lost. They come back, and make a quorum of
/// their own, as they may; but nobody else follows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_begins_anew_and_nobody_follows_the_old_quorum() {
    let one = sole(unchanged).await;
    let mut others = Vec::new();
    for id in 2..=4 {
        let other = Wired::new(id, unchanged).await;
        add(&one.quorum, &other).await;
        if id < 4 {
            promote(&one.quorum, id).await;
        }
        others.push(other);
    }
    let [two, three, four] = <[Wired; 3]>::try_from(others).ok().unwrap();
    one.quorum.submit(create_topic(1)).await.unwrap().unwrap();
    converge([&one, &two, &three, &four]).await;
    let (disk, place) = one.crash().await;
    let lost = [two.crash().await, three.crash().await];
    let (fourth_disk, fourth_place) = four.crash().await;

    let before = state(&disk);
    for (members, why) in [(&[2][..], "majority"), (&[1, 2], "named as lost")] {
        let error = recover(&disk, members, true).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let stake = recover(&disk, &[2, 3], false).unwrap();
    assert_eq!(
        (
            stake.topics,
            stake.voters.len(),
            stake.lost.len(),
            stake.followers.len()
        ),
        (1, 3, 2, 1)
    );
    assert_eq!(state(&disk), before, "nothing was accepted");
    assert_eq!(recover(&disk, &[2, 3], true).unwrap(), stake);
    let after = state(&disk);
    assert!(after.state_id() != before.state_id() && !after.is_founder());

    let one = Wired::start(1, disk, place, unchanged).await.unwrap();
    let four = Wired::start(4, fourth_disk, fourth_place, unchanged).await.unwrap();
    converge([&one, &four]).await;
    let status = one.quorum.status();
    assert_eq!((status.voters, status.learners), (vec![1], vec![4]));
    assert!(one.quorum.cluster().topics.contains_key("topic-1"));
    one.quorum.submit(create_topic(2)).await.unwrap().unwrap();
    eventually(|| four.quorum.cluster().topics.contains_key("topic-2")).await;

    let mut old = Vec::new();
    for (id, (disk, place)) in [2, 3].into_iter().zip(lost) {
        old.push(Wired::start(id, disk, place, unchanged).await.unwrap());
    }
    let second = leader(&old).await;
    let by = old.iter().find(|member| member.id == second).unwrap();
    by.quorum.submit(create_topic(3)).await.unwrap().unwrap();
    several_elections().await;
    assert_eq!(
        (one.quorum.status().leader, four.quorum.status().leader),
        (Some(1), Some(1))
    );
    // A vote for the one that follows, and all goes on.
    promote(&one.quorum, 4).await;
    let deadline = Instant::now() + PATIENCE;
    while four.quorum.submit(create_topic(4)).await.is_err() {
        assert!(Instant::now() < deadline);
    }
    converge([&one, &four]).await;
    for member in [&one, &four] {
        let topics: Vec<String> = member.quorum.cluster().topics.keys().cloned().collect();
        assert_eq!(topics, ["topic-1", "topic-2", "topic-4"]);
    }
    stop_all([one, four].into_iter().chain(old)).await;
}
