//! Results of tools, each as data and as text.

use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Value, json};

use crate::bindings::{CallError, ToolResult};
use crate::describe::refused;
use crate::driver::DriveError;

/// A result with a text that says the same as the data.
pub(super) fn structured(data: Value, text: impl Into<String>) -> CallToolResult {
    with_text(CallToolResult::structured(data), text)
}

/// As [`structured`], of something that went wrong.
pub(super) fn structured_error(data: Value, text: impl Into<String>) -> CallToolResult {
    with_text(CallToolResult::structured_error(data), text)
}

/// Else the text is the data itself.
fn with_text(mut result: CallToolResult, text: impl Into<String>) -> CallToolResult {
    result.content = vec![ContentBlock::text(text)];
    result
}

/// What went wrong, as one sentence for the model.
pub(super) fn error_result(error: impl ToString) -> CallToolResult {
    let text = error.to_string();
    structured_error(json!({ "error": text }), text)
}

/// What a tool of the plugin gave.
pub(super) fn of_plugin_call(
    tool: &str,
    called: Result<Result<ToolResult, CallError>, DriveError>,
) -> CallToolResult {
    match called {
        Ok(Ok(result)) => match serde_json::from_str(&result.json) {
            Ok(data) if result.is_error => CallToolResult::structured_error(data),
            Ok(data) => CallToolResult::structured(data),
            Err(error) => error_result(format!("the plugin's result is not JSON: {error}")),
        },
        Ok(Err(refusal)) => error_result(refused(tool, &refusal)),
        Err(error) => error_result(error),
    }
}
