//! Rows of the database as the JSON of the API.
//!
//! A key without a value is left out, as the real server does, but for the few that are null there.

use rusqlite::Connection;
use serde_json::{Map, Value, json};

use super::super::db::agents::Agent;
use super::super::db::builds::{Build, LogLine};
use super::super::db::workspaces::Workspace;
use super::super::db::{Micros, Template, Version, now};
use super::super::model::{JobStatus, Transition};
use super::super::server_state::ServerState;
use super::super::status::AgentStatus;
use crate::local::model::{ORGANIZATION, USER};

const NO_ID: &str = "00000000-0000-0000-0000-000000000000";
const HELP_URL: &str = "https://coder.com/docs/admin/templates/troubleshooting";

/// Which answer a build is part of: they do not all say the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The answer to the request that made it: the queue is not known yet, nor the version's name.
    Posted,
    /// The build by its id: never says whether a provisioner could take it.
    ById,
    /// Any other.
    Elsewhere,
}

pub(super) fn time(micros: Micros) -> Value {
    // Out of range only for a broken database.
    jiff::Timestamp::from_microsecond(micros).map_or(Value::Null, |time| time.to_string().into())
}

pub(super) fn workspace(
    state: &ServerState,
    db: &Connection,
    workspace: &Workspace,
    place: Place,
) -> rusqlite::Result<Value> {
    let latest = Build::latest(db, &workspace.id)?;
    let template = Template::find(db, &workspace.template_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let failing: Vec<_> = visible_agents(db, &latest)?
        .iter()
        .filter(|agent| agent_status(state, agent).illness(agent.lifecycle).is_some())
        .map(|agent| agent.id.clone())
        .collect();
    Ok(json!({
        "id": workspace.id,
        "created_at": time(workspace.created_at),
        "updated_at": time(workspace.created_at),
        "owner_id": state.identity.user_id,
        "owner_name": USER,
        "owner_avatar_url": "",
        "organization_id": state.identity.organization_id,
        "organization_name": ORGANIZATION,
        "template_id": template.id,
        "template_name": template.name,
        "template_display_name": "",
        "template_icon": "",
        "template_allow_user_cancel_workspace_jobs": true,
        "template_active_version_id": template.active_version_id,
        "template_require_active_version": template.require_active_version,
        "template_use_classic_parameter_flow": template.classic_parameters,
        "latest_build": build(state, db, &latest, place)?,
        "latest_app_status": null,
        "outdated": latest.version_id != template.active_version_id,
        "name": workspace.name,
        "last_used_at": time(workspace.created_at),
        "deleting_at": null,
        "dormant_at": workspace.dormant_at.map(time),
        "health": {"healthy": failing.is_empty(), "failing_agents": failing},
        "automatic_updates": "never",
        "allow_renames": false,
        "favorite": false,
        "next_start_at": null,
        "is_prebuild": false,
    }))
}

pub(super) fn build(
    state: &ServerState,
    db: &Connection,
    build: &Build,
    place: Place,
) -> rusqlite::Result<Value> {
    let workspace = Workspace::find(db, &build.workspace_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let version = Version::find(db, &build.version_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let status = build.status();
    let mut json = json!({
        "id": build.id,
        "created_at": time(build.created_at),
        "updated_at": time(build.updated_at),
        "workspace_id": workspace.id,
        "workspace_name": workspace.name,
        "workspace_owner_id": state.identity.user_id,
        "workspace_owner_name": USER,
        "template_version_id": version.id,
        "template_version_name": if place == Place::Posted { "" } else { &version.name },
        "build_number": build.number,
        "transition": build.transition.as_str(),
        "initiator_id": state.identity.user_id,
        "initiator_name": USER,
        "job": job(state, db, build, place)?,
        "reason": build.reason,
        "resources": resources(state, db, build)?,
        "deadline": null,
        "max_deadline": null,
        "status": workspace_status(build.transition, status),
        "daily_cost": if build.provisioned { version.spec.daily_cost } else { 0 },
        "matched_provisioners": matched_provisioners(state, status, place),
        "template_version_preset_id": null,
    });
    if build.provisioned {
        json["has_ai_task"] = false.into();
        json["has_external_agent"] = version.spec.has_external_agent().into();
    }
    Ok(json)
}

fn job(state: &ServerState, db: &Connection, build: &Build, place: Place) -> rusqlite::Result<Value> {
    let (position, size) = queue(state, db, build, place)?;
    let mut json = json!({
        "id": build.job_id,
        "created_at": time(build.created_at),
        "status": build.status().as_str(),
        "file_id": NO_ID,
        "tags": {"owner": "", "scope": "organization"},
        "queue_position": position,
        "queue_size": size,
        "organization_id": state.identity.organization_id,
        "input": {"workspace_build_id": build.id},
        "type": "workspace_build",
        "metadata": {
            "template_version_name": "", "template_id": NO_ID, "template_name": "", "template_display_name": "",
            "template_icon": "",
        },
        "logs_overflowed": false,
    });
    set(&mut json, "started_at", build.started_at.map(time));
    set(&mut json, "completed_at", build.completed_at.map(time));
    set(&mut json, "canceled_at", build.canceled_at.map(time));
    set(&mut json, "error", build.error.clone().map(Value::from));
    set(&mut json, "error_code", build.error_code.clone().map(Value::from));
    set(&mut json, "worker_id", build.worker_id.clone().map(Value::from));
    Ok(json)
}

/// The place in the queue and its length: only while it waits for provisioners that exist.
fn queue(
    state: &ServerState,
    db: &Connection,
    build: &Build,
    place: Place,
) -> rusqlite::Result<(usize, usize)> {
    let waits = build.status() == JobStatus::Pending && state.provisioners.count() > 0;
    if !waits || place == Place::Posted {
        return Ok((0, 0));
    }
    let pending = Build::pending(db)?;
    let position = pending.iter().position(|other| other.id == build.id).map_or(0, |index| index + 1);
    Ok((position, pending.len()))
}

fn matched_provisioners(state: &ServerState, status: JobStatus, place: Place) -> Value {
    let count = state.provisioners.count();
    if status != JobStatus::Pending || place == Place::ById || count == 0 {
        return json!({"count": 0, "available": 0, "most_recently_seen": null});
    }
    json!({"count": count, "available": count, "most_recently_seen": time(now())})
}

pub(super) fn workspace_status(transition: Transition, status: JobStatus) -> &'static str {
    match (status, transition) {
        (JobStatus::Running, Transition::Start) => "starting",
        (JobStatus::Running, Transition::Stop) => "stopping",
        (JobStatus::Running, Transition::Delete) => "deleting",
        (JobStatus::Succeeded, Transition::Start) => "running",
        (JobStatus::Succeeded, Transition::Stop) => "stopped",
        (JobStatus::Succeeded, Transition::Delete) => "deleted",
        (other, _) => other.as_str(),
    }
}

fn visible_agents(db: &Connection, build: &Build) -> rusqlite::Result<Vec<Agent>> {
    if build.provisioned { Agent::of_build(db, &build.id) } else { Ok(Vec::new()) }
}

/// A start gives a computer for its agents and one for external agents, and every build keeps the volume.
fn resources(state: &ServerState, db: &Connection, build: &Build) -> rusqlite::Result<Value> {
    if !build.provisioned {
        return Ok(json!([]));
    }
    let agents = visible_agents(db, build)?;
    let resource = |id: &str, kind: &str, name: &str| {
        json!({
            "id": id, "created_at": time(build.updated_at), "job_id": build.job_id,
            "workspace_transition": build.transition.as_str(), "type": kind, "name": name, "hide": false, "icon": "",
            "daily_cost": 0,
        })
    };
    let mut resources = Vec::new();
    for (external, kind, name) in
        [(false, "local_process", "workspace"), (true, "coder_external_agent", "external")]
    {
        let mut own = Vec::new();
        for item in agents.iter().filter(|item| item.spec.external == external) {
            own.push(agent(state, db, item)?);
        }
        if !own.is_empty() {
            let id = if external { &build.job_id } else { &build.container_id };
            let mut json = resource(id, kind, name);
            json["agents"] = own.into();
            resources.push(json);
        }
    }
    if build.transition != Transition::Delete {
        resources.push(resource(&build.volume_id, "local_folder", "home"));
    }
    Ok(resources.into())
}

pub(super) fn agent_status(state: &ServerState, agent: &Agent) -> AgentStatus {
    AgentStatus::at(agent, now(), state.options.timings.inactive)
}

pub(super) fn agent(state: &ServerState, db: &Connection, agent: &Agent) -> rusqlite::Result<Value> {
    let status = agent_status(state, agent);
    let build = Build::find(db, &agent.build_id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let logs_length: usize = Agent::logs(db, &agent.id, 0)?.iter().map(|line| line.output.len()).sum();
    let health = match status.illness(agent.lifecycle) {
        None => json!({"healthy": true}),
        Some(reason) => json!({"healthy": false, "reason": reason}),
    };
    let mut json = json!({
        "id": agent.id,
        "parent_id": null,
        "created_at": time(agent.created_at),
        "updated_at": time(agent.updated_at),
        "status": status.connection.as_str(),
        "lifecycle_state": agent.lifecycle.as_str(),
        "name": agent.spec.name,
        "resource_id": if agent.spec.external { build.job_id } else { build.container_id },
        "architecture": std::env::consts::ARCH,
        "environment_variables": null,
        "operating_system": std::env::consts::OS,
        "logs_length": logs_length,
        "logs_overflowed": false,
        "version": if agent.first_connected_at.is_some() { concat!("v", env!("CARGO_PKG_VERSION")) } else { "" },
        "api_version": "",
        "apps": [],
        "connection_timeout_seconds": agent.spec.connection_timeout_seconds,
        "troubleshooting_url": HELP_URL,
        "subsystems": [],
        "health": health,
        "display_apps": ["web_terminal"],
        "log_sources": [{
            "workspace_agent_id": agent.id, "id": agent.log_source_id, "created_at": time(agent.created_at),
            "display_name": "Startup Script", "icon": "",
        }],
        "scripts": scripts(agent),
        "startup_script_behavior": "non-blocking",
    });
    set(&mut json, "first_connected_at", agent.first_connected_at.map(time));
    set(&mut json, "last_connected_at", agent.last_connected_at.map(time));
    set(&mut json, "disconnected_at", status.disconnected_at.map(time));
    set(&mut json, "started_at", agent.started_at.map(time));
    set(&mut json, "ready_at", agent.ready_at.map(time));
    Ok(json)
}

fn scripts(agent: &Agent) -> Value {
    if agent.spec.startup_script.is_empty() {
        return json!([]);
    }
    json!([{
        "id": agent.log_source_id, "log_source_id": agent.log_source_id, "log_path": "",
        "script": agent.spec.startup_script, "cron": "", "run_on_start": true, "run_on_stop": false,
        "start_blocks_login": false, "timeout": agent.spec.script_timeout_seconds, "display_name": "Startup Script",
    }])
}

pub(super) fn build_log(line: &LogLine) -> Value {
    json!({
        "id": line.id, "created_at": time(line.created_at), "log_source": line.source, "log_level": line.level,
        "stage": line.stage, "output": line.output,
    })
}

/// The agent's log lines with an id above `after`.
pub(super) fn agent_logs(db: &Connection, agent: &Agent, after: i64) -> rusqlite::Result<Vec<Value>> {
    let lines = Agent::logs(db, &agent.id, after)?;
    Ok(lines
        .iter()
        .map(|line| {
            json!({
                "id": line.id, "created_at": time(line.created_at), "output": line.output, "level": line.level,
                "source_id": agent.log_source_id,
            })
        })
        .collect())
}

fn set(json: &mut Value, key: &str, value: Option<Value>) {
    if let (Some(object), Some(value)) = (json.as_object_mut(), value) {
        let object: &mut Map<_, _> = object;
        object.insert(key.to_owned(), value);
    }
}
