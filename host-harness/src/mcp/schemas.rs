//! Schemas as clients get them. Those who hand a tool on to a model's provider mostly hand its schema on as it is, and
//! some providers refuse all tools for what is missing or unknown in one.

use rmcp::model::JsonObject;
use serde_json::{Value, json};

/// Formats that JSON Schema (2020-12) defines.
const FORMATS: [&str; 19] = [
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "idn-email",
    "idn-hostname",
    "ipv4",
    "ipv6",
    "iri",
    "iri-reference",
    "json-pointer",
    "regex",
    "relative-json-pointer",
    "time",
    "uri",
    "uri-reference",
    "uri-template",
    "uuid",
];
/// Keywords whose value is a schema, or a list of them.
const SCHEMAS: [&str; 12] = [
    "additionalProperties",
    "allOf",
    "anyOf",
    "contains",
    "else",
    "if",
    "items",
    "not",
    "oneOf",
    "prefixItems",
    "then",
    "unevaluatedProperties",
];
/// Keywords whose value has schemas by name.
const NAMED_SCHEMAS: [&str; 4] = ["$defs", "definitions", "patternProperties", "properties"];

/// A tool's schema as every client takes it: it is one of an object, each object in it says which properties it has, if
/// only that there are none, and nothing is in it that says what only this program understands. The error says why it
/// cannot be.
pub(super) fn published(mut schema: JsonObject) -> Result<JsonObject, String> {
    // What is around it says so already.
    schema.remove("$schema");
    let kind = schema.entry("type").or_insert_with(|| json!("object"));
    if kind != "object" {
        return Err(format!("its type is {kind}, and has to be \"object\""));
    }
    tidy(&mut schema);
    Ok(schema)
}

fn tidy(schema: &mut JsonObject) {
    if schema.get("type").is_some_and(|kind| kind == "object") {
        schema.entry("properties").or_insert_with(|| json!({}));
    }
    schema.retain(|keyword, value| keyword != "format" || FORMATS.iter().any(|format| value == format));
    for (keyword, value) in schema {
        match value {
            Value::Object(named) if NAMED_SCHEMAS.contains(&&**keyword) => {
                named.values_mut().filter_map(Value::as_object_mut).for_each(tidy);
            }
            Value::Object(inner) if SCHEMAS.contains(&&**keyword) => tidy(inner),
            Value::Array(all) if SCHEMAS.contains(&&**keyword) => {
                all.iter_mut().filter_map(Value::as_object_mut).for_each(tidy);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_loses_what_clients_refuse_and_gains_what_they_want() {
        let published = |schema: Value| published(schema.as_object().unwrap().clone()).map(Value::Object);
        assert_eq!(published(json!({})), Ok(json!({ "type": "object", "properties": {} })));
        let given = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "properties": {
                "format": { "type": "integer", "format": "uint32", "default": { "type": "object" } },
                "when": { "type": "string", "format": "date-time" },
                "each": { "type": "array", "items": { "type": "object" } },
                "any": { "anyOf": [{ "type": "object" }, true] },
            },
            "required": ["format"],
        });
        let taken = json!({
            "type": "object",
            "properties": {
                "format": { "type": "integer", "default": { "type": "object" } },
                "when": { "type": "string", "format": "date-time" },
                "each": { "type": "array", "items": { "type": "object", "properties": {} } },
                "any": { "anyOf": [{ "type": "object", "properties": {} }, true] },
            },
            "required": ["format"],
        });
        assert_eq!(published(given), Ok(taken));
        assert!(published(json!({ "type": "array" })).unwrap_err().contains("array"));
    }
}
