//! The contract in `wit/`, as Rust. The only file that knows the generated bindings.
//!
//! The generated types are plain data and compile natively, so the rest of the crate uses them as they are; only the
//! imports and the exports exist in WebAssembly alone.

#[rustfmt::skip]
#[expect(unsafe_code, reason = "the generated code passes values over the component's boundary")]
#[allow(missing_docs, unused_imports, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
mod bindings;

pub use bindings::exports::workspace_recovery::plugin::recovery::{
    Action, Cause, Connection, Dial, Evidence, Verdict,
};
pub use bindings::exports::workspace_recovery::plugin::tools::{CallError, Tool, ToolResult};
pub use bindings::workspace_recovery::plugin::types::{
    Agent, AgentState, AgentWait, Agents, Binding, Build, BuildWait, FieldProblem, JobStatus, KnownDead,
    Lifecycle, NeverConnected, Parameter, Policy, Probe, Provisioner, Quota, ReadError, Refusal, Snapshot,
    TimeMs, Transition, TransitionError, WaitEnd,
};

#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "the generated exports take raw values over the component's boundary")]
mod component {
    use super::bindings::exports::workspace_recovery::plugin::{recovery, tools};
    use super::bindings::workspace_recovery::plugin::{waits, workspace};
    use super::*;
    use crate::host::Host;

    /// The functions that the component imports.
    struct Imports;

    impl Host for Imports {
        fn latest_build(&self, check_start: bool) -> Result<Binding, ReadError> {
            workspace::latest_build(check_start)
        }

        fn agent_status(&self) -> Result<Agents, ReadError> {
            workspace::agent_status()
        }

        fn issue_transition(
            &self,
            to: Transition,
            rests_on: &str,
            parameters: &[Parameter],
        ) -> Result<Build, TransitionError> {
            workspace::issue_transition(&to, rests_on, parameters)
        }

        fn publish_binding(&self, build: &str) -> Result<bool, ReadError> {
            workspace::publish_binding(build)
        }

        fn wait_for_build(&self, build: &str, limit_ms: u32) -> Result<BuildWait, ReadError> {
            waits::wait_for_build(build, limit_ms)
        }

        fn wait_for_agent(
            &self,
            build: &str,
            agent: &str,
            connect_limit_ms: u32,
            scripts_limit_ms: u32,
        ) -> Result<AgentWait, ReadError> {
            waits::wait_for_agent(build, agent, connect_limit_ms, scripts_limit_ms)
        }
    }

    /// The functions that the component exports.
    struct Exports;

    impl tools::Guest for Exports {
        fn list_tools() -> Vec<Tool> {
            crate::tools::list()
        }

        fn call_tool(name: String, arguments: String, policy: Policy) -> Result<ToolResult, CallError> {
            crate::tools::call(&Imports, &name, &arguments, &policy)
        }
    }

    impl recovery::Guest for Exports {
        fn classify_failure(evidence: Evidence, policy: Policy) -> Verdict {
            crate::recovery::classify(&Imports, &evidence, &policy)
        }

        fn check_connection(cached: String) -> Connection {
            crate::recovery::check_connection(&Imports, &cached)
        }
    }

    super::bindings::export!(Exports with_types_in super::bindings);
}
