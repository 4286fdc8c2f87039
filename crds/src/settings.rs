//! Settings of brokers and topics, as maps of names to values.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// The most settings that one object may hold.
pub const MAX_SETTINGS: usize = 64;

/// The longest value of a setting, in characters.
const MAX_VALUE: usize = 4096;

/// Settings by their names, sorted, so that equal ones are written equally.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(pub BTreeMap<String, Setting>);

impl Settings {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Settings {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(all: I) -> Self {
        Self(
            all.into_iter()
                .map(|(name, value)| (name.into(), Setting(value.into())))
                .collect(),
        )
    }
}

impl JsonSchema for Settings {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Settings".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": MAX_SETTINGS,
            "additionalProperties": Setting::json_schema(generator),
            "x-kubernetes-validations": [{
                "rule": "self.all(name, size(name) > 0 && size(name) <= 249)",
                "message": "each setting has a name of 1 to 249 characters",
            }],
        })
    }
}

/// The value of a setting. Whole numbers may be written without quotes (`retention.ms: 604800000`): quoting them is
/// what people forget most with Kafka's settings in YAML.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Setting(String);

impl Setting {
    /// The value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for Setting {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Setting;

            fn expecting(&self, out: &mut Formatter<'_>) -> fmt::Result {
                out.write_str("a string or a whole number")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Setting, E> {
                Ok(Setting(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Setting, E> {
                Ok(Setting(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Setting, E> {
                Ok(Setting(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Setting, E> {
                Ok(Setting(value))
            }
        }
        from.deserialize_any(Visitor)
    }
}

impl JsonSchema for Setting {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Setting".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "maxLength": MAX_VALUE })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_need_no_quotes() {
        let settings: Settings = serde_json::from_value(json!({"b": "x", "a": 604_800_000, "c": -1})).unwrap();
        assert_eq!(
            settings.iter().collect::<Vec<_>>(),
            [("a", "604800000"), ("b", "x"), ("c", "-1")]
        );
        assert_eq!(
            serde_json::to_value(&settings).unwrap(),
            json!({"a": "604800000", "b": "x", "c": "-1"})
        );
    }

    #[test]
    fn what_is_neither_text_nor_a_whole_number_is_refused() {
        for wrong in [json!(true), json!(null), json!(1.5), json!([1]), json!({})] {
            let error = serde_json::from_value::<Settings>(json!({ "a": wrong })).unwrap_err();
            assert!(error.to_string().contains("a string or a whole number"), "{error}");
        }
    }
}
