//! The metadata quorum.

use millrace_proto::v1::{self, remove_voter_request::Member};

use super::Admin;
use crate::error::Result;

/// Names a voter of the metadata quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VoterName {
    /// By the broker that runs it.
    Broker(i32),
    /// By its voter id: where the broker is unknown, or has had several disks.
    Id(i64),
}

impl Admin {
    /// The metadata quorum's members. How far they are is asked of the quorum's leader; it is absent
    /// where that does not answer.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn describe_quorum(&self) -> Result<v1::DescribeQuorumResponse> {
        let request = v1::DescribeQuorumRequest {};
        let told = self
            .read(|mut admin| async move { Ok(admin.describe_quorum(request).await?.into_inner()) })
            .await?;
        let complete = told.members.iter().any(|member| member.lag_entries.is_some());
        let leader = told.leader_broker_id.and_then(|id| self.address_of(id));
        let Some(address) = leader.filter(|_| !complete) else {
            return Ok(told);
        };
        let asked = self.at(&address, |mut admin| async move {
            Ok(admin.describe_quorum(request).await?.into_inner())
        });
        // What another broker knows is better than nothing.
        match tokio::time::timeout(crate::limits::DETAIL_WAIT, asked).await {
            Ok(Ok(more)) => Ok(more),
            _ => Ok(told),
        }
    }

    /// Gives a broker that follows the metadata a vote; answers with its voter id.
    ///
    /// # Errors
    /// UNKNOWN_BROKER, BROKER_STATE if it is not in service or no member yet, BROKER_NOT_READY if it
    /// lacks too much of the metadata, LIMIT_REACHED, and those of any call.
    pub async fn add_voter(&self, broker_id: i32) -> Result<i64> {
        let request = v1::AddVoterRequest {
            broker_id,
            validate_only: self.validate_only,
        };
        let answer = self
            .change(|mut admin| async move { Ok(admin.add_voter(request).await?.into_inner()) })
            .await?;
        Ok(answer.voter_id)
    }

    /// Takes a vote away. A broker that is registered with the voter's disk goes on following the
    /// metadata; a voter whose broker or disk is gone for good is removed, and its id never used again.
    ///
    /// # Errors
    /// UNKNOWN_VOTER, STILL_NEEDED where the others would be no majority, and those of any call.
    pub async fn remove_voter(&self, voter: VoterName) -> Result<v1::RemoveVoterResponse> {
        let request = v1::RemoveVoterRequest {
            member: Some(match voter {
                VoterName::Broker(id) => Member::BrokerId(id),
                VoterName::Id(id) => Member::VoterId(id),
            }),
            validate_only: self.validate_only,
        };
        self.change(|mut admin| async move { Ok(admin.remove_voter(request).await?.into_inner()) })
            .await
    }
}
