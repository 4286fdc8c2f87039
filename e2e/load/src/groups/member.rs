//! A member that takes what it is given at once, and gives back at once: it reads nothing.

use std::sync::Arc;

use anyhow::{Context, bail};
use millrace_proto::v1::{
    HeartbeatAnswer, HeartbeatRequest, MemberSettings, OwnedPartitions, TopicPartitions, groups_client::GroupsClient,
    heartbeat_response::Result as Said,
};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// What a member is at present.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The epoch of its last answer; 0: none came.
    pub epoch: i32,
    /// What it has.
    pub has: Vec<TopicPartitions>,
    /// All epochs that it had, in their order.
    pub epochs: Vec<i32>,
    /// How many answers it got.
    pub answers: u64,
}

/// A member to be.
#[derive(Debug)]
pub struct Member {
    /// Its group.
    pub group: String,
    /// Its id.
    pub id: String,
    /// What it reads.
    pub topic: String,
    /// What others look at.
    pub state: Arc<Mutex<State>>,
}

impl Member {
    /// Joins, and stays until its stream breaks, which is an error.
    pub async fn run(self, mut client: GroupsClient<Channel>) -> anyhow::Result<()> {
        let (requests, queue) = mpsc::channel(2);
        let mut next = HeartbeatRequest {
            group: self.group.clone(),
            member_id: self.id.clone(),
            settings: Some(MemberSettings {
                topics: vec![self.topic.clone()],
                // The longest: who is slow here is not dead.
                session_timeout: Some(prost_types::Duration {
                    seconds: 30 * 60,
                    nanos: 0,
                }),
                ..MemberSettings::default()
            }),
            owned: Some(OwnedPartitions::default()),
            ..HeartbeatRequest::default()
        };
        requests.send(next.clone()).await?;
        next.settings = None;
        let mut said = client.heartbeat(ReceiverStream::new(queue)).await?.into_inner();
        // One request at a time: when the next one is due, and whether the last one was answered.
        let (mut due, mut is_answered) = (Instant::now(), false);
        loop {
            let response = tokio::select! {
                response = said.message() => response?.context("the stream ended")?,
                () = sleep_until(due), if is_answered => {
                    is_answered = false;
                    requests.send(next.clone()).await?;
                    continue;
                }
            };
            match response.result {
                Some(Said::Answer(answer)) => {
                    is_answered = true;
                    due = Instant::now() + self.take(&mut next, answer)?;
                }
                // With the answer that is on its way, if there is one.
                Some(Said::HeartbeatNow(_)) => due = Instant::now(),
                None => bail!("the broker said nothing"),
            }
        }
    }

    /// Takes an answer; tells when to send the next request.
    fn take(&self, next: &mut HeartbeatRequest, answer: HeartbeatAnswer) -> anyhow::Result<std::time::Duration> {
        next.member_epoch = answer.member_epoch;
        next.assignment_version = answer.assignment_version;
        let interval = answer.heartbeat_interval.context("no interval")?.try_into()?;
        let mut state = self.state.lock();
        state.answers += 1;
        state.epoch = answer.member_epoch;
        if state.epochs.last() != Some(&answer.member_epoch) {
            state.epochs.push(answer.member_epoch);
        }
        let Some(assignment) = answer.assignment else {
            return Ok(interval);
        };
        state.has.clone_from(&assignment.assigned);
        next.owned = Some(OwnedPartitions {
            topics: assignment.assigned,
        });
        // What it was told to give back it has given back: it says so at once. What is new it says with its next one.
        Ok(match assignment.revoking.is_empty() {
            true => interval,
            false => std::time::Duration::ZERO,
        })
    }
}
