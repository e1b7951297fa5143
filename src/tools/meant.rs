//! What arguments are meant to be that models and clients write otherwise than the tool's schema says. The host reads
//! the arguments of its own tools by the same rules: it has this file, too.

use serde_json::Value;

/// Whether an optional argument is left out: `null` and the empty string are what many clients and models send then.
pub fn is_absent(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

/// Yes or no, also if it is written as text.
pub fn flag(value: &Value) -> Option<bool> {
    let says = |text: &str, word: &str| text.trim().eq_ignore_ascii_case(word);
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) if says(text, "true") => Some(true),
        Value::String(text) if says(text, "false") => Some(false),
        _ => None,
    }
}

/// Text, also if it is written as a number or as yes or no. A whole number has no decimal point.
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(_) => Some(whole(value).map_or_else(|| value.to_string(), |number| number.to_string())),
        _ => None,
    }
}

/// A whole number, also if it is written `60.0`.
pub fn whole(value: &Value) -> Option<i64> {
    // Up to there each whole number is a float.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let from_float = |number: f64| (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(from_float))
}

/// A list or an object, also if it is written as the text of one.
pub fn structure(value: Value) -> Value {
    let written = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    written.filter(|written| written.is_array() || written.is_object()).unwrap_or(value)
}
