//! Whether this process runs in the workspace that a call is about: it would be ended together with it.

use super::Chat;
use crate::bindings::{Action, Verdict};
use crate::control_plane::{ControlPlane, Workspace};
use crate::policy::ChatTools;

/// The workspace in which this process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Its name.
    pub workspace: String,
    /// Its owner's name. Agents of older deployments do not tell it.
    pub owner: Option<String>,
    /// The deployment's address, as its agents reach it.
    pub url: Option<String>,
}

impl Inside {
    /// What a workspace's agent says in the variables of all that it starts. `None`: this is no workspace.
    pub fn of_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        set("CODER").filter(|coder| coder == "true")?;
        Some(Self {
            workspace: set("CODER_WORKSPACE_NAME")?,
            owner: set("CODER_WORKSPACE_OWNER_NAME"),
            url: set("CODER_AGENT_URL"),
        })
    }

    /// Whether that is this workspace, of the control plane at `deployment`. Of a workspace without a known owner the
    /// address has to fit; one with the same name and owner on two deployments counts as the same, which does less harm.
    fn is(&self, workspace: &Workspace, deployment: &str) -> bool {
        let same_address = || self.url.as_deref().is_none_or(|url| host_of(url) == host_of(deployment));
        self.workspace == workspace.name
            && self.owner.as_ref().map_or_else(same_address, |owner| *owner == workspace.owner)
    }
}

impl Chat {
    /// Why a tool must not be called from here, as a sentence: it would stop the workspace in which this process runs, and
    /// end this process before it is done. `None`: it may.
    pub async fn would_end_this_process(&self, tool: &str, workspace: &str) -> Option<String> {
        // Most programs run elsewhere, and ask nothing.
        self.inside.as_ref()?;
        let destructive = self.destructive_tools().await;
        if !destructive.iter().any(|name| name == tool) || !self.runs_in(workspace).await {
            return None;
        }
        Some(format!(
            "this program runs in that very workspace, and {tool} would end it before it is done: call it from elsewhere, \
             or leave it to a host elsewhere that shares this data folder (`workspace-recovery call ... --from-inside`)"
        ))
    }

    /// The tools that a verdict about this workspace may name: none that would end this process.
    pub(super) async fn tools_from_here(&self, workspace: &str) -> ChatTools {
        let mut tools = self.tools.clone();
        if self.runs_in(workspace).await {
            let destructive = self.destructive_tools().await;
            tools.names.retain(|name| !destructive.contains(name));
        }
        tools
    }

    /// Adds to a verdict why it names no tool.
    pub(super) async fn told_from_here(&self, mut verdict: Verdict, workspace: &str) -> Verdict {
        if verdict.action == Action::Restart && self.runs_in(workspace).await {
            verdict.message +=
                " This program runs in that very workspace: it has to be restarted from elsewhere.";
        }
        verdict
    }

    async fn destructive_tools(&self) -> Vec<String> {
        let tools = self.driver.list_tools().await.unwrap_or_default();
        tools.into_iter().filter(|tool| tool.destructive).map(|tool| tool.name).collect()
    }

    /// Whether this process runs in that workspace. One that cannot be read is not known to be it.
    async fn runs_in(&self, workspace: &str) -> bool {
        let Some(inside) = &self.inside else { return false };
        let plane = self.driver.performer().plane();
        plane.workspace(workspace).await.is_ok_and(|workspace| inside.is(&workspace, &plane.deployment()))
    }
}

/// The host of an address.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_in_a_workspace_if_its_agent_says_so() {
        let of = |set: &[(&str, &str)]| {
            Inside::of_variables(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let name = ("CODER_WORKSPACE_NAME", "dev");
        assert_eq!(of(&[name]), None, "a template or a user may set that for something else");
        assert_eq!(of(&[("CODER", "true")]), None);
        let owner = ("CODER_WORKSPACE_OWNER_NAME", "ana");
        let inside = of(&[("CODER", "true"), name, owner, ("CODER_AGENT_URL", "")]).unwrap();
        assert_eq!((inside.owner.as_deref(), inside.url), (Some("ana"), None));
    }
}
