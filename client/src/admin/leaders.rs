//! Details that only the leaders of partitions know, put into descriptions that another broker gave.

use std::collections::{BTreeMap, BTreeSet};

use millrace_proto::v1::{self, admin_client::AdminClient};
use tokio::{task::JoinSet, time::Instant};
use tonic::transport::Channel;

use super::Admin;
use crate::{error::Error, limits, offsets::within};

type Answers<T> = BTreeMap<i32, Result<T, Error>>;

/// Asks each of these brokers, all at once and not for long.
async fn ask_each<T, F>(admin: &Admin, brokers: BTreeSet<i32>, call: impl Fn(AdminClient<Channel>) -> F) -> Answers<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let wait = limits::DETAIL_WAIT.min(admin.client.inner.request_timeout);
    let deadline = Instant::now() + wait;
    let mut answers = Answers::new();
    let mut asked = JoinSet::new();
    for broker in brokers {
        let Some(address) = admin.address_of(broker) else {
            answers.insert(broker, Err(Error::invalid("Its address is not known.")));
            continue;
        };
        match admin.client.inner.connections.admin(&address) {
            Ok(connection) => {
                let answer = within(deadline, call(connection));
                asked.spawn(async move { (broker, answer.await) });
            }
            Err(error) => {
                answers.insert(broker, Err(error));
            }
        }
    }
    while let Some(done) = asked.join_next().await {
        if let Ok((broker, answer)) = done {
            answers.insert(broker, answer);
        }
    }
    answers
}

/// Adds offsets and sizes of the partitions that other brokers lead.
pub async fn complete_topic(admin: &Admin, request: &v1::DescribeTopicRequest, topic: &mut v1::DescribeTopicResponse) {
    let leaders = topic
        .partitions
        .iter()
        .filter(|partition| is_incomplete(partition))
        .filter_map(|partition| partition.leader_id)
        .collect();
    let answers = ask_each(admin, leaders, |mut admin| {
        let request = request.clone();
        async move { Ok(admin.describe_topic(request).await?.into_inner()) }
    })
    .await;
    merge_topic(topic, &answers);
}

fn is_incomplete(partition: &v1::PartitionDescription) -> bool {
    partition.log_end.is_none() && partition.problem.is_empty()
}

fn merge_topic(topic: &mut v1::DescribeTopicResponse, answers: &Answers<v1::DescribeTopicResponse>) {
    let id = |of: &v1::DescribeTopicResponse| of.topic.as_ref().map(|topic| topic.topic_id.clone());
    let own_id = id(topic);
    for partition in topic.partitions.iter_mut().filter(|partition| is_incomplete(partition)) {
        let Some((leader, answer)) = partition.leader_id.and_then(|id| Some((id, answers.get(&id)?))) else {
            continue;
        };
        match answer {
            Ok(told) if id(told) == own_id => {
                let mut told = told.partitions.iter();
                if let Some(known) = told.find(|known| known.partition == partition.partition && !is_incomplete(known))
                {
                    partition.log_start = known.log_start;
                    partition.high_watermark = known.high_watermark;
                    partition.log_end = known.log_end;
                    partition.size_bytes = known.size_bytes;
                    partition.problem.clone_from(&known.problem);
                }
            }
            // Deleted and created anew meanwhile: nothing of it belongs here.
            Ok(_) => {}
            Err(error) => partition.problem = format!("its leader, broker {leader}, did not answer: {error}"),
        }
    }
}

/// Adds how far the replicas are that moves add, where other brokers lead.
pub async fn complete_reassignments(
    admin: &Admin,
    request: &v1::ListReassignmentsRequest,
    moves: &mut [v1::Reassignment],
) {
    let leaders = moves
        .iter()
        .filter(|one| one.leader_log_end.is_none())
        .filter_map(|one| one.leader_id)
        .collect();
    let answers = ask_each(admin, leaders, |mut admin| {
        let request = request.clone();
        async move { Ok(admin.list_reassignments(request).await?.into_inner()) }
    })
    .await;
    merge_reassignments(moves, &answers);
}

fn merge_reassignments(moves: &mut [v1::Reassignment], answers: &Answers<v1::ListReassignmentsResponse>) {
    for one in moves.iter_mut().filter(|one| one.leader_log_end.is_none()) {
        let Some(Ok(answer)) = one.leader_id.and_then(|id| answers.get(&id)) else {
            continue;
        };
        let mut told = answer.reassignments.iter();
        if let Some(known) = told.find(|known| known.topic == one.topic && known.partition == one.partition) {
            one.leader_log_end = known.leader_log_end;
            one.progress.clone_from(&known.progress);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(id: u8, partitions: Vec<v1::PartitionDescription>) -> v1::DescribeTopicResponse {
        v1::DescribeTopicResponse {
            topic: Some(v1::TopicSummary {
                topic_id: vec![id; 16].into(),
                ..v1::TopicSummary::default()
            }),
            partitions,
            configs: Vec::new(),
        }
    }

    fn partition(number: i32, leader: Option<i32>, end: Option<i64>) -> v1::PartitionDescription {
        v1::PartitionDescription {
            partition: number,
            leader_id: leader,
            log_end: end,
            ..v1::PartitionDescription::default()
        }
    }

    #[test]
    fn each_partition_is_completed_by_its_own_leader() {
        let mut described = topic(
            1,
            vec![
                partition(0, Some(1), Some(5)),
                partition(1, Some(2), None),
                partition(2, Some(3), None),
                partition(3, None, None),
                partition(4, Some(4), None),
            ],
        );
        let told = topic(1, vec![partition(0, Some(1), None), partition(1, Some(2), Some(7))]);
        let other = topic(2, vec![partition(4, Some(4), Some(9))]);
        let answers = Answers::from([(2, Ok(told)), (3, Err(Error::invalid("gone"))), (4, Ok(other))]);
        merge_topic(&mut described, &answers);
        let ends: Vec<Option<i64>> = described.partitions.iter().map(|partition| partition.log_end).collect();
        assert_eq!(ends, [Some(5), Some(7), None, None, None]);
        assert_eq!(
            described.partitions[2].problem,
            "its leader, broker 3, did not answer: gone"
        );
        assert_eq!(described.partitions[4].problem, "", "the topic there is another one");
    }

    #[test]
    fn progress_comes_from_the_leader() {
        let one = |end, log_end| v1::Reassignment {
            topic: "t".into(),
            partition: 1,
            leader_id: Some(2),
            leader_log_end: end,
            progress: vec![v1::ReplicaProgress {
                broker_id: 3,
                log_end,
                in_sync: false,
            }],
            ..v1::Reassignment::default()
        };
        let mut moves = [one(None, None)];
        let answer = v1::ListReassignmentsResponse {
            reassignments: vec![one(Some(10), Some(4))],
            next_page_token: String::new(),
        };
        merge_reassignments(&mut moves, &Answers::from([(2, Ok(answer))]));
        assert_eq!(moves[0], one(Some(10), Some(4)));
    }
}
