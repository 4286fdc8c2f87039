//! `millrace quorum describe`.

use millrace_client::{Admin, v1::DescribeQuorumResponse};
use serde::Serialize;

use crate::output::{OutputFormat, TextTable, count, duration_ms, fields, millis, plural, tell};

#[derive(Serialize)]
struct Quorum {
    leader_broker_id: Option<i32>,
    leader_voter_id: Option<i64>,
    term: i64,
    committed_index: i64,
    applied_index: i64,
    members: Vec<Member>,
}

#[derive(Serialize)]
struct Member {
    voter_id: i64,
    broker_id: Option<i32>,
    address: String,
    directory_id: String,
    votes: bool,
    leads: bool,
    lag_entries: Option<i64>,
    last_heard_ms: Option<i64>,
}

impl From<DescribeQuorumResponse> for Quorum {
    fn from(from: DescribeQuorumResponse) -> Self {
        let leader = from.leader_voter_id;
        Self {
            leader_broker_id: from.leader_broker_id,
            leader_voter_id: leader,
            term: from.term,
            committed_index: from.committed_index,
            applied_index: from.applied_index,
            members: from
                .members
                .into_iter()
                .map(|member| Member {
                    voter_id: member.voter_id,
                    broker_id: member.broker_id,
                    address: member.address,
                    directory_id: member.directory_id,
                    votes: member.is_voter,
                    leads: leader == Some(member.voter_id),
                    lag_entries: member.lag_entries,
                    last_heard_ms: member.last_heard.and_then(millis),
                })
                .collect(),
        }
    }
}

/// Shows it.
pub async fn run(admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let quorum = Quorum::from(admin.describe_quorum().await?);
    tell(format, &text(&quorum), &quorum)
}

fn text(quorum: &Quorum) -> String {
    let leader = match (quorum.leader_broker_id, quorum.leader_voter_id) {
        (Some(broker), _) => format!("broker {broker}"),
        (None, Some(voter)) => format!("voter {voter}, of no registered broker"),
        (None, None) => "none".to_owned(),
    };
    let mut text = fields(&[
        ("Leader", leader),
        ("Term", quorum.term.to_string()),
        ("Committed index", quorum.committed_index.to_string()),
        ("Survives", survives(&quorum.members)),
    ]);
    let header = ["VOTER", "BROKER", "ADDRESS", "ROLE", "LAG", "LAST HEARD"];
    let mut table = TextTable::new(&header).right(&[0, 1, 4, 5]);
    for member in &quorum.members {
        let role = match (member.leads, member.votes) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "follower without a vote",
        };
        table.row([
            member.voter_id.to_string(),
            member.broker_id.map_or_else(|| "?".to_owned(), |id| id.to_string()),
            member.address.clone(),
            role.to_owned(),
            member.lag_entries.map_or_else(|| "?".to_owned(), count),
            member.last_heard_ms.map_or_else(|| "?".to_owned(), duration_ms),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

/// How many voters may be lost without metadata standing still.
fn survives(members: &[Member]) -> String {
    let voters = members.iter().filter(|member| member.votes).count();
    let losses = voters.saturating_sub(1) / 2;
    let of = plural(voters as u64, "voter");
    match losses {
        0 if voters == 1 => format!("{of}: metadata stands still when it is down"),
        0 => format!("{of}: metadata stands still when one of them is down"),
        losses => format!("{of}: metadata goes on with {losses} of them down"),
    }
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::QuorumMember;

    use super::*;

    fn quorum(voters: i64, leader: Option<i64>) -> Quorum {
        DescribeQuorumResponse {
            leader_voter_id: leader,
            leader_broker_id: leader.map(|id| i32::try_from(id).unwrap() + 10),
            term: 3,
            members: (0..voters)
                .map(|voter_id| QuorumMember {
                    voter_id,
                    is_voter: true,
                    lag_entries: leader.map(|_| 0),
                    ..QuorumMember::default()
                })
                .collect(),
            ..DescribeQuorumResponse::default()
        }
        .into()
    }

    #[test]
    fn it_says_what_the_quorum_survives() {
        let survives = |voters| super::survives(&quorum(voters, None).members);
        assert_eq!(survives(1), "1 voter: metadata stands still when it is down");
        assert_eq!(survives(2), "2 voters: metadata stands still when one of them is down");
        assert_eq!(survives(3), "3 voters: metadata goes on with 1 of them down");
        assert_eq!(survives(5), "5 voters: metadata goes on with 2 of them down");
    }

    #[test]
    fn what_only_the_leader_knows_is_unknown_without_it() {
        let with = text(&quorum(3, Some(1)));
        assert!(with.contains("Leader:           broker 11\n"), "{with}");
        assert!(
            with.lines().any(|line| line.contains("leader") && line.contains(" 0 ")),
            "{with}"
        );
        let without = text(&quorum(3, None));
        assert!(without.contains("Leader:           none\n"), "{without}");
        assert_eq!(without.matches('?').count(), 9, "{without}");
    }
}
