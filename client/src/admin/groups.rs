//! Consumer groups: who is in them, how far they have read, and where they go on.

use std::sync::Arc;

use millrace_proto::v1::{self, ErrorReason, groups_client::GroupsClient};
use parking_lot::Mutex;
use tonic::transport::Channel;

use super::{Admin, pages};
use crate::{
    connection::check_address,
    error::{Error, Result, WriteOutcome},
    limits,
    offsets::{retrying, retrying_while},
    record::timestamp,
};

/// What a reset sets a group's offsets to. Places that a partition does not hold become its nearest end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetTarget {
    /// The oldest record that is kept.
    Beginning,
    /// Behind the newest readable record.
    End,
    /// The first record whose time, in milliseconds since 1970, is this or later; the end if there is none.
    Time(i64),
    /// So many offsets on from what is committed, or back if negative.
    ShiftBy(i64),
    /// This offset, 0 or more.
    Offset(i64),
    /// Nothing: what was committed is forgotten, and the group begins where its members say.
    Forget,
}

impl OffsetTarget {
    fn to_proto(self) -> v1::reset_offsets_request::Target {
        use v1::reset_offsets_request::Target;
        match self {
            Self::Beginning => Target::Edge(v1::Edge::Beginning.into()),
            Self::End => Target::Edge(v1::Edge::End.into()),
            Self::Time(ms) => Target::Time(timestamp(ms)),
            Self::ShiftBy(offsets) => Target::ShiftBy(offsets),
            Self::Offset(offset) => Target::Offset(offset),
            Self::Forget => Target::Forget(v1::ForgetOffsets {}),
        }
    }
}

