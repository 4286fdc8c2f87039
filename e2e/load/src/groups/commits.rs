//! How many commits one coordinator takes, each of one partition's offset by the member that has it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use millrace_engine::group::group_partition;
use millrace_proto::v1::{
    CommitOffsetsRequest, CommitPartitionOffset, CommitTopicOffsets, FindCoordinatorRequest, TopicPartitions,
    groups_client::GroupsClient,
};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::sleep};
use tonic::transport::Channel;

use crate::member::{Member, State};

/// Until members have what they shall have.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who commits.
#[derive(Debug, clap::Args)]
pub struct CommitsArgs {
    /// What the groups read. It must exist.
    #[arg(long)]
    topic: String,
    /// How many partitions it has: each has a commit under way all the time, in each group.
    #[arg(long)]
    partitions: usize,
    /// Groups, of one member each.
    #[arg(long, default_value_t = 10)]
    groups: usize,
    /// Partitions of the topic of offsets: groups are named such that all are in one of them.
    #[arg(long, default_value_t = 50)]
    offsets_partitions: u32,
    /// Seconds that count.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds before that.
    #[arg(long, default_value_t = 3)]
    warmup: u64,
}

/// A topic's partition at one member, which commits one offset after the other.
struct Committer {
    group: String,
    member_id: String,
    topic_id: Bytes,
    partition: i32,
    state: Arc<Mutex<State>>,
    counts_from: Instant,
    until: Instant,
}

/// Commits until the time is over; fails if a commit does.
pub async fn run(clients: &[GroupsClient<Channel>], args: CommitsArgs) -> anyhow::Result<serde_json::Value> {
    let mut members = JoinSet::new();
    let mut joined = Vec::new();
    let names = names(args.groups, args.offsets_partitions);
    for (group, client) in names.iter().zip(clients.iter().cycle()) {
        let state = Arc::<Mutex<State>>::default();
        let member = Member {
            group: group.clone(),
            id: format!("{group}-member"),
            topic: args.topic.clone(),
            state: state.clone(),
        };
        joined.push((group.clone(), member.id.clone(), state, client.clone()));
        members.spawn(member.run(client.clone()));
    }
    let began = Instant::now();
    while !joined
        .iter()
        .all(|(_, _, state, _)| count(&state.lock().has) == args.partitions)
    {
        if let Some(ended) = members.try_join_next() {
            ended??;
        }
        ensure!(began.elapsed() < PATIENCE, "members do not have what they shall have");
        sleep(Duration::from_millis(20)).await;
    }
    let counts_from = Instant::now() + Duration::from_secs(args.warmup);
    let until = counts_from + Duration::from_secs(args.seconds);
    let mut committers = JoinSet::new();
    for (group, member_id, state, client) in &joined {
        for topic in state.lock().has.clone() {
            for partition in topic.partitions {
                let committer = Committer {
                    group: group.clone(),
                    member_id: member_id.clone(),
                    topic_id: topic.topic_id.clone(),
                    partition,
                    state: state.clone(),
                    counts_from,
                    until,
                };
                committers.spawn(committer.run(client.clone()));
            }
        }
    }
    let mut micros: Vec<u64> = Vec::new();
    while let Some(done) = committers.join_next().await {
        micros.extend(done??);
    }
    micros.sort_unstable();
    let of = |percent: usize| micros.get(micros.len() * percent / 100).copied().unwrap_or_default();
    let find = FindCoordinatorRequest {
        group: names.first().context("no group")?.clone(),
    };
    let coordinator = joined[0].3.clone().find_coordinator(find).await?.into_inner();
    Ok(serde_json::json!({
        "groups": args.groups,
        "under_way": args.groups * args.partitions,
        "coordinator": coordinator.broker_id,
        "commits": micros.len(),
        "commits_per_second": micros.len() as f64 / args.seconds as f64,
        "p50_ms": of(50) as f64 / 1e3,
        "p99_ms": of(99) as f64 / 1e3,
    }))
}

fn count(topics: &[TopicPartitions]) -> usize {
    topics.iter().map(|topic| topic.partitions.len()).sum()
}

impl Committer {
    /// How long each commit took, in microseconds.
    async fn run(self, mut client: GroupsClient<Channel>) -> anyhow::Result<Vec<u64>> {
        let mut micros = Vec::new();
        let mut offset = 0;
        loop {
            let sent = Instant::now();
            if sent >= self.until {
                return Ok(micros);
            }
            offset += 1;
            let request = CommitOffsetsRequest {
                group: self.group.clone(),
                member_id: self.member_id.clone(),
                member_epoch: self.state.lock().epoch,
                topics: vec![CommitTopicOffsets {
                    topic_id: self.topic_id.clone(),
                    partitions: vec![CommitPartitionOffset {
                        partition: self.partition,
                        offset,
                        ..CommitPartitionOffset::default()
                    }],
                    ..CommitTopicOffsets::default()
                }],
                rewind: false,
            };
            let answer = client.commit_offsets(request).await?.into_inner();
            match &answer.partitions[..] {
                [outcome] if outcome.error.is_none() => {}
                other => bail!("a commit was refused: {other:?}"),
            }
            let done = Instant::now();
            if sent >= self.counts_from && done <= self.until {
                micros.push(u64::try_from((done - sent).as_micros())?);
            }
        }
    }
}

/// Names of groups that one coordinator has.
fn names(groups: usize, partitions: u32) -> Vec<String> {
    let all = (0..).map(|number| format!("load-{number}"));
    all.filter(|name| group_partition(name, partitions) == 0)
        .take(groups)
        .collect()
}
