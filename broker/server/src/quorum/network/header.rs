//! The handshake in each request: from whom to whom, and whether that is who received it.

use millrace_proto::{
    internal::v1::{Header, Refusal},
    v1::ERROR_DOMAIN,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use uuid::Uuid;

use super::{super::types::Voter, wire};

/// Who a member is.
#[derive(Clone, Debug)]
pub(in super::super) struct Identity {
    pub(in super::super) cluster_id: String,
    pub(in super::super) voter_id: u64,
    pub(in super::super) directory_id: Uuid,
}

impl Identity {
    /// The header of a request from this member to `to`.
    pub(super) fn header(&self, to: u64, voter: &Voter) -> Header {
        Header {
            cluster_id: self.cluster_id.clone(),
            from: self.voter_id,
            to,
            directory_id: wire::uuid_out(voter.directory_id),
            state_id: if voter.state_id.is_nil() {
                bytes::Bytes::new()
            } else {
                wire::uuid_out(voter.state_id)
            },
        }
    }

    /// Whether a request is for this member; for whatever disk it may have.
    pub(super) fn check_name(&self, header: &Header) -> Result<(), Status> {
        if header.cluster_id != self.cluster_id {
            // The other cluster's id is not told: a stranger may be asking.
            return Err(refuse(
                Refusal::WrongCluster,
                format!("This broker is not of cluster {:?}.", header.cluster_id),
            ));
        }
        if header.to != self.voter_id {
            return Err(refuse(
                Refusal::WrongMember,
                format!("This is member {}, not {}.", self.voter_id, header.to),
            ));
        }
        if wire::uuid_in(&header.directory_id).ok() != Some(self.directory_id) {
            return Err(refuse(
                Refusal::WrongDisk,
                format!(
                    "Member {} has directory {} now; add it with a new id and remove the old one.",
                    self.voter_id, self.directory_id
                ),
            ));
        }
        Ok(())
    }

    /// Whether a request is for this member with this disk. `state_id` is what was drawn when
    /// the disk was first written to, `founder` whether the quorum was begun with it.
    pub(super) fn check(&self, header: &Header, state_id: Uuid, founder: bool) -> Result<(), Status> {
        self.check_name(header)?;
        let same = if header.state_id.is_empty() {
            founder
        } else {
            wire::uuid_in(&header.state_id).ok() == Some(state_id)
        };
        if same {
            return Ok(());
        }
        Err(refuse(
            Refusal::WrongDisk,
            format!(
                "Member {} has lost what it had on its disk; add it with a new id and remove the old one.",
                self.voter_id
            ),
        ))
    }
}

/// A typed refusal: nothing was done.
pub(super) fn refuse(refusal: Refusal, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(
        refusal.reason_name(),
        ERROR_DOMAIN,
        [("outcome".to_owned(), "not_written".to_owned())],
    );
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// The refusal that a status stands for, if it is one.
pub(super) fn refusal(status: &Status) -> Option<Refusal> {
    if status.code() != Code::FailedPrecondition {
        return None;
    }
    let info = status.get_details_error_info()?;
    if info.domain != ERROR_DOMAIN {
        return None;
    }
    Refusal::from_reason_name(&info.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity {
            cluster_id: "c".into(),
            voter_id: 3,
            directory_id: Uuid::from_u128(33),
        }
    }

    fn sent(change: impl FnOnce(&mut Header)) -> Option<Refusal> {
        let sender = Identity { voter_id: 1, ..me() };
        let voter = Voter {
            address: "h:1".into(),
            directory_id: Uuid::from_u128(33),
            state_id: Uuid::from_u128(9),
        };
        let mut header = sender.header(3, &voter);
        change(&mut header);
        let checked = me().check(&header, Uuid::from_u128(9), false);
        checked.err().map(|status| refusal(&status).unwrap())
    }

    #[test]
    fn only_who_is_meant_listens() {
        assert_eq!(sent(|_| ()), None);
        assert_eq!(
            sent(|header| header.cluster_id = "d".into()),
            Some(Refusal::WrongCluster)
        );
        assert_eq!(sent(|header| header.to = 4), Some(Refusal::WrongMember));
        let other = wire::uuid_out(Uuid::from_u128(34));
        assert_eq!(sent(|header| header.directory_id = other), Some(Refusal::WrongDisk));
        let cut = bytes::Bytes::from_static(b"abc");
        assert_eq!(sent(|header| header.directory_id = cut), Some(Refusal::WrongDisk));
    }

    /// A disk that came back empty is neither what was added nor what the quorum was begun with.
    #[test]
    fn an_emptied_disk_is_another() {
        let other = wire::uuid_out(Uuid::from_u128(10));
        assert_eq!(sent(|header| header.state_id = other), Some(Refusal::WrongDisk));
        assert_eq!(
            sent(|header| header.state_id = bytes::Bytes::new()),
            Some(Refusal::WrongDisk)
        );
        let founding = Voter {
            address: "h:1".into(),
            directory_id: Uuid::from_u128(33),
            state_id: Uuid::nil(),
        };
        let header = me().header(3, &founding);
        me().check(&header, Uuid::from_u128(77), true).unwrap();
    }

    #[test]
    fn other_errors_are_no_refusals() {
        assert_eq!(refusal(&Status::failed_precondition("x")), None);
        assert_eq!(refusal(&Status::unavailable("x")), None);
    }
}
