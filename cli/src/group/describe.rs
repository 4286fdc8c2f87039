//! `millrace group describe`.

use millrace_client::{
    Admin,
    v1::{DescribeGroupResponse, GroupAssignor, GroupOffset, group_offset::Position},
};
use serde::Serialize;

use super::{
    members::{self, Holders, Member},
    refused, state, topic_name,
};
use crate::output::{OutputFormat, TextTable, count, duration_ms, fields, millis, tell, time_ms, uuid};

/// Show how far a group has read, how much is left, and its members.
///
/// COMMITTED is the next offset to read. LAG counts the messages from there to END; offsets that compaction
/// has emptied are counted as well. TIME LAG is for how long the oldest of them has been waiting, or the first
/// message of its batch. A question mark stands for what the partition's leader did not tell.
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// The group's id.
    group: String,
    /// Show the members as well: where they run, and what they have, must give back and shall have.
    #[arg(long)]
    members: bool,
}

#[derive(Serialize)]
struct Group {
    group: String,
    state: &'static str,
    coordinator: i32,
    assignor: &'static str,
    group_epoch: i32,
    assignment_epoch: i32,
    member_count: i32,
    last_rebalance_reason: String,
    /// The sum over all partitions; absent where one of them is not known.
    lag: Option<i64>,
    /// The longest of all partitions; absent where one of them is not known.
    time_lag_ms: Option<i64>,
    partitions: Vec<Partition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<Member>>,
}

#[derive(Serialize)]
struct Partition {
    topic: String,
    topic_id: String,
    partition: i32,
    /// Absent: nothing was committed.
    committed: Option<i64>,
    leader_epoch: Option<i32>,
    metadata: Option<String>,
    committed_at: Option<String>,
    /// Where the group begins is being looked up.
    pending: bool,
    log_start: Option<i64>,
    end: Option<i64>,
    lag: Option<i64>,
    time_lag_ms: Option<i64>,
    /// Whose it is: a static member's instance id, else the member's.
    member: Option<String>,
}

/// Shows it.
pub async fn run(args: DescribeArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let named = |error| refused(&args.group, error);
    let described = admin.describe_group(&args.group).await.map_err(named)?;
    let offsets = admin.group_offsets(&args.group, Vec::new(), true).await;
    let offsets = offsets.map_err(named)?;
    let group = group(described, offsets, args.members);
    tell(format, &text(&group), &group)
}

fn group(described: DescribeGroupResponse, offsets: Vec<GroupOffset>, with_members: bool) -> Group {
    let mut holders = Holders::of(&described.members);
    let mut partitions: Vec<Partition> = offsets
        .into_iter()
        .map(|offset| {
            let member = holders.take(&offset.topic_id, offset.partition);
            partition(offset, member)
        })
        .collect();
    // A sum with an unknown part is unknown. What is used without an offset has no lag that could be told either.
    let rest = holders.rest();
    let (lag, time_lag_ms) = if rest.is_empty() {
        let longest = |longest: i64, partition: &Partition| Some(longest.max(partition.time_lag_ms?));
        (
            partitions.iter().map(|partition| partition.lag).sum(),
            partitions.iter().try_fold(0, longest),
        )
    } else {
        (None, None)
    };
    partitions.extend(rest.into_iter().map(|(topic, topic_id, number, member)| Partition {
        topic,
        topic_id: uuid(&topic_id),
        partition: number,
        committed: None,
        leader_epoch: None,
        metadata: None,
        committed_at: None,
        pending: false,
        log_start: None,
        end: None,
        lag: None,
        time_lag_ms: None,
        member: Some(member),
    }));
    partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    Group {
        state: state(described.state),
        coordinator: described.coordinator_id,
        assignor: assignor(described.assignor),
        group_epoch: described.group_epoch,
        assignment_epoch: described.assignment_epoch,
        member_count: described.member_count,
        last_rebalance_reason: described.last_rebalance_reason,
        lag,
        time_lag_ms,
        partitions,
        members: with_members.then(|| described.members.iter().map(Member::from).collect()),
        group: described.group,
    }
}

fn assignor(assignor: i32) -> &'static str {
    match GroupAssignor::try_from(assignor) {
        Ok(GroupAssignor::Uniform | GroupAssignor::Unspecified) => "uniform",
        Ok(GroupAssignor::Range) => "range",
        Err(_) => "unknown",
    }
}

fn partition(offset: GroupOffset, member: Option<String>) -> Partition {
    let pending = matches!(offset.position, Some(Position::Pending(_)));
    let committed = match offset.position {
        Some(Position::Committed(committed)) => Some(committed),
        _ => None,
    };
    Partition {
        topic: topic_name(&offset.topic, &offset.topic_id),
        topic_id: uuid(&offset.topic_id),
        partition: offset.partition,
        leader_epoch: committed.as_ref().and_then(|committed| committed.leader_epoch),
        committed_at: committed
            .as_ref()
            .and_then(|committed| committed.committed_at)
            .and_then(|time| time_ms(time.seconds.checked_mul(1_000)? + i64::from(time.nanos / 1_000_000))),
        committed: committed.as_ref().map(|committed| committed.offset),
        metadata: committed
            .map(|committed| committed.metadata)
            .filter(|text| !text.is_empty()),
        pending,
        log_start: offset.log_start,
        end: offset.high_watermark,
        lag: offset.lag,
        time_lag_ms: offset.time_lag.and_then(millis),
        member,
    }
}

