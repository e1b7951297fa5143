//! `latest-build`, `agent-status` and `publish-binding`.

use tokio::time::timeout_at;

use crate::bindings::{Agents, Binding, FieldProblem, ReadError, Refusal, Snapshot};
use crate::clock::millis;
use crate::control_plane::{ApiError, ControlPlane, Workspace, refusal};
use crate::driver::error::DriveError;
use crate::driver::events::EventKind;
use crate::driver::host_calls::{CallContext, HostCalls};
use crate::driver::jitter::jittered;
use crate::store::StoreError;

/// How often a read is made before its failure is the answer: enough for a dropped connection or a proxy's hiccup.
const READ_ATTEMPTS: u32 = 3;

/// Why a workspace that was set aside for want of use is not started.
pub(super) const DORMANT: &str =
    "The workspace is dormant, and cannot be started: activate it first, in the browser.";

impl HostCalls {
    pub(super) async fn latest_build(
        &self,
        call: &CallContext,
        check_start: bool,
    ) -> Result<(Result<Binding, ReadError>, Option<u64>), DriveError> {
        if !self.still_bound(call)? {
            return Ok((Ok(Binding::Rebound), None));
        }
        let Some(id) = call.workspace() else { return Ok((Ok(Binding::Unbound), None)) };
        let workspace = match self.read_workspace(call, id).await {
            Ok(workspace) => workspace,
            Err(ApiError::Gone) => return Ok((Ok(Binding::Deleted), None)),
            Err(error) => return Ok((Err(error.into()), None)),
        };
        let start_refusal = if check_start {
            match self.start_refusal(&workspace).await {
                Ok(refusal) => refusal,
                Err(error) => return Ok((Err(error.into()), None)),
            }
        } else {
            None
        };
        let snapshot = Snapshot {
            workspace_name: workspace.name.clone(),
            template: workspace.template.clone(),
            dormant: workspace.dormant,
            latest: self.latest(&workspace).await?,
            start_refusal,
        };
        Ok((Ok(Binding::Bound(snapshot)), workspace.observed))
    }

    pub(super) async fn agent_status(
        &self,
        call: &CallContext,
    ) -> Result<Result<Agents, ReadError>, DriveError> {
        let Some(id) = call.workspace() else { return Ok(Err(ReadError::NotFound)) };
        if !self.still_bound(call)? {
            return Ok(Err(ReadError::NotFound));
        }
        Ok(match self.read_workspace(call, id).await {
            Ok(workspace) => Ok(Agents {
                build: self.newest(&workspace)?,
                observed: workspace.observed,
                readable_for_ms: millis(self.plane.readable_for()).into(),
                agents: workspace.agents,
            }),
            Err(error) => Err(error.into()),
        })
    }

    pub(super) async fn publish_binding(&self, call: &CallContext, build: &str) -> Result<bool, StoreError> {
        let Some(workspace) = call.workspace() else { return Ok(false) };
        let bound = self.store.publish(call.chat(), workspace, build).await?;
        self.emit_published(call, build, bound);
        Ok(bound)
    }

    /// Tells listeners that the chat was bound to a build, so that its log can be shown.
    pub(super) fn emit_published(&self, call: &CallContext, build: &str, bound: bool) {
        if let Some(workspace) = call.workspace().filter(|_| bound) {
            let (workspace, build) = (workspace.to_owned(), build.to_owned());
            self.emit(call, EventKind::BindingPublished { workspace, build });
        }
    }

    /// Reads the workspace, again if the failure may pass. A control plane that says for how long to stay away is asked
    /// again after that, if it is not too long; an interrupt ends the wait for it.
    pub(super) async fn read_workspace(&self, call: &CallContext, id: &str) -> Result<Workspace, ApiError> {
        match call.read_by() {
            None => self.read_again(call, id).await,
            Some(by) => {
                timeout_at(by, self.read_again(call, id)).await.unwrap_or_else(|_| Err(self.plane.given_up()))
            }
        }
    }

    async fn read_again(&self, call: &CallContext, id: &str) -> Result<Workspace, ApiError> {
        let mut pause = self.timings().first_retry;
        for attempt in 1..READ_ATTEMPTS {
            let error = match self.plane.workspace(id).await {
                Err(error) if error.is_transient() => error,
                result => return result,
            };
            let wait = error.retry_after().unwrap_or_else(|| jittered(pause, id, attempt));
            if wait > self.timings().rate_patience {
                return Err(error);
            }
            tokio::select! {
                biased;
                () = call.interrupt().cancelled() => return Err(error),
                () = tokio::time::sleep(wait) => pause *= 2,
            }
        }
        self.plane.workspace(id).await
    }

    /// What would refuse a start now.
    async fn start_refusal(&self, workspace: &Workspace) -> Result<Option<Refusal>, ApiError> {
        let validations = self.missing_parameters(workspace).await?;
        let message = if workspace.dormant {
            DORMANT
        } else if validations.is_empty() {
            return Ok(None);
        } else {
            "The template version that a start would use requires parameters that have no value yet."
        };
        Ok(Some(Refusal { validations, template: workspace.template.clone(), ..refusal(message) }))
    }

    /// The required parameters of the version that a start would use for which the newest build has no value.
    async fn missing_parameters(&self, workspace: &Workspace) -> Result<Vec<FieldProblem>, ApiError> {
        let latest = &workspace.latest.build;
        let Some(version) = start_version(workspace).or(latest.template_version.as_deref()) else {
            return Ok(Vec::new());
        };
        let required = match self.plane.template_parameters(version).await {
            Ok(parameters) => {
                parameters.into_iter().filter(|parameter| parameter.required).collect::<Vec<_>>()
            }
            // A version that this user may not look into: the control plane will say what it misses.
            Err(ApiError::Forbidden(_) | ApiError::NotFound) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if required.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.plane.build_parameters(&latest.id).await?;
        let kept = |name: &str| {
            values
                .iter()
                .any(|value| value.name == name && !(workspace.classic_parameters && value.value.is_empty()))
        };
        Ok(required
            .into_iter()
            .filter(|parameter| parameter.ephemeral || !kept(&parameter.name))
            .map(|parameter| FieldProblem {
                field: parameter.name,
                detail: "required, and has no value".to_owned(),
            })
            .collect())
    }
}

/// The template version that a start must name; none where it may stay on that of the build before.
pub(super) fn start_version(workspace: &Workspace) -> Option<&str> {
    workspace.active_version.as_deref().filter(|_| workspace.requires_active_version)
}
