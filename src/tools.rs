//! The tools: what there is, and which code runs one.

mod arguments;
mod call;
mod catalog;
mod condition;
mod meant;
mod outcome;
mod readiness;
mod restart;
mod start;
mod stop;

use crate::contract::{CallError, Policy, Tool, ToolResult};
use crate::host::Host;
use arguments::Arguments;

/// The names of the tools.
pub mod names {
    use crate::contract::Policy;

    /// Stops the workspace.
    pub const STOP: &str = "stop_workspace";
    /// Starts it.
    pub const START: &str = "start_workspace";
    /// Stops and starts it, as one call.
    pub const RESTART: &str = "restart_workspace";

    /// Whether this chat has a tool of that name right now.
    pub fn has(policy: &Policy, name: &str) -> bool {
        policy.tools.iter().any(|tool| tool == name)
    }
}

/// The tools, always in the same order.
pub fn list() -> Vec<Tool> {
    catalog::tools()
}

/// Runs one tool. `arguments` is a JSON object, or empty.
pub fn call(host: &dyn Host, name: &str, arguments: &str, policy: &Policy) -> Result<ToolResult, CallError> {
    let outcome = match name {
        names::STOP => stop::run(host, policy, &Arguments::parse(arguments, &[arguments::ONLY_IF])?),
        names::START => start::run(host, policy, &Arguments::parse(arguments, &[arguments::PARAMETERS])?),
        names::RESTART => {
            let taken = [arguments::ONLY_IF, arguments::PARAMETERS];
            restart::run(host, policy, &Arguments::parse(arguments, &taken)?)
        }
        _ => return Err(CallError::UnknownTool),
    };
    Ok(outcome.into_result())
}

#[cfg(test)]
#[path = "tools/tests/mod.rs"]
mod tests;
