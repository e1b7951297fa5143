//! The arguments of the tools.

use serde_json::Value;

use super::meant;
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
    /// Reads the arguments that a tool takes. The empty string and `null` are the empty object. All arguments are
    /// optional; one that the tool does not take may be a misspelt condition, and is refused.
    pub fn parse(text: &str, taken: &[&str]) -> Result<Self, CallError> {
        let mut arguments = Self::default();
        if text.trim().is_empty() {
            return Ok(arguments);
        }
        let given = match serde_json::from_str(text) {
            Ok(Value::Object(given)) => given,
            Ok(Value::Null) => return Ok(arguments),
            Ok(_) | Err(_) => return Err(invalid("The arguments are not a JSON object.".into())),
        };
        for (name, value) in given {
            match name.as_str() {
                name if !taken.contains(&name) => return Err(invalid(unknown(name, taken))),
                _ if meant::is_absent(&value) => {}
                ONLY_IF => {
                    let flag = meant::flag(&value);
                    arguments.only_if_unreachable =
                        flag.ok_or_else(|| invalid(format!("`{ONLY_IF}` has to be true or false.")))?;
                }
                _ => arguments.parameters = parameters(meant::structure(value))?,
            }
        }
        Ok(arguments)
    }
}

/// Reads parameters: a list of names and values, as the schema has it, or an object of them. One without a value keeps
/// what it is.
fn parameters(given: Value) -> Result<Vec<Parameter>, CallError> {
    let pairs = match given {
        Value::Object(values) => values.into_iter().collect(),
        Value::Array(items) => items.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?,
        _ => return Err(invalid(SHAPE.into())),
    };
    let mut parameters = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        if value.is_null() {
            continue;
        }
        let value = meant::text(&value)
            .ok_or_else(|| invalid(format!("`{PARAMETERS}`: the value of `{name}` has to be a string.")))?;
        parameters.push(Parameter { name, value });
    }
    // A map of `serde_json` may keep the order of the text; requests have one order only.
    parameters.sort_by(|left, right| left.name.cmp(&right.name));
    match parameters.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(invalid(format!("`{PARAMETERS}` names `{}` twice.", pair[0].name))),
        None => Ok(parameters),
    }
}

const SHAPE: &str = "`parameters` has to be a list of objects with a `name` and a `value`.";

/// A parameter as an item of the list.
fn pair(mut item: Value) -> Result<(String, Value), CallError> {
    let shape = || invalid(SHAPE.into());
    let fields = item.as_object_mut().filter(|fields| fields.len() == 2).ok_or_else(shape)?;
    let (name, value) = fields.remove("name").zip(fields.remove("value")).ok_or_else(shape)?;
    let name = name.as_str().filter(|name| !name.is_empty()).ok_or_else(shape)?;
    Ok((name.to_owned(), value))
}

fn unknown(name: &str, taken: &[&str]) -> String {
    format!("`{name}` is not an argument of this tool; it takes `{}`.", taken.join("` and `"))
}

fn invalid(sentence: String) -> CallError {
    CallError::InvalidArguments(sentence)
}
