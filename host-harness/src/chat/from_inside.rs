//! Calls about the workspace in which this process runs: it would be ended together with it.

use super::Chat;
use crate::bindings::{Action, Verdict};
use crate::policy::ChatTools;
use crate::store::Spared;

impl Chat {
    /// Why a tool must not be called from here, as a sentence: it would stop the workspace in which this process runs, and
    /// end this process before it is done. `None`: it may.
    pub async fn would_end_this_process(&self, tool: &str, workspace: &str) -> Option<String> {
        let spared = self.spared(workspace).await?;
        spared.tools.iter().any(|name| name == tool).then(|| {
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
        if let Some(spared) = self.spared(workspace).await {
            tools.names.retain(|name| !spared.tools.contains(name));
        }
        tools
    }

    /// Adds to a verdict why it names no tool.
    pub(super) async fn told_from_here(&self, mut verdict: Verdict, workspace: &str) -> Verdict {
        if verdict.action == Action::Restart && self.spared(workspace).await.is_some() {
            verdict.message +=
                " This program runs in that very workspace: it has to be restarted from elsewhere.";
        }
        verdict
    }

    /// What would end this process, if it runs in that workspace. Most run in none, and ask nothing; one that cannot be
    /// read is not known to be it.
    async fn spared(&self, workspace: &str) -> Option<Spared> {
        let spared = self.driver.spared().await.ok().flatten();
        spared.filter(|spared| spared.workspace == workspace)
    }
}
