//! The REST API of a Coder deployment.
//!
//! Statuses decide, texts never do. Redirects are not followed: the token goes to the address that was given and nowhere
//! else.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace,
};
use crate::bindings::{Parameter, Quota, Transition};

mod changes;
mod deployment;
mod failure;
mod options;
mod socket;
mod statuses;
mod terminal;
mod wire;

pub use deployment::{Deployment, Release, Shortfall};
pub use options::{RestError, RestOptions};

use failure::{innermost, lost, not_answered};
use statuses::Asked;

/// Limit of one request. A control plane whose database hangs answers nothing at all; a healthy one answers within a
/// second.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// Limit of making a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Limit of an answer's body: a workspace with hundreds of agents stays far below.
const MAX_BODY_BYTES: usize = 8 << 20;
/// For how long a token that has worked may be refused before it is given up: longer than a database takes to restart.
const TOKEN_PATIENCE: Duration = Duration::from_secs(300);

/// A client for one deployment with one user's token.
pub struct RestClient {
    client: Client,
    /// Ends with `/api/v2/`.
    base: Url,
    token: Mutex<TokenTrust>,
    /// The clock that dates answers was seen to differ from the one that dates builds.
    clock_distrusted: AtomicBool,
    /// Until when requests of a method and path would be refused for asking too often. Deployments count per path.
    limited: Mutex<HashMap<(Method, String), Instant>>,
    deployment: OnceCell<Deployment>,
    /// [`RestOptions::when_away`].
    when_away: Option<String>,
}

/// How the token has fared. A 401 alone proves nothing: every request is answered so while the deployment's database is
/// down.
#[derive(Default)]
struct TokenTrust {
    /// It was accepted at least once.
    worked: bool,
    /// Since when it has been refused without exception.
    refused_since: Option<Instant>,
}

impl RestClient {
    /// A client with the default options.
    pub fn new(url: &str, token: &str) -> Result<Self, RestError> {
        Self::with_options(&RestOptions::new(url, token))
    }

    /// A client with these options. Nothing is sent yet.
    pub fn with_options(options: &RestOptions) -> Result<Self, RestError> {
        let base = options.base()?;
        Ok(Self {
            client: options.client(&base)?,
            base,
            token: Mutex::default(),
            clock_distrusted: AtomicBool::new(false),
            limited: Mutex::default(),
            deployment: OnceCell::new(),
            when_away: options.when_away.clone(),
        })
    }

