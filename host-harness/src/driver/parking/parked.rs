//! One wait: what it waits for, what it has seen, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::probes::Probed;
use super::reading::{Reader, Reading};
use super::wait::{EndedWait, ReplyTo, Wait, WaitFor};
use crate::bindings::{Agent, AgentState, AgentWait, Build, BuildWait, Lifecycle, Probe, ReadError, WaitEnd};
use crate::clock::millis;
use crate::control_plane::{ApiError, is_terminal};
use crate::driver::events::EventKind;
use crate::journal::Answer;
use crate::policy::Timings;

/// A wait in the table. Millions are held: mind the size.
pub(super) struct Parked {
    pub(super) call: u64,
    chat: Arc<str>,
    begun: Instant,
    /// When it ends, unless it moves on to its next phase. Not before it was parked.
    pub(super) deadline: Instant,
    /// Readings up to this one were begun before it was parked: they may be older than what it waits for.
    pub(super) since: u64,
    what: What,
    reply_to: ReplyTo,
}

enum What {
    Build {
        build: Arc<str>,
        last: Option<Arc<Build>>,
        /// The last line of the build's log that was told.
        told: u64,
    },
    // Boxed, because it is twice the size of the other.
    Agent(Box<ForAgent>),
}

struct ForAgent {
    build: Arc<str>,
    agent: Arc<str>,
    scripts_limit: Duration,
    probe_limit: Duration,
    last_deadline: Instant,
    phase: Phase,
    last: Option<Arc<Agent>>,
    /// The control plane's time of the reading that `last` is from.
    observed: Option<u64>,
    /// What became of the probes so far, in the last phase.
    probe: Option<Probe>,
}

/// What an agent is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connection,
    Scripts,
    /// That a probe is answered; since when.
    Answer(Instant),
}

/// For how many times the patience with a silent terminal an agent is probed that was seen to be ready at the very end:
/// long enough for a second terminal beside a silent one.
const PROBE_GRACE: u32 = 2;

/// How a wait ends: as the contract has it, or as a read that may not be made.
pub(super) type Ending = Result<WaitEnd, ReadError>;

impl Parked {
    /// The wait, and the workspace that it belongs to.
    pub(super) fn new(wait: Wait, reply_to: ReplyTo, now: Instant) -> (Option<Arc<str>>, Self) {
        let Wait { call, chat, workspace, what, begun } = wait;
        let (deadline, what) = match what {
            WaitFor::Build { build, deadline } => (deadline, What::Build { build, last: None, told: 0 }),
            WaitFor::Agent { build, agent, connect_deadline, probe_limit, scripts_limit, last_deadline } => {
                let waits = ForAgent {
                    build,
                    agent,
                    scripts_limit,
                    probe_limit,
                    last_deadline,
                    phase: Phase::Connection,
                    last: None,
                    observed: None,
                    probe: None,
                };
                (connect_deadline.min(last_deadline), What::Agent(Box::new(waits)))
            }
        };
        let deadline = deadline.max(now);
        (workspace, Self { call, chat, begun, deadline, since: 0, what, reply_to })
    }

    pub(super) fn is_for_agent(&self) -> bool {
        matches!(self.what, What::Agent(_))
    }

    /// The build that has to be read for it, and the last line of its log that was told.
    pub(super) fn build(&self) -> Option<(&Arc<str>, u64)> {
        match &self.what {
            What::Build { build, told, .. } => Some((build, *told)),
            What::Agent(_) => None,
        }
    }

    /// Takes in what was read. Answers how the wait ends, if it does.
    pub(super) fn see(&mut self, reading: &Reading, reader: &Reader, now: Instant) -> Option<Ending> {
        let tell = |kind| reader.emit(self.call, &self.chat, kind);
        let seen = match &mut self.what {
            What::Build { build, last, told } => see_build(build, last, told, reading, tell),
            What::Agent(waits) => waits.see(reading, &mut self.deadline, now, &reader.timings, tell),
        };
        match seen {
            Ok(Some(end)) => Some(Ok(end)),
            Err(ApiError::NotFound | ApiError::Gone) => Some(Ok(WaitEnd::Gone)),
            Err(error @ (ApiError::Unauthorized(_) | ApiError::Forbidden(_))) => Some(Err(error.into())),
            // A read that failed says nothing about what is waited for.
            Ok(None) | Err(_) => (now >= self.deadline).then_some(Ok(WaitEnd::Limit)),
        }
    }

    /// The agent that is to be probed for it now.
    pub(super) fn to_probe(&self) -> Option<&Arc<str>> {
        match &self.what {
            What::Agent(waits) if waits.is_to_be_probed() => Some(&waits.agent),
            What::Agent(_) | What::Build { .. } => None,
        }
    }

    /// Takes in how a probe of an agent ended. Answers how the wait ends, if it does, and the control plane's time of
    /// the reading on which that rests.
    pub(super) fn probed(&mut self, agent: &str, probed: &Probed) -> Option<(Ending, Option<u64>)> {
        match &mut self.what {
            What::Agent(waits) if &*waits.agent == agent && waits.is_to_be_probed() => {
                let observed = waits.observed;
                waits.probed(probed).map(|end| (Ok(end), observed))
            }
            What::Agent(_) | What::Build { .. } => None,
        }
    }

