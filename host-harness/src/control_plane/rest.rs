//! The REST API of a Coder deployment.
//!
//! Statuses decide, texts never do. Redirects are not followed: the token goes to the address that was given and nowhere
//! else.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace, refusal,
};
use crate::bindings::{Parameter, Quota, Transition};

mod changes;
mod socket;
mod terminal;
mod wire;

const TOKEN_HEADER: HeaderName = HeaderName::from_static("coder-session-token");
/// Limit of one request. A control plane whose database hangs answers nothing at all; a healthy one answers within a
/// second.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// Limit of making a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Limit of an answer's body: a workspace with hundreds of agents stays far below.
const MAX_BODY_BYTES: usize = 8 << 20;

/// A client for one deployment with one user's token.
pub struct RestClient {
    client: Client,
    /// Ends with `/api/v2/`.
    base: Url,
    /// An authenticated request has worked: a later 401 is the deployment's trouble, not the token's. Every request is
    /// answered with 401 while its database is down.
    token_worked: AtomicBool,
    /// The clock that dates answers was seen to differ from the one that dates builds.
    clock_distrusted: AtomicBool,
}

/// Why a client could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// Not a URL of a web server.
    #[error("\"{0}\" is not the URL of a deployment: it should look like https://coder.example.com")]
    Url(String),
    /// Would show the token to everybody on the way.
    #[error("\"{0}\" is not encrypted: the token would be readable on the way; use https")]
    Plain(String),
    /// Cannot be sent in a header.
    #[error("the token has characters that no token has: copy it again")]
    Token,
    /// The system's certificates or sockets cannot be used.
    #[error("cannot make a web client: {0}")]
    Client(String),
}

impl RestClient {
    /// A client for the deployment at `url`. Plain `http` is for this machine only.
    pub fn new(url: &str, token: &str) -> Result<Self, RestError> {
        let bad = || RestError::Url(url.to_owned());
        let mut base = Url::parse(url).map_err(|_| bad())?;
        match base.scheme() {
            "https" => {}
            "http" if is_loopback(&base) => {}
            "http" => return Err(RestError::Plain(url.to_owned())),
            _ => return Err(bad()),
        }
        base.set_query(None);
        base.set_fragment(None);
        base.path_segments_mut().map_err(|()| bad())?.pop_if_empty().extend(["api", "v2", ""]);
        let mut token = HeaderValue::from_str(token).map_err(|_| RestError::Token)?;
        token.set_sensitive(true);
        // Fails if a provider is installed already, which then is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .default_headers(HeaderMap::from_iter([(TOKEN_HEADER, token)]))
            .connect_timeout(CONNECT_LIMIT)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| RestError::Client(innermost(&error)))?;
        let (token_worked, clock_distrusted) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { client, base, token_worked, clock_distrusted })
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T, ApiError> {
        Ok(self.request(Method::GET, path, query, None::<&()>).await?.0)
    }

    /// One request; answers the body and the time of the answer.
    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&impl Serialize>,
    ) -> Result<(T, Option<u64>), ApiError> {
        let effect = method != Method::GET;
        let mut request = self.client.request(method, self.url(path)?).query(query).timeout(REQUEST_LIMIT);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| not_answered(&error, effect))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = body_of(response).await;
        if !status.is_success() {
            return Err(self.refused(status, &headers, &body.unwrap_or_default(), effect));
        }
        // What was asked for was done; only the answer got lost.
        let body = body.map_err(|error| lost(error, effect))?;
        let parsed = serde_json::from_slice(&body).map_err(|error| {
            let what = format!("its answer cannot be read ({error})");
            if effect { ApiError::UnknownOutcome(what) } else { ApiError::NotCoder(what) }
        })?;
        self.token_worked.store(true, Ordering::Relaxed);
        Ok((parsed, wire::date(&headers)))
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

    /// What a status other than success means.
    fn refused(&self, status: StatusCode, headers: &HeaderMap, body: &[u8], effect: bool) -> ApiError {
        let said = wire::refusal(body);
        match status.as_u16() {
            401 if self.token_worked.load(Ordering::Relaxed) => {
                ApiError::Unavailable("it refuses a token that has worked".to_owned())
            }
            401 => ApiError::Unauthorized,
            403 => ApiError::Forbidden(said.unwrap_or_else(|| refusal("no permission"))),
            404 => ApiError::NotFound,
            409 => ApiError::Conflict(said.unwrap_or_else(|| refusal("another build is in progress"))),
            410 => ApiError::Gone,
            429 => ApiError::RateLimited { retry_after: wire::retry_after(headers) },
            400 | 406 | 412 | 422 => match said {
                Some(said) => ApiError::Invalid(said),
                None => ApiError::NotCoder(format!("status {status} without a message")),
            },
            300..=399 => ApiError::NotCoder(format!("it redirects elsewhere ({status})")),
            500.. if effect => ApiError::UnknownOutcome(format!("status {status}")),
            500.. => ApiError::Unavailable(format!("status {status}")),
            code => {
                ApiError::Other { status: code, refusal: said.unwrap_or_else(|| refusal(status.to_string())) }
            }
        }
    }

    async fn read_workspace(&self, path: &[&str]) -> Result<Workspace, ApiError> {
        let (read, date) = self.request::<wire::Workspace>(Method::GET, path, &[], None::<&()>).await?;
        let trusted = date.filter(|_| !self.clock_distrusted.load(Ordering::Relaxed));
        Ok(read.into_workspace(trusted))
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
        let (owner, name) = name.split_once('/').unwrap_or(("me", name));
        self.read_workspace(&["users", owner, "workspace", name]).await
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
        let refused = |status, headers: &HeaderMap, body: &[u8]| self.refused(status, headers, body, false);
        match tokio::time::timeout(REQUEST_LIMIT, opening).await {
            Ok(Ok(terminal::Opened::Terminal(terminal))) => Ok(terminal),
            Ok(Ok(terminal::Opened::Refused(response))) => {
                let (status, headers) = (response.status(), response.headers().clone());
                Err(refused(status, &headers, &body_of(response).await.unwrap_or_default()))
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

/// A request that got no answer at all.
fn not_answered(error: &reqwest::Error, effect: bool) -> ApiError {
    // Without a connection nothing was sent.
    lost(innermost(error), effect && !error.is_connect())
}

fn lost(why: String, effect: bool) -> ApiError {
    if effect { ApiError::UnknownOutcome(why) } else { ApiError::Unavailable(why) }
}

/// The cause at the bottom, which says what happened; those above it repeat the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}