    /// The deployment's address, as one opens it in a browser.
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches("/api/v2/")
    }

    /// What the deployment says about itself. It is asked until it has answered once.
    pub async fn deployment_info(&self) -> Result<&Deployment, ApiError> {
        let ask = || async {
            let asked =
                self.send::<deployment::BuildInfo>(Method::GET, &["buildinfo"], &[], None::<&()>).await;
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
        Ok(self.request(Method::GET, path, query, None::<&()>).await?.0)
    }

    /// One request with the token; answers the body and the time of the answer.
    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<(T, Option<u64>), ApiError> {
        let answer = self.send(method, path, query, body).await?;
        *self.token() = TokenTrust { worked: true, refused_since: None };
        Ok(answer)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<(T, Option<u64>), ApiError> {
        let effect = method != Method::GET;
        let url = self.url(path)?;
        let place = (method.clone(), url.path().to_owned());
        self.may_ask(&place)?;
        tracing::debug!(%method, path = %url.path(), "asks");
        let mut request = self.client.request(method, url).query(query).timeout(REQUEST_LIMIT);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.not_answered(&error, effect))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = body_of(response).await;
        if !status.is_success() {
            let asked = if effect { Asked::Effect } else { Asked::Read };
            let error = self.refused(status, &headers, &body.unwrap_or_default(), asked);
            self.heed(place, &error);
            return Err(error);
        }
        // What was asked for was done; only the answer got lost.
        let body = body.map_err(|error| lost(error, effect))?;
        let parsed = serde_json::from_slice(&body).map_err(|error| {
            let what = format!("its answer cannot be read ({error})");
            if effect { ApiError::no_answer(what) } else { ApiError::NotCoder(what) }
        })?;
        Ok((parsed, wire::date(&headers)))
    }

    /// Refuses a request that the deployment would refuse anyway, for asking too often.
    fn may_ask(&self, place: &(Method, String)) -> Result<(), ApiError> {
        let now = Instant::now();
        let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        limited.retain(|_, until| *until > now);
        match limited.get(place) {
            Some(until) => Err(ApiError::RateLimited { retry_after: Some(*until - now) }),
            None => Ok(()),
        }
    }

    /// Notes for how long a place must not be asked again.
    fn heed(&self, place: (Method, String), error: &ApiError) {
        if let Some(pause) = error.retry_after() {
            let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
            limited.insert(place, Instant::now() + pause);
        }
    }

    fn url(&self, path: &[&str]) -> Result<Url, ApiError> {
        let mut url = self.base.clone();
        // Segments are escaped: an id from elsewhere cannot lead to another path.
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => return Err(ApiError::NotCoder("its URL has no path".to_owned())),
        };
        Ok(url)
    }

    fn token(&self) -> MutexGuard<'_, TokenTrust> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that got no answer at all, with what the options say of a deployment that is not there.
    fn not_answered(&self, error: &reqwest::Error, effect: bool) -> ApiError {
        match (not_answered(error, effect), &self.when_away) {
            (ApiError::Unavailable(why), Some(what)) if error.is_connect() => {
                ApiError::Unavailable(format!("{why}; {what}"))
            }
            (error, _) => error,
        }
    }

    /// What a status other than success means; the table is in [`statuses`].
    fn refused(&self, status: StatusCode, headers: &HeaderMap, body: &[u8], asked: Asked) -> ApiError {
        match status.as_u16() {
            401 => self.unauthorized(),
            _ => statuses::refused(status, headers, body, asked, &self.base),
        }
    }

    /// A 401, which is the deployment's trouble rather than the token's if the token has worked before.
    fn unauthorized(&self) -> ApiError {
        let mut token = self.token();
        let since = *token.refused_since.get_or_insert_with(Instant::now);
        if token.worked && since.elapsed() < TOKEN_PATIENCE {
            let text = "it refuses a token that has worked, as it does while its database is away; if this goes on, \
                        log in again";
            ApiError::Unavailable(text.to_owned())
        } else {
            ApiError::Unauthorized
        }
    }

    async fn read_workspace(&self, path: &[&str]) -> Result<Workspace, ApiError> {
        let (read, date) = self.request::<wire::Workspace>(Method::GET, path, &[], None::<&()>).await?;
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
        self.base.to_string()
    }

    async fn user(&self) -> Result<User, ApiError> {
        let user: wire::User = self.get(&["users", "me"], &[]).await?;
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
            self.request::<wire::Workspaces>(Method::GET, &["workspaces"], query, None::<&()>).await?;
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
        let (made, date) = self.request::<wire::Build>(Method::POST, &path, &[], Some(&body)).await?;
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

    async fn build_logs(&self, build: &str, after: u64) -> Result<Vec<LogLine>, ApiError> {
        let after = after.to_string();
        let query: &[(&str, &str)] = if after == "0" { &[] } else { &[("after", &after)] };
        let lines: Vec<wire::LogLine> = self.get(&["workspacebuilds", build, "logs"], query).await?;
        Ok(lines.into_iter().map(LogLine::from).collect())
    }

    async fn open_terminal(&self, agent: &str, wanted: &NewTerminal) -> Result<Box<dyn Terminal>, ApiError> {
        let url = self.url(&["workspaceagents", agent, "pty"])?;
        let opening = terminal::open(&self.client, url, wanted);
        match tokio::time::timeout(REQUEST_LIMIT, opening).await {
            Ok(Ok(terminal::Opened::Terminal(terminal))) => Ok(terminal),
            Ok(Ok(terminal::Opened::Refused(response))) => {
                let (status, headers) = (response.status(), response.headers().clone());
                let body = body_of(response).await.unwrap_or_default();
                Err(self.refused(status, &headers, &body, Asked::Terminal))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ApiError::Unavailable("no answer to a request for a terminal".to_owned())),
        }
    }

    fn changes(&self, workspace: &str) -> Option<BoxStream<'static, ()>> {
        let url = self.url(&["workspaces", workspace, "watch-ws"]).ok()?;
        Some(changes::changes(self.client.clone(), url))
    }
}

// The token is in the client's default headers, which are marked as sensitive; it is not shown here either.
impl fmt::Debug for RestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestClient").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// Reads a body up to its limit.
async fn body_of(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| innermost(&error))? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(format!("its answer is longer than {MAX_BODY_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
