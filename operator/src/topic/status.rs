//! What is written into a Topic's status, and the smallest patch that makes it so: none where nothing has changed.

use k8s_openapi::jiff::Timestamp;
use millrace_crds::TopicStatus;
use serde_json::{Map, Value, json};

use super::{decide::Report, seen::Object};
use crate::conditions::{Wanted, merge};

/// The status to have.
#[must_use]
pub fn status(object: &Object, report: &Report, now: Timestamp) -> TopicStatus {
    let before = &object.status;
    let conditions = merge(&before.conditions, &report.conditions, object.generation, now);
    let topic_name = Some(object.topic().to_owned());
    match &report.facts {
        None => TopicStatus {
            observed_generation: object.generation,
            conditions,
            topic_name,
            ..before.clone()
        },
        Some(facts) => TopicStatus {
            observed_generation: object.generation,
            conditions,
            topic_name,
            topic_id: facts.id.clone(),
            partitions: facts.partitions,
            replication_factor: facts.replication_factor,
            adopted: facts.adopted,
            owner: facts.owner.clone(),
            replica_change: facts.replica_change.clone(),
            effective_config: facts.config.clone(),
        },
    }
}

/// Only the conditions, for an object whose spec can't be read.
#[must_use]
pub fn bare(before: &TopicStatus, wanted: &[Wanted], generation: Option<i64>, now: Timestamp) -> TopicStatus {
    TopicStatus {
        observed_generation: generation,
        conditions: merge(&before.conditions, wanted, generation, now),
        ..before.clone()
    }
}

/// The merge patch (RFC 7386) that makes the one the other; none if they are equal.
#[must_use]
pub fn difference(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return Some(to.clone());
    };
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in to {
        let changed = match from.get(key) {
            None => Some(value.clone()),
            Some(before) => difference(before, value),
        };
        if let Some(changed) = changed {
            patch.insert(key.clone(), changed);
        }
    }
    Some(Value::Object(patch))
}

/// The patch of the status subresource, for the object exactly as it was seen.
///
/// # Errors
/// The status can't be written as JSON, which can't be.
pub fn patch(raw: &Value, wanted: &TopicStatus, resource_version: Option<&str>) -> serde_json::Result<Option<Value>> {
    let empty = json!({});
    let before = raw.get("status").unwrap_or(&empty);
    let changed = difference(before, &serde_json::to_value(wanted)?);
    Ok(changed.map(|status| json!({ "metadata": { "resourceVersion": resource_version }, "status": status })))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic::decide::Facts;

    /// RFC 7386, as it is written there.
    fn apply(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else {
            return patch.clone();
        };
        let mut target = match target {
            Value::Object(target) => target,
            _ => Map::new(),
        };
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                let before = target.remove(key).unwrap_or(Value::Null);
                target.insert(key.clone(), apply(before, value));
            }
        }
        Value::Object(target)
    }

    fn objects() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..3_i64).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from),
            prop::collection::vec((0..3_i64).prop_map(Value::from), 0..3).prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 16, 3, |inner| {
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
        });
        prop::collection::btree_map("[a-c]", value, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn the_difference_makes_the_one_the_other(from in objects(), to in objects()) {
            match difference(&from, &to) {
                None => prop_assert_eq!(from, to),
                Some(patch) => prop_assert_eq!(apply(from, &patch), to),
            }
        }
    }

    fn seen_at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn report() -> Report {
        Report {
            conditions: vec![Wanted::yes("Ready", "Ready", "")],
            facts: Some(Facts {
                id: Some("id".into()),
                partitions: Some(3),
                config: [("a", "1"), ("b", "2")].into_iter().collect(),
                ..Facts::default()
            }),
        }
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let mut object = Object {
            generation: Some(1),
            name: "t".into(),
            ..Object::default()
        };
        let first = status(&object, &report(), seen_at(1));
        let raw = json!({ "status": serde_json::to_value(&first).unwrap() });
        object.status = first;
        let again = status(&object, &report(), seen_at(2));
        assert_eq!(patch(&raw, &again, Some("1")).unwrap(), None);
        let patched = patch(&json!({}), &again, Some("1")).unwrap().unwrap();
        assert_eq!(patched["metadata"]["resourceVersion"], "1");
        assert_eq!(patched["status"]["topicID"], "id");
    }

    #[test]
    fn what_is_no_more_is_taken_away_and_what_was_not_asked_stays() {
        let mut object = Object {
            name: "t".into(),
            ..Object::default()
        };
        object.status = status(&object, &report(), seen_at(1));
        let raw = json!({ "status": serde_json::to_value(&object.status).unwrap() });
        let fewer = Report {
            facts: Some(Facts {
                config: [("a", "1")].into_iter().collect(),
                ..Facts::default()
            }),
            ..report()
        };
        let patched = patch(&raw, &status(&object, &fewer, seen_at(2)), None)
            .unwrap()
            .unwrap();
        assert_eq!(patched["status"]["effectiveConfig"], json!({"b": null}));
        assert_eq!(patched["status"]["topicID"], Value::Null);
        let unasked = Report {
            facts: None,
            ..report()
        };
        assert_eq!(patch(&raw, &status(&object, &unasked, seen_at(2)), None).unwrap(), None);
    }
}
