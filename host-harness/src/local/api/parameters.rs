//! The parameters of a build: taken over from the build before, given, or default; and refused where one is missing.

use axum::http::StatusCode;

use super::super::db::builds::ParameterValue;
use super::super::model::{ParameterSpec, VersionSpec};
use super::problem::Problem;

/// The values of a build, or why it is refused. A template with classic parameters reports the first problem as text,
/// others report all of them by field.
pub(super) fn resolve(
    version: &VersionSpec,
    classic: bool,
    before: &[ParameterValue],
    given: &[ParameterValue],
) -> Result<Vec<ParameterValue>, Problem> {
    let mut values = Vec::new();
    let mut problems = Vec::new();
    for parameter in &version.parameters {
        match value(parameter, classic, before, given) {
            Ok(value) => values.push(ParameterValue { name: parameter.name.clone(), value }),
            Err(problem) => problems.push((parameter.name.as_str(), problem)),
        }
    }
    let Some((first, problem)) = problems.first() else { return Ok(values) };
    if classic {
        let message = format!("The parameter \"{first}\" is not valid.");
        return Err(Problem::new(StatusCode::BAD_REQUEST, message).detail(format!("\"{first}\" {problem}")));
    }
    let refused = Problem::new(StatusCode::BAD_REQUEST, "The parameters are not valid.");
    Err(problems.into_iter().fold(refused, |refused, (field, problem)| refused.field(field, problem)))
}

fn value(
    parameter: &ParameterSpec,
    classic: bool,
    before: &[ParameterValue],
    given: &[ParameterValue],
) -> Result<String, String> {
    let named = |values: &[ParameterValue]| {
        values.iter().find(|value| value.name == parameter.name).map(|value| value.value.clone())
    };
    let value = match named(given).or_else(|| named(before)) {
        Some(value) => value,
        None if parameter.required => return Err("is required, and has no value".to_owned()),
        None => parameter.default_value.clone(),
    };
    // The newer way takes an empty value for one.
    if parameter.required && classic && value.is_empty() {
        return Err("is required, and its value is empty".to_owned());
    }
    if !parameter.options.is_empty() && !parameter.options.contains(&value) {
        return Err(format!("has to be one of {}", parameter.options.join(", ")));
    }
    Ok(value)
}
