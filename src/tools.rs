//! The tools.
use crate::contract::{CallError, Policy, Tool, ToolResult};
use crate::host::Host;

/// All tools.
pub fn list() -> Vec<Tool> {
    Vec::new()
}

/// Runs one.
pub fn call(
    host: &dyn Host,
    _name: &str,
    _arguments: &str,
    _policy: &Policy,
) -> Result<ToolResult, CallError> {
    let _ = host.latest_build(false);
    Err(CallError::UnknownTool)
}
