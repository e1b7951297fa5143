//! Builds are carried out here: taken from the queue by provisioners, logged, canceled, completed.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::db::Version;
use super::db::agents::Agent;
use super::db::builds::{Build, JobEnd};
use super::db::workspaces::Workspace;
use super::model::{BuildSpec, OnCancel, Transition, VersionSpec};
use super::processes;
use super::server_state::ServerState;

/// The error code of a build that the owner's budget does not allow.
const INSUFFICIENT_QUOTA: &str = "INSUFFICIENT_QUOTA";

/// Takes up what the last server left, and begins to carry out builds.
pub(super) fn resume(state: &Arc<ServerState>) {
    if let Err(error) = clean_up(state) {
        tracing::error!("cannot go on where the last server ended: {error}");
    }
    let state = state.clone();
    tokio::spawn(async move {
        loop {
            if let Err(error) = take_pending(&state) {
                tracing::error!("cannot take builds from the queue: {error}");
            }
            tokio::select! {
                () = state.provisioners.wake.notified() => {}
                () = state.stop.cancelled() => return,
            }
        }
    });
}

fn clean_up(state: &Arc<ServerState>) -> rusqlite::Result<()> {
    let db = state.db.get();
    let end = JobEnd {
        error: Some("the control plane ended while this build was running".to_owned()),
        ..JobEnd::default()
    };
    for build in Build::orphaned(&db)? {
        build.complete(&db, &end)?;
    }
    let unspawned = Agent::unspawned(&db)?;
    spawn_agents(state, &db, &unspawned)
}

fn take_pending(state: &Arc<ServerState>) -> rusqlite::Result<()> {
    let db = state.db.get();
    for build in Build::pending(&db)? {
        let mut running = state.provisioners.running();
        if running.len() >= state.provisioners.count() {
            return Ok(());
        }
        build.start(&db, &state.provisioners.worker_id)?;
        let cancel = CancellationToken::new();
        running.insert(build.id.clone(), cancel.clone());
        state.changed(&build.workspace_id);
        tokio::spawn(carry_out(state.clone(), build, cancel));
    }
    Ok(())
}

async fn carry_out(state: Arc<ServerState>, build: Build, cancel: CancellationToken) {
    let done = tokio::select! {
        done = work(&state, &build, &cancel) => done,
        // The next server finds the build unfinished.
        () = state.stop.cancelled() => return,
    };
    if let Err(error) = done {
        tracing::error!("build {} cannot be recorded: {error}", build.id);
    }
    state.provisioners.running().remove(&build.id);
    state.provisioners.wake.notify_one();
    state.changed(&build.workspace_id);
}

async fn work(state: &Arc<ServerState>, build: &Build, cancel: &CancellationToken) -> rusqlite::Result<()> {
    // Bound by themselves: the database must be free again in the branches.
    let version = Version::find(&state.db.get(), &build.version_id)?;
    let Some(version) = version else {
        return fail(state, build, "the template version is gone", None);
    };
    let log = Log { state, build };
    log.stage("Setting up")?;
    let over_budget = quota_problem(state, &state.db.get(), build, &version.spec)?;
    if let Some(problem) = over_budget {
        return fail(state, build, &problem, Some(INSUFFICIENT_QUOTA));
    }
    log.line("info", "Planning infrastructure", "Compared the template with what the workspace has.")?;
    log.stage(log.main_stage())?;
    log.line("info", log.main_stage(), &format!("{} workspace ...", log.doing()))?;
    let spec = version.spec.build(build.transition);
    if let Err(error) = take_time(state, spec, cancel).await {
        return fail(state, build, error, None);
    }
    if let Some(error) = &spec.failure {
        return fail(state, build, error, spec.error_code.as_deref());
    }
    end_agents(state, build).await?;
    log.line("info", log.main_stage(), &format!("{} workspace: complete", log.doing()))?;
    complete(state, build, &version.spec)
}

/// The time that the build takes. An error: it was canceled, with that error.
async fn take_time(
    state: &ServerState,
    spec: &BuildSpec,
    cancel: &CancellationToken,
) -> Result<(), &'static str> {
    let timings = &state.options.timings;
    let work = sleep(spec.duration_ms.map_or(timings.build, Duration::from_millis));
    tokio::pin!(work);
    tokio::select! {
        () = &mut work => return Ok(()),
        () = cancel.cancelled() => {}
    }
    match spec.on_cancel {
        OnCancel::Stop => Err("canceled"),
        OnCancel::Ignore => timeout(timings.force_cancel, work).await.map_err(|_| "the cancel timed out"),
        OnCancel::Finish => {
            work.await;
            Ok(())
        }
    }
}

