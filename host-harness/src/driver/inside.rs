//! The workspace in which this process runs, which would be ended together with it.

use crate::control_plane::{ApiError, ControlPlane, Workspace};

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

    /// Its id at this control plane; `None` if it is none of its workspaces.
    pub(super) async fn workspace_id(&self, plane: &dyn ControlPlane) -> Result<Option<String>, ApiError> {
        let name = match &self.owner {
            Some(owner) => format!("{owner}/{}", self.workspace),
            None => self.workspace.clone(),
        };
        match plane.workspace_by_name(&name).await {
            Ok(found) => Ok(self.is(&found, &plane.deployment()).then_some(found.id)),
            Err(ApiError::NotFound | ApiError::Gone) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether that is this workspace, of the control plane at `deployment`. Of a workspace without a known owner the
    /// address has to fit; one with the same name and owner on two deployments counts as the same, which does less
    /// harm.
    fn is(&self, workspace: &Workspace, deployment: &str) -> bool {
        let same_address = || self.url.as_deref().is_none_or(|url| host_of(url) == host_of(deployment));
        self.workspace == workspace.name
            && self.owner.as_ref().map_or_else(same_address, |owner| *owner == workspace.owner)
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