    /// Answers with the end and the last thing known.
    pub(super) fn end(self, ending: Ending, observed: Option<u64>, now: Instant) {
        let waited_ms = millis(now.saturating_duration_since(self.begun));
        let answer = match self.what {
            What::Build { last, .. } => Answer::WaitForBuild(ending.map(|end| BuildWait {
                end,
                waited_ms,
                build: last.map(Arc::unwrap_or_clone),
            })),
            What::Agent(waits) => Answer::WaitForAgent(ending.map(|end| AgentWait {
                end,
                waited_ms,
                agent: waits.last.map(Arc::unwrap_or_clone),
                probe: waits.probe,
            })),
        };
        // Whoever does not wait for the answer any more does not need it.
        match self.reply_to {
            ReplyTo::Scheduler(ended_waits) => {
                drop(ended_waits.send(EndedWait { call: self.call, answer, observed }))
            }
            ReplyTo::Caller(caller) => drop(caller.send(answer)),
        }
    }
}

fn see_build(
    build: &Arc<str>,
    last: &mut Option<Arc<Build>>,
    told: &mut u64,
    reading: &Reading,
    tell: impl Fn(EventKind),
) -> Result<Option<WaitEnd>, ApiError> {
    let Some(read) = reading.build(build) else { return Ok(None) };
    let read = read?;
    let (is_new, is_over) = (last.as_ref() != Some(read), is_terminal(&read.status));
    let tell_build = || tell(EventKind::Build(Build::clone(read)));
    if is_new && !is_over {
        tell_build();
    }
    for line in reading.log(build).iter().filter(|line| line.id > *told) {
        tell(EventKind::BuildLog { build: build.to_string(), line: line.clone() });
    }
    *told = reading.log(build).iter().map(|line| line.id).fold(*told, u64::max);
    // What is in the log by now came before the end.
    if is_new && is_over {
        tell_build();
    }
    if is_new {
        *last = Some(read.clone());
    }
    Ok(is_over.then_some(WaitEnd::Reached))
}

impl ForAgent {
    fn see(
        &mut self,
        reading: &Reading,
        deadline: &mut Instant,
        now: Instant,
        timings: &Timings,
        tell: impl Fn(EventKind),
    ) -> Result<Option<WaitEnd>, ApiError> {
        let Some(found) = reading.agent(&self.build, &self.agent)? else { return Ok(Some(WaitEnd::Gone)) };
        if self.last.as_ref().is_none_or(|last| differs(last, found)) {
            tell(EventKind::Agent(Agent::clone(found)));
        }
        if self.phase == Phase::Connection && found.state == AgentState::Connected {
            self.phase = Phase::Scripts;
            *deadline = (now + self.scripts_limit).min(self.last_deadline);
        }
        let ended = self.scripts_limit.is_zero() || scripts_ended(&found.lifecycle);
        if self.phase == Phase::Scripts && ended {
            self.phase = Phase::Answer(now);
            self.probe = Some(Probe::Unanswered("no terminal has answered so far".to_owned()));
            let last = (now + self.probe_limit).min(self.last_deadline);
            *deadline = last.max(now + timings.greeting_patience * PROBE_GRACE);
        }
        if let Phase::Answer(since) = self.phase
            && now - since >= timings.greeting_patience
        {
            let agent = self.agent.to_string();
            tell(EventKind::Dialing { agent, attempts: 1, elapsed: now - since });
        }
        self.last = Some(found.clone());
        self.observed = reading.observed;
        Ok(None)
    }

    /// An agent that does not read as connected is not there for a probe.
    fn is_to_be_probed(&self) -> bool {
        let connected = self.last.as_ref().is_some_and(|last| last.state == AgentState::Connected);
        connected && matches!(self.phase, Phase::Answer(_))
    }

    fn probed(&mut self, probed: &Probed) -> Option<WaitEnd> {
        // A control plane in trouble refuses all sorts of things: only one that does so again after a reading means it.
        let refused_before = matches!(self.probe, Some(Probe::Untried(_)));
        let (probe, end) = match probed.clone() {
            Probed::Answered => (Probe::Answered, Some(WaitEnd::Reached)),
            Probed::Unanswered(why) => (Probe::Unanswered(why), None),
            Probed::NoShell(why) => (Probe::Unanswered(why), Some(WaitEnd::Limit)),
            Probed::Untried(why) => (Probe::Untried(why), refused_before.then_some(WaitEnd::Reached)),
        };
        self.probe = Some(probe);
        end
    }
}

fn differs(before: &Agent, now: &Agent) -> bool {
    before.state != now.state || before.lifecycle != now.lifecycle
}

/// Whether the startup scripts have come to an end, good or bad. An unknown state is none.
fn scripts_ended(lifecycle: &Lifecycle) -> bool {
    !matches!(lifecycle, Lifecycle::Created | Lifecycle::Starting | Lifecycle::Unknown(_))
}
