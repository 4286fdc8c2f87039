//! Whose a topic is.

use millrace_proto::v1;

use super::Admin;
use crate::error::Result;

impl Admin {
    /// The same, but a topic is altered, grown or deleted ([`Admin::alter_topic`], [`Admin::create_partitions`],
    /// [`Admin::delete_topic`]) only if this is its owner: TOPIC_OWNED if another is, or nobody. Other calls do not ask
    /// who owns it.
    #[must_use]
    pub fn in_name_of(mut self, owner: v1::TopicOwner) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Makes a topic an owner's, and tells whether nobody owned it before; that is refused unless `adopt` is set. First
    /// claim wins; an owner of the same namespace and name with another uid takes the former's place. With `topic_id`,
    /// 16 bytes, only the topic of that id; empty: whichever has the name.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, TOPIC_OWNED with the owner in its metadata if it is another's, and those of any call.
    pub async fn claim_topic(
        &self,
        name: &str,
        topic_id: bytes::Bytes,
        owner: v1::TopicOwner,
        adopt: bool,
    ) -> Result<bool> {
        let request = v1::ClaimTopicRequest {
            name: name.to_owned(),
            topic_id,
            owner: Some(owner),
            adopt,
            validate_only: self.validate_only,
        };
        let answer = self
            .change(|mut admin| async move { Ok(admin.claim_topic(request).await?.into_inner()) })
            .await?;
        Ok(answer.adopted)
    }

    /// Leaves a topic, with its data, to nobody.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, TOPIC_OWNED if it is another's, and those of any call.
    pub async fn release_topic(&self, name: &str, owner: v1::TopicOwner) -> Result<()> {
        let request = v1::ReleaseTopicRequest {
            name: name.to_owned(),
            owner: Some(owner),
            validate_only: self.validate_only,
        };
        self.change(|mut admin| async move { Ok(admin.release_topic(request).await?) })
            .await?;
        Ok(())
    }
}
