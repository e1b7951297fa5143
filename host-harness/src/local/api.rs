//! The REST API: the subset of a Coder server's that a lifecycle client needs, with its paths, status codes and field
//! names, and this control plane's own operations under `/api/local`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use serde_json::{Value, json};

use self::problem::{Answer, Problem};
use super::model::{ORGANIZATION, USER};
use super::server_state::ServerState;

mod agents;
mod builds;
mod operations;
mod parameters;
mod problem;
mod render;
mod search;
mod streams;
mod templates;
mod terminal;
mod workspaces;

pub(super) fn router(state: Arc<ServerState>) -> Router {
    let for_users = Router::new()
        .route("/api/v2/users/{user}", get(me))
        .route("/api/v2/users/{user}/workspaces", post(workspaces::create))
        .route("/api/v2/users/{user}/workspace/{name}", get(workspaces::by_name))
        .route("/api/v2/users/{user}/workspace/{name}/builds/{number}", get(builds::by_number))
        .route("/api/v2/workspace-quota/{user}", get(quota))
        .route("/api/v2/organizations/{organization}/provisionerdaemons", get(provisioners))
        .route("/api/v2/organizations/{organization}/members/{user}/workspace-quota", get(member_quota))
        .route("/api/v2/workspaces", get(workspaces::list))
        .route("/api/v2/workspaces/{id}", get(workspaces::by_id))
        .route("/api/v2/workspaces/{id}/builds", get(builds::list).post(builds::create))
        .route("/api/v2/workspaces/{id}/dormant", put(workspaces::set_dormant))
        .route("/api/v2/workspaces/{id}/watch-ws", get(streams::watch))
        .route("/api/v2/workspacebuilds/{id}", get(builds::by_id))
        .route("/api/v2/workspacebuilds/{id}/cancel", patch(builds::cancel))
        .route("/api/v2/workspacebuilds/{id}/logs", get(streams::build_logs))
        .route("/api/v2/workspacebuilds/{id}/parameters", get(builds::parameters))
        .route("/api/v2/workspaceagents/{id}", get(agents::by_id))
        .route("/api/v2/workspaceagents/{id}/logs", get(streams::agent_logs))
        .route("/api/v2/templates", get(templates::list))
        .route("/api/v2/templates/{id}", get(templates::by_id))
        .route("/api/v2/templateversions/{id}", get(templates::version))
        .route("/api/v2/templateversions/{id}/rich-parameters", get(templates::rich_parameters))
        .route("/api/local/templates", post(operations::create_template))
        .route("/api/local/templates/{key}", get(operations::template))
        .route("/api/local/templates/{key}/versions", post(operations::add_version))
        .route("/api/local/workspaces/{key}/signal", post(operations::signal_agent))
        .route("/api/local/workspaces/{key}/dormant", put(operations::set_dormant))
        .route("/api/local/provisioners", put(operations::set_provisioners))
        .route_layer(middleware::from_fn_with_state(state.clone(), signed_in));
    Router::new()
        .route("/healthz", get(async || "OK"))
        .route("/api/v2/buildinfo", get(build_info))
        .route("/api/v2/users/first", get(first_user))
        // Says "not found" to strangers, so it looks at the token itself.
        .route("/api/v2/workspaceagents/{id}/pty", get(terminal::open))
        .route("/api/local/agent/connect", get(agents::connect))
        .route("/api/local/agent/terminals/{id}", get(agents::terminal))
        .merge(for_users)
        .fallback(elsewhere)
        .with_state(state)
}

/// Whether the request carries the server's token.
fn has_token(state: &ServerState, headers: &HeaderMap) -> Result<(), &'static str> {
    let Some(token) = headers.get("Coder-Session-Token") else {
        return Err("the header Coder-Session-Token is missing");
    };
    // A difference in time says nothing useful: whoever can measure it on loopback can ask until it fits anyway.
    if token.as_bytes() == state.endpoint.token.as_bytes() { Ok(()) } else { Err("the token is not valid") }
}

