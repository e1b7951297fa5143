//! The server over streamable HTTP.
//!
//! Whoever may ask it may run commands in workspaces: it asks for a token, and answers neither pages of other machines
//! nor names that were made to point here.

use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, request};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use futures_util::TryStreamExt;
use rmcp::model::ProtocolVersion;
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::line_framing::message;
use super::sessions::{Sessions, SessionsError};
use super::{Chats, Server, connections, is_stateless};
use crate::store::check_name;

/// Where the server answers. With a chat's name after it, it is that chat's.
pub const PATH: &str = "/mcp";
/// Requests in a second, of all clients together: no agent comes near that, a program in a loop does.
pub const RATE: u32 = 1000;
/// The longest body of a request: what the plugin takes as arguments, with room for what is around them.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// How long an answer takes from its tool to the connection, at most: it is handed on twice.
const LAST_ANSWERS: Duration = Duration::from_millis(250);
/// For how long tools may take to end, and then answers to reach their clients, when the server ends.
const GRACE: Duration = Duration::from_secs(5);
/// The types of answers.
const ANSWERS: &str = "application/json, text/event-stream";
/// With each request of a session.
const SESSION: &str = "mcp-session-id";
/// With each request of a client that has no session.
const REVISION: &str = "mcp-protocol-version";

/// How the server is reached.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Clients have to know it. `None`: everybody on this machine may ask.
    pub token: Option<String>,
    /// Names and addresses that the server answers to, besides those of the loopback interface.
    pub hosts: Vec<String>,
    /// Requests in a second.
    pub rate: u32,
}

/// The name of a chat in the address.
#[derive(Clone)]
struct NamedChat(String);

/// Is cancelled with the end of the session that a request is of.
#[derive(Clone)]
struct SessionEnd(CancellationToken);

/// What a request has to pass before `rmcp` sees it.
struct Gate {
    service: StreamableHttpService<Server, Sessions>,
    sessions: Arc<Sessions>,
    /// The digest of the token: two digests are compared in a time that tells nothing of the token.
    token: Option<[u8; 32]>,
    rate: Rate,
    /// Whether chats may be named in the address.
    chats: Chats,
}

/// Lets so many through in a second.
struct Rate {
    per_second: f64,
    left: Mutex<(f64, Instant)>,
}

/// Serves clients until `end`.
pub async fn serve(server: &Server, listener: TcpListener, options: HttpOptions, end: CancellationToken) {
    let streams = CancellationToken::new();
    let gate = Arc::new(Gate::new(server, options, &streams));
    let mut app = Router::new();
    for path in [PATH.to_owned(), format!("{PATH}/{{chat}}")] {
        // Also with a slash at the end.
        app = app.route(&format!("{path}/"), any(answer)).route(&path, any(answer));
    }
    let app = app.with_state(gate);
    let closed = {
        let (server, end) = (server.clone(), end.clone());
        async move {
            end.cancelled().await;
            // First the tools end, so that their answers still have a way.
            let _ = timeout(GRACE, server.close()).await;
            // Nobody tells when they have passed through `rmcp`.
            sleep(LAST_ANSWERS).await;
            streams.cancel();
        }
    };
    let given_up = async {
        end.cancelled().await;
        sleep(2 * GRACE).await;
    };
    tokio::select! {
        () = connections::serve(listener, app, connections::SLOWEST, closed) => {}
        () = given_up => {}
    }
}

async fn answer(State(gate): State<Arc<Gate>>, chat: Option<Path<String>>, mut request: Request) -> Response {
    if !gate.knows(request.headers()) {
        let how = [(WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, how, "the token is missing or wrong\n").into_response();
    }
    if !gate.rate.lets_through() {
        return (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "1")], "too many requests\n").into_response();
    }
    if gate.sessions.are_full() && begins_session(&request) {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", SessionsError::TooMany)).into_response();
    }
    if let Some(Path(name)) = chat {
        if gate.chats != Chats::Chosen {
            return (StatusCode::NOT_FOUND, "this server works in one chat: leave the name out\n")
                .into_response();
        }
        if let Err(error) = check_name(&name) {
            return (StatusCode::NOT_FOUND, format!("no chat can have this name: {error}\n")).into_response();
        }
        request.extensions_mut().insert(NamedChat(name));
    }
    if let Some(end) = session(request.headers()).and_then(|id| gate.sessions.end_of(id)) {
        request.extensions_mut().insert(SessionEnd(end));
    }
    if takes_anything(request.headers()) {
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(ANSWERS));
    }
    if !says_json(request.headers()) {
        return gate.service.handle(request).await.map(Body::new);
    }
    let (request, read) = keep_what_is_read(request);
    let answer = gate.service.handle(request).await.map(Body::new);
    // `rmcp` blames the type of a body that it cannot read.
    if answer.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE
        && let Err(unreadable) = message(&read.whole())
    {
        return (StatusCode::BAD_REQUEST, Json(unreadable.error())).into_response();
    }
    answer
}

