//! The tools against a scripted host.

mod arguments;
mod conditional;
mod restart;
mod start;
mod stop;

use serde_json::{Value, json};

use crate::builders::policy;
use crate::contract::{CallError, JobStatus, Policy};
use crate::fake::{Answer, Fake};
use crate::tools::call;

/// What a call answered and asked.
struct Run {
    json: Value,
    is_error: bool,
    requests: Vec<String>,
}

impl Run {
    #[track_caller]
    fn has(&self, key: &str, value: impl Into<Value>) -> &Self {
        assert_eq!(self.json[key], value.into(), "{key} of {}", self.json);
        self
    }

    #[track_caller]
    fn lacks(&self, key: &str) -> &Self {
        assert!(self.json.get(key).is_none(), "{key} of {}", self.json);
        self
    }

    #[track_caller]
    fn says(&self, key: &str, part: &str) -> &Self {
        let text = self.json[key].as_str().unwrap_or_default();
        assert!(text.contains(part), "{key} of {} lacks {part:?}", self.json);
        self
    }

    /// A structured failure: an object with `error`, not an error response.
    #[track_caller]
    fn fails(&self) -> &Self {
        assert!(!self.is_error && self.json["error"].is_string(), "{}", self.json);
        self
    }

    /// An error response: `error` and nothing else.
    #[track_caller]
    fn is_refused(&self, part: &str) -> &Self {
        assert!(self.is_error && self.json.as_object().unwrap().len() == 1, "{}", self.json);
        self.says("error", part)
    }

    #[track_caller]
    fn asked(&self, requests: &[&str]) -> &Self {
        assert_eq!(self.requests, requests);
        self
    }

    #[track_caller]
    fn issued_nothing(&self) -> &Self {
        assert!(!self.requests.iter().any(|request| request.contains(" on b")), "{:?}", self.requests);
        self
    }
}

fn run(tool: &str, script: impl IntoIterator<Item = Answer>) -> Run {
    run_with(tool, "", &policy(), script)
}

fn run_with(tool: &str, arguments: &str, policy: &Policy, script: impl IntoIterator<Item = Answer>) -> Run {
    let fake = Fake::new(script);
    let result = call(&fake, tool, arguments, policy).unwrap();
    let json: Value = serde_json::from_str(&result.json).unwrap();
    let schema = crate::tools::list().into_iter().find(|one| one.name == tool).unwrap().output_schema;
    let schema: Value = serde_json::from_str(&schema).unwrap();
    for key in json.as_object().unwrap().keys() {
        assert!(schema["properties"][key].is_object(), "the output schema of {tool} lacks {key}");
    }
    Run { json, is_error: result.is_error, requests: fake.requests() }
}

/// Every way in which a job is in progress, those included that nobody knows yet.
fn in_progress() -> [JobStatus; 4] {
    [JobStatus::Pending, JobStatus::Running, JobStatus::Canceling, JobStatus::Unknown("napping".into())]
}

#[test]
fn a_tool_that_does_not_exist_is_unknown() {
    assert_eq!(call(&Fake::new([]), "delete_workspace", "", &policy()), Err(CallError::UnknownTool));
}

#[test]
fn the_schemas_are_closed_for_arguments_and_only_a_start_destroys_nothing() {
    for tool in crate::tools::list() {
        let input: Value = serde_json::from_str(&tool.input_schema).unwrap();
        assert_eq!(input["additionalProperties"], json!(false));
        let output: Value = serde_json::from_str(&tool.output_schema).unwrap();
        assert!(output["properties"]["error"].is_object());
        assert_eq!(tool.destructive, tool.name != "start_workspace");
    }
}
