//! Parts of Kubernetes' own objects that users write and the operator merges over its own.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Fields of a Kubernetes object, as the user wrote them: merged over what the operator makes, so that no field needs
/// Millrace's permission. The API server keeps them unchecked; they are checked when they are applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(pub Map<String, Value>);

/// Why a template cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// Where in the object, such as `spec.containers`.
    pub path: String,
    /// What stands there in the operator's object.
    pub expected: &'static str,
    /// What stands there in the template.
    pub found: &'static str,
}

impl std::fmt::Display for TemplateError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} must be {}, not {}", self.path, self.expected, self.found)
    }
}

impl std::error::Error for TemplateError {}

/// The lists of a pod that are keyed by a field, as in Kubernetes' own schema (`x-kubernetes-list-map-keys`).
/// Ports may be named by their numbers, too: that is their key in Kubernetes, and the names are ours.
const KEYED: [(&str, &[&str]); 8] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("volumes", &["name"]),
    ("env", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("ports", &["name", "port", "containerPort"]),
    ("imagePullSecrets", &["name"]),
    ("hostAliases", &["ip"]),
];

impl Template {
    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Merges it over an object: maps field by field, the lists that Kubernetes keys by a field element by element, all
    /// else replaced; `null` takes a field away.
    ///
    /// # Errors
    /// If a map or a list of the object is anything else in the template.
    pub fn merge_over(&self, object: &mut Value) -> Result<(), TemplateError> {
        merge(object, &Value::Object(self.0.clone()), &mut Vec::new())
    }
}

fn merge<'a>(object: &mut Value, over: &'a Value, path: &mut Vec<Cow<'a, str>>) -> Result<(), TemplateError> {
    match (object, over) {
        (Value::Object(fields), Value::Object(more)) => {
            for (name, value) in more {
                if value.is_null() {
                    fields.remove(name);
                    continue;
                }
                path.push(name.into());
                match fields.get_mut(name) {
                    Some(field) => merge(field, value, path)?,
                    None => {
                        fields.insert(name.clone(), without_nulls(value));
                    }
                }
                path.pop();
            }
            Ok(())
        }
        (Value::Array(elements), Value::Array(more)) => {
            let key = path
                .last()
                .and_then(|name| KEYED.iter().find(|(list, _)| list == name))
                .map(|(_, keys)| *keys);
            match key {
                Some(keys) => merge_list(elements, more, keys, path),
                None => {
                    *elements = more.iter().map(without_nulls).collect();
                    Ok(())
                }
            }
        }
        (object @ (Value::Object(_) | Value::Array(_)), over) => Err(TemplateError {
            path: path.join("."),
            expected: kind(object),
            found: kind(over),
        }),
        (object, over) => {
            object.clone_from(over);
            Ok(())
        }
    }
}

/// What is written where there was nothing before: there is no field to take away.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        Value::Array(elements) => elements.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Elements with the same key, the first of `keys` that the element has, are merged; others are added at the end, in
/// their order.
fn merge_list<'a>(
    elements: &mut Vec<Value>,
    more: &'a [Value],
    keys: &[&str],
    path: &mut Vec<Cow<'a, str>>,
) -> Result<(), TemplateError> {
    for value in more {
        let key = keys
            .iter()
            .find(|key| value.get(**key).is_some())
            .copied()
            .unwrap_or(keys[0]);
        let known = value
            .get(key)
            .and_then(|wanted| elements.iter_mut().find(|element| element.get(key) == Some(wanted)));
        match known {
            Some(element) => {
                path.push(format!("[{key}={}]", text(&value[key])).into());
                merge(element, value, path)?;
                path.pop();
            }
            None => elements.push(without_nulls(value)),
        }
    }
    Ok(())
}

fn text(value: &Value) -> Cow<'_, str> {
    value.as_str().map_or_else(|| value.to_string().into(), Cow::Borrowed)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "a map",
        Value::Array(_) => "a list",
        Value::String(_) => "a string",
        Value::Number(_) => "a number",
        Value::Bool(_) => "true or false",
        Value::Null => "null",
    }
}

