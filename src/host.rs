//! What a plugin may ask of its host: the six functions that it imports. `wit/` documents each.

use crate::contract::{
    AgentWait, Agents, Binding, Build, BuildWait, Parameter, ReadError, Transition, TransitionError,
};

/// The host of one call, bound to one chat and one workspace.
pub trait Host {
    /// The chat's binding, its workspace and the newest build, in one consistent read.
    fn latest_build(&self, check_start: bool) -> Result<Binding, ReadError>;

    /// The newest build and its agents, afresh and in one consistent read.
    fn agent_status(&self) -> Result<Agents, ReadError>;

    /// Asks for a new build, on the strength of the build `rests_on`; does not wait for it.
    fn issue_transition(
        &self,
        to: Transition,
        rests_on: &str,
        parameters: &[Parameter],
    ) -> Result<Build, TransitionError>;

    /// Points the chat at a build. False: the chat is bound elsewhere by now.
    fn publish_binding(&self, build: &str) -> Result<bool, ReadError>;

    /// Sleeps until the build is terminal, at most `limit_ms`.
    fn wait_for_build(&self, build: &str, limit_ms: u32) -> Result<BuildWait, ReadError>;

    /// Sleeps until the agent is connected and its startup scripts have ended, each within its limit.
    fn wait_for_agent(
        &self,
        build: &str,
        agent: &str,
        connect_limit_ms: u32,
        scripts_limit_ms: u32,
    ) -> Result<AgentWait, ReadError>;
}
