//! `wait-for-build` and `wait-for-agent`: where calls sleep.

use std::time::Duration;

use tokio::time::Instant;

use crate::bindings::{Agent, AgentState, AgentWait, Build, BuildWait, Lifecycle, ReadError, WaitEnd};
use crate::control_plane::{ApiError, ControlPlane, is_terminal, millis};
use crate::driver::call::{Call, Performer};
use crate::driver::{DriveError, EventKind};
use crate::store::StoreError;

impl Performer {
    /// Waits until the build's job is terminal. The deadline is absolute: failed reads do not move it.
    pub(super) async fn wait_for_build(
        &self,
        call: &Call,
        build: &str,
        limit_ms: u32,
    ) -> Result<Result<BuildWait, ReadError>, DriveError> {
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(limit_ms.into());
        let mut last: Option<Build> = None;
        let mut log = BuildLog { build, last: 0 };
        let end = loop {
            let read = tokio::select! {
                biased;
                () = call.interrupt().cancelled() => break WaitEnd::Interrupted,
                read = self.read_build(call, build) => read?,
                // A read that hangs must not outlast the limit; one is always let finish if the limit is over already.
                () = tokio::time::sleep_until(deadline.max(begun + self.timings().poll)) => break WaitEnd::Limit,
            };
            let mut asked = Duration::ZERO;
            match read {
                Ok(read) => {
                    if last.as_ref() != Some(&read) {
                        self.tell(call, EventKind::Build(read.clone()));
                    }
                    let terminal = is_terminal(&read.status);
                    last = Some(read);
                    self.stream(call, &mut log).await;
                    if terminal {
                        break WaitEnd::Reached;
                    }
                }
                Err(ApiError::NotFound | ApiError::Gone) => break WaitEnd::Gone,
                Err(error @ (ApiError::Unauthorized | ApiError::Forbidden(_))) => {
                    return Ok(Err(error.into()));
                }
                // Says nothing about the build.
                Err(error) => asked = error.retry_after().unwrap_or_default(),
            }
            if let Some(end) = self.pause(call, deadline, asked).await {
                break end;
            }
        };
        Ok(Ok(BuildWait { end, waited_ms: millis(begun.elapsed()), build: last }))
    }

    /// Waits until the agent is connected, then until its startup scripts have ended.
    pub(super) async fn wait_for_agent(
        &self,
        call: &Call,
        build: &str,
        agent: &str,
        connect_limit_ms: u32,
        scripts_limit_ms: u32,
    ) -> Result<Result<AgentWait, ReadError>, DriveError> {
        let Some(workspace) = call.workspace() else { return Ok(Err(ReadError::NotFound)) };
        let begun = Instant::now();
        let mut deadline = begun + Duration::from_millis(connect_limit_ms.into());
        let mut connected = false;
        let mut last: Option<Agent> = None;
        let end = loop {
            let read = tokio::select! {
                biased;
                () = call.interrupt().cancelled() => break WaitEnd::Interrupted,
                read = self.plane.workspace(workspace) => read,
                () = tokio::time::sleep_until(deadline.max(begun + self.timings().poll)) => break WaitEnd::Limit,
            };
            let mut asked = Duration::ZERO;
            match read {
                Ok(read) => {
                    let found = read.agents.into_iter().find(|candidate| candidate.id == agent);
                    let Some(found) = found.filter(|_| read.latest.build.id == build) else {
                        break WaitEnd::Gone;
                    };
                    if last.as_ref().is_none_or(|last| differs(last, &found)) {
                        self.tell(call, EventKind::Agent(found.clone()));
                    }
                    if !connected && found.state == AgentState::Connected {
                        connected = true;
                        deadline = Instant::now() + Duration::from_millis(scripts_limit_ms.into());
                    }
                    let reached = connected && (scripts_limit_ms == 0 || scripts_ended(&found.lifecycle));
                    last = Some(found);
                    if reached {
                        break WaitEnd::Reached;
                    }
                }
                Err(ApiError::NotFound | ApiError::Gone) => break WaitEnd::Gone,
                Err(error @ (ApiError::Unauthorized | ApiError::Forbidden(_))) => {
                    return Ok(Err(error.into()));
                }
                Err(error) => asked = error.retry_after().unwrap_or_default(),
            }
            if let Some(end) = self.pause(call, deadline, asked).await {
                break end;
            }
        };
        Ok(Ok(AgentWait { end, waited_ms: millis(begun.elapsed()), agent: last }))
    }

    /// Reads a build. While it is the newest one the workspace is read, which alone knows of provisioners.
    async fn read_build(&self, call: &Call, build: &str) -> Result<Result<Build, ApiError>, StoreError> {
        if let Some(workspace) = call.workspace() {
            match self.plane.workspace(workspace).await {
                Ok(read) if read.latest.build.id == build => return Ok(Ok(self.latest(&read).await?)),
                // The build may well be readable still.
                Ok(_) | Err(ApiError::Gone | ApiError::NotFound) => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(match self.plane.build(build).await {
            Ok(read) => Ok(self.marked(read.build)?),
            Err(error) => Err(error),
        })
    }

    /// Tells listeners the log lines that are new. A log that cannot be read is nobody's failure.
    async fn stream(&self, call: &Call, log: &mut BuildLog<'_>) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let lines = tokio::select! {
            () = call.interrupt().cancelled() => return,
            lines = self.plane.build_logs(log.build, log.last) => lines,
        };
        for line in lines.unwrap_or_default() {
            log.last = log.last.max(line.id);
            self.tell(call, EventKind::BuildLog { build: log.build.to_owned(), line });
        }
    }

    /// Sleeps until the next poll, at least as long as the control plane asked for. Answers how the wait ended, if it did
    /// meanwhile.
    async fn pause(&self, call: &Call, deadline: Instant, asked: Duration) -> Option<WaitEnd> {
        let now = Instant::now();
        if now >= deadline {
            return Some(WaitEnd::Limit);
        }
        tokio::select! {
            biased;
            () = call.interrupt().cancelled() => Some(WaitEnd::Interrupted),
            // The last poll is made at the deadline, so that what came about in time is seen.
            () = tokio::time::sleep_until(deadline.min(now + self.timings().poll.max(asked))) => None,
        }
    }
}

/// How far a build's log has been told.
struct BuildLog<'a> {
    build: &'a str,
    last: u64,
}

fn differs(before: &Agent, now: &Agent) -> bool {
    before.state != now.state || before.lifecycle != now.lifecycle
}

/// Whether the startup scripts have come to an end, good or bad. An unknown state is none.
fn scripts_ended(lifecycle: &Lifecycle) -> bool {
    !matches!(lifecycle, Lifecycle::Created | Lifecycle::Starting | Lifecycle::Unknown(_))
}
