//! Calls about the workspace in which this process runs: it would be ended together with it.

use super::Chat;
use crate::bindings::{Action, Verdict};
use crate::policy::ChatTools;
use crate::store::SelfEnding;

impl Chat {
    /// Why a tool must not be called from here, as a sentence: it would stop the workspace in which this process runs,
    /// and end this process before it is done. `None`: it may.
    pub async fn would_end_this_process(&self, tool: &str, workspace: &str) -> Option<String> {
        let self_ending = self.self_ending(workspace).await?;
        self_ending.tools.iter().any(|name| name == tool).then(|| {
            format!(
                "this program runs in that very workspace, and {tool} would end it before it is done: call it from \
                 elsewhere, or leave it to a host elsewhere that shares this data folder \
                 (`workspace-recovery call ... --from-inside`)"
            )
        })
    }

    /// The tools that a verdict about this workspace may name: none that would end this process.
    pub(super) async fn tools_from_here(&self, workspace: &str) -> ChatTools {
        let mut tools = self.tools.clone();
        if let Some(self_ending) = self.self_ending(workspace).await {
            tools.names.retain(|name| !self_ending.tools.contains(name));
        }
        tools
    }

    /// Adds to a verdict why it names no tool.
    pub(super) async fn explain_from_here(&self, mut verdict: Verdict, workspace: &str) -> Verdict {
        if verdict.action == Action::Restart && self.self_ending(workspace).await.is_some() {
            verdict.message +=
                " This program runs in that very workspace: it has to be restarted from elsewhere.";
        }
        verdict
    }

    /// What would end this process, if it runs in that workspace. Most run in none, and ask nothing; one that cannot be
    /// read is not known to be it.
    async fn self_ending(&self, workspace: &str) -> Option<SelfEnding> {
        let self_ending = self.driver.self_ending().await.ok().flatten();
        self_ending.filter(|self_ending| self_ending.workspace == workspace)
    }
}
