//! Moves of partitions: those that were begun, and how far they are.

use millrace_client::{
    Admin,
    v1::{PlannedMoves, Reassignment},
};
use serde::Serialize;

use crate::{
    limits,
    output::{TextTable, bytes, count, ids, plural},
    progress::{Left, Unit},
};

/// Moves of a plan that a person is shown; programs get all that the broker names.
const SHOWN_MOVES: usize = 20;

/// Moves that were begun, or would be.
#[derive(Serialize)]
pub struct Planned {
    partitions: i32,
    replicas_to_copy: i32,
    /// The first of them.
    moves: Vec<PlannedMove>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<String>,
}

#[derive(Serialize)]
struct PlannedMove {
    topic: String,
    partition: i32,
    from: Vec<i32>,
    to: Vec<i32>,
}

impl From<PlannedMoves> for Planned {
    fn from(from: PlannedMoves) -> Self {
        Self {
            partitions: from.partitions,
            replicas_to_copy: from.replicas_to_copy,
            moves: from
                .first
                .into_iter()
                .map(|one| PlannedMove {
                    topic: one.topic,
                    partition: one.partition,
                    from: one.from,
                    to: one.to,
                })
                .collect(),
            notices: from.notices,
        }
    }
}

impl Planned {
    /// Whether nothing moves.
    pub fn is_empty(&self) -> bool {
        self.partitions == 0
    }

    /// `2 partitions move, 3 replicas are copied`.
    pub fn summary(&self) -> String {
        if self.is_empty() {
            return "nothing to move".to_owned();
        }
        let partitions = plural(u64::from(self.partitions.unsigned_abs()), "partition");
        let verb = if self.partitions == 1 { "moves" } else { "move" };
        let replicas = match self.replicas_to_copy {
            0 => "no data is copied".to_owned(),
            1 => "1 replica is copied".to_owned(),
            many => format!("{} replicas are copied", count(many)),
        };
        format!("{partitions} {verb}, {replicas}")
    }

    /// The moves as a table, and what should be known.
    pub fn details(&self) -> String {
        let mut text = String::new();
        if !self.moves.is_empty() {
            let mut table = TextTable::new(&["TOPIC", "PARTITION", "FROM", "TO"]).right(&[1]);
            for one in self.moves.iter().take(SHOWN_MOVES) {
                table.row([
                    one.topic.clone(),
                    one.partition.to_string(),
                    ids(&one.from),
                    ids(&one.to),
                ]);
            }
            text.push_str(&table.render());
        }
        let shown = self.moves.len().min(SHOWN_MOVES);
        let more = usize::try_from(self.partitions).unwrap_or(0).saturating_sub(shown);
        if shown > 0 && more > 0 {
            text.push_str(&format!("and {} more\n", count(more as i64)));
        }
        text + &self.notices()
    }

    /// What should be known.
    pub fn notices(&self) -> String {
        let mut text = String::new();
        for notice in &self.notices {
            text.push_str(&format!("note: {notice}\n"));
        }
        text
    }
}

/// A move under way, for programs.
#[derive(Serialize)]
pub struct Move {
    topic: String,
    partition: i32,
    leader: Option<i32>,
    from: Vec<i32>,
    to: Vec<i32>,
    adding: Vec<i32>,
    removing: Vec<i32>,
    in_sync_replicas: Vec<i32>,
    leader_log_end: Option<i64>,
    /// Absent: as fast as possible.
    throttle_bytes_per_second: Option<i64>,
    replicas: Vec<Replica>,
}

#[derive(Serialize)]
struct Replica {
    broker_id: i32,
    log_end: Option<i64>,
    in_sync: bool,
}

