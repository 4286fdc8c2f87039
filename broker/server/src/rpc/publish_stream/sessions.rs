//! The publish streams that a broker remembers.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, OnceLock},
};

use millrace_proto::v1::{self, ErrorReason};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{ApiError, WriteOutcome},
    limits,
};

/// The streams that can be resumed with their answers still known.
#[derive(Debug, Default)]
pub struct PublishSessions(Mutex<HashMap<i64, Session>>);

/// What is remembered of a stream.
#[derive(Debug)]
struct Session {
    /// Who serves it; nobody else has it once it has ended.
    owner: Arc<Owner>,
    /// The latest answers, by rising id.
    answers: VecDeque<(u64, v1::PublishResponse)>,
    used_at_ms: i64,
}

/// Who serves a stream, until another one does.
#[derive(Debug, Default)]
pub struct Owner {
    end: CancellationToken,
    why: OnceLock<ApiError>,
}

impl Owner {
    /// Ends the stream that is served.
    fn end(&self, why: ApiError) {
        let _ = self.why.set(why);
        self.end.cancel();
    }

    /// Waits until it is to end; answers with why.
    pub async fn ended(&self) -> ApiError {
        self.end.cancelled().await;
        self.why.get().cloned().unwrap_or_else(taken_over)
    }
}

fn taken_over() -> ApiError {
    ApiError::new(
        ErrorReason::StreamTakenOver,
        "Another stream resumed with this one's token: go on there.",
    )
}

fn too_many() -> ApiError {
    ApiError::new(
        ErrorReason::Overloaded,
        format!(
            "The broker serves {} publish streams at once, which is the limit: end some, or use another broker.",
            limits::MAX_PUBLISH_SESSIONS
        ),
    )
    .outcome(WriteOutcome::NotWritten)
}

impl Session {
    fn new(owner: Arc<Owner>, used_at_ms: i64) -> Self {
        Self {
            owner,
            answers: VecDeque::new(),
            used_at_ms,
        }
    }

    /// Whether it is served now.
    fn is_served(&self) -> bool {
        Arc::strong_count(&self.owner) > 1
    }
}

impl PublishSessions {
    /// Makes the caller the one that serves the stream, for as long as it keeps what it gets; ends the
    /// one before. Where there are too many, the longest unused of those that nobody serves is forgotten.
    ///
    /// # Errors
    /// All that there may be are served.
    pub fn take_over(&self, producer_id: i64, now_ms: i64) -> Result<Arc<Owner>, ApiError> {
        let owner = Arc::new(Owner::default());
        let mut sessions = self.0.lock();
        let life = i64::try_from(limits::PUBLISH_SESSION_LIFE.as_millis()).unwrap_or(i64::MAX);
        sessions.retain(|_, session| now_ms.saturating_sub(session.used_at_ms) < life || session.is_served());
        if sessions.len() >= limits::MAX_PUBLISH_SESSIONS && !sessions.contains_key(&producer_id) {
            let unserved = sessions.iter().filter(|(_, session)| !session.is_served());
            let oldest = unserved.min_by_key(|(_, session)| session.used_at_ms);
            let oldest = oldest.map(|(id, _)| *id).ok_or_else(too_many)?;
            sessions.remove(&oldest);
        }
        match sessions.entry(producer_id) {
            Entry::Occupied(mut entry) => {
                let session = entry.get_mut();
                session.used_at_ms = now_ms;
                std::mem::replace(&mut session.owner, owner.clone()).end(taken_over());
            }
            Entry::Vacant(entry) => {
                entry.insert(Session::new(owner.clone(), now_ms));
            }
        }
        Ok(owner)
    }

    /// Remembers an answer, unless it is large.
    pub fn remember(&self, producer_id: i64, id: u64, answer: &v1::PublishResponse, now_ms: i64) {
        if let Some(session) = self.0.lock().get_mut(&producer_id) {
            session.used_at_ms = now_ms;
            if answer.positions.len() > limits::REMEMBERED_POSITIONS {
                return;
            }
            if session.answers.len() >= limits::REMEMBERED_ANSWERS {
                session.answers.pop_front();
            }
            session.answers.push_back((id, answer.clone()));
        }
    }

    /// The answer to a request that was answered lately.
    pub fn remembered(&self, producer_id: i64, id: u64) -> Option<v1::PublishResponse> {
        let sessions = self.0.lock();
        let answers = &sessions.get(&producer_id)?.answers;
        answers
            .iter()
            .find(|(known, _)| *known == id)
            .map(|(_, answer)| answer.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(owner: &Owner) -> Option<ErrorReason> {
        futures::FutureExt::now_or_never(owner.ended()).map(|why| why.reason())
    }

    #[test]
    fn a_resumed_stream_ends_the_one_before_and_keeps_its_answers() {
        let sessions = PublishSessions::default();
        let first = sessions.take_over(1, 10).unwrap();
        assert_eq!(reason(&first), None);
        sessions.remember(1, 5, &v1::PublishResponse::default(), 11);
        let second = sessions.take_over(1, 12).unwrap();
        assert_eq!(
            (reason(&first), reason(&second)),
            (Some(ErrorReason::StreamTakenOver), None)
        );
        assert!(sessions.remembered(1, 5).is_some());
        assert!(sessions.remembered(1, 6).is_none());
        assert!(sessions.remembered(2, 5).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let sessions = PublishSessions::default();
        sessions.take_over(0, 0).unwrap();
        for id in 0..=limits::REMEMBERED_ANSWERS as u64 {
            sessions.remember(0, id, &v1::PublishResponse::default(), 1);
        }
        assert!(sessions.remembered(0, 0).is_none());
        assert!(sessions.remembered(0, 1).is_some());
        let large = v1::PublishResponse {
            positions: vec![v1::Position::default(); limits::REMEMBERED_POSITIONS + 1],
        };
        sessions.remember(0, 9_999, &large, 1);
        assert!(sessions.remembered(0, 9_999).is_none());
        for id in 0..=limits::MAX_PUBLISH_SESSIONS as i64 {
            sessions.take_over(id, 2 + id).unwrap();
        }
        assert_eq!(sessions.0.lock().len(), limits::MAX_PUBLISH_SESSIONS);
        assert!(sessions.remembered(0, 1).is_none(), "the longest unused is forgotten");
        let day = limits::PUBLISH_SESSION_LIFE.as_millis() as i64;
        sessions.take_over(-1, 100_000 + day).unwrap();
        assert_eq!(sessions.0.lock().len(), 1);
    }

    /// Who is served goes on: else those who come would end each other without end.
    #[test]
    fn of_too_many_streams_the_new_ones_are_refused() {
        let sessions = PublishSessions::default();
        let most = limits::MAX_PUBLISH_SESSIONS as i64;
        let mut served: Vec<_> = (0..most).map(|id| sessions.take_over(id, id).unwrap()).collect();
        let refused = sessions.take_over(most, most).unwrap_err();
        assert_eq!(refused.reason(), ErrorReason::Overloaded);
        assert!(served.iter().all(|owner| reason(owner).is_none()));
        served[7] = sessions.take_over(7, most).unwrap();
        // Room is where nobody serves any more.
        drop(served.pop());
        served.push(sessions.take_over(most, most).unwrap());
        assert!(sessions.take_over(most + 1, most).is_err());
        assert_eq!(sessions.0.lock().len(), limits::MAX_PUBLISH_SESSIONS);
    }
}
