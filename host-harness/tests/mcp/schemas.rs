//! The schemas of the tools by the rules of those who get them: a client mostly hands them on to its model's provider
//! as they are, and a provider refuses the whole request for one that it cannot take.

use serde_json::{Map, Value, json};

use crate::agent::Agent;
use crate::world::World;

/// What is wrong, by where it is.
type Wrong = Vec<String>;

/// Goes through a schema and all that are in it.
fn walk(schema: &Value, at: &str, look: &mut impl FnMut(&Map<String, Value>, &str)) {
    let Some(keywords) = schema.as_object() else { return };
    look(keywords, at);
    for (keyword, value) in keywords {
        let at = format!("{at}/{keyword}");
        match (&**keyword, value) {
            ("properties" | "$defs" | "definitions" | "patternProperties", Value::Object(named)) => {
                named.iter().for_each(|(name, schema)| walk(schema, &format!("{at}/{name}"), look));
            }
            ("items" | "additionalProperties" | "not", schema) => walk(schema, &at, look),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(all)) => {
                all.iter().for_each(|schema| walk(schema, &at, look));
            }
            _ => {}
        }
    }
}

/// What a look at each schema in a schema finds wrong.
fn each(schema: &Value, what_is_wrong: impl Fn(&Map<String, Value>) -> Vec<String>) -> Wrong {
    let mut wrong = Vec::new();
    walk(schema, "", &mut |keywords, at| {
        wrong.extend(what_is_wrong(keywords).into_iter().map(|what| format!("{at}: {what}")));
    });
    wrong
}

/// Names that are no keyword of a dialect.
fn unknown(keywords: &Map<String, Value>, known: &[&str]) -> Vec<String> {
    keywords
        .keys()
        .filter(|name| !known.contains(&&***name))
        .map(|name| format!("`{name}` is not taken"))
        .collect()
}

fn is_name(name: &str, longest: usize) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.len() <= longest && name.chars().all(allowed)
}

/// What is wrong for everybody.
fn anywhere(schema: &Value) -> Wrong {
    const FORMATS: [&str; 9] =
        ["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "uri", "uuid"];
    let mut wrong = each(schema, |keywords| {
        let mut wrong = Vec::new();
        let kind = keywords.get("type").and_then(Value::as_str);
        if kind.is_none() {
            wrong.push("no type, or several".to_owned());
        }
        if kind == Some("object") && !keywords.get("properties").is_some_and(Value::is_object) {
            wrong.push("an object without `properties`".to_owned());
        }
        if kind == Some("array") && !keywords.get("items").is_some_and(Value::is_object) {
            wrong.push("an array without `items`".to_owned());
        }
        if keywords.get("format").is_some_and(|format| !FORMATS.iter().any(|known| format == known)) {
            wrong.push("a format that few know".to_owned());
        }
        let has = |name: &Value| keywords["properties"].get(name.as_str().unwrap_or_default()).is_some();
        let required = keywords.get("required").and_then(Value::as_array);
        if required.is_some_and(|required| !required.iter().all(has)) {
            wrong.push("a property is required that there is not".to_owned());
        }
        wrong
    });
    if schema["type"] != "object" || schema.get("$schema").is_some() {
        wrong.push("it is not plainly of an object".to_owned());
    }
    wrong
}

/// OpenAI's function calling without `strict`.
fn openai(name: &str, schema: &Value) -> Wrong {
    let at_the_top = ["anyOf", "oneOf", "allOf", "enum", "not"].iter();
    let mut wrong: Wrong = at_the_top
        .filter(|keyword| schema.get(keyword).is_some())
        .map(|keyword| format!("`{keyword}`"))
        .collect();
    if !is_name(name, 64) {
        wrong.push("the name".to_owned());
    }
    wrong
}

/// OpenAI's function calling with `strict`, and a schema that was made strict as OpenAI's own SDKs do it: every
/// property is required, and there are no others. An object with free names cannot be made so.
fn openai_strict(name: &str, schema: &Value) -> Wrong {
    const KEYWORDS: [&str; 22] = [
        "$defs",
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "default",
        "description",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maximum",
        "minItems",
        "minimum",
        "multipleOf",
        "pattern",
        "properties",
        "required",
        "title",
        "type",
    ];
    let mut wrong = openai(name, schema);
    wrong.extend(each(schema, |keywords| {
        let mut wrong = unknown(keywords, &KEYWORDS);
        if keywords.get("additionalProperties").is_some_and(|others| others != &json!(false)) {
            wrong.push("free names".to_owned());
        }
        wrong
    }));
    // Levels of nesting.
    let mut deepest = 0;
    walk(schema, "", &mut |_, at| deepest = deepest.max(at.matches("/properties/").count()));
    if deepest > 10 {
        wrong.push(format!("{deepest} levels"));
    }
    wrong
}

/// Gemini's own form of a schema (`FunctionDeclaration.parameters`), in which any other keyword is an error. Its
/// clients leave `additionalProperties` out, and `parameters` where there is none.
fn gemini(name: &str, schema: &Value) -> Wrong {
    const KEYWORDS: [&str; 23] = [
        "additionalProperties",
        "anyOf",
        "default",
        "description",
        "enum",
        "example",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "nullable",
        "pattern",
        "properties",
        "propertyOrdering",
        "required",
        "title",
        "type",
    ];
    let mut wrong = each(schema, |keywords| {
        let mut wrong = unknown(keywords, &KEYWORDS);
        let formats: &[&str] = match keywords.get("type").and_then(Value::as_str) {
            Some("string") => &["enum", "date-time"],
            Some("integer") => &["int32", "int64"],
            Some("number") => &["float", "double"],
            _ => &[],
        };
        if keywords.get("format").is_some_and(|format| !formats.iter().any(|known| format == known)) {
            wrong.push("its format".to_owned());
        }
        if keywords.contains_key("enum") && keywords["type"] != "string" {
            wrong.push("an enum of something else than strings".to_owned());
        }
        wrong
    });
    walk(schema, "", &mut |keywords, at| {
        let has_none = |properties: &Value| properties.as_object().is_some_and(Map::is_empty);
        if !at.is_empty() && keywords.get("properties").is_some_and(has_none) {
            wrong.push(format!("{at}: an object without a property"));
        }
    });
    if !is_name(name, 64) || !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        wrong.push("the name".to_owned());
    }
    wrong
}

