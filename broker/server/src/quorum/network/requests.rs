//! What is asked of the leader, and of a broker that is to become a member.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use millrace_engine::Command;
use millrace_proto::internal::v1::{
    ChangeMemberRequest, IdentifyRequest, ReadIndexRequest, SubmitRequest,
    change_member_request::{AddLearner, Change},
    read_index_response,
    submit_response::{self, applied},
};
use uuid::Uuid;

use super::{
    super::{ask::Answer, error::QuorumError, members::MemberChange},
    connection::{Connection, PeerError},
    failure::failure_in,
    wire,
};

/// The leader's answer, if one came.
type Answered = Result<Result<Answer, QuorumError>, PeerError>;

/// An answer came and it can't be told what it says.
fn unknown(reason: impl ToString) -> QuorumError {
    QuorumError::OutcomeUnknown {
        reason: format!("an answer that makes no sense: {}", reason.to_string()),
    }
}

impl Connection {
    /// Has the leader apply a command.
    pub(in super::super) async fn submit(self: &Arc<Self>, command: &Command, within: Duration) -> Answered {
        let command = match serde_json::to_vec(command) {
            Ok(json) => Bytes::from(json),
            Err(error) => return Ok(Err(QuorumError::Config(error.to_string()))),
        };
        let request = SubmitRequest {
            header: Some(self.header()),
            command,
        };
        let response = self
            .call(within, |mut client| async move { client.submit(request).await })
            .await?;
        Ok(match response.result {
            Some(submit_response::Result::Applied(applied)) => answer(applied),
            Some(submit_response::Result::Failure(failure)) => Err(failure_in(failure, within)),
            None => Err(unknown("it is empty")),
        })
    }

    /// Asks the leader which entry to wait for.
    pub(in super::super) async fn read_index(self: &Arc<Self>, within: Duration) -> Answered {
        let request = ReadIndexRequest {
            header: Some(self.header()),
        };
        let response = self
            .call(within, |mut client| async move { client.read_index(request).await })
            .await?;
        Ok(match response.result {
            Some(read_index_response::Result::Index(index)) => Ok(Answer { index, result: None }),
            Some(read_index_response::Result::Failure(failure)) => match failure_in(failure, within) {
                // Nothing was to be done, so nothing is unknown: another leader may tell.
                QuorumError::OutcomeUnknown { .. } => Err(QuorumError::NotLeader { leader: None }),
                error => Err(error),
            },
            None => Err(QuorumError::NotLeader { leader: None }),
        })
    }

    /// Has the leader change the members.
    pub(in super::super) async fn change_member(self: &Arc<Self>, change: &MemberChange, within: Duration) -> Answered {
        let change = match change {
            MemberChange::Add(member) => Change::AddLearner(AddLearner {
                voter_id: member.voter_id,
                directory_id: wire::uuid_out(member.directory_id),
                address: member.address.clone(),
            }),
            MemberChange::Promote(id) => Change::Promote(*id),
            MemberChange::Demote(id) => Change::Demote(*id),
            MemberChange::Remove(id) => Change::Remove(*id),
        };
        let request = ChangeMemberRequest {
            header: Some(self.header()),
            change: Some(change),
        };
        let response = self
            .call(within, |mut client| async move { client.change_member(request).await })
            .await?;
        Ok(match response.failure {
            None => Ok(Answer {
                index: response.index,
                result: None,
            }),
            Some(failure) => Err(failure_in(failure, within)),
        })
    }

    /// Asks a broker what it has drawn when it first wrote to its disk.
    pub(in super::super) async fn identify(self: &Arc<Self>, within: Duration) -> Result<Uuid, PeerError> {
        let request = IdentifyRequest {
            header: Some(self.header()),
        };
        let response = self
            .call(within, |mut client| async move { client.identify(request).await })
            .await?;
        wire::uuid_in(&response.state_id).map_err(|error| self.nonsense(error))
    }
}

fn answer(applied: submit_response::Applied) -> Result<Answer, QuorumError> {
    let result = match applied.answer {
        Some(applied::Answer::Outcome(json)) => Ok(serde_json::from_slice(&json).map_err(unknown)?),
        Some(applied::Answer::Rejection(json)) => Err(serde_json::from_slice(&json).map_err(unknown)?),
        None => return Err(unknown("it is empty")),
    };
    Ok(Answer {
        index: applied.index,
        result: Some(result),
    })
}
