//! A Topic object as the API server gives it, read.

use std::collections::BTreeMap;

use kube::core::DynamicObject;
use millrace_crds::{TopicSpec, TopicStatus};
use serde_json::Value;

use super::{memory::Memory, seen::Object};
use crate::names::{PAUSED, RECREATE, TOPIC_FINALIZER};

/// Reads it. What can't be read of the status is written anew: it is our own.
///
/// # Errors
/// The parser's words, for a spec of another version.
pub fn read(raw: &DynamicObject) -> Result<Object, String> {
    let spec = raw
        .data
        .get("spec")
        .cloned()
        .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let spec: TopicSpec = serde_json::from_value(spec).map_err(|error| format!("spec: {error}"))?;
    let annotations = raw.metadata.annotations.clone().unwrap_or_default();
    let uid = raw.metadata.uid.clone().unwrap_or_default();
    Ok(Object {
        namespace: raw.metadata.namespace.clone().unwrap_or_default(),
        name: raw.metadata.name.clone().unwrap_or_default(),
        generation: raw.metadata.generation,
        status: status(raw),
        paused: spec.paused || is_true(&annotations, PAUSED),
        recreate: is_true(&annotations, RECREATE),
        deleting: raw.metadata.deletion_timestamp.is_some(),
        finalizer: has_finalizer(raw),
        memory: Memory::read(&annotations, &uid),
        uid,
        spec,
    })
}

/// Its status, as far as it can be read.
#[must_use]
pub fn status(raw: &DynamicObject) -> TopicStatus {
    raw.data
        .get("status")
        .and_then(|status| serde_json::from_value(status.clone()).ok())
        .unwrap_or_default()
}

/// Whether it is kept until we let it go.
#[must_use]
pub fn has_finalizer(raw: &DynamicObject) -> bool {
    let finalizers = raw.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|one| one == TOPIC_FINALIZER)
}

fn is_true(annotations: &BTreeMap<String, String>, name: &str) -> bool {
    annotations.get(name).is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_object_is_read_with_its_annotations() {
        let object = read(&raw(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Topic",
            "metadata": {
                "namespace": "a", "name": "t", "uid": "u", "generation": 3,
                "finalizers": ["other", "millrace.dev/topic"],
                "annotations": {"millrace.dev/paused": "true", "millrace.dev/recreate": "yes"},
            },
            "spec": {"clusterRef": {"name": "c", "namespace": "b"}, "name": "T"},
            "status": {"partitions": "three"},
        })))
        .unwrap();
        assert!(object.paused && object.finalizer && !object.recreate && !object.deleting);
        assert_eq!(object.topic(), "T");
        assert_eq!(object.cluster(), crate::names::ClusterKey::new("b", "c"));
        assert_eq!(
            object.status,
            TopicStatus::default(),
            "what can't be read is written anew"
        );
    }

    #[test]
    fn a_spec_of_another_version_is_told_in_the_parser_s_words() {
        let error = read(&raw(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "t"},
            "spec": {"clusterRef": {"name": "c"}, "deletionPolicy": "Archive"},
        })))
        .unwrap_err();
        assert!(error.contains("unknown variant `Archive`"), "{error}");
        assert!(
            read(&raw(json!({
                "apiVersion": "millrace.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "t"},
            })))
            .is_err()
        );
    }
}