/// The workspace's computers go: on a stop and a delete, and on a start that makes new ones.
async fn end_agents(state: &ServerState, build: &Build) -> rusqlite::Result<()> {
    let agents = {
        let db = state.db.get();
        let agents = Agent::current(&db, &build.workspace_id)?;
        for agent in &agents {
            agent.retire(&db)?;
        }
        agents
    };
    processes::end(state, &agents).await;
    if build.transition == Transition::Delete {
        processes::remove_home(state, &build.workspace_id);
    }
    Ok(())
}

fn complete(state: &Arc<ServerState>, build: &Build, spec: &VersionSpec) -> rusqlite::Result<()> {
    let mut db = state.db.get();
    let transaction = db.transaction()?;
    if build.transition == Transition::Start {
        for agent in &spec.agents {
            Agent::insert(&transaction, build, agent)?;
        }
    }
    if build.transition == Transition::Delete {
        Workspace::set_deleted(&transaction, &build.workspace_id)?;
    }
    log_cleaning_up(&transaction, build)?;
    build.complete(&transaction, &JobEnd { provisioned: true, ..JobEnd::default() })?;
    transaction.commit()?;
    // A deleted workspace accepts a start, and gets agents on paper.
    let deleted = Workspace::find(&db, &build.workspace_id)?.is_none_or(|workspace| workspace.deleted);
    let agents = if deleted { Vec::new() } else { Agent::of_build(&db, &build.id)? };
    spawn_agents(state, &db, &agents)
}

fn spawn_agents(state: &Arc<ServerState>, db: &Connection, agents: &[Agent]) -> rusqlite::Result<()> {
    for agent in agents {
        agent.set_spawned(db)?;
        let workspace = Workspace::find(db, &agent.workspace_id)?.map(|workspace| workspace.name);
        if let Err(error) = processes::spawn(state, agent, &workspace.unwrap_or_default()) {
            tracing::error!("agent {} cannot be started: {error}", agent.spec.name);
            agent.log(db, "error", &format!("the agent could not be started: {error}"))?;
        }
    }
    Ok(())
}

fn fail(state: &ServerState, build: &Build, error: &str, code: Option<&str>) -> rusqlite::Result<()> {
    Log { state, build }.line("error", Log { state, build }.main_stage(), &format!("Error: {error}"))?;
    let db = state.db.get();
    log_cleaning_up(&db, build)?;
    let end =
        JobEnd { error: Some(error.to_owned()), error_code: code.map(str::to_owned), provisioned: false };
    build.complete(&db, &end)
}

fn log_cleaning_up(db: &Connection, build: &Build) -> rusqlite::Result<()> {
    build.log(db, "provisioner_daemon", "info", "Cleaning Up", "")
}

/// What the owner's running workspaces cost, this one left out.
pub(super) fn credits_consumed(db: &Connection, without: Option<&str>) -> rusqlite::Result<i64> {
    let mut sum = 0;
    for workspace in Workspace::all(db)? {
        let latest = Build::latest(db, &workspace.id)?;
        let costs = latest.transition == Transition::Start && latest.provisioned;
        if costs
            && without != Some(workspace.id.as_str())
            && let Some(version) = Version::find(db, &latest.version_id)?
        {
            sum += version.spec.daily_cost;
        }
    }
    Ok(sum)
}

fn quota_problem(
    state: &ServerState,
    db: &Connection,
    build: &Build,
    spec: &VersionSpec,
) -> rusqlite::Result<Option<String>> {
    let Some(budget) = state.options.quota_budget else { return Ok(None) };
    if build.transition != Transition::Start {
        return Ok(None);
    }
    let consumed = credits_consumed(db, Some(&build.workspace_id))?;
    let cost = spec.daily_cost;
    Ok((consumed + cost > budget)
        .then(|| format!("insufficient quota: {consumed} of {budget} credits are used, this costs {cost}")))
}

/// Writes the log of a build and tells those who follow it.
struct Log<'a> {
    state: &'a ServerState,
    build: &'a Build,
}

impl Log<'_> {
    fn stage(&self, stage: &str) -> rusqlite::Result<()> {
        self.build.log(&self.state.db.get(), "provisioner_daemon", "info", stage, "")?;
        self.state.changed(&self.build.workspace_id);
        Ok(())
    }

    fn line(&self, level: &str, stage: &str, output: &str) -> rusqlite::Result<()> {
        self.build.log(&self.state.db.get(), "provisioner", level, stage, output)?;
        self.state.changed(&self.build.workspace_id);
        Ok(())
    }

    fn main_stage(&self) -> &'static str {
        match self.build.transition {
            Transition::Start => "Starting workspace",
            Transition::Stop => "Stopping workspace",
            Transition::Delete => "Deleting workspace",
        }
    }

    fn doing(&self) -> &'static str {
        match self.build.transition {
            Transition::Start => "Creating",
            Transition::Stop => "Stopping",
            Transition::Delete => "Destroying",
        }
    }
}
