//! The REST API of a Coder deployment.
//!
//! Statuses decide, texts never do. Redirects are not followed: the token goes to the address that was given and
//! nowhere else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use reqwest::Method;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace,
};
use crate::bindings::{Parameter, Quota, Transition};

mod changes;
mod deployment;
mod error;
mod failure;
mod headers;
mod options;
mod page;
mod requests;
mod socket;
mod statuses;
mod terminal;
mod token;
mod token_source;
mod wire;

pub use deployment::{Deployment, Release, Shortfall};
pub use error::RestError;
pub use options::RestOptions;
pub use token_source::{TokenError, TokenFile, TokenSource};

use requests::{Request, Requests};

/// A client for one deployment with one user's token.
pub struct RestClient {
    requests: Arc<Requests>,
    /// The clock that dates answers was seen to differ from the one that dates builds.
    clock_distrusted: AtomicBool,
    deployment: OnceCell<Deployment>,
}

impl RestClient {
    /// A client with the default options.
    pub fn new(url: &str, token: &str) -> Result<Self, RestError> {
        Self::with_options(&RestOptions::new(url, token))
    }

    /// A client with these options. The token's source is asked; nothing is sent yet.
    pub fn with_options(options: &RestOptions) -> Result<Self, RestError> {
        let requests = Arc::new(Requests::new(options)?);
        Ok(Self { requests, clock_distrusted: AtomicBool::new(false), deployment: OnceCell::new() })
    }

    /// The deployment's address, as one opens it in a browser.
    pub fn address(&self) -> &str {
        self.requests.base.as_str().trim_end_matches("/api/v2/")
    }

    /// What the deployment says about itself. It is asked until it has answered once.
    pub async fn deployment_info(&self) -> Result<&Deployment, ApiError> {
        let ask = || async {
            let asked = self.requests.ask_openly::<deployment::BuildInfo>(&["buildinfo"]).await;
            let (info, observed) = asked.map_err(|error| match error {
                // Every deployment has this, for everybody.
                ApiError::NotFound => ApiError::NotCoder("it does not tell its version".to_owned()),
                error => error,
            })?;
            Ok(Deployment::new(info, observed))
        };
        self.deployment.get_or_try_init(ask).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T, ApiError> {
        Ok(self.requests.request(Request::get(path, query)).await?.0)
    }

    async fn read_workspace(&self, path: &[&str]) -> Result<Workspace, ApiError> {
        let (read, date) = self.requests.request::<wire::Workspace>(Request::get(path, &[])).await?;
        Ok(read.into_workspace(self.trusted(date)))
    }

    /// The time of an answer, unless the clock that dates answers is known to be wrong.
    fn trusted(&self, date: Option<u64>) -> Option<u64> {
        date.filter(|_| !self.clock_distrusted.load(Ordering::Relaxed))
    }
}

#[async_trait]
impl ControlPlane for RestClient {
    fn deployment(&self) -> String {
        self.requests.base.to_string()
    }

    async fn user(&self) -> Result<User, ApiError> {
        let user: wire::User = self.get(&["users", "me"], &[]).await.map_err(|error| match error {
            // Nobody else is hidden from himself.
            ApiError::NotFound | ApiError::Forbidden(_) => ApiError::MissingScope {
                scope: "user:read",
                lost: "it cannot be told whose token it is, nor which builds were asked for with it \
                       (`user:read_personal` is not enough)",
            },
            error => error,
        })?;
        self.requests.token.is_of(&user.id);
        Ok(User { id: user.id, name: user.username })
    }

    async fn workspace(&self, workspace: &str) -> Result<Workspace, ApiError> {
        self.read_workspace(&["workspaces", workspace]).await
    }

    async fn workspace_by_name(&self, name: &str) -> Result<Workspace, ApiError> {
        // Too long for a name.
        if name.len() == uuid::fmt::Hyphenated::LENGTH && uuid::Uuid::try_parse(name).is_ok() {
            return self.workspace(name).await;
        }
        let (owner, name) = name.split_once('/').unwrap_or(("me", name));
        self.read_workspace(&["users", owner, "workspace", name]).await
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        let query: &[_] = &[("q", "owner:me")];
        let (list, date) =
            self.requests.request::<wire::Workspaces>(Request::get(&["workspaces"], query)).await?;
        let trusted = self.trusted(date);
        let mut read: Vec<_> = list.workspaces.into_iter().map(|read| read.into_workspace(trusted)).collect();
        read.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(read)
    }

