//! The arguments of the tools.

use serde_json::{Map, Value};

use crate::contract::{CallError, Parameter};

/// Stop only what is still unreachable.
pub const ONLY_IF: &str = "only_if_unreachable";
/// Values for the template's parameters, for a start.
pub const PARAMETERS: &str = "parameters";

/// The arguments that the tools take. Each tool takes some of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Go on only if a fresh look shows the agent unreachable.
    pub only_if_unreachable: bool,
    /// In the order of their names.
    pub parameters: Vec<Parameter>,
}

impl Arguments {
    /// Reads the arguments that a tool takes. The empty string is the empty object.
    pub fn parse(text: &str, taken: &[&str]) -> Result<Self, CallError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let object: Map<String, Value> =
            serde_json::from_str(text).map_err(|_| invalid("The arguments are not a JSON object.".into()))?;
        let mut arguments = Self::default();
        for (field, value) in object {
            match (field.as_str(), value) {
                (name, _) if !taken.contains(&name) => return Err(invalid(unknown(name, taken))),
                (ONLY_IF, Value::Bool(flag)) => arguments.only_if_unreachable = flag,
                (ONLY_IF, _) => return Err(invalid(format!("`{ONLY_IF}` has to be true or false."))),
                (_, Value::Object(values)) => arguments.parameters = parameters(values)?,
                (name, _) => {
                    return Err(invalid(format!("`{name}` has to be an object of names and strings.")));
                }
            }
        }
        Ok(arguments)
    }
}

fn parameters(values: Map<String, Value>) -> Result<Vec<Parameter>, CallError> {
    let mut parameters = Vec::with_capacity(values.len());
    for (name, value) in values {
        match value {
            Value::String(value) => parameters.push(Parameter { name, value }),
            _ => return Err(invalid(format!("`{PARAMETERS}.{name}` has to be a string."))),
        }
    }
    // A map of `serde_json` may keep the order of the text; requests have one order only.
    parameters.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(parameters)
}

fn unknown(name: &str, taken: &[&str]) -> String {
    format!("`{name}` is not an argument of this tool; it takes `{}`.", taken.join("` and `"))
}

fn invalid(sentence: String) -> CallError {
    CallError::InvalidArguments(sentence)
}
