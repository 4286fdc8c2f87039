//! A join storm: from the first join until all members have what they shall have.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use millrace_proto::v1::{DescribeGroupRequest, GroupState, groups_client::GroupsClient};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::transport::Channel;

use crate::member::{Member, State};

/// How often the group is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What joins.
#[derive(Debug, clap::Args)]
pub struct StormArgs {
    /// The group.
    #[arg(long)]
    group: String,
    /// What they read. It must exist, with as many partitions as there are members, or more.
    #[arg(long)]
    topic: String,
    /// How many partitions it has.
    #[arg(long)]
    partitions: usize,
    /// How many members join.
    #[arg(long, default_value_t = 1_000)]
    members: usize,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 120)]
    patience: u64,
}

/// Has them join; fails if in the end a partition has not exactly one member, or a member none.
pub async fn run(clients: &[GroupsClient<Channel>], args: StormArgs) -> anyhow::Result<serde_json::Value> {
    let states: Vec<Arc<Mutex<State>>> = (0..args.members).map(|_| Arc::default()).collect();
    let mut members = JoinSet::new();
    let began = Instant::now();
    for ((number, state), client) in states.iter().enumerate().zip(clients.iter().cycle()) {
        let member = Member {
            group: args.group.clone(),
            id: format!("member-{number}"),
            topic: args.topic.clone(),
            state: state.clone(),
        };
        members.spawn(member.run(client.clone()));
    }
    let mut client = clients.first().context("no connection")?.clone();
    let stable = stable(&mut client, &args, &states, began);
    let group_epoch = tokio::select! {
        ended = members.join_next() => match ended {
            Some(Ok(Err(error))) => return Err(error.context("a member's stream ended")),
            _ => bail!("a member ended"),
        },
        stable = stable => stable?,
    };
    let seconds = began.elapsed().as_secs_f64();
    let epochs: BTreeSet<i32> = states.iter().flat_map(|state| state.lock().epochs.clone()).collect();
    let answers: u64 = states.iter().map(|state| state.lock().answers).sum();
    Ok(serde_json::json!({
        "members": args.members,
        "partitions": args.partitions,
        "seconds": seconds,
        "group_epoch": group_epoch,
        "member_epochs": epochs.len(),
        "answers": answers,
    }))
}

/// Waits until the group is stable with all members, and all have been told what they have; answers with its epoch.
async fn stable(
    client: &mut GroupsClient<Channel>,
    args: &StormArgs,
    states: &[Arc<Mutex<State>>],
    began: Instant,
) -> anyhow::Result<i32> {
    let mut problem = "it has no members".to_owned();
    loop {
        let request = DescribeGroupRequest {
            group: args.group.clone(),
            page_size: 1,
            ..DescribeGroupRequest::default()
        };
        let described = client.describe_group(request).await;
        // It may not have its first member yet.
        if let Ok(described) = &described {
            let described = described.get_ref();
            let count = usize::try_from(described.member_count)?;
            // Answers may be on their way yet.
            match check(states, args.partitions) {
                Ok(()) if described.state() == GroupState::Stable && count == args.members => {
                    return Ok(described.group_epoch);
                }
                Ok(()) => problem = format!("{:?} with {count} members", described.state()),
                Err(error) => problem = error.to_string(),
            }
        }
        ensure!(
            began.elapsed() < Duration::from_secs(args.patience),
            "not stable after {} s: {problem}",
            args.patience
        );
        sleep(LOOK_EVERY).await;
    }
}

/// Each partition has one member, each member as many as another, one more or less.
fn check(states: &[Arc<Mutex<State>>], partitions: usize) -> anyhow::Result<()> {
    let mut owners: HashMap<i32, usize> = HashMap::new();
    for (number, state) in states.iter().enumerate() {
        let state = state.lock();
        let mut count = 0;
        for partition in state.has.iter().flat_map(|topic| &topic.partitions) {
            count += 1;
            if let Some(other) = owners.insert(*partition, number) {
                bail!("members {other} and {number} both have partition {partition}");
            }
        }
        let least = partitions / states.len();
        ensure!(
            (least..=least + 1).contains(&count),
            "member {number} has {count} partitions of {partitions}"
        );
    }
    ensure!(
        owners.len() == partitions,
        "{} of {partitions} partitions have a member",
        owners.len()
    );
    Ok(())
}