    async fn build(&self, build: &str) -> Result<BuildRead, ApiError> {
        // Its `matched_provisioners` is always zero, whatever the truth.
        let build: wire::Build = self.get(&["workspacebuilds", build], &[]).await?;
        Ok(build.into_build(wire::Provisioners::Ignored))
    }

    async fn builds(&self, workspace: &str, limit: u32) -> Result<Vec<BuildRead>, ApiError> {
        let limit = limit.to_string();
        let builds: Vec<wire::Build> =
            self.get(&["workspaces", workspace, "builds"], &[("limit", &limit)]).await?;
        let mut builds: Vec<_> =
            builds.into_iter().map(|build| build.into_build(wire::Provisioners::Told)).collect();
        builds.sort_by_key(|read| std::cmp::Reverse(read.build.number));
        Ok(builds)
    }

    async fn create_build(&self, workspace: &str, build: &NewBuild) -> Result<BuildRead, ApiError> {
        let transition = match &build.transition {
            Transition::Start => "start",
            Transition::Stop => "stop",
            Transition::Delete => "delete",
            Transition::Unknown(other) => other,
        };
        let body = wire::NewBuild {
            transition,
            template_version_id: build.template_version.as_deref(),
            rich_parameter_values: build.parameters.iter().map(wire::Parameter::from).collect(),
        };
        let path = ["workspaces", workspace, "builds"];
        let request = Request { method: &Method::POST, path: &path, query: &[], body: Some(&body) };
        let (made, date) = self.requests.request::<wire::Build>(request).await?;
        let made = made.into_build(wire::Provisioners::Told);
        if let (Some(date), Some(created)) = (date, made.created) {
            self.clock_distrusted.store(!wire::agree(date, created), Ordering::Relaxed);
        }
        Ok(made)
    }

    async fn template_parameters(&self, version: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        let declared: Vec<wire::TemplateParameter> =
            self.get(&["templateversions", version, "rich-parameters"], &[]).await?;
        Ok(declared.into_iter().map(TemplateParameter::from).collect())
    }

    async fn build_parameters(&self, build: &str) -> Result<Vec<Parameter>, ApiError> {
        let values: Vec<wire::Parameter> = self.get(&["workspacebuilds", build, "parameters"], &[]).await?;
        Ok(values.into_iter().map(Parameter::from).collect())
    }

    async fn quota(&self, workspace: &Workspace) -> Result<Option<Quota>, ApiError> {
        let path = ["organizations", &workspace.organization, "members", &workspace.owner, "workspace-quota"];
        match self.get::<wire::Quota>(&path, &[]).await {
            Ok(quota) => Ok(Some(Quota { credits_consumed: quota.credits_consumed, budget: quota.budget })),
            // Deployments without budgets do not have the route.
            Err(ApiError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn provisioners(&self, organization: &str) -> Result<Option<usize>, ApiError> {
        let path = ["organizations", organization, "provisionerdaemons"];
        match self.get::<Vec<wire::ProvisionerDaemon>>(&path, &[]).await {
            Ok(daemons) => Ok(Some(daemons.iter().filter(|daemon| daemon.is_there()).count())),
            Err(ApiError::NotFound | ApiError::Forbidden(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn build_logs(&self, build: &str, after: u64) -> Result<Vec<LogLine>, ApiError> {
        let after = after.to_string();
        let query: &[(&str, &str)] = if after == "0" { &[] } else { &[("after", &after)] };
        let lines: Vec<wire::LogLine> = self.get(&["workspacebuilds", build, "logs"], query).await?;
        Ok(lines.into_iter().map(LogLine::from).collect())
    }

    async fn open_terminal(&self, agent: &str, wanted: &NewTerminal) -> Result<Box<dyn Terminal>, ApiError> {
        terminal::open(&self.requests, agent, wanted).await
    }

    fn changes(&self, workspace: &str) -> Option<BoxStream<'static, ()>> {
        Some(changes::changes(self.requests.clone(), workspace))
    }
}

// Without the token.
impl fmt::Debug for RestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestClient").field("base", &self.requests.base.as_str()).finish_non_exhaustive()
    }
}
