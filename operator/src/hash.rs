//! One hash for equal objects, whatever the order of their fields. Two versions of the operator must come to the same
//! one, or each would restart what the other has made.

use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// 16 hexadecimal digits: fits a label and tells 10^9 objects apart.
#[must_use]
pub fn hash(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    let digest = Sha256::digest(text.as_bytes());
    digest[..8].iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// JSON with the fields of each map sorted.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (at, (name, value)) in fields.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                let _ = write!(out, "{}:", Value::String(name.clone()));
                canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(elements) => {
            out.push('[');
            for (at, element) in elements.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                canonical(element, out);
            }
            out.push(']');
        }
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_fields_does_not_matter_and_that_of_elements_does() {
        let one: Value = serde_json::from_str(r#"{"a": 1, "b": [1, {"x": null, "y": "z"}]}"#).unwrap();
        let two: Value = serde_json::from_str(r#"{"b": [1, {"y": "z", "x": null}], "a": 1}"#).unwrap();
        assert_eq!(hash(&one), hash(&two));
        assert_ne!(hash(&one), hash(&json!({"a": 1, "b": [{"x": null, "y": "z"}, 1]})));
        assert_ne!(hash(&json!({"a": "1"})), hash(&json!({"a": 1})));
    }

    #[test]
    fn it_is_the_same_in_every_version() {
        assert_eq!(hash(&json!({"image": "millrace:1", "env": []})), "d0689b05a11a1bbf");
    }
}
