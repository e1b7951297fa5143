//! `doctor`: looks at everything that a recovery rests on, from the address to a command in the workspace, and says
//! what is wrong and what to do.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::context::{CommandContext, Host};
use super::exit::Exit;
use super::output::Output;
use crate::bindings::{Agent, AgentState, JobStatus, Provisioner, Transition};
use crate::chat::{Execute, ExecuteError, choose_agent};
use crate::clock::{Clock, SystemClock};
use crate::control_plane::rest::RestClient;
use crate::control_plane::{ApiError, ControlPlane, Workspace, is_active};
use crate::describe::{describe_build, lifecycle_word, state_word};
use crate::sanitize::sanitize;
use crate::store::Store;

/// From how far on two clocks are said to differ, in milliseconds: the control plane tells whole seconds, and the
/// answer takes its time.
const CLOCKS_DIFFER_MS: u64 = 5_000;
/// The chat in which the command is tried. It is kept nowhere.
const CHAT: &str = "doctor";

/// What was looked at, in order.
#[derive(Default)]
struct Examination {
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    state: State,
    /// One sentence: what was seen, and what to do if it is not well.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Good,
    /// Works, but not as well as it could; or cannot be told.
    Note,
    Bad,
}

pub async fn run(context: &CommandContext, output: Output, workspace: Option<&str>) -> anyhow::Result<Exit> {
    let (client, admin) = context.connect().await?;
    let mut examination = Examination::default();
    if deployment(&mut examination, &client).await {
        let host =
            Host::new(client, admin, context.load_plugin_behind()?, Store::in_memory(), context.timings());
        match workspace {
            Some(name) => examine(&mut examination, &host, name).await,
            None => list(&mut examination, &host).await,
        }
        host.driver.leave().await?;
    }
    output.print(&examination.findings, |findings| findings.iter().map(line).collect())?;
    let bad = examination.findings.iter().any(|finding| finding.state == State::Bad);
    Ok(if bad { Exit::Failed } else { Exit::Done })
}

/// Address, version, clock and token. Whether there is any use in going on.
async fn deployment(examination: &mut Examination, client: &RestClient) -> bool {
    let url = client.address();
    match client.deployment_info().await {
        Err(error) => {
            examination.bad(format!("{url}: {error}"));
            return false;
        }
        Ok(info) => {
            examination.good(format!("{url} is a Coder deployment, version {}", info.version));
            for shortfall in info.shortfalls() {
                examination.note(format!("it is older than {}, so {}", shortfall.since, shortfall.lost));
            }
            clocks(examination, info.observed);
        }
    }
    match client.user().await {
        Ok(user) => {
            examination.good(format!("it accepts the token, which is that of the user {}", user.name))
        }
        Err(error) => {
            examination.bad(format!("who the token belongs to cannot be told: {error}"));
            // What else the token may do can be looked at all the same.
            return matches!(error, ApiError::MissingScope { .. });
        }
    }
    true
}

fn clocks(examination: &mut Examination, observed: Option<u64>) {
    let Some(theirs) = observed else {
        return examination.note(
            "it does not tell the time, so how long an agent has been gone cannot be told: no restart will be advised"
                .to_owned(),
        );
    };
    let ours = SystemClock.now_ms();
    match ours.abs_diff(theirs) {
        apart if apart <= CLOCKS_DIFFER_MS => {
            examination.good("its clock and this machine's agree".to_owned())
        }
        apart => {
            let direction = if theirs > ours { "ahead of" } else { "behind" };
            examination.note(format!(
                "its clock is {} s {direction} this machine's; verdicts go by its clock alone, so they are not affected",
                apart / 1000
            ));
        }
    }
}

async fn list(examination: &mut Examination, host: &Host) {
    match host.plane.workspaces().await {
        Ok(workspaces) if workspaces.is_empty() => {
            examination.note("this user has no workspace: create one first".to_owned());
        }
        Ok(workspaces) => {
            let names: Vec<_> = workspaces.iter().map(|workspace| workspace.name.as_str()).collect();
            examination.good(format!(
                "this user has {}: name one to have a look at it (`workspace-recovery doctor {}`)",
                names.join(", "),
                names[0]
            ));
        }
        Err(error) => examination.bad(format!("the workspaces cannot be listed: {error}")),
    }
}

/// A workspace: its newest build, its agents, and a command in it.
async fn examine(examination: &mut Examination, host: &Host, name: &str) {
    let workspace = match host.plane.workspace_by_name(name).await {
        Ok(workspace) => workspace,
        Err(ApiError::NotFound | ApiError::Gone) => {
            return examination.bad(format!(
                "there is no workspace \"{name}\", or this user may not see it; `workspace-recovery workspace list` shows \
                 this user's own, those of others are named OWNER/NAME"
            ));
        }
        Err(error) => return examination.bad(format!("the workspace \"{name}\" cannot be read: {error}")),
    };
    newest_build(examination, &workspace);
    provisioners(examination, host, &workspace).await;
    let chosen = choose_agent(&workspace.agents);
    for agent in &workspace.agents {
        // Of several that claim to be the chat's, each may be meant.
        let is_the_chats = chosen.is_none_or(|chosen| chosen.id == agent.id);
        seen_agent(examination, agent, is_the_chats);
    }
    let build = &workspace.latest.build;
    let is_started = build.transition == Transition::Start && build.status == JobStatus::Succeeded;
    if is_started && workspace.agents.iter().all(|agent| agent.parent.is_some()) {
        examination.bad(
            "it has no agent in which a command could run, and a restart gives it none: its template has to declare one"
                .to_owned(),
        );
    } else if build.transition == Transition::Start && !workspace.agents.is_empty() && !workspace.dormant {
        command(examination, host, &workspace).await;
    }
}

