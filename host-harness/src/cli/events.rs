//! Shows what a call does while somebody waits for it.

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

use super::output::Progress;
use crate::bindings::{AgentState, Build, JobStatus, Lifecycle, Provisioner, Transition};
use crate::driver::{Driver, EventKind};

/// Shows the events of a driver until it is dropped.
pub struct Shown(JoinHandle<()>);

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to show what the driver's calls do.
pub fn show(driver: &Driver) -> Shown {
    let mut events = driver.subscribe();
    Shown(tokio::spawn(async move {
        let mut progress = Progress::new();
        while let Some(kind) = next(&mut events).await {
            render(&mut progress, &kind);
        }
    }))
}

async fn next(events: &mut broadcast::Receiver<crate::driver::Event>) -> Option<EventKind> {
    loop {
        match events.recv().await {
            Ok(event) => return Some(event.kind),
            // Only what is shown is lost: a later event has the newest state.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

fn render(progress: &mut Progress, kind: &EventKind) {
    match kind {
        EventKind::WaitingForTurn { holder } => progress.status(format!("waiting for {holder}")),
        EventKind::Build(build) => progress.status(describe_build(build)),
        EventKind::BuildLog { line, .. } => progress.log(line),
        EventKind::Agent(agent) => {
            progress.status(format!(
                "agent {}: {}, {}",
                agent.name,
                state_word(&agent.state),
                lifecycle_word(&agent.lifecycle)
            ));
        }
        EventKind::Dialing { attempts, elapsed, .. } if *attempts > 0 => {
            progress.status(format!("the agent does not answer; trying for {} s so far", elapsed.as_secs()));
        }
        EventKind::Started { .. }
        | EventKind::Resumed
        | EventKind::Ended
        | EventKind::Requested(_)
        | EventKind::Answered(_)
        | EventKind::BindingPublished { .. }
        | EventKind::Dialing { .. } => {}
    }
}

/// One line about a build: `stop build 3: pending, place 2 in the queue`.
pub fn describe_build(build: &Build) -> String {
    let mut text = format!(
        "{} build {}: {}",
        transition_word(&build.transition),
        build.number,
        status_word(&build.status)
    );
    if build.status == JobStatus::Pending {
        if let Some(position) = build.queue_position.filter(|position| *position > 0) {
            text += &format!(", place {position} in the queue");
        }
        if build.provisioner == Provisioner::Missing {
            text += ", but no provisioner can take it";
        }
    }
    if let Some(error) = &build.error {
        text += &format!(" ({error})");
    }
    text
}

/// The control plane's word for a transition.
pub fn transition_word(transition: &Transition) -> &str {
    match transition {
        Transition::Start => "start",
        Transition::Stop => "stop",
        Transition::Delete => "delete",
        Transition::Unknown(word) => word,
    }
}

/// The control plane's word for a job's status.
pub fn status_word(status: &JobStatus) -> &str {
    match status {
        JobStatus::Pending => "pending",
        JobStatus::Running => "running",
        JobStatus::Canceling => "canceling",
        JobStatus::Succeeded => "succeeded",
        JobStatus::Failed => "failed",
        JobStatus::Canceled => "canceled",
        JobStatus::Unknown(word) => word,
    }
}

/// The control plane's word for an agent's state.
pub fn state_word(state: &AgentState) -> &str {
    match state {
        AgentState::Connecting => "connecting",
        AgentState::Connected => "connected",
        AgentState::Disconnected => "disconnected",
        AgentState::TimedOut => "timeout",
        AgentState::Unknown(word) => word,
    }
}

/// The control plane's word for an agent's lifecycle.
pub fn lifecycle_word(lifecycle: &Lifecycle) -> &str {
    match lifecycle {
        Lifecycle::Created => "created",
        Lifecycle::Starting => "starting",
        Lifecycle::StartTimeout => "start_timeout",
        Lifecycle::StartError => "start_error",
        Lifecycle::Ready => "ready",
        Lifecycle::ShuttingDown => "shutting_down",
        Lifecycle::ShutdownTimeout => "shutdown_timeout",
        Lifecycle::ShutdownError => "shutdown_error",
        Lifecycle::Off => "off",
        Lifecycle::Unknown(word) => word,
    }
}
