//! Between what travels and openraft's types. Nothing that comes in is trusted to make sense:
//! openraft panics on some of what could not come from a sound peer.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use millrace_proto::{batch::batches, internal::v1};
use openraft::raft::{AppendEntriesResponse, VoteRequest, VoteResponse};
use uuid::Uuid;

use super::{
    super::{
        record::{self, RecordError},
        types::{Entry, LogId, TypeConfig, Vote, log_id},
    },
    limits::MAX_ENTRIES,
};

/// Why a message makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

/// Terms are leader epochs on the disk, so that a larger one would end every member that took it.
fn term_in(term: u64) -> Result<u64, Malformed> {
    if i32::try_from(term).is_err() {
        return malformed(format!("term {term} is too large"));
    }
    Ok(term)
}

pub(super) fn log_id_in(id: v1::LogId) -> Result<LogId, Malformed> {
    // The index after it must be an offset too.
    if i64::try_from(id.index).is_ok_and(|index| index < i64::MAX) {
        Ok(log_id(term_in(id.term)?, id.index))
    } else {
        malformed(format!("index {} is too large", id.index))
    }
}

pub(super) fn log_id_out(id: &LogId) -> v1::LogId {
    v1::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub(super) fn vote_in(vote: Option<v1::LeaderVote>) -> Result<Vote, Malformed> {
    let Some(vote) = vote else {
        return malformed("there is no vote");
    };
    let term = term_in(vote.term)?;
    Ok(if vote.committed {
        Vote::new_committed(term, vote.voter_id)
    } else {
        Vote::new(term, vote.voter_id)
    })
}

pub(super) fn vote_out(vote: &Vote) -> v1::LeaderVote {
    v1::LeaderVote {
        term: vote.leader_id.term,
        voter_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

/// A leadership, which must be `from`'s.
pub(super) fn leadership_in(vote: Option<v1::LeaderVote>, from: u64) -> Result<Vote, Malformed> {
    let vote = vote_in(vote)?;
    if !vote.committed || vote.leader_id.voted_for != from {
        return malformed(format!("{vote} is not member {from}'s leadership"));
    }
    Ok(vote)
}

pub(super) fn uuid_in(bytes: &[u8]) -> Result<Uuid, Malformed> {
    Uuid::from_slice(bytes).map_err(|error| Malformed(error.to_string()))
}

pub(super) fn uuid_out(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

/// Entries as record batches, one after the other.
pub(super) fn entries_out(entries: &[Entry]) -> Result<Bytes, RecordError> {
    if entries.is_empty() {
        return Ok(Bytes::new());
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now_ms.as_millis()).unwrap_or(i64::MAX);
    let mut bytes = BytesMut::new();
    for entry in entries {
        bytes.extend_from_slice(&record::encode(entry, now_ms)?);
    }
    Ok(bytes.freeze())
}

/// The entries in `bytes`: whole, in order, following on `previous`, and of no later term than
/// `term`.
pub(super) fn entries_in(bytes: &[u8], previous: Option<LogId>, term: u64) -> Result<Vec<Entry>, Malformed> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut last = previous;
    for batch in batches(bytes) {
        if entries.len() == MAX_ENTRIES {
            return malformed(format!("there are more than {MAX_ENTRIES} entries"));
        }
        let batch = batch.map_err(|error| Malformed(error.to_string()))?;
        let entry = record::decode(&batch).map_err(|error| Malformed(error.to_string()))?;
        let id = entry.log_id;
        let (index, first_term) = last.map_or((0, 0), |last| (last.index + 1, last.leader_id.term));
        if id.index != index || id.leader_id.term < first_term || id.leader_id.term > term {
            return malformed(format!("entry {id} can't follow here"));
        }
        last = Some(id);
        entries.push(entry);
    }
    Ok(entries)
}

pub(super) fn append_out(response: AppendEntriesResponse<TypeConfig>) -> v1::AppendEntriesResponse {
    use v1::append_entries_response::{Conflict, Result, Stored, StoredUpTo};
    let result = match response {
        AppendEntriesResponse::Success => Result::Stored(Stored {}),
        AppendEntriesResponse::PartialSuccess(last) => Result::StoredUpTo(StoredUpTo {
            last: last.as_ref().map(log_id_out),
        }),
        AppendEntriesResponse::Conflict => Result::Conflict(Conflict {}),
        AppendEntriesResponse::HigherVote(vote) => Result::HigherVote(vote_out(&vote)),
    };
    v1::AppendEntriesResponse { result: Some(result) }
}

/// The answer to a request with the entries after `previous` up to `last`.
pub(super) fn append_in(
    response: v1::AppendEntriesResponse,
    previous: Option<LogId>,
    last: Option<LogId>,
) -> Result<AppendEntriesResponse<TypeConfig>, Malformed> {
    use v1::append_entries_response::Result;
    match response.result {
        Some(Result::Stored(_)) => Ok(AppendEntriesResponse::Success),
        Some(Result::StoredUpTo(stored)) => {
            let stored = stored.last.map(log_id_in).transpose()?;
            // What was not sent can't be matched.
            if stored < previous || stored > last {
                return malformed("the follower has stored what it was not sent");
            }
            Ok(AppendEntriesResponse::PartialSuccess(stored))
        }
        // All logs agree before their first entry.
        Some(Result::Conflict(_)) if previous.is_none() => malformed("a conflict before the first entry"),
        Some(Result::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
        Some(Result::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote_in(Some(vote))?)),
        None => malformed("there is no result"),
    }
}

pub(super) fn vote_request_in(request: v1::VoteRequest, from: u64) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let vote = vote_in(request.vote)?;
    if vote.committed || vote.leader_id.voted_for != from {
        return malformed(format!("{vote} is not member {from}'s candidacy"));
    }
    let last = request.last.map(log_id_in).transpose()?;
    if last.is_some_and(|last| last.leader_id.term > vote.leader_id.term) {
        return malformed("the candidate's log is newer than its candidacy");
    }
    let mut asked = VoteRequest::new(vote, last);
    asked.leadership_transfer = request.leadership_transfer;
    Ok(asked)
}

pub(super) fn vote_response_in(response: v1::VoteResponse) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let last = response.last.map(log_id_in).transpose()?;
    Ok(VoteResponse::new(vote_in(response.vote)?, last, response.granted))
}

pub(super) fn vote_response_out(response: &VoteResponse<TypeConfig>) -> v1::VoteResponse {
    v1::VoteResponse {
        vote: Some(vote_out(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_out),
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use v1::append_entries_response as answer;

    use super::*;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            log_id: log_id(term, index),
            payload: EntryPayload::Blank,
        }
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let entries = vec![entry(1, 5), entry(1, 6), entry(3, 7)];
        let bytes = entries_out(&entries).unwrap();
        assert_eq!(entries_in(&bytes, Some(log_id(1, 4)), 3).unwrap(), entries);
        assert_eq!(entries_in(&[], None, 3).unwrap(), vec![]);
    }

    #[test]
    fn entries_that_could_not_be_are_refused() {
        let two = entries_out(&[entry(2, 5), entry(2, 6)]).unwrap();
        for (previous, term) in [
            (None, 2),
            (Some(log_id(2, 3)), 2),
            (Some(log_id(3, 4)), 3),
            (Some(log_id(1, 4)), 1),
        ] {
            assert!(entries_in(&two, previous, term).is_err(), "{previous:?} {term}");
        }
        let gap = entries_out(&[entry(2, 5), entry(2, 7)]).unwrap();
        assert!(entries_in(&gap, Some(log_id(1, 4)), 2).is_err());
        let back = entries_out(&[entry(2, 5), entry(1, 6)]).unwrap();
        assert!(entries_in(&back, Some(log_id(1, 4)), 2).is_err());
        for end in 1..two.len() {
            let cut = entries_in(&two[..end], Some(log_id(1, 4)), 2);
            assert!(cut.is_err() || cut.unwrap().len() == 1, "cut at {end}");
        }
    }

    #[test]
    fn ids_that_would_not_fit_on_a_disk_are_refused() {
        let id = |term, index| log_id_in(v1::LogId { term, index });
        assert!(id(1 << 31, 0).is_err() && id(0, 1 << 63).is_err() && id(0, i64::MAX as u64).is_err());
        assert_eq!(id((1 << 31) - 1, 7), Ok(log_id((1 << 31) - 1, 7)));
        let vote = |term| {
            vote_in(Some(v1::LeaderVote {
                term,
                voter_id: 1,
                committed: true,
            }))
        };
        assert!(vote(u64::MAX).is_err() && vote_in(None).is_err());
        assert_eq!(vote(7), Ok(Vote::new_committed(7, 1)));
    }

    /// What a late or confused follower says never counts beyond what it was sent.
    #[test]
    fn answers_are_held_against_what_was_asked() {
        let (previous, last) = (Some(log_id(2, 4)), Some(log_id(2, 6)));
        let say = |result| v1::AppendEntriesResponse { result: Some(result) };
        let up_to = |id: Option<LogId>| {
            say(answer::Result::StoredUpTo(answer::StoredUpTo {
                last: id.as_ref().map(log_id_out),
            }))
        };
        for id in [log_id(2, 4), log_id(2, 5), log_id(2, 6)] {
            assert_eq!(
                append_in(up_to(Some(id)), previous, last),
                Ok(AppendEntriesResponse::PartialSuccess(Some(id)))
            );
        }
        for id in [None, Some(log_id(2, 3)), Some(log_id(2, 7)), Some(log_id(3, 1))] {
            assert!(append_in(up_to(id), previous, last).is_err(), "{id:?}");
        }
        let conflict = || say(answer::Result::Conflict(answer::Conflict {}));
        assert_eq!(
            append_in(conflict(), previous, last),
            Ok(AppendEntriesResponse::Conflict)
        );
        assert!(append_in(conflict(), None, last).is_err());
        assert!(append_in(v1::AppendEntriesResponse { result: None }, previous, last).is_err());
    }

    #[test]
    fn all_answers_come_back_as_they_were() {
        let (previous, last) = (Some(log_id(2, 4)), Some(log_id(2, 6)));
        for response in [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(log_id(2, 5))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(Vote::new(9, 2)),
        ] {
            assert_eq!(append_in(append_out(response.clone()), previous, last), Ok(response));
        }
        let vote = VoteResponse::new(Vote::new(4, 2), Some(log_id(3, 9)), true);
        assert_eq!(vote_response_in(vote_response_out(&vote)), Ok(vote));
    }

    #[test]
    fn no_one_stands_or_leads_for_another() {
        let leadership = |committed| {
            Some(v1::LeaderVote {
                term: 3,
                voter_id: 1,
                committed,
            })
        };
        assert!(leadership_in(leadership(true), 1).is_ok());
        assert!(leadership_in(leadership(true), 2).is_err());
        assert!(leadership_in(leadership(false), 1).is_err());
        let candidacy = |committed, last_term| v1::VoteRequest {
            vote: leadership(committed),
            last: Some(v1::LogId {
                term: last_term,
                index: 7,
            }),
            ..v1::VoteRequest::default()
        };
        assert!(vote_request_in(candidacy(false, 3), 1).is_ok());
        assert!(vote_request_in(candidacy(false, 4), 1).is_err());
        assert!(vote_request_in(candidacy(true, 3), 1).is_err());
        assert!(vote_request_in(candidacy(false, 3), 2).is_err());
    }
}
