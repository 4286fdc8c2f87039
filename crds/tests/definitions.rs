//! The definitions as the API server gets them: fresh, and with what it demands.

use std::{fs, path::PathBuf};

use millrace_crds::definitions;
use serde_json::Value;

const HEADER: &str = "# Made from the Rust types by `make crds`.\n";

/// `UPDATE=1` writes them.
#[test]
fn generated_yaml_is_fresh() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let update = std::env::var_os("UPDATE").is_some();
    let mut known = Vec::new();
    for definition in definitions() {
        let path = folder.join(format!("{}.yaml", definition.metadata.name.as_ref().unwrap()));
        let value = serde_json::to_value(&definition).unwrap();
        let yaml = format!("{HEADER}{}", serde_saphyr::to_string(&value).unwrap());
        if update {
            fs::write(&path, &yaml).unwrap();
        }
        let read = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            read == yaml,
            "{} is not what the types say: run `make crds`",
            path.display()
        );
        // Nor does writing lose anything.
        assert_eq!(serde_saphyr::from_str::<Value>(&read).unwrap(), value);
        known.push(path);
    }
    let mut found: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    assert_eq!(found, known, "a file that no type makes");
}

/// Calls `look` with each schema and its path.
fn walk(path: &str, schema: &Value, look: &mut impl FnMut(&str, &Value)) {
    look(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, look);
    }
    if let Some(items) = schema.get("items") {
        walk(&format!("{path}[]"), items, look);
    }
    if let Some(values) = schema.get("additionalProperties") {
        walk(&format!("{path}{{}}"), values, look);
    }
}

fn each_schema(look: &mut impl FnMut(&str, &Value)) {
    for definition in definitions() {
        let definition = serde_json::to_value(definition).expect("a definition is JSON");
        let kind = definition["spec"]["names"]["kind"].as_str().expect("a kind has a name");
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        walk(kind, schema, look);
    }
}

/// Without bounds the API server takes a rule for too costly and refuses the whole definition.
#[test]
fn what_users_write_is_bounded() {
    let mut unbounded = Vec::new();
    each_schema(&mut |path, schema| {
        // Kubernetes' own type.
        let foreign = path.contains(".selector");
        let bounded = match schema["type"].as_str() {
            Some("string") => schema.get("maxLength").is_some() || schema.get("enum").is_some(),
            Some("array") => schema.get("maxItems").is_some(),
            Some("object") => {
                schema.get("properties").is_some()
                    || schema.get("maxProperties").is_some()
                    || schema.get("x-kubernetes-preserve-unknown-fields").is_some()
            }
            Some("integer") => schema.get("minimum").is_some() && schema.get("maximum").is_some(),
            _ => true,
        };
        if path.contains(".spec") && !foreign && !bounded {
            unbounded.push(path.to_owned());
        }
    });
    assert!(unbounded.is_empty(), "without bounds: {unbounded:?}");
}

/// What `kubectl explain` shows of them.
#[test]
fn what_users_write_is_described() {
    let mut silent = Vec::new();
    each_schema(&mut |path, schema| {
        let element = path.ends_with("{}") || path.ends_with("[]");
        let described = schema["description"].as_str().is_some_and(|text| text.len() >= 4);
        if (path.contains(".spec") || path.contains(".status")) && !element && !described {
            silent.push(path.to_owned());
        }
    });
    assert!(silent.is_empty(), "without words: {silent:?}");
}

/// Empty lists and false flags make a definition differ from what the API server gives back, for ever.
#[test]
fn nothing_empty_is_written() {
    fn look(path: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Null | Value::Bool(false) => found.push(path.to_owned()),
            Value::Array(elements) if elements.is_empty() => found.push(path.to_owned()),
            Value::Array(elements) => {
                for (at, element) in elements.iter().enumerate() {
                    look(&format!("{path}[{at}]"), element, found);
                }
            }
            Value::Object(fields) if fields.is_empty() && !path.ends_with(".status") => found.push(path.to_owned()),
            Value::Object(fields) => {
                for (name, field) in fields {
                    look(&format!("{path}.{name}"), field, found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for definition in definitions() {
        look("", &serde_json::to_value(definition).unwrap(), &mut found);
    }
    assert!(found.is_empty(), "{found:?}");
}

/// Defaults in the schema are written into every object for ever, so each has to be part of a field's meaning.
#[test]
fn only_the_number_of_brokers_has_a_default_in_the_schema() {
    let mut with = Vec::new();
    each_schema(&mut |path, schema| {
        if schema.get("default").is_some() {
            with.push(path.to_owned());
        }
    });
    assert_eq!(with, ["Cluster.spec.replicas"]);
}