impl Replica {
    /// How many percent of the leader's log it has; `None` if that is not known.
    fn percent(&self, leader_log_end: Option<i64>) -> Option<u64> {
        match (self.in_sync, self.log_end, leader_log_end) {
            (true, ..) | (false, Some(_), Some(..=0)) => Some(100),
            (false, Some(at), Some(end)) => u64::try_from(100 * i128::from(at.clamp(0, end)) / i128::from(end)).ok(),
            _ => None,
        }
    }
}

impl From<Reassignment> for Move {
    fn from(from: Reassignment) -> Self {
        Self {
            topic: from.topic,
            partition: from.partition,
            leader: from.leader_id,
            from: from.original_replicas,
            to: from.target_replicas,
            adding: from.adding_replicas,
            removing: from.removing_replicas,
            in_sync_replicas: from.in_sync_replicas,
            leader_log_end: from.leader_log_end,
            throttle_bytes_per_second: Some(from.throttle_bytes_per_second).filter(|rate| *rate > 0),
            replicas: from
                .progress
                .into_iter()
                .map(|one| Replica {
                    broker_id: one.broker_id,
                    log_end: one.log_end,
                    in_sync: one.in_sync,
                })
                .collect(),
        }
    }
}

impl Move {
    /// Whether anything is left to do.
    pub fn is_under_way(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// How far the replicas are that it adds: `broker 3: 40 % (400 of 1,000)`.
    pub fn progress(&self) -> String {
        if self.leader.is_none() {
            return "stands still: the partition has no leader".to_owned();
        }
        let mut replicas: Vec<String> = self
            .replicas
            .iter()
            .map(|replica| {
                let id = replica.broker_id;
                let percent = replica.percent(self.leader_log_end);
                match (percent, replica.log_end.zip(self.leader_log_end)) {
                    _ if replica.in_sync => format!("broker {id}: in sync"),
                    (Some(percent), Some((at, end))) => {
                        format!("broker {id}: {percent} % ({} of {})", count(at), count(end))
                    }
                    _ => format!("broker {id}: copying"),
                }
            })
            .collect();
        if replicas.is_empty() {
            return "waits for replicas to be in sync".to_owned();
        }
        if let Some(rate) = self.throttle_bytes_per_second {
            replicas.push(format!("at most {} a second", bytes(rate.unsigned_abs())));
        }
        replicas.join(", ")
    }
}

/// How many hundredths of the moves are left, each replica that is copied being one move.
fn hundredths_left(moves: &[Move]) -> u64 {
    let left_of = |one: &Move| {
        let done = one
            .replicas
            .iter()
            .map(|replica| replica.percent(one.leader_log_end).unwrap_or(0));
        // Where nothing is copied it waits all the same.
        if one.replicas.is_empty() {
            100
        } else {
            done.map(|percent| 100 - percent).sum()
        }
    };
    moves.iter().map(left_of).sum()
}

/// Moves as a table.
pub fn table(moves: &[Move]) -> String {
    let mut table = TextTable::new(&["TOPIC", "PARTITION", "FROM", "TO", "IN SYNC", "PROGRESS"]).right(&[1]);
    for one in moves {
        table.row([
            one.topic.clone(),
            one.partition.to_string(),
            ids(&one.from),
            ids(&one.to),
            ids(&one.in_sync_replicas),
            one.progress(),
        ]);
    }
    table.render()
}

/// Waits until a topic's moves are done, or one of its partitions'; shows how far they are where a
/// person watches.
pub async fn wait(admin: &Admin, topic: &str, partition: Option<i32>) -> anyhow::Result<()> {
    let mut bar = Left::new(Unit::Hundredths);
    loop {
        let moves: Vec<Move> = admin
            .list_reassignments(Some(topic))
            .await?
            .into_iter()
            .filter(|one| partition.is_none_or(|only| only == one.partition))
            .map(Move::from)
            .collect();
        let message = match &moves[..] {
            [] => return Ok(()),
            [one] => format!("{topic}-{}: {}", one.partition, one.progress()),
            [first, ..] => format!(
                "{} partitions of {topic} move; {topic}-{}: {}",
                count(moves.len() as i64),
                first.partition,
                first.progress()
            ),
        };
        bar.show(hundredths_left(&moves), &message);
        tokio::time::sleep(limits::MOVE_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::{PlannedMove as Told, ReplicaProgress};

    use super::*;

    fn planned(partitions: i32, copied: i32, named: usize) -> Planned {
        PlannedMoves {
            partitions,
            replicas_to_copy: copied,
            first: vec![
                Told {
                    topic: "t".into(),
                    partition: 7,
                    from: vec![1],
                    to: vec![2],
                };
                named
            ],
            notices: vec!["Two racks are too few.".into()],
        }
        .into()
    }

    fn one(progress: Vec<(i32, Option<i64>, bool)>, end: Option<i64>) -> Move {
        Reassignment {
            topic: "t".into(),
            leader_id: Some(1),
            adding_replicas: vec![3],
            leader_log_end: end,
            progress: progress
                .into_iter()
                .map(|(broker_id, log_end, in_sync)| ReplicaProgress {
                    broker_id,
                    log_end,
                    in_sync,
                })
                .collect(),
            ..Reassignment::default()
        }
        .into()
    }

    #[test]
    fn a_plan_says_how_much_it_is() {
        assert_eq!(planned(0, 0, 0).summary(), "nothing to move");
        assert_eq!(planned(1, 1, 1).summary(), "1 partition moves, 1 replica is copied");
        assert_eq!(
            planned(2_000, 3_000, 30).summary(),
            "2,000 partitions move, 3,000 replicas are copied"
        );
        assert_eq!(planned(2, 0, 2).summary(), "2 partitions move, no data is copied");
    }

    #[test]
    fn a_long_plan_is_shown_in_part() {
        let details = planned(2_000, 3_000, 30).details();
        assert_eq!(
            details.lines().filter(|line| line.starts_with('t')).count(),
            SHOWN_MOVES
        );
        assert!(details.contains("\nand 1,980 more\n"), "{details}");
        assert!(details.ends_with("note: Two racks are too few.\n"), "{details}");
    }

    #[test]
    fn what_is_left_is_counted_by_replicas_that_are_copied() {
        let half = || one(vec![(3, Some(500), false), (4, None, true)], Some(1_000));
        assert_eq!(hundredths_left(&[half()]), 50, "one has half of it, the other all");
        assert_eq!(hundredths_left(&[half(), one(vec![(3, None, false)], None)]), 150);
        assert_eq!(
            hundredths_left(&[one(vec![(3, Some(0), false)], Some(0))]),
            0,
            "an empty log"
        );
        assert_eq!(
            hundredths_left(&[one(vec![], None)]),
            100,
            "it waits for replicas in sync"
        );
        assert_eq!(hundredths_left(&[]), 0);
    }

    #[test]
    fn progress_is_told_as_far_as_it_is_known() {
        assert_eq!(
            one(vec![(3, Some(400), false), (4, None, true)], Some(1_000)).progress(),
            "broker 3: 40 % (400 of 1,000), broker 4: in sync"
        );
        assert_eq!(one(vec![(3, None, false)], None).progress(), "broker 3: copying");
        let mut throttled = one(vec![(3, None, false)], None);
        throttled.throttle_bytes_per_second = Some(2 << 20);
        let told = throttled.progress();
        assert!(
            told.starts_with("broker 3: copying, at most 2") && told.ends_with(" a second"),
            "{told}"
        );
        assert_eq!(
            one(vec![(3, Some(0), false)], Some(0)).progress(),
            "broker 3: 100 % (0 of 0)"
        );
        let mut headless = one(vec![(3, None, false)], None);
        headless.leader = None;
        assert_eq!(headless.progress(), "stands still: the partition has no leader");
        assert_eq!(one(vec![], None).progress(), "waits for replicas to be in sync");
    }
}