/// Anthropic's tools.
fn anthropic(name: &str, schema: &Value) -> Wrong {
    let mut wrong: Wrong = ["anyOf", "oneOf", "allOf"]
        .iter()
        .filter(|keyword| schema.get(keyword).is_some())
        .map(|keyword| format!("`{keyword}` at the top"))
        .collect();
    wrong.extend(each(schema, |keywords| {
        let names = keywords.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
        names
            .filter(|name| !is_name(&name.replace('.', "_"), 64))
            .map(|name| format!("the name {name}"))
            .collect()
    }));
    if !is_name(name, 64) {
        wrong.push("the name".to_owned());
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_schema_is_taken_by_every_provider() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start(&world, &[]).await;
    let listed = serde_json::to_value(agent.peer().list_all_tools().await.unwrap()).unwrap();
    assert_eq!(agent.close().await, Some(0));
    // Other hosts publish what the plugin gives as it is.
    let of_the_plugin = world.json(&["tools"]);
    for tool in listed.as_array().unwrap().iter().chain(of_the_plugin.as_array().unwrap()) {
        let (name, arguments) = (tool["name"].as_str().unwrap(), &tool["inputSchema"]);
        for (rules, wrong) in [
            ("all", anywhere(arguments)),
            ("OpenAI", openai(name, arguments)),
            ("OpenAI, strict", openai_strict(name, arguments)),
            ("Gemini", gemini(name, arguments)),
            ("Anthropic", anthropic(name, arguments)),
            ("all, of the result", tool.get("outputSchema").map(anywhere).unwrap_or_default()),
        ] {
            assert_eq!(wrong, Wrong::new(), "{name}, by the rules of {rules}: {tool:#}");
        }
    }
    world.end().await;
}

#[test]
fn the_rules_find_what_providers_refuse() {
    let with = |property: Value| json!({ "type": "object", "properties": { "one": property } });
    for (schema, refused_by) in [
        (json!({ "type": "object" }), "all"),
        (json!({ "type": "object", "properties": {}, "$schema": "x" }), "all strict Gemini"),
        (json!({ "type": "object", "properties": {}, "required": ["one"] }), "all"),
        (with(json!({ "type": "integer", "format": "uint32" })), "all Gemini"),
        (with(json!({ "type": ["string", "null"] })), "all"),
        (with(json!({ "type": "array" })), "all"),
        (
            with(json!({ "type": "object", "properties": {}, "additionalProperties": { "type": "string" } })),
            "strict Gemini",
        ),
        (with(json!({ "type": "string", "minLength": 1 })), "strict"),
        (with(json!({ "type": "integer", "exclusiveMinimum": 0 })), "Gemini"),
        (json!({ "type": "object", "properties": {}, "anyOf": [] }), "OpenAI strict Anthropic"),
        (json!({ "type": "object", "properties": { "a b": { "type": "string" } } }), "Anthropic"),
        (with(json!({ "type": "integer", "minimum": 1, "default": 2, "description": "A number." })), ""),
    ] {
        let mut found = [
            ("all", anywhere(&schema)),
            ("OpenAI", openai("tool", &schema)),
            ("strict", openai_strict("tool", &schema)),
            ("Gemini", gemini("tool", &schema)),
            ("Anthropic", anthropic("tool", &schema)),
        ]
        .into_iter()
        .filter(|(_, wrong)| !wrong.is_empty())
        .map(|(rules, _)| rules);
        assert_eq!(found.by_ref().collect::<Vec<_>>().join(" "), refused_by, "{schema}");
    }
    assert!(!openai("a tool", &with(json!({}))).is_empty() && !gemini("1st", &with(json!({}))).is_empty());
}
