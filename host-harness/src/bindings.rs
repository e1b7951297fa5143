//! The contract in `wit/`, generated. The rest of the crate uses the names re-exported here.

#![expect(missing_docs, reason = "generated; the documentation is in wit/")]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "plugin",
    imports: { default: trappable },
    additional_derives: [PartialEq, Eq, serde::Serialize, serde::Deserialize],
});

pub use self::exports::workspace_recovery::plugin::recovery::{
    Action, Cause, Connection, Dial, Evidence, Verdict,
};
pub use self::exports::workspace_recovery::plugin::tools::{CallError, Tool, ToolResult};
pub use self::workspace_recovery::plugin::types::{
    Agent, AgentState, AgentWait, Agents, Binding, Build, BuildWait, FieldProblem, JobStatus, KnownDead,
    Lifecycle, NeverConnected, Parameter, Policy, Probe, Provisioner, Quota, ReadError, Refusal, Snapshot,
    Transition, TransitionError, WaitEnd,
};
pub use self::workspace_recovery::plugin::{types, waits, workspace};
