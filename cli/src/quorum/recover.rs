//! `millrace quorum recover`.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::bail;
use millrace_server::quorum::{self, NamedMember, Stake};
use serde::Serialize;

use crate::output::{OutputFormat, count, fields, tell};

/// Begin the metadata quorum anew with one broker that is left, where most voters' disks are lost for good.
///
/// Works on the data directory of a broker that is stopped. First run it without --accept-data-loss on each broker that
/// is left: it changes nothing and tells how far the metadata log goes. Then run it with that flag on the one with the
/// highest last term, and of several with the same on the one with the highest last index: it becomes the only voter,
/// the others follow it. What only the lost ones knew is gone. Never start a lost broker with its old disk again: give
/// it an empty one with `millrace broker replace-disk`.
#[derive(Debug, clap::Args)]
pub struct RecoverArgs {
    /// The data directory of a broker that is stopped.
    data_dir: PathBuf,
    /// The brokers whose disks are lost for good.
    #[arg(long, required = true, value_delimiter = ',', value_name = "ID,...")]
    lost: Vec<i32>,
    /// Do it. Without this flag nothing is changed.
    #[arg(long)]
    accept_data_loss: bool,
}

#[derive(Serialize)]
struct Told {
    cluster_id: String,
    last_term: u64,
    last_index: u64,
    topics: usize,
    survivor: Member,
    voters: Vec<Member>,
    lost: Vec<Member>,
    followers: Vec<Member>,
    done: bool,
}

#[derive(Serialize)]
struct Member {
    voter_id: u64,
    broker_id: Option<i32>,
}

impl From<NamedMember> for Member {
    fn from(from: NamedMember) -> Self {
        Self {
            voter_id: from.voter_id,
            broker_id: from.broker_id,
        }
    }
}

impl Told {
    fn new(stake: Stake, done: bool) -> Self {
        let members = |members: Vec<NamedMember>| members.into_iter().map(Member::from).collect();
        Self {
            cluster_id: stake.cluster_id,
            last_term: stake.last_term,
            last_index: stake.last_index,
            topics: stake.topics,
            survivor: stake.survivor.into(),
            voters: members(stake.voters),
            lost: members(stake.lost),
            followers: members(stake.followers),
            done,
        }
    }

    fn text(&self) -> String {
        fields(&[
            ("Cluster", self.cluster_id.clone()),
            ("Last term", count(self.last_term)),
            ("Last index", count(self.last_index)),
            ("Topics", self.topics.to_string()),
            ("Voters", names(&self.voters)),
            ("Lost", names(&self.lost)),
            ("Only voter then", names(std::slice::from_ref(&self.survivor))),
            ("Followers then", names(&self.followers)),
        ])
    }
}

fn names(members: &[Member]) -> String {
    let name = |member: &Member| match member.broker_id {
        Some(id) => format!("broker {id}"),
        None => format!("voter {}, of no registered broker", member.voter_id),
    };
    match members {
        [] => "none".to_owned(),
        members => members.iter().map(name).collect::<Vec<_>>().join(", "),
    }
}

/// Tells what is at stake, and does it if that was accepted.
pub fn run(args: &RecoverArgs, format: OutputFormat) -> anyhow::Result<()> {
    let lost: BTreeSet<i32> = args.lost.iter().copied().collect();
    let stake = quorum::recover(&args.data_dir, &lost, args.accept_data_loss)?;
    let told = Told::new(stake, args.accept_data_loss);
    tell(format, &told.text(), &told)?;
    if !told.done {
        bail!(
            "nothing was changed: what is not in this log would be lost. If no broker that is left has a log with a \
             higher last term, or the same one and a higher last index, repeat it with --accept-data-loss"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_who_is_left() {
        let named = |voter_id, broker_id| NamedMember { voter_id, broker_id };
        let stake = Stake {
            cluster_id: "c".into(),
            survivor: named(1, Some(0)),
            last_term: 3,
            last_index: 41,
            topics: 2,
            voters: vec![named(1, Some(0)), named(2, Some(1)), named(3, None)],
            lost: vec![named(2, Some(1)), named(3, None)],
            followers: vec![],
        };
        let text = Told::new(stake, false).text();
        for line in [
            "Lost:             broker 1, voter 3, of no registered broker\n",
            "Only voter then:  broker 0\n",
            "Followers then:   none\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
