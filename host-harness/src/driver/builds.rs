//! Builds, with what the control plane's own reads do not say of them.

use crate::bindings::Build;
use crate::control_plane::watched::Watched;
use crate::control_plane::{ControlPlane, Workspace};
use crate::store::{Store, StoreError};

/// The error code of a build that was refused because its owner has used up his budget.
const QUOTA_ERROR: &str = "INSUFFICIENT_QUOTA";

/// The newest build of a workspace, with what the read itself does not say.
pub(super) async fn latest(
    plane: &Watched,
    store: &Store,
    workspace: &Workspace,
) -> Result<Build, StoreError> {
    let mut latest = marked(store, workspace.latest.build.clone())?;
    if latest.error_code.as_deref() == Some(QUOTA_ERROR) {
        // Only adds to the answer: without it the build's own error still says what happened.
        latest.quota = plane.quota(workspace).await.ok().flatten();
    }
    Ok(latest)
}

/// Adds what only this host knows of a build.
pub(super) fn marked(store: &Store, mut build: Build) -> Result<Build, StoreError> {
    build.ours = store.is_own_build(&build.id)?;
    Ok(build)
}