async fn signed_in(Shared(state): Shared<Arc<ServerState>>, request: Request, next: Next) -> Response {
    match has_token(&state, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(detail) => {
            let problem =
                Problem::new(StatusCode::UNAUTHORIZED, "This needs a valid session token.").detail(detail);
            ([(header::WWW_AUTHENTICATE, "Bearer realm=\"local\"")], problem).into_response()
        }
    }
}

/// Like the real server, which answers unknown pages with its web site.
async fn elsewhere(request: Request) -> Response {
    if request.uri().path().starts_with("/api/") {
        Problem::new(StatusCode::NOT_FOUND, "There is no such route.").into_response()
    } else {
        "This is a control plane without a web site; its API is under /api/v2.\n".into_response()
    }
}

async fn build_info(Shared(state): Shared<Arc<ServerState>>) -> axum::Json<Value> {
    axum::Json(json!({
        "external_url": env!("CARGO_PKG_NAME"),
        "version": concat!("v", env!("CARGO_PKG_VERSION"), "-local"),
        "dashboard_url": state.endpoint.url,
        "telemetry": false,
        "workspace_proxy": false,
        "agent_api_version": "1.0",
        "provisioner_api_version": "1.0",
        "upgrade_message": "",
        "deployment_id": state.identity.deployment_id,
    }))
}

/// Whether there is a user already. It is asked without a token, also to find out whether the database is there.
async fn first_user() -> axum::Json<Value> {
    axum::Json(json!({"message": "The initial user has already been created!"}))
}

async fn me(Shared(state): Shared<Arc<ServerState>>, path: axum::extract::Path<String>) -> Answer {
    known_user(&state, &path)?;
    let identity = &state.identity;
    let created = render::time(identity.created_at);
    Ok(axum::Json(json!({
        "id": identity.user_id,
        "username": USER,
        "name": "",
        "email": "owner@localhost",
        "created_at": created,
        "updated_at": created,
        "last_seen_at": render::time(super::db::now()),
        "status": "active",
        "login_type": "token",
        "organization_ids": [identity.organization_id],
        "roles": [{"name": "owner", "display_name": "Owner"}],
    })))
}

async fn quota(Shared(state): Shared<Arc<ServerState>>, path: axum::extract::Path<String>) -> Answer {
    known_user(&state, &path)?;
    let consumed = super::jobs::credits_consumed(&state.db.get(), None)?;
    // The real server's word for "no limit".
    let budget = state.options.quota_budget.unwrap_or(-1);
    Ok(axum::Json(json!({"credits_consumed": consumed, "budget": budget})))
}

/// Those that there are just do their work: nobody else could look after them.
async fn provisioners(Shared(state): Shared<Arc<ServerState>>) -> axum::Json<Value> {
    let now = render::time(super::db::now());
    let daemon = |number: usize| {
        json!({
            "id": uuid::Uuid::from_u128(number as u128).to_string(),
            "organization_id": state.identity.organization_id,
            "created_at": now,
            "last_seen_at": now,
            "name": format!("local-{number}"),
            "version": concat!("v", env!("CARGO_PKG_VERSION"), "-local"),
            "status": "idle",
        })
    };
    axum::Json((0..state.provisioners.count()).map(daemon).collect())
}

async fn member_quota(
    state: Shared<Arc<ServerState>>,
    axum::extract::Path((organization, user)): axum::extract::Path<(String, String)>,
) -> Answer {
    if organization != ORGANIZATION && organization != state.identity.organization_id {
        return Err(Problem::not_found());
    }
    quota(state, axum::extract::Path(user)).await
}

/// The only user, by any of its names.
fn known_user(state: &ServerState, user: &str) -> Result<(), Problem> {
    if user == "me" || user == USER || user == state.identity.user_id {
        return Ok(());
    }
    Err(Problem::new(StatusCode::BAD_REQUEST, "There is no such user.")
        .detail(format!("asked for \"{user}\"")))
}
