//! Voters that crash, lose their disks, get old ones back, come and go, cuts that open and close, disks that are slow,
//! stand still or fail, power cuts that meet all at once, a network that loses, delays and repeats: whatever happens,
//! what was acknowledged stays and is seen, what was refused does not show up, and what `observer` and `witness` look at
//! holds.
//!
//! Not a simulation: threads and real time decide what meets what, and a seed only says what is done, so that the same
//! seed is another run each time. That is why it is run many times (`make simulate`, `MILLRACE_QUORUM_SEEDS`), and why
//! it is counted how often each check had something to look at.

mod faults;
mod members;
mod observer;
mod traffic;
mod witness;
mod world;

use std::sync::atomic::Ordering::SeqCst;

use futures::future::join_all;

use self::{
    traffic::check_topics,
    witness::{Counts, count},
    world::World,
};

/// What all runs together must have met: a check without it says nothing.
const PREMISES: [&str; 27] = [
    "acknowledged entries",
    "additions",
    "changes of voters",
    "commits that rose",
    "contested reads",
    "demotions",
    "entries compared",
    "entries replaced",
    "failed syncs",
    "lost disks",
    "numbers refused again",
    "older images",
    "older images noticed",
    "power cuts",
    "promotions",
    "purged logs",
    "reads",
    "refused writes",
    "removals",
    "repeated messages",
    "restarts with a lost tail",
    "snapshots installed",
    "snapshots sent",
    "stalls",
    "states compared",
    "terms led",
    "votes",
];

/// How many seeds are run at a time: most of a run is waiting.
const AT_A_TIME: u64 = 4;

/// How many more seeds are run where the first have not met everything. The rarest, entries that are replaced, are met by
/// one seed of five: none of so many meets them once in half a million runs.
const MORE_SEEDS: u64 = 60;

/// How many seeds are run; each takes some eight seconds.
fn seeds() -> u64 {
    let count = std::env::var("MILLRACE_QUORUM_SEEDS").ok();
    count.and_then(|text| text.parse().ok()).unwrap_or(AT_A_TIME)
}

/// Returns what was met.
async fn run(seed: u64) -> Counts {
    let mut world = World::begin(seed).await;
    let traffic = world.traffic.clone();
    let mut tasks: Vec<_> = (0..3)
        .map(|writer| tokio::spawn(traffic.clone().write(seed, writer * 1_000_000)))
        .collect();
    tasks.extend((0..2).map(|_| tokio::spawn(traffic.clone().read(seed))));
    world.all_faults().await;
    world.heal().await;
    traffic.stop.store(true, SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    let cluster = world.voters.converge().await;
    world.look().await;
    let told = std::mem::take(&mut *traffic.told.lock());
    check_topics(seed, &told, &cluster.topics);

    let mut counts = world.observer.counts();
    let router = &world.voters.router;
    let messages = |count: u64| usize::try_from(count).unwrap();
    count(&mut counts, "reads", told.reads);
    count(&mut counts, "contested reads", told.contested_reads);
    count(&mut counts, "refused writes", told.refused.len());
    count(&mut counts, "snapshots sent", messages(router.snapshots()));
    count(&mut counts, "snapshots installed", messages(router.installed()));
    count(&mut counts, "repeated messages", messages(router.repeated()));
    println!("seed {seed} has met {counts:?}");
    world.end().await;
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_nothing_acknowledged_is_lost_and_no_two_voters_differ() {
    let seeds = seeds();
    let mut met = Counts::default();
    let missing = |met: &Counts| {
        let missing = PREMISES.into_iter().filter(|premise| !met.contains_key(premise));
        missing.collect::<Vec<_>>()
    };
    let mut next = 1;
    while next <= seeds || (next <= seeds + MORE_SEEDS && !missing(&met).is_empty()) {
        let runs = (next..next + AT_A_TIME).map(run);
        for (what, times) in join_all(runs).await.into_iter().flatten() {
            *met.entry(what).or_default() += times;
        }
        next += AT_A_TIME;
    }
    println!("all: {met:?}");
    assert_eq!(missing(&met), [""; 0], "what no run has met");
}