fn text(group: &Group) -> String {
    let unknown = || "unknown".to_owned();
    let mut known = vec![
        ("Group", group.group.clone()),
        ("State", group.state.to_owned()),
        ("Members", count(group.member_count)),
        ("Coordinator", format!("broker {}", group.coordinator)),
        ("Assignor", group.assignor.to_owned()),
        (
            "Epoch",
            format!("{} (assigned in {})", group.group_epoch, group.assignment_epoch),
        ),
        ("Lag", group.lag.map_or_else(unknown, count)),
        ("Time lag", group.time_lag_ms.map_or_else(unknown, duration_ms)),
    ];
    if !group.last_rebalance_reason.is_empty() {
        known.push(("Last rebalance", group.last_rebalance_reason.clone()));
    }
    let mut text = fields(&known);
    if group.partitions.is_empty() {
        text.push_str("\nIt has neither offsets nor partitions.\n");
    } else {
        text.push('\n');
        text.push_str(&table(&group.partitions));
    }
    match &group.members {
        Some(members) if !members.is_empty() => {
            text.push('\n');
            text.push_str(&members::table(members));
        }
        _ => {}
    }
    text
}

fn table(partitions: &[Partition]) -> String {
    let number = |value: Option<i64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    let header = [
        "TOPIC",
        "PARTITION",
        "COMMITTED",
        "START",
        "END",
        "LAG",
        "TIME LAG",
        "MEMBER",
    ];
    let mut table = TextTable::new(&header).right(&[1, 2, 3, 4, 5, 6]);
    for partition in partitions {
        table.row([
            partition.topic.clone(),
            partition.partition.to_string(),
            match partition.committed {
                Some(offset) => offset.to_string(),
                None if partition.pending => "pending".to_owned(),
                None => "-".to_owned(),
            },
            number(partition.log_start),
            number(partition.end),
            number(partition.lag),
            partition.time_lag_ms.map_or_else(|| "?".to_owned(), duration_ms),
            partition.member.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_client::v1::{CommittedOffset, Edge, GroupMember, GroupState, OffsetPending, TopicPartitions};

    use super::*;

    fn offset(partition: i32, position: Position, end: Option<i64>, lag: Option<i64>) -> GroupOffset {
        GroupOffset {
            topic: "orders".into(),
            topic_id: vec![1; 16].into(),
            partition,
            position: Some(position),
            high_watermark: end,
            log_start: end.map(|_| 0),
            lag,
            time_lag: lag.map(|lag| Duration::from_millis(lag.unsigned_abs() * 1_500).try_into().unwrap()),
        }
    }

    fn committed(offset: i64) -> Position {
        Position::Committed(CommittedOffset {
            offset,
            leader_epoch: Some(4),
            metadata: String::new(),
            committed_at: None,
        })
    }

    fn described(assigned: &[i32]) -> DescribeGroupResponse {
        DescribeGroupResponse {
            group: "billing".into(),
            state: GroupState::Stable.into(),
            group_epoch: 7,
            assignment_epoch: 7,
            member_count: 1,
            members: vec![GroupMember {
                member_id: "m1".into(),
                assigned: vec![TopicPartitions {
                    topic: "orders".into(),
                    topic_id: vec![1; 16].into(),
                    partitions: assigned.to_vec(),
                }],
                ..GroupMember::default()
            }],
            last_rebalance_reason: "a member joined".into(),
            ..DescribeGroupResponse::default()
        }
    }

    #[test]
    fn a_group_as_people_see_it() {
        let offsets = vec![
            offset(0, committed(10), Some(12), Some(2)),
            offset(1, Position::BeginsAt(Edge::Beginning.into()), Some(5), Some(5)),
        ];
        let group = group(described(&[0]), offsets, false);
        assert_eq!(
            text(&group),
            "Group:           billing\n\
             State:           stable\n\
             Members:         1\n\
             Coordinator:     broker 0\n\
             Assignor:        uniform\n\
             Epoch:           7 (assigned in 7)\n\
             Lag:             7\n\
             Time lag:        7s500ms\n\
             Last rebalance:  a member joined\n\
             \n\
             TOPIC    PARTITION   COMMITTED   START   END   LAG   TIME LAG   MEMBER\n\
             orders           0          10       0    12     2         3s   m1\n\
             orders           1           -       0     5     5    7s500ms   -\n"
        );
    }

    #[test]
    fn what_is_not_known_is_not_zero() {
        let offsets = vec![
            offset(0, committed(10), None, None),
            offset(1, Position::Pending(OffsetPending {}), Some(5), None),
        ];
        let group = group(described(&[0, 2]), offsets, true);
        assert_eq!((group.lag, group.time_lag_ms), (None, None));
        let text = text(&group);
        assert!(text.contains("\nLag:             unknown\n"), "{text}");
        assert!(text.contains("\nTime lag:        unknown\n"), "{text}");
        let table = table(&group.partitions);
        let rows: Vec<Vec<&str>> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0], ["orders", "0", "10", "?", "?", "?", "?", "m1"]);
        assert_eq!(rows[1], ["orders", "1", "pending", "0", "5", "?", "?", "-"]);
        assert_eq!(
            rows[2],
            ["orders", "2", "-", "?", "?", "?", "?", "m1"],
            "assigned, without an offset"
        );
        assert!(text.contains("MEMBER"), "{text}");
        assert_eq!(group.members.as_ref().map(Vec::len), Some(1));
    }

    #[test]
    fn used_partitions_without_an_offset_make_the_sum_unknown() {
        let offsets = vec![offset(0, committed(10), Some(12), Some(2))];
        assert_eq!(group(described(&[0, 1]), offsets.clone(), false).lag, None);
        assert_eq!(group(described(&[0]), offsets, false).lag, Some(2));
    }
}
