//! Why a group is assigned anew, as people are told.

use std::fmt;

use super::types::MemberId;

/// The most characters of a reason that are kept.
const MAX_REASON_CHARS: usize = 300;

/// What has happened.
#[derive(Clone, Debug)]
pub(super) enum Cause<'a> {
    Joined(&'a MemberId),
    Left(&'a MemberId),
    SessionEnded(&'a MemberId),
    KeptPartitions(&'a MemberId),
    Subscribed(&'a MemberId),
    /// Changed topics: one of them and how many partitions it has had and has, and how many others.
    Topic(&'a str, Option<u32>, Option<u32>, usize),
    /// Changed while another coordinator, or none, was there.
    Topics,
    Pattern(&'a str),
    /// What a pattern matches is more than one record holds.
    TooMany(&'a str),
    /// What a pattern matches is more than there is room for.
    NoRoom(&'a str),
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined(member) => write!(f, "member {member:?} joined"),
            Self::Left(member) => write!(f, "member {member:?} left"),
            Self::SessionEnded(member) => write!(f, "member {member:?}'s session ended"),
            Self::KeptPartitions(member) => write!(f, "member {member:?} did not give partitions back in time"),
            Self::Subscribed(member) => write!(f, "member {member:?} changed its subscription"),
            Self::Topic(name, before, after, others) => {
                match (before, after) {
                    (_, None) => write!(f, "topic {name} is gone"),
                    (None, Some(after)) => write!(f, "topic {name} has come, with {after} partitions"),
                    (Some(before), Some(after)) if before != after => {
                        write!(f, "topic {name} has {after} partitions now")
                    }
                    (Some(_), Some(_)) => write!(f, "topic {name} or its replicas' racks have changed"),
                }?;
                match others {
                    0 => Ok(()),
                    others => write!(f, "; so have {others} other topics"),
                }
            }
            Self::Topics => write!(f, "topics or their partitions have changed"),
            Self::Pattern(pattern) => write!(f, "the topics that match {pattern:?} have changed"),
            Self::TooMany(pattern) => write!(
                f,
                "{pattern:?} matches more topics than can be stored: they are left out, until it matches less"
            ),
            Self::NoRoom(pattern) => write!(
                f,
                "the coordinator has no room for the topics that match {pattern:?}: they are left out"
            ),
        }
    }
}

impl Cause<'_> {
    /// As text of a bounded length.
    pub(super) fn text(&self) -> String {
        self.to_string().chars().take(MAX_REASON_CHARS).collect()
    }
}
