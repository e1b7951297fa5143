//! A tool's arguments as they are meant, by the schema that models and clients were given.

use serde_json::{Map, Value};

#[path = "../../src/tools/meant.rs"]
mod meant;

/// Arguments as they are meant: those that are optional and have no value, or the one that the schema says of their
/// absence, are left out, and those of another type of JSON become what they obviously are. What is wrong otherwise
/// stays as it is: the tool has a sentence for it.
pub(crate) fn as_meant(schema: &Value, mut given: Map<String, Value>) -> Map<String, Value> {
    let properties = &schema["properties"];
    let required = schema["required"].as_array();
    let is_required =
        |name: &str| required.is_some_and(|names| names.iter().any(|required| required == name));
    given.retain(|name, value| {
        let Some(of) = properties.get(name) else { return true };
        *value = typed(of, value.take());
        is_required(name) || !meant::is_absent(value) && of.get("default") != Some(value)
    });
    given
}

/// A value in the type that its schema names.
fn typed(schema: &Value, value: Value) -> Value {
    match schema["type"].as_str().unwrap_or_default() {
        "boolean" => meant::flag(&value).map_or(value, Value::from),
        "string" => meant::text(&value).map_or(value, Value::from),
        "integer" => {
            let written = value.as_str().and_then(|text| serde_json::from_str(text).ok());
            meant::whole(written.as_ref().unwrap_or(&value)).map_or(value, Value::from)
        }
        kind @ ("array" | "object") => match meant::structure(value) {
            Value::Array(items) if kind == "array" => {
                items.into_iter().map(|item| typed(&schema["items"], item)).collect()
            }
            Value::Object(fields) if kind == "object" => Value::Object(as_meant(schema, fields)),
            other => other,
        },
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_become_what_their_schema_says_if_they_obviously_are_that() {
        let schema = json!({ "type": "object", "required": ["name"], "properties": {
            "name": { "type": "string" },
            "folder": { "type": "string" },
            "seconds": { "type": "integer" },
            "only": { "type": "boolean", "default": false },
            "pairs": { "type": "array", "items": { "type": "object", "properties": { "value": { "type": "string" } } } },
            "any": {},
        }});
        for (given, meant) in [
            (
                json!({ "name": "", "folder": "", "seconds": "", "only": "", "pairs": "" }),
                json!({ "name": "" }),
            ),
            (json!({ "name": null, "folder": null, "only": null, "any": null }), json!({ "name": null })),
            (json!({ "name": 5, "folder": true }), json!({ "name": "5", "folder": "true" })),
            (json!({ "seconds": "60" }), json!({ "seconds": 60 })),
            (json!({ "seconds": 60.0 }), json!({ "seconds": 60 })),
            (json!({ "seconds": 1.5 }), json!({ "seconds": 1.5 })),
            (json!({ "seconds": "soon" }), json!({ "seconds": "soon" })),
            (json!({ "only": "False" }), json!({})),
            (json!({ "only": "true" }), json!({ "only": true })),
            (json!({ "only": 1 }), json!({ "only": 1 })),
            (json!({ "pairs": [{ "value": 4 }] }), json!({ "pairs": [{ "value": "4" }] })),
            (json!({ "pairs": "[{\"value\": 4.0}]" }), json!({ "pairs": [{ "value": "4" }] })),
            (json!({ "pairs": { "cpu": 4 } }), json!({ "pairs": { "cpu": 4 } })),
            (json!({ "any": [1, "2"], "unknown": "" }), json!({ "any": [1, "2"], "unknown": "" })),
        ] {
            let Value::Object(given) = given else { unreachable!() };
            assert_eq!(Value::Object(as_meant(&schema, given.clone())), meant, "{given:?}");
        }
    }
}