/// The pieces of a body, as they were read.
#[derive(Clone, Default)]
struct Pieces(Arc<Mutex<Vec<Bytes>>>);

impl Pieces {
    fn whole(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).concat()
    }
}

/// The same request, and what of its body is read from now on. No piece is copied.
fn keep_what_is_read(request: Request) -> (Request, Pieces) {
    let read = Pieces::default();
    let keeps = read.clone();
    let request = request.map(|body| {
        Body::from_stream(body.into_data_stream().inspect_ok(move |piece| {
            keeps.0.lock().unwrap_or_else(PoisonError::into_inner).push(piece.clone());
        }))
    });
    (request, read)
}

impl Gate {
    /// `streams` ends all answers that are being sent.
    fn new(server: &Server, options: HttpOptions, streams: &CancellationToken) -> Self {
        let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let config = StreamableHttpServerConfig::default()
            .with_allowed_hosts(loopback.into_iter().chain(options.hosts))
            // A page in a browser has no business here, unless it was served by this machine.
            .with_allowed_origins(["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"])
            .with_max_request_body_bytes(MAX_BODY_BYTES)
            .with_cancellation_token(streams.clone());
        let sessions = Arc::new(Sessions::new());
        let template = server.clone();
        Self {
            service: StreamableHttpService::new(
                move || Ok(template.for_another_client()),
                sessions.clone(),
                config,
            ),
            sessions,
            token: options.token.map(|token| digest(&token)),
            rate: Rate::new(options.rate),
            chats: server.shared.chats.clone(),
        }
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        // The scheme's name is written in any case.
        let given = given.and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, given)| {
            scheme.eq_ignore_ascii_case("bearer") && digest(given.trim()) == *token
        })
    }
}

impl Rate {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, left: Mutex::new((per_second, Instant::now())) }
    }

    fn lets_through(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let (before, since) = *left;
        let available = (before + (now - since).as_secs_f64() * self.per_second).min(self.per_second);
        let through = available >= 1.0;
        *left = (if through { available - 1.0 } else { available }, now);
        through
    }
}

fn says_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Whether a client takes answers of any type: `rmcp` wants their types by name.
fn takes_anything(headers: &HeaderMap) -> bool {
    let mut all = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|types| types.to_str().ok())
        .flat_map(|types| types.split(','));
    let is_any = |kind: &str| kind.split(';').next().is_some_and(|kind| kind.trim() == "*/*");
    !headers.contains_key(ACCEPT) || all.any(is_any)
}

fn session(headers: &HeaderMap) -> Option<&str> {
    headers.get(SESSION)?.to_str().ok()
}

/// Whether a request looks as if it began a session. (Others that do are refused by [`Sessions`], in other words.)
fn begins_session(request: &Request) -> bool {
    let revision = request.headers().get(REVISION);
    let stateless = revision.is_some_and(|revision| revision == ProtocolVersion::V_2026_07_28.as_str());
    request.method() == Method::POST && session(request.headers()).is_none() && !stateless
}

/// Waits for the end of the session that a request is of.
pub(super) async fn session_ended(context: &RequestContext<RoleServer>) {
    let parts = context.extensions.get::<request::Parts>();
    match parts.and_then(|parts| parts.extensions.get()) {
        Some(SessionEnd(end)) => end.cancelled().await,
        None => pending().await,
    }
}

/// The chat that the address names.
pub(super) fn named_chat(context: &RequestContext<RoleServer>) -> Option<String> {
    let parts = context.extensions.get::<request::Parts>()?;
    parts.extensions.get().map(|NamedChat(name)| name.clone())
}

/// Whether nothing can be remembered of the client: it has neither a session nor a chat of its own.
pub(super) fn keeps_nothing(context: &RequestContext<RoleServer>) -> bool {
    let parts = context.extensions.get::<request::Parts>();
    parts.is_some_and(|parts| is_stateless(context) && parts.extensions.get::<NamedChat>().is_none())
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_is_let_through_at_once_and_no_more() {
        let rate = Rate::new(3);
        let through = (0..10).filter(|_| rate.lets_through()).count();
        assert_eq!(through, 3);
    }
}
