//! How reads of a control plane have gone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use super::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace,
};
use crate::bindings::{Parameter, Quota};

/// A control plane that remembers since when authenticated reads have worked without a gap, and when one last failed.
///
/// An agent that reads disconnected proves little while the control plane itself was away: it reports healthy agents
/// as disconnected for as long as it was gone.
pub struct Watched {
    plane: Arc<dyn ControlPlane>,
    /// Successes further apart than this are not "without a gap".
    silence: Duration,
    health: Mutex<Health>,
}

#[derive(Clone, Copy, Default)]
struct Health {
    readable_since: Option<Instant>,
    last_success: Option<Instant>,
    last_failure: Option<Instant>,
}

impl Watched {
    /// Watches `plane`; a silence longer than `silence` counts as a gap.
    pub fn new(plane: Arc<dyn ControlPlane>, silence: Duration) -> Self {
        Self { plane, silence, health: Mutex::default() }
    }

    /// For how long authenticated reads have worked without a gap, up to the last one that did.
    pub fn readable_for(&self) -> Duration {
        let health = *self.lock();
        match (health.readable_since, health.last_success) {
            (Some(since), Some(last)) => last - since,
            _ => Duration::ZERO,
        }
    }

    /// How long ago an authenticated read failed last.
    pub fn failed_ago(&self) -> Option<Duration> {
        self.lock().last_failure.map(|at| at.elapsed())
    }

    /// Whether an authenticated read failed within the last `span`.
    pub fn failed_within(&self, span: Duration) -> bool {
        self.failed_ago().is_some_and(|ago| ago <= span)
    }

    /// Notes that somebody gave up on a read before its answer came, and answers what that is.
    pub fn given_up(&self) -> ApiError {
        let error = ApiError::Unavailable("no answer to a read".to_owned());
        let _ = self.note(Err::<(), _>(error.clone()));
        error
    }

    fn note<T>(&self, result: Result<T, ApiError>) -> Result<T, ApiError> {
        let now = Instant::now();
        let mut health = self.lock();
        match &result {
            Err(error) if error.is_away() => {
                health.readable_since = None;
                health.last_failure = Some(now);
            }
            // Refused for asking too often: says nothing about the control plane, for or against.
            Err(ApiError::RateLimited { .. }) => {}
            // Any other refusal is an authenticated answer.
            _ => {
                let silent = health.last_success.is_none_or(|last| now - last > self.silence);
                if silent || health.readable_since.is_none() {
                    health.readable_since = Some(now);
                }
                health.last_success = Some(now);
            }
        }
        drop(health);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ControlPlane for Watched {
    fn deployment(&self) -> String {
        self.plane.deployment()
    }

    async fn user(&self) -> Result<User, ApiError> {
        self.note(self.plane.user().await)
    }

    async fn workspace(&self, workspace: &str) -> Result<Workspace, ApiError> {
        self.note(self.plane.workspace(workspace).await)
    }

    async fn workspace_by_name(&self, name: &str) -> Result<Workspace, ApiError> {
        self.note(self.plane.workspace_by_name(name).await)
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        self.note(self.plane.workspaces().await)
    }

    async fn build(&self, build: &str) -> Result<BuildRead, ApiError> {
        self.note(self.plane.build(build).await)
    }

    async fn builds(&self, workspace: &str, limit: u32) -> Result<Vec<BuildRead>, ApiError> {
        self.note(self.plane.builds(workspace, limit).await)
    }

    // Not a read: what becomes of it says nothing about reads.
    async fn create_build(&self, workspace: &str, build: &NewBuild) -> Result<BuildRead, ApiError> {
        self.plane.create_build(workspace, build).await
    }

    async fn template_parameters(&self, version: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        self.note(self.plane.template_parameters(version).await)
    }

    async fn build_parameters(&self, build: &str) -> Result<Vec<Parameter>, ApiError> {
        self.note(self.plane.build_parameters(build).await)
    }

    async fn quota(&self, workspace: &Workspace) -> Result<Option<Quota>, ApiError> {
        self.note(self.plane.quota(workspace).await)
    }

    async fn provisioners(&self, organization: &str) -> Result<Option<usize>, ApiError> {
        self.note(self.plane.provisioners(organization).await)
    }

    async fn build_logs(&self, build: &str, after: u64) -> Result<Vec<LogLine>, ApiError> {
        self.note(self.plane.build_logs(build, after).await)
    }

    // Fails for the agent's reasons too, and answers 502 for an agent that is not there: not counted either.
    async fn open_terminal(
        &self,
        agent: &str,
        terminal: &NewTerminal,
    ) -> Result<Box<dyn Terminal>, ApiError> {
        self.plane.open_terminal(agent, terminal).await
    }

    // Not a read either: a stream can be open, and say nothing, while nothing can be read.
    fn changes(&self, workspace: &str) -> Option<BoxStream<'static, ()>> {
        self.plane.changes(workspace)
    }
}
