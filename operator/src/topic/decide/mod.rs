//! From what was seen to what is to be done, or, where nothing is, to what is to be reported. Pure: neither the API
//! server nor a broker is asked here.
//!
//! A pass sees and decides in turns until nothing is left to do. So each decision is about what is there now, whoever
//! made it so, and a pass that is cut off anywhere is taken up by the next one.

mod creation;
mod deletion;
mod live;
#[cfg(test)]
mod properties;
mod report;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use millrace_client::v1::TopicOwner;

pub use self::{
    creation::Creation,
    report::{Facts, Report, first_sight, unreadable},
};
use super::{memory::Memory, seen::Seen};

/// What is to happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// These, one after the other; then all is looked at again.
    Act(Vec<Step>),
    /// Nothing is to be done: this is how things are.
    Report(Box<Report>, Next),
    /// It is none of our business.
    Leave,
    /// It can't be known yet what is to be done.
    Wait,
}

/// When the object is looked at again, if nothing changes; the sooner first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// Something is under way.
    Soon,
    /// Something must happen elsewhere first, which may not be told.
    Later,
    /// All is as it can be.
    Settled,
}

/// One thing to do. Each may be done twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Writes into the object what must be known the next time.
    Remember {
        /// What it has done.
        memory: Memory,
        /// Whether it is kept until its topic is deleted.
        finalizer: bool,
        /// The permission to make the topic anew was used.
        recreated: bool,
    },
    /// Makes the topic.
    Create(Creation),
    /// Takes the topic over.
    Claim {
        /// Only the one with this id.
        id: Vec<u8>,
        /// Also if nobody owns it.
        adopt: bool,
    },
    /// Takes the topic from an owner that is no more.
    Disown(TopicOwner),
    /// Changes settings.
    Configure {
        /// To these.
        set: BTreeMap<String, String>,
        /// Back to the cluster's defaults.
        unset: BTreeSet<String>,
        /// What somebody else has changed.
        drift: Vec<Drift>,
    },
    /// Adds partitions, until there are so many.
    Grow(i32),
    /// Has so many replicas of each partition.
    Replicate {
        /// So many.
        factor: i32,
        /// What somebody else has changed.
        drift: Option<Drift>,
    },
    /// Deletes the topic.
    Delete {
        /// Only the one with this id.
        id: Vec<u8>,
    },
    /// Lets the object go.
    Release {
        /// Why the topic stays; none if it is gone.
        kept: Option<String>,
    },
}

/// What somebody else has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// Which setting.
    pub key: String,
    /// What it was; none: it was not set.
    pub found: Option<String>,
    /// What it is to be.
    pub wanted: String,
}

/// Decides.
#[must_use]
pub fn decide(seen: &Seen) -> Decision {
    if seen.object.deleting {
        return deletion::decide(seen);
    }
    let steps = if seen.object.paused {
        Vec::new()
    } else {
        live::steps(seen)
    };
    if steps.is_empty() {
        let (report, next) = report::report(seen);
        Decision::Report(Box::new(report), next)
    } else {
        Decision::Act(steps)
    }
}
