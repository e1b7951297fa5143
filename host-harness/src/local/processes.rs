//! Agent processes: start, signal, end.
//!
//! An agent's process is found by its pid file, which it keeps locked while it lives. So a server that was started
//! after the agent finds it too, and a process id that the system has given to somebody else is never signalled.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::agent_protocol::{AgentConfig, config_file, locked_pid, pid_file, script_file};
use super::db::agents::Agent;
use super::error::LocalError;
use super::model::USER;
use super::server_file::{make_private_folder, write_private};
use super::server_state::ServerState;

/// How often a process that should end is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long the system may take to end a process that was killed.
const KILLED: Duration = Duration::from_secs(5);

/// What a deployment's agents tell all that they start of where that runs.
fn variables(state: &ServerState, agent: &Agent, workspace: &str) -> Vec<(String, String)> {
    [
        ("CODER", "true"),
        ("CODER_WORKSPACE_NAME", workspace),
        ("CODER_WORKSPACE_OWNER_NAME", USER),
        ("CODER_WORKSPACE_AGENT_NAME", &agent.spec.name),
        ("CODER_AGENT_URL", &state.endpoint.url),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Makes the agent's folder and starts its process, unless the agent is one that gets none.
pub(super) fn spawn(state: &Arc<ServerState>, agent: &Agent, workspace: &str) -> Result<(), LocalError> {
    let folder = folder_of(state, agent);
    let home = state.options.data_dir.join("homes").join(&agent.workspace_id);
    make_private_folder(&folder)?;
    make_private_folder(&home)?;
    let timings = &state.options.timings;
    let config = AgentConfig {
        agent_id: agent.id.clone(),
        variables: variables(state, agent, workspace),
        token: agent.token.clone(),
        data_dir: absolute(&state.options.data_dir),
        home: absolute(&home),
        startup_script: agent.spec.startup_script.clone(),
        script_timeout_seconds: agent.spec.script_timeout_seconds,
        reconnect_first: timings.reconnect_first,
        reconnect_most: timings.reconnect_most,
        terminate: timings.terminate,
    };
    let file_error = |error| LocalError::File { path: folder.clone(), error };
    write_private(&config_file(&folder), &config).map_err(file_error)?;
    if agent.spec.external || !agent.spec.connects {
        return Ok(());
    }
    let log = File::create(folder.join("log")).map_err(file_error)?;
    let command = &state.options.agent_command;
    let mut child = Command::new(&command.program)
        .args(&command.args)
        .arg(absolute(&folder))
        .current_dir(&home)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|error| LocalError::File { path: command.program.clone(), error })?;
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        state.children.lock().insert(folder.clone(), pid);
    }
    let state = state.clone();
    tokio::spawn(async move {
        // Whatever its end was: the agent's connection tells the same.
        let _ = child.wait().await;
        state.children.lock().remove(&folder);
    });
    Ok(())
}

/// Sends a signal to the agent's process. None: it has none.
pub(super) fn send_signal(state: &ServerState, agent: &Agent, signal: Signal) -> Option<Pid> {
    let pid = alive(state, &folder_of(state, agent))?;
    kill_process(pid, signal).ok().map(|()| pid)
}

/// Ends the processes of these agents, for good, and removes their folders.
pub(super) async fn end(state: &ServerState, agents: &[Agent]) {
    let folders: Vec<_> = agents.iter().map(|agent| folder_of(state, agent)).collect();
    end_folders(state, &folders).await;
    for (agent, folder) in agents.iter().zip(&folders) {
        state.agents.dismiss(&agent.id);
        // An agent that has never run has none.
        let _ = fs::remove_dir_all(folder);
    }
}

/// Ends every agent process of this data folder, of whichever build.
pub(super) async fn end_all(state: &ServerState) {
    let agents = state.options.data_dir.join("agents");
    // Nothing was ever started if it is missing.
    let folders: Vec<_> =
        fs::read_dir(agents).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    end_folders(state, &folders).await;
}

pub(super) fn remove_home(state: &ServerState, workspace: &str) {
    // It may never have been started.
    let _ = fs::remove_dir_all(state.options.data_dir.join("homes").join(workspace));
}

/// Returns at SIGINT or SIGTERM.
pub(super) async fn terminated() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers the signals have their usual effect.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Ends agents, and the startup scripts of agents that died without ending them.
async fn end_folders(state: &ServerState, folders: &[PathBuf]) {
    end_agents(state, folders).await;
    for group in folders.iter().filter_map(|folder| locked_pid(&script_file(folder))) {
        // It may have ended in this moment.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// SIGTERM, time to end, SIGKILL. A hung process is woken so that it can take the first.
async fn end_agents(state: &ServerState, folders: &[PathBuf]) {
    for signals in [&[Signal::TERM, Signal::CONT][..], &[Signal::KILL]] {
        for pid in folders.iter().filter_map(|folder| alive(state, folder)) {
            for signal in signals {
                // It may have ended in this moment.
                let _ = kill_process(pid, *signal);
            }
        }
        let limit = if signals.len() > 1 { state.options.timings.terminate } else { KILLED };
        let until = Instant::now() + limit;
        loop {
            if !folders.iter().any(|folder| alive(state, folder).is_some()) {
                return;
            }
            if Instant::now() > until {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    tracing::error!("an agent process of {} cannot be ended", state.options.data_dir.display());
}

fn alive(state: &ServerState, folder: &Path) -> Option<Pid> {
    if let Some(pid) = state.children.lock().get(folder) {
        return Some(*pid);
    }
    locked_pid(&pid_file(folder))
}

fn folder_of(state: &ServerState, agent: &Agent) -> PathBuf {
    state.options.data_dir.join("agents").join(&agent.id)
}

fn absolute(path: &Path) -> PathBuf {
    // Fails only for an empty path or without a current folder; then the path as it is will fail with a clear error.
    std::path::absolute(path).unwrap_or_else(|_: io::Error| path.to_owned())
}
