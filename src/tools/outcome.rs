//! What a tool answers: one JSON object with its keys in order.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::build;
use crate::contract::{Build, Refusal, ToolResult};

/// The job error of a build that the owner's quota does not allow.
const INSUFFICIENT_QUOTA: &str = "INSUFFICIENT_QUOTA";

/// The answer of a tool, on its way.
///
/// A failure that a model needs more of than one sentence is a *structured* result: an object with `error` and further
/// keys, not marked as an error response, because clients reduce those to their text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    keys: BTreeMap<&'static str, Value>,
    is_error: bool,
}

impl Outcome {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An error response: the tool could not be carried out at all.
    pub fn refused(error: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::failed(error) }
    }

    /// A structured failure, to be told more with [`with`](Self::with).
    pub fn failed(error: impl Into<String>) -> Self {
        Self::new().with("error", error.into())
    }

    /// A structured failure for a build that did not succeed.
    pub fn failed_build(build: &Build) -> Self {
        let failed = Self::failed(sentence(&build::failure(build))).with("build_id", build.id.as_str());
        if build::was_canceled(build) { failed.with("canceled", true) } else { failed }
    }

    /// As [`failed_build`](Self::failed_build) for a start, which the owner's quota may have refused.
    pub fn failed_start(build: &Build) -> Self {
        let failed = Self::failed_build(build);
        if build.error_code.as_deref() != Some(INSUFFICIENT_QUOTA) {
            return failed;
        }
        let outcome = failed
            .with("error_code", INSUFFICIENT_QUOTA)
            .with("title", "Workspace quota exceeded")
            .with("message", "The workspace was not started: its owner has no quota left for it.")
            .with(
                "next_steps",
                vec![
                    "Stop or delete workspaces that are not needed.",
                    "Ask an administrator for a higher quota.",
                ],
            );
        match build.quota {
            Some(quota) => outcome.with("quota", quota_object(quota.credits_consumed, quota.budget)),
            None => outcome,
        }
    }

    /// A structured failure for a request that the control plane refused. `template` is named for refused fields that
    /// the refusal itself gives no template for.
    pub fn failed_request(refusal: &Refusal, template: Option<&str>) -> Self {
        let said = |text: &&str| !text.trim().is_empty();
        let message = Some(refusal.message.as_str()).filter(said);
        let mut outcome =
            Self::failed(message.unwrap_or("The request was refused, and no reason was given."));
        if let Some(detail) = refusal.detail.as_deref().filter(said) {
            outcome = outcome.with("detail", detail);
        }
        if refusal.validations.is_empty() {
            return outcome;
        }
        if let Some(template) = refusal.template.as_deref().or(template) {
            outcome = outcome.with("template_id", template);
        }
        let validations = refusal
            .validations
            .iter()
            .map(|problem| {
                object([("detail", problem.detail.as_str().into()), ("field", problem.field.as_str().into())])
            })
            .collect::<Vec<_>>();
        outcome.with("validations", validations)
    }

    /// A build succeeded, but a newer one has come: what it did is not known to be so any more.
    pub fn overtaken(own: &Build, newest: &Build) -> Self {
        let (own_name, newest_name) = (build::name(own), build::name(newest));
        Self::failed(sentence(&format!("{own_name} succeeded, but {newest_name} has come after it.")))
            .with("build_id", own.id.as_str())
            .with("newest_build_id", newest.id.as_str())
    }

    /// Whether it says so.
    pub fn says(&self, key: &str) -> bool {
        self.keys.get(key) == Some(&Value::Bool(true))
    }

    /// Sets a key.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.keys.insert(key, value.into());
        self
    }

    /// Adds a sentence to the error, or to the message of a success.
    #[must_use]
    pub fn adding(self, addition: &str) -> Self {
        let key = if self.keys.contains_key("error") { "error" } else { "message" };
        let text = match self.keys.get(key).and_then(Value::as_str) {
            Some(before) => format!("{} {addition}", build::full_stop(before)),
            None => addition.to_owned(),
        };
        self.with(key, text)
    }

    /// Makes an error response a structured result, for a call that has changed something.
    #[must_use]
    pub fn structured(mut self) -> Self {
        self.is_error = false;
        self
    }

    /// Whether it is an error response.
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// The answer as the contract has it.
    pub fn into_result(self) -> ToolResult {
        // A map of strings to values always serialises; the empty object is what a model could do least harm with.
        let json = serde_json::to_string(&self.keys).unwrap_or_else(|_| "{}".into());
        ToolResult { json, is_error: self.is_error }
    }
}

/// With a capital letter, if it begins with a letter of ASCII.
pub fn sentence(text: &str) -> String {
    let mut sentence = text.to_owned();
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    sentence
}

fn quota_object(credits_consumed: i64, budget: i64) -> Value {
    object([("budget", budget.into()), ("credits_consumed", credits_consumed.into())])
}

/// The pairs are given in the order of their keys: a map of `serde_json` may keep them as they come.
fn object<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Object(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}
