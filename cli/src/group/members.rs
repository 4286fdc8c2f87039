//! A group's members for people and programs, and which partition is whose.

use std::collections::HashMap;

use bytes::Bytes;
use millrace_client::v1::{GroupMember, GroupMemberState, TopicPartitions};
use serde::Serialize;

use super::{partitions, topic_name};
use crate::output::{TextTable, uuid};

/// A member.
#[derive(Serialize)]
pub struct Member {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub host: String,
    pub rack: String,
    pub member_epoch: i32,
    pub state: &'static str,
    /// What it may use.
    pub assigned: Vec<Partitions>,
    /// What it is yet to give back.
    pub revoking: Vec<Partitions>,
    /// What it shall have in the end.
    pub target: Vec<Partitions>,
    #[serde(skip)]
    cells: [String; 3],
}

/// Partitions of a topic.
#[derive(Serialize)]
pub struct Partitions {
    topic: String,
    topic_id: String,
    partitions: Vec<i32>,
}

fn listed(topics: &[TopicPartitions]) -> Vec<Partitions> {
    let each = topics.iter().map(|topic| Partitions {
        topic: topic.topic.clone(),
        topic_id: uuid(&topic.topic_id),
        partitions: topic.partitions.clone(),
    });
    each.collect()
}

impl From<&GroupMember> for Member {
    fn from(member: &GroupMember) -> Self {
        Self {
            member_id: member.member_id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            host: member.client_host.clone(),
            rack: member.rack.clone(),
            member_epoch: member.member_epoch,
            state: state(member.state),
            assigned: listed(&member.assigned),
            revoking: listed(&member.revoking),
            target: listed(&member.target),
            cells: [&member.assigned, &member.revoking, &member.target].map(|topics| partitions(topics)),
        }
    }
}

fn state(state: i32) -> &'static str {
    match GroupMemberState::try_from(state) {
        Ok(GroupMemberState::Stable) => "stable",
        Ok(GroupMemberState::Revoking) => "revoking",
        Ok(GroupMemberState::Waiting) => "waiting",
        Ok(GroupMemberState::Left) => "left",
        Ok(GroupMemberState::Fenced) => "fenced",
        Ok(GroupMemberState::Unspecified) | Err(_) => "unknown",
    }
}

/// A table of them.
pub fn table(members: &[Member]) -> String {
    let header = [
        "MEMBER", "INSTANCE", "CLIENT", "HOST", "RACK", "EPOCH", "STATE", "ASSIGNED", "REVOKING", "TARGET",
    ];
    let or_none = |text: &str| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut table = TextTable::new(&header).right(&[5]);
    for member in members {
        let [assigned, revoking, target] = member.cells.clone();
        table.row([
            member.member_id.clone(),
            or_none(member.instance_id.as_deref().unwrap_or("")),
            or_none(&member.client_id),
            or_none(&member.host),
            or_none(&member.rack),
            member.member_epoch.to_string(),
            member.state.to_owned(),
            assigned,
            revoking,
            target,
        ]);
    }
    table.render()
}

/// Which member uses which partition, by the topic's id and number.
pub struct Holders<'a>(HashMap<(Bytes, i32), (&'a GroupMember, String)>);

impl<'a> Holders<'a> {
    pub fn of(members: &'a [GroupMember]) -> Self {
        let mut holders = HashMap::new();
        for member in members {
            for topic in member.assigned.iter().chain(&member.revoking) {
                for &partition in &topic.partitions {
                    let name = topic_name(&topic.topic, &topic.topic_id);
                    holders.insert((topic.topic_id.clone(), partition), (member, name));
                }
            }
        }
        Self(holders)
    }

    /// Whose it is: the instance, for a static member, else the member's id.
    pub fn take(&mut self, topic_id: &Bytes, partition: i32) -> Option<String> {
        self.0
            .remove(&(topic_id.clone(), partition))
            .map(|(member, _)| name(member))
    }

    /// What is used and was not taken: topic, its id, partition, whose it is; sorted.
    pub fn rest(self) -> Vec<(String, Bytes, i32, String)> {
        let mut rest: Vec<_> = self
            .0
            .into_iter()
            .map(|((topic_id, partition), (member, topic))| (topic, topic_id, partition, name(member)))
            .collect();
        rest.sort_unstable();
        rest
    }
}

fn name(member: &GroupMember) -> String {
    let instance = member.instance_id.as_ref().filter(|instance| !instance.is_empty());
    instance.unwrap_or(&member.member_id).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, instance: Option<&str>, assigned: &[i32], revoking: &[i32]) -> GroupMember {
        let of = |partitions: &[i32]| {
            vec![TopicPartitions {
                topic: "t".into(),
                topic_id: vec![1; 16].into(),
                partitions: partitions.to_vec(),
            }]
        };
        GroupMember {
            member_id: id.into(),
            instance_id: instance.map(str::to_owned),
            client_id: "app".into(),
            member_epoch: 3,
            assigned: of(assigned),
            revoking: of(revoking),
            state: GroupMemberState::Revoking.into(),
            ..GroupMember::default()
        }
    }

    #[test]
    fn what_is_to_be_given_back_is_still_its_member_s() {
        let members = [
            member("m1", None, &[0], &[2]),
            member("m2", Some("pod-0"), &[1, 3], &[]),
        ];
        let mut holders = Holders::of(&members);
        let id = Bytes::from(vec![1; 16]);
        assert_eq!(holders.take(&id, 0).as_deref(), Some("m1"));
        assert_eq!(holders.take(&id, 2).as_deref(), Some("m1"));
        assert_eq!(holders.take(&id, 1).as_deref(), Some("pod-0"));
        assert_eq!(
            holders.take(&Bytes::from(vec![2; 16]), 3),
            None,
            "another topic of that name"
        );
        let rest = holders.rest();
        assert_eq!(rest, [("t".to_owned(), id, 3, "pod-0".to_owned())]);
    }

    #[test]
    fn members_are_a_table() {
        let members = [Member::from(&member("m1", None, &[0, 1], &[2]))];
        let table = table(&members);
        let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            cells,
            ["m1", "-", "app", "-", "-", "3", "revoking", "t[0,1]", "t[2]", "-"]
        );
    }
}
