//! `workspace create|list|show|delete|kill-agent`.

use anyhow::{Context, bail};
use serde_json::json;

use super::args::{Signal, WorkspaceCommand};
use super::context::{CommandContext, Host};
use super::exit::Exit;
use super::output::{Output, Progress, table};
use crate::bindings::{Build, JobStatus, Transition};
use crate::control_plane::{ApiError, NewBuild, Workspace, is_terminal};
use crate::describe::{build_json, describe_build, describe_workspace, state_word, workspace_json};
use crate::local::AgentSignal;
use crate::policy::Timings;

pub async fn run(
    context: &CommandContext,
    output: Output,
    command: WorkspaceCommand,
) -> anyhow::Result<Exit> {
    let host = context.open().await?;
    match command {
        WorkspaceCommand::Create { name, template, parameters } => {
            create(&host, output, &name, &template, &parameters).await
        }
        WorkspaceCommand::List => list(&host, output).await,
        WorkspaceCommand::Show { name } => {
            let workspace = host.find(&name).await?;
            output.print(&workspace_json(&workspace), |_| describe_workspace(&workspace))?;
            Ok(Exit::Done)
        }
        WorkspaceCommand::Delete { name } => delete(&host, output, &name).await,
        WorkspaceCommand::KillAgent { name, signal } => kill_agent(&host, output, &name, signal).await,
    }
}

impl Host {
    /// The workspace of that name.
    pub async fn find(&self, name: &str) -> anyhow::Result<Workspace> {
        match self.plane.workspace_by_name(name).await {
            Ok(workspace) => Ok(workspace),
            Err(ApiError::NotFound | ApiError::Gone) => {
                bail!(
                    "there is no workspace \"{name}\"; `workspace-recovery workspace list` shows those that there are"
                )
            }
            Err(error) => Err(error.into()),
        }
    }
}

async fn create(
    host: &Host,
    output: Output,
    name: &str,
    template: &str,
    parameters: &[(String, String)],
) -> anyhow::Result<Exit> {
    let created = host
        .admin()?
        .create_workspace(name, template, parameters)
        .await
        .with_context(|| format!("the workspace \"{name}\" was not created"))?;
    let build = follow(host, &created.build_id).await?;
    let workspace = host.plane.workspace(&created.id).await?;
    output.print(&workspace_json(&workspace), |_| format!("{name}: {}", describe_build(&build)))?;
    Ok(succeeded(&build))
}

async fn list(host: &Host, output: Output) -> anyhow::Result<Exit> {
    let workspaces = host.plane.workspaces().await?;
    let shown: Vec<_> = workspaces.iter().map(workspace_json).collect();
    output.print(&shown, |_| {
        let rows: Vec<_> = workspaces.iter().map(row).collect();
        table(&["NAME", "NEWEST BUILD", "AGENTS"], &rows)
    })?;
    Ok(Exit::Done)
}

async fn delete(host: &Host, output: Output, name: &str) -> anyhow::Result<Exit> {
    host.admin()?;
    let workspace = host.find(name).await?;
    let request = NewBuild { transition: Transition::Delete, template_version: None, parameters: Vec::new() };
    let issued = match host.plane.create_build(&workspace.id, &request).await {
        Ok(issued) => issued,
        Err(ApiError::Conflict(_)) => bail!(
            "the workspace \"{name}\" was not deleted, because its {} is in progress: wait until it has ended",
            describe_build(&workspace.latest.build)
        ),
        Err(error) => return Err(error).with_context(|| format!("the workspace \"{name}\" was not deleted")),
    };
    let build = follow(host, &issued.build.id).await?;
    let value =
        json!({ "name": name, "deleted": succeeded(&build) == Exit::Done, "build": build_json(&build) });
    output.print(&value, |_| format!("{name}: {}", describe_build(&build)))?;
    Ok(succeeded(&build))
}

async fn kill_agent(host: &Host, output: Output, name: &str, signal: Signal) -> anyhow::Result<Exit> {
    let (signal, done) = match signal {
        Signal::Kill => (AgentSignal::Kill, "killed"),
        Signal::Stop => (AgentSignal::Stop, "hung"),
        Signal::Cont => (AgentSignal::Cont, "let go on"),
    };
    let agent = host
        .admin()?
        .signal_agent(name, None, signal)
        .await
        .with_context(|| format!("no signal was sent to the agent of \"{name}\""))?;
    output.print(&agent, |agent| {
        format!("agent {} of {name} (process {}) was {done}", agent.name, agent.pid)
    })?;
    Ok(Exit::Done)
}

/// Shows a build's log and state until its job has ended. It goes on by itself if this program ends.
async fn follow(host: &Host, id: &str) -> anyhow::Result<Build> {
    let mut progress = Progress::new();
    let mut shown = 0;
    loop {
        let read = host.plane.build(id).await?;
        for line in host.plane.build_logs(id, shown).await? {
            shown = line.id;
            progress.log(&line);
        }
        // The log was read after the status: a job that had ended then has no further lines.
        if is_terminal(&read.build.status) {
            return Ok(read.build);
        }
        progress.status(describe_build(&read.build));
        tokio::time::sleep(Timings::default().first_retry).await;
    }
}

fn succeeded(build: &Build) -> Exit {
    if build.status == JobStatus::Succeeded { Exit::Done } else { Exit::Failed }
}

fn row(workspace: &Workspace) -> Vec<String> {
    let agents: Vec<_> =
        workspace.agents.iter().map(|agent| format!("{} {}", agent.name, state_word(&agent.state))).collect();
    vec![workspace.name.clone(), describe_build(&workspace.latest.build), agents.join(", ")]
}
