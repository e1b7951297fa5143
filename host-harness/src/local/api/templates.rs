//! Templates and their versions, to read.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Shared};
use serde_json::{Value, json};

use super::super::db::{Template, Version};
use super::super::model::ParameterSpec;
use super::super::server_state::ServerState;
use super::problem::{Answer, Problem, id};
use super::render;
use crate::local::model::{ORGANIZATION, USER};

pub(super) async fn list(Shared(state): Shared<Arc<ServerState>>) -> Answer {
    let templates = Template::all(&state.db.get())?;
    let json: Vec<_> = templates.iter().map(|template| template_json(&state, template)).collect();
    Ok(Json(json.into()))
}

pub(super) async fn by_id(Shared(state): Shared<Arc<ServerState>>, Path(key): Path<String>) -> Answer {
    let template = Template::find(&state.db.get(), &id(&key)?)?.ok_or_else(Problem::not_found)?;
    Ok(Json(template_json(&state, &template)))
}

pub(super) async fn version(Shared(state): Shared<Arc<ServerState>>, Path(key): Path<String>) -> Answer {
    let version = Version::find(&state.db.get(), &id(&key)?)?.ok_or_else(Problem::not_found)?;
    Ok(Json(version_json(&state, &version)))
}

pub(super) async fn rich_parameters(
    Shared(state): Shared<Arc<ServerState>>,
    Path(key): Path<String>,
) -> Answer {
    let version = Version::find(&state.db.get(), &id(&key)?)?.ok_or_else(Problem::not_found)?;
    let json: Vec<_> = version.spec.parameters.iter().map(parameter_json).collect();
    Ok(Json(json.into()))
}

pub(super) fn template_json(state: &ServerState, template: &Template) -> Value {
    let no_stats = json!({"P50": null, "P95": null});
    json!({
        "id": template.id,
        "created_at": render::time(template.created_at),
        "updated_at": render::time(template.created_at),
        "organization_id": state.identity.organization_id,
        "organization_name": ORGANIZATION,
        "organization_display_name": "",
        "organization_icon": "",
        "name": template.name,
        "display_name": "",
        "provisioner": "local",
        "active_version_id": template.active_version_id,
        "active_user_count": 1,
        "build_time_stats": {"delete": no_stats, "start": no_stats, "stop": no_stats},
        "description": "",
        "deprecated": false,
        "deprecation_message": "",
        "icon": "",
        "default_ttl_ms": 0,
        "activity_bump_ms": 0,
        "created_by_id": state.identity.user_id,
        "created_by_name": USER,
        "allow_user_autostart": false,
        "allow_user_autostop": false,
        "allow_user_cancel_workspace_jobs": true,
        "failure_ttl_ms": 0,
        "time_til_dormant_ms": 0,
        "time_til_dormant_autodelete_ms": 0,
        "require_active_version": template.require_active_version,
        "max_port_share_level": "owner",
        "use_classic_parameter_flow": template.classic_parameters,
    })
}

fn version_json(state: &ServerState, version: &Version) -> Value {
    let created = render::time(version.created_at);
    json!({
        "id": version.id,
        "template_id": version.template_id,
        "organization_id": state.identity.organization_id,
        "created_at": created,
        "updated_at": created,
        "name": version.name,
        "message": "",
        "job": {
            "id": version.id,
            "created_at": created,
            "started_at": created,
            "completed_at": created,
            "status": "succeeded",
            "file_id": version.id,
            "tags": {"owner": "", "scope": "organization"},
            "queue_position": 0,
            "queue_size": 0,
            "organization_id": state.identity.organization_id,
            "input": {"template_version_id": version.id},
            "type": "template_version_import",
            "logs_overflowed": false,
        },
        "readme": "",
        "created_by": {"id": state.identity.user_id, "username": USER},
        "archived": false,
        "has_external_agent": version.spec.has_external_agent(),
    })
}

fn parameter_json(parameter: &ParameterSpec) -> Value {
    let options: Vec<_> = parameter
        .options
        .iter()
        .map(|option| json!({"name": option, "description": "", "value": option, "icon": ""}))
        .collect();
    json!({
        "name": parameter.name,
        "display_name": parameter.name,
        "description": parameter.description,
        "description_plaintext": parameter.description,
        "type": "string",
        "form_type": if options.is_empty() { "input" } else { "radio" },
        "mutable": true,
        "default_value": parameter.default_value,
        "icon": "",
        "options": options,
        "required": parameter.required,
        "ephemeral": false,
    })
}
