//! Conditions, as Kubernetes wants them (`sig-architecture/api-conventions.md`): keyed by type, each with the generation
//! that it is about; the time moves only when the status does.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Messages are cut here: the API server refuses longer ones (32 KiB), and nobody reads them.
const MAX_MESSAGE: usize = 1024;

/// A condition to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its type: `Ready`.
    pub kind: &'static str,
    /// True, false or unknown.
    pub status: Status,
    /// One word in CamelCase, for programs.
    pub reason: &'static str,
    /// A sentence, for people.
    pub message: String,
}

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is so.
    True,
    /// It is not.
    False,
    /// Nobody knows.
    Unknown,
}

impl Status {
    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl Wanted {
    /// It is so.
    #[must_use]
    pub fn yes(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(kind, Status::True, reason, message)
    }

    /// It is not.
    #[must_use]
    pub fn no(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(kind, Status::False, reason, message)
    }

    /// Nobody knows.
    #[must_use]
    pub fn unknown(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(kind, Status::Unknown, reason, message)
    }

    fn new(kind: &'static str, status: Status, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            status,
            reason,
            message: cut(message.into()),
        }
    }
}

/// At most [`MAX_MESSAGE`] bytes of a text, whole characters.
fn cut(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let mut end = MAX_MESSAGE - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The conditions to write: `wanted` in its order, each with the time at which its status last changed. Conditions that
/// are not wanted any more go.
#[must_use]
pub fn merge(before: &[Condition], wanted: &[Wanted], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    wanted
        .iter()
        .map(|wanted| {
            let status = wanted.status.as_str();
            let before = before.iter().find(|known| known.type_ == wanted.kind);
            let since = before
                .filter(|known| known.status == status)
                .map_or(Time(whole_seconds(now)), |known| known.last_transition_time.clone());
            Condition {
                type_: wanted.kind.to_owned(),
                status: status.to_owned(),
                reason: wanted.reason.to_owned(),
                message: wanted.message.clone(),
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

/// Kubernetes keeps whole seconds: what is written must be what is read back.
#[must_use]
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_time_moves_with_the_status_only() {
        let first = merge(&[], &[Wanted::no("Ready", "Creating", "a")], Some(1), at(10));
        let same = merge(&first, &[Wanted::no("Ready", "Creating", "b")], Some(2), at(20));
        assert_eq!(same[0].last_transition_time.0, at(10));
        assert_eq!((same[0].message.as_str(), same[0].observed_generation), ("b", Some(2)));
        let ready = merge(&same, &[Wanted::yes("Ready", "Ready", "")], Some(2), at(30));
        assert_eq!(ready[0].last_transition_time.0, at(30));
        assert_eq!(merge(&ready, &[], Some(2), at(40)), []);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let wanted = Wanted::yes("Ready", "Ready", "ä".repeat(MAX_MESSAGE));
        assert!(wanted.message.len() <= MAX_MESSAGE);
        assert!(wanted.message.ends_with("ä…"));
    }
}
