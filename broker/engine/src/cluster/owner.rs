//! Who manages a topic: an object outside of the cluster, a `Topic` in Kubernetes, say.
//!
//! The record stands with the topic itself, so that creating, taking over, changing and deleting by an owner are each
//! one compare-and-set. Kept anywhere else it goes out of step: the loser of two objects that name one topic deletes
//! the winner's data (cloudnative-pg#10870), and what is kept in an operator's memory is gone with it (Strimzi
//! proposal 51).

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::{
    apply::Applied,
    command::Command,
    outcome::Outcome,
    rejection::Rejection,
    state::{Cluster, Topic},
};

/// The longest namespace, a DNS label (RFC 1123).
const MAX_NAMESPACE_LEN: usize = 63;

/// The longest name, a DNS subdomain.
const MAX_NAME_LEN: usize = 253;

/// The longest uid; Kubernetes' have 36 characters.
const MAX_UID_LEN: usize = 64;

/// Who manages a topic. Two with one namespace and name are the same object, or one that took its place: it was
/// restored from a backup, or from version control.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TopicOwner {
    /// Where the object is: 1 to 63 characters.
    pub namespace: String,
    /// What it is called there: 1 to 253 characters.
    pub name: String,
    /// Which of that name it is: 1 to 64 characters.
    pub uid: String,
}

/// Why these can't be an owner's names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the owner's {field} must have 1 to {most} characters, each a letter, a digit, '-' or '.'")]
pub struct OwnerError {
    /// Which of them.
    pub field: &'static str,
    /// How long it may be.
    pub most: usize,
}

/// `namespace/name/uid`.
impl fmt::Display for TopicOwner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.namespace, self.name, self.uid)
    }
}

impl TopicOwner {
    /// Whether it may be written down: Kubernetes' own rules are stricter.
    ///
    /// # Errors
    /// The first part that is empty, too long, or has other characters.
    pub fn check(&self) -> Result<(), OwnerError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        for (field, text, most) in [
            ("namespace", &self.namespace, MAX_NAMESPACE_LEN),
            ("name", &self.name, MAX_NAME_LEN),
            ("uid", &self.uid, MAX_UID_LEN),
        ] {
            if !(1..=most).contains(&text.len()) || !text.chars().all(allowed) {
                return Err(OwnerError { field, most });
            }
        }
        Ok(())
    }

    /// Whether the other one is this object, or took its place.
    #[must_use]
    pub fn is_same_object(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.name == other.name
    }
}

impl From<OwnerError> for Rejection {
    fn from(error: OwnerError) -> Self {
        Self::InvalidOwner {
            field: error.field.to_owned(),
            reason: error.to_string(),
        }
    }
}

impl Command {
    /// Whether an owner may have it done to its topic of this name.
    fn is_about(&self, topic: &str) -> bool {
        match self {
            Self::DeleteTopic { name, .. }
            | Self::AlterTopicConfigs { name, .. }
            | Self::CreatePartitions { name, .. } => name == topic,
            Self::ReassignPartitions { moves } => moves.iter().all(|one| one.partition.topic == topic),
            _ => false,
        }
    }
}

impl Cluster {
    /// First claim wins. An object that took the place of the owner inherits; a topic that nobody owns is taken over
    /// only if that is wished.
    pub(super) fn claim_topic(
        &mut self,
        name: &str,
        id: Option<Uuid>,
        owner: &TopicOwner,
        adopt: bool,
    ) -> Result<Applied, Rejection> {
        owner.check()?;
        let topic = self.topic_with(name, id)?;
        match &topic.owner {
            Some(known) if known == owner => return Ok(Applied::unchanged(Outcome::Claimed { adopted: false })),
            Some(known) if known.is_same_object(owner) => {}
            Some(known) => return Err(owned(name, known)),
            None if adopt => {}
            None => {
                return Err(Rejection::TopicNotOwned { name: name.to_owned() });
            }
        }
        let adopted = topic.owner.is_none();
        self.put_owner(name, Some(owner.clone()));
        Ok(Applied::changed(Outcome::Claimed { adopted }))
    }

    /// Nobody owns the topic any more; its data stays.
    pub(super) fn release_topic(&mut self, name: &str, owner: &TopicOwner) -> Result<Applied, Rejection> {
        match &self.topic_with(name, None)?.owner {
            None => return Ok(Applied::unchanged(Outcome::Done)),
            Some(known) if known == owner => {}
            Some(known) => return Err(owned(name, known)),
        }
        self.put_owner(name, None);
        Ok(Applied::changed(Outcome::Done))
    }

    /// Does what an owner wants with its topic, if it is the owner still.
    pub(super) fn as_owner(
        &mut self,
        index: u64,
        name: &str,
        owner: &TopicOwner,
        command: &Command,
    ) -> Result<Applied, Rejection> {
        if !command.is_about(name) {
            return Err(Rejection::NotAnOwnersCommand { name: name.to_owned() });
        }
        match &self.topic_with(name, None)?.owner {
            Some(known) if known == owner => self.dispatch(index, command),
            Some(known) => Err(owned(name, known)),
            None => Err(Rejection::TopicNotOwned { name: name.to_owned() }),
        }
    }

    fn topic_with(&self, name: &str, id: Option<Uuid>) -> Result<&Arc<Topic>, Rejection> {
        let topic = self.topic(name)?;
        match id {
            Some(id) if id != topic.id => Err(Rejection::OtherTopicId { name: name.to_owned() }),
            _ => Ok(topic),
        }
    }

    fn put_owner(&mut self, name: &str, owner: Option<TopicOwner>) {
        if let Some(topic) = self.topics.get_mut(name) {
            Arc::make_mut(topic).owner = owner;
        }
    }
}

fn owned(name: &str, owner: &TopicOwner) -> Rejection {
    Rejection::TopicOwned {
        name: name.to_owned(),
        owner: owner.to_string(),
    }
}

#[cfg(test)]
mod tests;
