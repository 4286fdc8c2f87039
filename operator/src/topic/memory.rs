//! What must be known the next time and can't be seen otherwise. It stands in annotations of the Topic, each written
//! before what it is about; a status would be no place for it, since a status may be lost.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Which object the others are about. An object that was copied or restored has another uid: what its former self has
/// done is not what it has done itself.
const ABOUT: &str = "millrace.dev/recorded-for";
const TOPIC_ID: &str = "millrace.dev/topic-id";
const ADOPTED: &str = "millrace.dev/adopted";
const MANAGED: &str = "millrace.dev/managed-config";

/// What an object has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The topic that it manages, so that one that is gone is told from one that never was.
    pub topic_id: Option<String>,
    /// The topic was there before: it is kept when the object goes, unless the object says otherwise.
    pub adopted: bool,
    /// Settings that it has set: one that is taken out of the spec is unset once.
    pub managed: BTreeSet<String>,
}

impl Memory {
    /// As it was written by this very object.
    #[must_use]
    pub fn read(annotations: &BTreeMap<String, String>, uid: &str) -> Self {
        if annotations.get(ABOUT).map(String::as_str) != Some(uid) {
            return Self::default();
        }
        let text = |name: &str| annotations.get(name).filter(|value| !value.is_empty());
        Self {
            topic_id: text(TOPIC_ID).cloned(),
            adopted: text(ADOPTED).is_some_and(|value| value == "true"),
            managed: text(MANAGED)
                .map(|list| list.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
        }
    }

    /// The annotations as a merge patch: what is not there is taken away.
    #[must_use]
    pub fn patch(&self, uid: &str) -> Map<String, Value> {
        let text = |value: Option<String>| value.map_or(Value::Null, Value::String);
        let managed: Vec<&str> = self.managed.iter().map(String::as_str).collect();
        Map::from_iter([
            (ABOUT.to_owned(), Value::String(uid.to_owned())),
            (TOPIC_ID.to_owned(), text(self.topic_id.clone())),
            (ADOPTED.to_owned(), text(self.adopted.then(|| "true".to_owned()))),
            (
                MANAGED.to_owned(),
                text((!managed.is_empty()).then(|| managed.join(","))),
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(memory: &Memory, uid: &str) -> BTreeMap<String, String> {
        memory
            .patch(uid)
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())))
            .collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let memory = Memory {
            topic_id: Some("id".into()),
            adopted: true,
            managed: ["a".into(), "b.c".into()].into(),
        };
        assert_eq!(Memory::read(&written(&memory, "u"), "u"), memory);
        assert_eq!(Memory::read(&written(&Memory::default(), "u"), "u"), Memory::default());
    }

    #[test]
    fn a_copy_of_the_object_has_done_nothing() {
        let memory = Memory {
            topic_id: Some("id".into()),
            adopted: true,
            managed: ["a".into()].into(),
        };
        assert_eq!(Memory::read(&written(&memory, "u"), "other"), Memory::default());
    }

    #[test]
    fn what_is_not_there_is_taken_away() {
        let patch = Memory::default().patch("u");
        assert_eq!(patch[TOPIC_ID], Value::Null);
        assert_eq!(patch[ADOPTED], Value::Null);
        assert_eq!(patch[MANAGED], Value::Null);
    }
}
