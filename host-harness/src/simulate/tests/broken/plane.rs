//! A way to the control plane on which something goes wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use super::BrokenPlane;
use crate::bindings::{JobStatus, Parameter, Quota};
use crate::control_plane::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace, is_active,
};
use crate::simulate::shell::{Notes, Shell};
use crate::simulate::world_state::WorldState;

/// How long a read that is late answers the same.
const LATE: Duration = Duration::from_secs(30);

/// The control plane, broken so.
pub fn broken(
    how: BrokenPlane,
    plane: Arc<dyn ControlPlane>,
    world: Arc<WorldState>,
) -> Arc<dyn ControlPlane> {
    Arc::new(BrokenControlPlane { how, plane, world, read: Mutex::default() })
}

struct BrokenControlPlane {
    how: BrokenPlane,
    plane: Arc<dyn ControlPlane>,
    world: Arc<WorldState>,
    /// What reads of each workspace answer, and since when.
    read: Mutex<BTreeMap<String, (Instant, Workspace)>>,
}

impl BrokenControlPlane {
    fn as_read(&self, mut read: BuildRead) -> BuildRead {
        if self.how == BrokenPlane::SucceedsTooEarly && is_active(&read.build.status) {
            read.build.status = JobStatus::Succeeded;
        }
        read
    }
}

#[async_trait]
impl ControlPlane for BrokenControlPlane {
    async fn workspace(&self, id: &str) -> Result<Workspace, ApiError> {
        let mut read = self.plane.workspace(id).await?;
        read.latest = self.as_read(read.latest);
        if self.how != BrokenPlane::ReadsLate {
            return Ok(read);
        }
        let mut all = self.read.lock().unwrap();
        let (at, kept) = all.entry(id.to_owned()).or_insert_with(|| (Instant::now(), read.clone()));
        if at.elapsed() > LATE {
            (*at, *kept) = (Instant::now(), read);
        }
        Ok(kept.clone())
    }

    async fn build(&self, build: &str) -> Result<BuildRead, ApiError> {
        Ok(self.as_read(self.plane.build(build).await?))
    }

    async fn create_build(&self, workspace: &str, build: &NewBuild) -> Result<BuildRead, ApiError> {
        match self.plane.create_build(workspace, build).await {
            Err(ApiError::UnknownOutcome(_)) if self.how == BrokenPlane::SendsAgain => {
                self.plane.create_build(workspace, build).await
            }
            answer => answer,
        }
    }

    async fn open_terminal(&self, agent: &str, wanted: &NewTerminal) -> Result<Box<dyn Terminal>, ApiError> {
        match self.how {
            BrokenPlane::GreetsItself => Ok(Box::new(Greeter { has_greeted: false })),
            BrokenPlane::ForgetsSessions => {
                let terminal = self.plane.open_terminal(agent, wanted).await?;
                Ok(Box::new(Forgetful { terminal, agent: agent.to_owned(), world: self.world.clone() }))
            }
            _ => self.plane.open_terminal(agent, wanted).await,
        }
    }

    fn deployment(&self) -> String {
        self.plane.deployment()
    }

    async fn user(&self) -> Result<User, ApiError> {
        self.plane.user().await
    }

    async fn workspace_by_name(&self, name: &str) -> Result<Workspace, ApiError> {
        self.plane.workspace_by_name(name).await
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        self.plane.workspaces().await
    }

    async fn builds(&self, workspace: &str, limit: u32) -> Result<Vec<BuildRead>, ApiError> {
        self.plane.builds(workspace, limit).await
    }

    async fn template_parameters(&self, version: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        self.plane.template_parameters(version).await
    }

    async fn build_parameters(&self, build: &str) -> Result<Vec<Parameter>, ApiError> {
        self.plane.build_parameters(build).await
    }

    async fn quota(&self, workspace: &Workspace) -> Result<Option<Quota>, ApiError> {
        self.plane.quota(workspace).await
    }

    async fn build_logs(&self, build: &str, after: u64) -> Result<Vec<LogLine>, ApiError> {
        self.plane.build_logs(build, after).await
    }

    fn changes(&self, workspace: &str) -> Option<BoxStream<'static, ()>> {
        self.plane.changes(workspace)
    }
}

/// A terminal that shows the greeting, and then nothing.
struct Greeter {
    has_greeted: bool,
}

#[async_trait]
impl Terminal for Greeter {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        if std::mem::replace(&mut self.has_greeted, true) {
            return std::future::pending().await;
        }
        Ok(Some(Shell::greeting().into_bytes()))
    }

    async fn send(&mut self, _: &str) -> Result<(), ApiError> {
        Ok(())
    }

    async fn close(&mut self) {}
}

/// A terminal in a workspace whose notes of commands are lost.
struct Forgetful {
    terminal: Box<dyn Terminal>,
    agent: String,
    world: Arc<WorldState>,
}

#[async_trait]
impl Terminal for Forgetful {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        self.terminal.next().await
    }

    async fn send(&mut self, input: &str) -> Result<(), ApiError> {
        *self.world.plane().notes(&self.agent) = Notes::default();
        self.terminal.send(input).await
    }

    async fn close(&mut self) {
        self.terminal.close().await;
    }
}