fn newest_build(examination: &mut Examination, workspace: &Workspace) {
    let build = &workspace.latest.build;
    let text = format!("workspace {}/{}: {}", workspace.owner, workspace.name, describe_build(build));
    match (&build.status, &build.transition) {
        (JobStatus::Succeeded, Transition::Start) => examination.good(text),
        (JobStatus::Succeeded, _) => {
            examination.note(format!("{text}; it is not running: start_workspace starts it"));
        }
        (JobStatus::Pending, _) if build.provisioner == Provisioner::Missing => {
            examination.bad(format!("{text}; ask an administrator to look after the provisioner daemons"));
        }
        (JobStatus::Unknown(_), _) => examination.note(format!(
            "{text}; this version does not know that status, and asks for no other build while it lasts"
        )),
        (status, _) if is_active(status) => examination.note(format!("{text}; wait until it has ended")),
        _ => examination
            .bad(format!("{text}; the build's log says why; stop_workspace and start_workspace build anew")),
    }
    if workspace.dormant {
        examination.bad(
            "it is dormant: no command runs in it, and it cannot be started; activate it first, in the browser"
                .to_owned(),
        );
    }
}

/// Whether anybody would carry out a build. While one waits, its workspace tells that better.
async fn provisioners(examination: &mut Examination, host: &Host, workspace: &Workspace) {
    if workspace.latest.build.status == JobStatus::Pending {
        return;
    }
    match host.plane.provisioners(&workspace.organization).await {
        Ok(Some(0)) => examination.bad(
            "no provisioner daemon is there: a start, stop or restart would wait in the queue until one comes; ask an \
             administrator to look after the provisioner daemons"
                .to_owned(),
        ),
        Ok(Some(_) | None) => {}
        Err(error) => {
            examination.note(format!("whether there are provisioner daemons cannot be told: {error}"));
        }
    }
}

fn seen_agent(examination: &mut Examination, agent: &Agent, is_the_chats: bool) {
    let text =
        format!("agent {}: {}, {}", agent.name, state_word(&agent.state), lifecycle_word(&agent.lifecycle));
    match agent.state {
        AgentState::Connected => examination.good(text),
        _ if is_the_chats => examination.bad(text),
        _ => examination.note(format!("{text}; chats work with another agent")),
    }
}

/// Runs a command, which shows whether this user may open a terminal, and whether anybody answers there.
async fn command(examination: &mut Examination, host: &Host, workspace: &Workspace) {
    if let Err(error) = host.chats.bind(CHAT, &workspace.id).await {
        return examination.bad(error.to_string());
    }
    let chat = match host.chat(CHAT).await {
        Ok(chat) => chat,
        Err(error) => return examination.bad(error.to_string()),
    };
    let command = Execute { command: "true".to_owned(), ..Execute::default() };
    match chat.execute(&command, &CancellationToken::new()).await {
        Ok(done) if done.exit_code == Some(0) => examination.good("a command runs in it".to_owned()),
        Ok(done) => examination.bad(format!("`true` does not run in it as it should: {}", done.output)),
        Err(ExecuteError::Failed(ApiError::NotFound | ApiError::Forbidden(_))) => examination.bad(
            "no terminal may be opened in it with this token: its user must be allowed to connect to it, and a token with \
             scopes needs `coder:workspaces.access`"
                .to_owned(),
        ),
        Err(ExecuteError::Unreachable(unreachable)) if !unreachable.verdict.message.is_empty() => {
            examination.bad(format!("no command runs in it: {}", unreachable.verdict.message))
        }
        Err(error @ (ExecuteError::NoShell { .. } | ExecuteError::Refused(_))) => {
            examination.bad(error.to_string())
        }
        Err(error) => examination.bad(format!("no command runs in it: {error}")),
    }
}

impl Examination {
    fn good(&mut self, text: String) {
        self.findings.push(Finding { state: State::Good, text });
    }

    fn note(&mut self, text: String) {
        self.findings.push(Finding { state: State::Note, text });
    }

    fn bad(&mut self, text: String) {
        self.findings.push(Finding { state: State::Bad, text });
    }
}

/// A finding as it is printed. Only its first line begins as one, whatever a deployment says.
fn line(finding: &Finding) -> String {
    format!(" {} {}\n", mark(finding.state), sanitize(&finding.text).replace('\n', "\n   "))
}

fn mark(state: State) -> char {
    match state {
        State::Good => '✓',
        State::Note => '!',
        State::Bad => '✗',
    }
}
