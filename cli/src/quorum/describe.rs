//! `millrace quorum describe`.

use millrace_client::{Admin, v1::DescribeQuorumResponse};
use serde::Serialize;

use crate::output::{OutputFormat, TextTable, count, duration_ms, fields, millis, plural, tell};

/// A voter that the leader has not heard for so long counts as down, as for the brokers themselves: twice what it takes them
/// to look for another leader.
const UNHEARD_AFTER_MS: i64 = 2_000;

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
        ("At the moment", now(quorum)),
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

/// How many more voters may be lost as things stand.
fn now(quorum: &Quorum) -> String {
    if quorum.leader_voter_id.is_none() {
        return "metadata stands still: no leader is known; start the brokers that vote and are down".to_owned();
    }
    let voters: Vec<&Member> = quorum.members.iter().filter(|member| member.votes).collect();
    let is_heard = |member: &Member| member.leads || member.last_heard_ms.is_some_and(|ms| ms <= UNHEARD_AFTER_MS);
    let (heard, silent): (Vec<&Member>, Vec<&Member>) = voters.iter().partition(|member| is_heard(member));
    let spare = heard.len().saturating_sub(voters.len() / 2 + 1);
    let goes_on = match spare {
        0 => "metadata stands still when one more is down".to_owned(),
        more => format!("metadata goes on with {more} more of them down"),
    };
    if silent.is_empty() {
        return format!("all of them are heard; {}", goes_on.replace(" more", ""));
    }
    let named: Vec<String> = silent
        .iter()
        .map(|member| match member.broker_id {
            Some(id) => format!("broker {id}"),
            None => format!("voter {}", member.voter_id),
        })
        .collect();
    format!("{} not heard: {goes_on}", named.join(", "))
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
    fn it_says_how_many_more_may_go_now() {
        let now = |heard: &[i64]| {
            let mut quorum = quorum(i64::try_from(heard.len()).unwrap(), Some(0));
            for (member, ms) in quorum.members.iter_mut().zip(heard) {
                member.last_heard_ms = Some(*ms);
            }
            super::now(&quorum)
        };
        assert_eq!(
            now(&[0, 100, 90]),
            "all of them are heard; metadata goes on with 1 of them down"
        );
        assert_eq!(
            now(&[0]),
            "all of them are heard; metadata stands still when one is down"
        );
        assert_eq!(
            now(&[0, 2_127, 90]),
            "voter 1 not heard: metadata stands still when one more is down"
        );
        assert_eq!(
            now(&[0, 90, 90, 90, 60_000]),
            "voter 4 not heard: metadata goes on with 1 more of them down"
        );
        assert!(super::now(&quorum(3, None)).starts_with("metadata stands still: no leader"));
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