impl Admin {
    /// All groups whose id begins with `prefix`, in the order of their ids.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn list_groups(&self, prefix: &str) -> Result<Vec<v1::GroupSummary>> {
        pages(|page_token| {
            let request = v1::ListGroupsRequest {
                prefix: prefix.to_owned(),
                page_size: limits::PAGE_SIZE,
                page_token,
            };
            self.read_groups(move |mut groups| {
                let request = request.clone();
                async move {
                    let page = groups.list_groups(request).await?.into_inner();
                    Ok((page.groups, page.next_page_token))
                }
            })
        })
        .await
    }

    /// All about a group, with all its members: as the last page tells it.
    ///
    /// # Errors
    /// UNKNOWN_GROUP, GROUP_UNREADABLE, and those of any call.
    pub async fn describe_group(&self, group: &str) -> Result<v1::DescribeGroupResponse> {
        let last = Mutex::new(v1::DescribeGroupResponse::default());
        let members = pages(|page_token| {
            let request = v1::DescribeGroupRequest {
                group: group.to_owned(),
                page_size: limits::PAGE_SIZE,
                page_token,
            };
            let last = &last;
            let answer = self.read_groups(move |mut groups| {
                let request = request.clone();
                async move { Ok(groups.describe_group(request).await?.into_inner()) }
            });
            async move {
                let mut answer = answer.await?;
                let page = (
                    std::mem::take(&mut answer.members),
                    std::mem::take(&mut answer.next_page_token),
                );
                *last.lock() = answer;
                Ok(page)
            }
        })
        .await?;
        let mut last = last.into_inner();
        last.members = members;
        Ok(last)
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// UNKNOWN_GROUP, GROUP_NOT_EMPTY, and those of any call.
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let request = v1::DeleteGroupRequest {
            group: group.to_owned(),
            validate_only: self.validate_only,
        };
        self.change_groups(|mut groups| {
            let request = request.clone();
            async move { Ok(groups.delete_group(request).await?) }
        })
        .await?;
        Ok(())
    }

    /// Where a group goes on to read; `partitions`: at most 10,000 in all, empty: all for which it has an offset.
    /// `with_lag`: ends and lag as well, which stay absent where a partition's leader does not answer.
    ///
    /// # Errors
    /// UNKNOWN_GROUP, UNKNOWN_TOPIC, GROUP_UNREADABLE, and those of any call.
    pub async fn group_offsets(
        &self,
        group: &str,
        partitions: Vec<v1::TopicPartitions>,
        with_lag: bool,
    ) -> Result<Vec<v1::GroupOffset>> {
        pages(|page_token| {
            let request = v1::FetchOffsetsRequest {
                group: group.to_owned(),
                topics: partitions.clone(),
                with_lag,
                page_token,
                ..v1::FetchOffsetsRequest::default()
            };
            self.read_groups(move |mut groups| {
                let request = request.clone();
                async move {
                    let page = groups.fetch_offsets(request).await?.into_inner();
                    Ok((page.offsets, page.next_page_token))
                }
            })
        })
        .await
    }

    /// Sets a group's offsets; a group that does not exist yet is made by it. `partitions`: at most 10,000 in all; a
    /// topic without numbers is all of it; empty: all for which the group has an offset. With
    /// [`validate_only`](Self::validate_only) it tells what would be done. Each partition's `error` tells of what was
    /// left alone, such as one that a member uses; `is_new` of a group that was not there, as its name may be misspelt.
    ///
    /// `expected_version`: that of an earlier answer, usually of a dry run; where the group has changed since, nothing is
    /// set. `None`: whatever has become of it.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC, GROUP_CHANGED, a negative offset, and those of any call.
    pub async fn reset_group_offsets(
        &self,
        group: &str,
        partitions: Vec<v1::TopicPartitions>,
        target: OffsetTarget,
        expected_version: Option<&str>,
    ) -> Result<v1::ResetOffsetsResponse> {
        let request = v1::ResetOffsetsRequest {
            group: group.to_owned(),
            topics: partitions,
            target: Some(target.to_proto()),
            validate_only: self.validate_only,
            expected_version: expected_version.unwrap_or_default().to_owned(),
        };
        self.change_groups(|mut groups| {
            let request = request.clone();
            async move { Ok(groups.reset_offsets(request).await?.into_inner()) }
        })
        .await
    }

    async fn read_groups<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(GroupsClient<Channel>) -> F,
    ) -> Result<T> {
        retrying(&self.client, self.client.inner.request_timeout, |contact| {
            self.ask_coordinator(contact, &call)
        })
        .await
    }

    /// Asks a broker, and the one that it names where that coordinates the group.
    async fn ask_coordinator<T, F: Future<Output = Result<T>>>(
        &self,
        contact: Arc<str>,
        call: &impl Fn(GroupsClient<Channel>) -> F,
    ) -> Result<T> {
        let connections = &self.client.inner.connections;
        let answer = call(connections.groups(&contact)?).await;
        let named = match &answer {
            Err(error) if error.reason() == Some(ErrorReason::NotCoordinator) => error.metadata("coordinator"),
            _ => None,
        };
        match named.filter(|address| check_address(address).is_ok()) {
            Some(address) => call(connections.groups(&Arc::from(address))?).await,
            None => answer,
        }
    }

    /// A change is made again only where it is sure that nothing was done: a shift that is done twice goes too far.
    async fn change_groups<T, F: Future<Output = Result<T>>>(
        &self,
        call: impl Fn(GroupsClient<Channel>) -> F,
    ) -> Result<T> {
        let timeout = self.client.inner.request_timeout;
        retrying_while(&self.client, timeout, is_untouched, |contact| {
            self.ask_coordinator(contact, &call)
        })
        .await
    }
}

/// Whether waiting helps and nothing was changed for certain.
fn is_untouched(error: &Error) -> bool {
    match error.reason() {
        // It is not yet known what there is to change.
        Some(ErrorReason::CoordinatorNotAvailable) => error.outcome() != Some(WriteOutcome::Unknown),
        _ => error.is_retriable() && error.outcome() == Some(WriteOutcome::NotWritten),
    }
}
