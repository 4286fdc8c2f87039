//! Whose a topic is: claimed, released, and changed in its owner's name.

use millrace_engine::{Command, Outcome, cluster::TopicOwner, names::check_topic_name};
use millrace_proto::v1;

use super::{AdminService, preview, topics::topic_id, unexpected};
use crate::error::ApiError;

/// An owner as the metadata has it, of the field with that name.
///
/// # Errors
/// A part that is empty, too long, or has characters that are not allowed.
pub fn owner_in(field: &str, owner: v1::TopicOwner) -> Result<TopicOwner, ApiError> {
    let owner = TopicOwner {
        namespace: owner.namespace,
        name: owner.name,
        uid: owner.uid,
    };
    match owner.check() {
        Ok(()) => Ok(owner),
        Err(error) => Err(ApiError::field(format!("{field}.{}", error.field), error.to_string())),
    }
}

/// An owner as clients are told.
pub fn owner_out(owner: &TopicOwner) -> v1::TopicOwner {
    v1::TopicOwner {
        namespace: owner.namespace.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    }
}

/// The field of requests that change a topic.
const AS_OWNER: &str = "as_owner";

/// Checks in whose name a request is, where that is used only after other work.
///
/// # Errors
/// As of [`owner_in`].
pub fn check_as_owner(owner: Option<&v1::TopicOwner>) -> Result<(), ApiError> {
    owner
        .cloned()
        .map_or(Ok(()), |owner| owner_in(AS_OWNER, owner).map(drop))
}

/// A command about a topic, to be carried out only if the topic has the owner that the request names.
///
/// # Errors
/// As of [`owner_in`].
pub fn in_name_of(owner: Option<v1::TopicOwner>, topic: &str, command: Command) -> Result<Command, ApiError> {
    let Some(owner) = owner else { return Ok(command) };
    Ok(Command::AsOwner {
        name: topic.to_owned(),
        owner: owner_in(AS_OWNER, owner)?,
        command: Box::new(command),
    })
}

/// Makes a topic an owner's.
///
/// # Errors
/// An unknown topic, an owner that can't be one, another's topic, or nobody's without `adopt`.
pub async fn claim(service: &AdminService, request: v1::ClaimTopicRequest) -> Result<v1::ClaimTopicResponse, ApiError> {
    let id = topic_id(&request.topic_id)?;
    check_topic_name(&request.name)?;
    let command = Command::ClaimTopic {
        name: request.name,
        id,
        owner: required(request.owner)?,
        adopt: request.adopt,
    };
    let outcome = if request.validate_only {
        preview(&*service.latest().await?, &command)?.1
    } else {
        service.apply(command).await?
    };
    match outcome {
        Outcome::Claimed { adopted } => Ok(v1::ClaimTopicResponse { adopted }),
        other => Err(unexpected(&other)),
    }
}

/// Leaves a topic to nobody.
///
/// # Errors
/// An unknown topic, an owner that can't be one, another's topic.
pub async fn release(
    service: &AdminService,
    request: v1::ReleaseTopicRequest,
) -> Result<v1::ReleaseTopicResponse, ApiError> {
    check_topic_name(&request.name)?;
    let command = Command::ReleaseTopic {
        name: request.name,
        owner: required(request.owner)?,
    };
    service.change(command, request.validate_only).await?;
    Ok(v1::ReleaseTopicResponse {})
}

fn required(owner: Option<v1::TopicOwner>) -> Result<TopicOwner, ApiError> {
    owner_in("owner", owner.ok_or_else(|| ApiError::field("owner", "must be set"))?)
}