impl JsonSchema for Template {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Template".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut object: Value, template: Value) -> Result<Value, TemplateError> {
        let template: Template = serde_json::from_value(template).unwrap();
        template.merge_over(&mut object)?;
        Ok(object)
    }

    #[test]
    fn maps_are_merged_field_by_field() {
        let pod = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"hostNetwork": false, "priority": 3}});
        let template =
            json!({"metadata": {"labels": {"b": "2"}}, "spec": {"priorityClassName": "data", "priority": null}});
        assert_eq!(
            merged(pod, template).unwrap(),
            json!({
                "metadata": {"labels": {"a": "1", "b": "2"}},
                "spec": {"hostNetwork": false, "priorityClassName": "data"},
            })
        );
    }

    #[test]
    fn containers_are_merged_by_name_and_others_added() {
        let pod =
            json!({"spec": {"containers": [{"name": "broker", "image": "i", "env": [{"name": "A", "value": "1"}]}]}});
        let template = json!({"spec": {"containers": [
            {"name": "broker", "resources": {"limits": {"memory": "4Gi"}}, "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]},
            {"name": "sidecar", "image": "s"},
        ]}});
        assert_eq!(
            merged(pod, template).unwrap(),
            json!({"spec": {"containers": [
                {
                    "name": "broker", "image": "i", "resources": {"limits": {"memory": "4Gi"}},
                    "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
                },
                {"name": "sidecar", "image": "s"},
            ]}})
        );
    }

    #[test]
    fn ports_are_known_by_name_or_number() {
        let service = json!({"spec": {"ports": [{"name": "client", "port": 9650}]}});
        for named in [
            json!({"name": "client", "nodePort": 30000}),
            json!({"port": 9650, "nodePort": 30000}),
        ] {
            assert_eq!(
                merged(service.clone(), json!({"spec": {"ports": [named]}})).unwrap(),
                json!({"spec": {"ports": [{"name": "client", "port": 9650, "nodePort": 30000}]}})
            );
        }
    }

    #[test]
    fn nulls_never_reach_an_object() {
        let template =
            json!({"spec": {"nodeSelector": {"a": null, "b": "c"}, "containers": [{"name": "s", "env": null}]}});
        assert_eq!(
            merged(json!({"spec": {"containers": []}}), template).unwrap(),
            json!({"spec": {"nodeSelector": {"b": "c"}, "containers": [{"name": "s"}]}})
        );
    }

    #[test]
    fn lists_without_a_key_are_replaced() {
        let pod = json!({"spec": {"tolerations": [{"key": "a"}], "containers": [{"name": "broker", "args": ["x"]}]}});
        let template =
            json!({"spec": {"tolerations": [{"key": "b"}], "containers": [{"name": "broker", "args": ["y", "z"]}]}});
        assert_eq!(
            merged(pod, template).unwrap(),
            json!({"spec": {"tolerations": [{"key": "b"}], "containers": [{"name": "broker", "args": ["y", "z"]}]}})
        );
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place() {
        let pod = json!({"spec": {"containers": [{"name": "broker", "env": []}]}});
        let error = merged(pod.clone(), json!({"spec": {"containers": {"name": "broker"}}})).unwrap_err();
        assert_eq!(error.to_string(), "spec.containers must be a list, not a map");
        let error = merged(pod, json!({"spec": {"containers": [{"name": "broker", "env": "A=1"}]}})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "spec.containers.[name=broker].env must be a list, not a string"
        );
    }

    #[test]
    fn merging_twice_changes_nothing_more() {
        let pod = json!({"spec": {"containers": [{"name": "broker", "image": "i"}], "volumes": []}});
        let template = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "s"}]}});
        let once = merged(pod, template.clone()).unwrap();
        assert_eq!(merged(once.clone(), template).unwrap(), once);
    }
}
