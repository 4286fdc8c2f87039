//! Voters that stop, crash and come back under load.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use millrace_engine::{Outcome, Rejection};
use parking_lot::Mutex;

use super::{
    super::{create_topic, eventually, register_broker},
    Quorum, Wired, converge, founded, leader, stop_all, submit_until_known, unchanged,
};

const COMMANDS: usize = 1_000;
const WRITERS: usize = 8;

/// The members that run, for writers that outlive any of them.
type Running = Arc<Mutex<Vec<(u64, Quorum)>>>;

/// Someone who does not lead, if anyone runs who does not.
fn follower(running: &Running, at: usize) -> Quorum {
    let running = running.lock();
    let follows = |(id, quorum): &&(u64, Quorum)| quorum.status().leader != Some(*id);
    let followers: Vec<_> = running.iter().filter(follows).collect();
    match followers.len() {
        0 => running[at % running.len()].1.clone(),
        count => followers[at % count].1.clone(),
    }
}

/// Submits a share of the commands by followers. Each is applied once: who repeats a command
/// whose answer was lost is told that its topic is there.
async fn write(running: Running, writer: usize, done: Arc<AtomicUsize>) {
    for number in (writer..COMMANDS).step_by(WRITERS) {
        let mut lost = false;
        loop {
            let quorum = follower(&running, number);
            let attempt = submit_until_known_or_stopped(&quorum, number as u64).await;
            let Some((answer, unknown)) = attempt else {
                // It may have been sent before this member stopped.
                lost = true;
                continue;
            };
            lost |= unknown;
            match answer {
                Ok(Outcome::Done) => break,
                Err(Rejection::TopicExists { .. }) if lost => break,
                other => panic!("topic {number}: {other:?}"),
            }
        }
        done.fetch_add(1, SeqCst);
    }
}

/// `None` if the member stopped meanwhile.
async fn submit_until_known_or_stopped(quorum: &Quorum, number: u64) -> Option<(Result<Outcome, Rejection>, bool)> {
    let submitted = submit_until_known(quorum, create_topic(number));
    tokio::pin!(submitted);
    loop {
        tokio::select! {
            known = &mut submitted => return Some(known),
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                if quorum.is_stopping() {
                    return None;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_followers_are_applied_once_through_restarts_of_the_leader() {
    let mut members = founded(3, unchanged).await;
    let first = &members[&leader(members.values()).await].quorum;
    first.submit(register_broker()).await.unwrap().unwrap();
    let running: Running = Arc::default();
    let publish = |members: &std::collections::BTreeMap<u64, Wired>| {
        *running.lock() = members
            .iter()
            .map(|(id, member)| (*id, member.quorum.clone()))
            .collect();
    };
    publish(&members);
    let done = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(Arc::clone(&running), writer, Arc::clone(&done))))
        .collect();
    // Once in order, then a power cut, then in order again.
    for (part, crash) in [(1, false), (2, true), (3, false)] {
        eventually(|| done.load(SeqCst) >= COMMANDS * part / 4).await;
        let id = leader(members.values()).await;
        let leading = members.remove(&id).unwrap();
        publish(&members);
        let (disk, proxy) = if crash {
            leading.crash().await
        } else {
            leading.stop().await
        };
        leader(members.values()).await;
        members.insert(id, Wired::start(id, disk, proxy, unchanged).await.unwrap());
        publish(&members);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    converge(members.values()).await;
    assert_eq!(members[&1].quorum.cluster().topics.len(), COMMANDS);
    // The same entries in the same order everywhere.
    let logs: Vec<_> = members
        .values()
        .map(|member| {
            let end = member.quorum.status().committed_index.unwrap();
            let entries = member.quorum.log().read(0..end, usize::MAX).unwrap();
            entries
                .into_iter()
                .map(|entry| format!("{entry:?}"))
                .collect::<Vec<_>>()
        })
        .collect();
    let shortest = logs.iter().map(Vec::len).min().unwrap();
    assert!(shortest > COMMANDS);
    let different: BTreeSet<_> = logs.iter().map(|log| &log[..shortest]).collect();
    assert_eq!(different.len(), 1);
    stop_all(members.into_values()).await;
}

/// A leader that stops hands over: no one waits for an election timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over() {
    let mut members = founded(3, |options| {
        // Without a hand-over it would take this long.
        options.election_timeout = Duration::from_secs(3);
    })
    .await;
    let id = leader(members.values()).await;
    let leading = members.remove(&id).unwrap();
    for member in members.values() {
        eventually(|| member.quorum.status().leader == Some(id)).await;
    }
    let begun = std::time::Instant::now();
    leading.stop().await;
    let next = leader(members.values()).await;
    assert_ne!(next, id);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    println!("another led {:?} after the stop began", begun.elapsed());
    stop_all(members.into_values()).await;
}
