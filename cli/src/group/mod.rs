//! `millrace group`.

mod delete;
mod describe;
mod list;
mod members;
mod reset_offsets;

use clap::Subcommand;
use millrace_client::{
    ErrorReason,
    v1::{GroupState, TopicPartitions},
};

use crate::{
    args::GlobalArgs,
    connect,
    error::AdvisedError,
    output::{ids, uuid},
};

/// What to do with consumer groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    Describe(describe::DescribeArgs),
    ResetOffsets(Box<reset_offsets::ResetOffsetsArgs>),
    Delete(delete::DeleteArgs),
}

/// Does it.
pub async fn run(command: GroupCommand, global: &GlobalArgs) -> anyhow::Result<()> {
    // What can be told without a broker is told first.
    if let GroupCommand::ResetOffsets(args) = &command {
        args.check()?;
    }
    let client = connect::client(global).await?;
    let (admin, format) = (client.admin(), global.output);
    match command {
        GroupCommand::List(args) => list::run(args, &admin, format).await,
        GroupCommand::Describe(args) => describe::run(args, &admin, format).await,
        GroupCommand::ResetOffsets(args) => reset_offsets::run(*args, &admin, format).await,
        GroupCommand::Delete(args) => delete::run(args, &admin, format).await,
    }
}

/// A group's state in a word.
fn state(state: i32) -> &'static str {
    match GroupState::try_from(state) {
        Ok(GroupState::Empty) => "empty",
        Ok(GroupState::Assigning) => "assigning",
        Ok(GroupState::Reconciling) => "reconciling",
        Ok(GroupState::Stable) => "stable",
        Ok(GroupState::Unreadable) => "unreadable",
        Ok(GroupState::Unspecified) | Err(_) => "unknown",
    }
}

/// The name of a topic, or what there is to say of one that is gone.
fn topic_name(name: &str, topic_id: &[u8]) -> String {
    if name.is_empty() {
        format!("(deleted {})", uuid(topic_id))
    } else {
        name.to_owned()
    }
}

/// Partitions of topics in one cell: `orders[0,2] payments[1]`.
fn partitions(topics: &[TopicPartitions]) -> String {
    let named = topics.iter().filter(|topic| !topic.partitions.is_empty());
    let words: Vec<String> = named
        .map(|topic| {
            format!(
                "{}{}",
                topic_name(&topic.topic, &topic.topic_id),
                ids(&topic.partitions)
            )
        })
        .collect();
    if words.is_empty() {
        "-".to_owned()
    } else {
        words.join(" ")
    }
}

/// What a person at the command can do about a group that is not there.
fn refused(name: &str, cause: millrace_client::Error) -> anyhow::Error {
    if cause.reason() != Some(ErrorReason::UnknownGroup) {
        return cause.into();
    }
    let message = format!("there is no group {name:?}: check the spelling with millrace group list");
    AdvisedError { message, cause }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_stand_with_their_topics() {
        let of = |topic: &str, partitions: &[i32]| TopicPartitions {
            topic: topic.into(),
            topic_id: vec![1; 16].into(),
            partitions: partitions.to_vec(),
        };
        assert_eq!(partitions(&[]), "-");
        assert_eq!(partitions(&[of("a", &[])]), "-");
        assert_eq!(partitions(&[of("a", &[0, 2]), of("b", &[1])]), "a[0,2] b[1]");
        assert_eq!(
            partitions(&[of("", &[3])]),
            "(deleted 01010101-0101-0101-0101-010101010101)[3]"
        );
    }

    #[test]
    fn a_state_of_a_newer_broker_is_unknown() {
        assert_eq!(state(GroupState::Stable.into()), "stable");
        assert_eq!(state(GroupState::Unreadable.into()), "unreadable");
        assert_eq!(state(99), "unknown");
    }
}
