//! Results of tools, each as data and as text.

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Value, json};

use crate::bindings::{CallError, ToolResult};
use crate::driver::DriveError;

/// A result with a text that says the same as the data.
pub(super) fn told(data: Value, text: impl Into<String>) -> CallToolResult {
    with_text(CallToolResult::structured(data), text)
}

/// As [`told`], of something that went wrong.
pub(super) fn told_error(data: Value, text: impl Into<String>) -> CallToolResult {
    with_text(CallToolResult::structured_error(data), text)
}

/// Else the text is the data itself.
fn with_text(mut result: CallToolResult, text: impl Into<String>) -> CallToolResult {
    result.content = vec![ContentBlock::text(text)];
    result
}

/// What went wrong, as one sentence for the model.
pub(super) fn failed(error: impl ToString) -> CallToolResult {
    let text = error.to_string();
    told_error(json!({ "error": text }), text)
}

/// What a tool of the plugin gave.
pub(super) fn called(
    tool: &str,
    called: Result<Result<ToolResult, CallError>, DriveError>,
) -> CallToolResult {
    match called {
        Ok(Ok(result)) => match serde_json::from_str(&result.json) {
            Ok(data) if result.is_error => CallToolResult::structured_error(data),
            Ok(data) => CallToolResult::structured(data),
            Err(error) => failed(format!("the plugin's result is not JSON: {error}")),
        },
        Ok(Err(refusal)) => failed(refused(tool, &refusal)),
        Err(error) => failed(error),
    }
}

/// Why the plugin has refused a call, as a sentence.
pub(super) fn refused(tool: &str, refusal: &CallError) -> String {
    match refusal {
        CallError::UnknownTool => format!("the plugin has no tool \"{tool}\""),
        CallError::InvalidArguments(sentence) => format!("{tool}: {sentence}"),
    }
}
