//! A dial: the whole effort to reach a workspace's agent, within one window of time.
//!
//! While terminals are tried, the workspace is read again and again. Only time in which that worked counts: an agent is
//! not to blame for a control plane that was away. The same reads tell when the dialled agent is not the right one any
//! more.

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};

use crate::bindings::{Agent, AgentState};
use crate::chat::agent_choice::choose_agent;
use crate::chat::known_dead::DeathWatch;
use crate::control_plane::{ApiError, ControlPlane, Terminal, Workspace};
use crate::driver::{CallContext, EventKind, HostCalls};
use crate::greeting::{AT_ONCE, ENDED, ENDED_AT_ONCE, NoGreeting, curable, greeted, why_refused};
use crate::policy::Timings;

/// A dial ends after this many times its timeout, whatever counts of it.
const LONGEST: u32 = 2;

/// What to dial.
pub(super) struct Target<'a> {
    pub(super) host_calls: &'a HostCalls,
    /// The call that it is done for: pinned to `workspace`.
    pub(super) call: &'a CallContext,
    pub(super) workspace: &'a str,
    /// The agent last reached, if any. It is dialled before it is judged.
    pub(super) agent: Option<String>,
    /// When whoever waits began to wait.
    pub(super) begun: Instant,
    /// The control plane has been away lately: what it says of agents proves little, and every dial takes its window.
    pub(super) away_lately: bool,
}

impl Target<'_> {
    /// When the dial ends, whatever counts of it.
    pub(super) fn hard_end(&self) -> Instant {
        self.begun + self.host_calls.timings().dial_timeout * LONGEST
    }
}

/// How a dial ended, and what was seen meanwhile.
pub(super) struct Dialed {
    pub(super) end: DialEnd,
    /// The agent dialled last.
    pub(super) agent: Option<String>,
    /// Its `process`, and its `disconnected` if it read so, when its dial began.
    pub(super) process_at_start: Option<String>,
    pub(super) disconnected_at_start: Option<u64>,
    /// The newest build, if it could be read.
    pub(super) build: Option<String>,
    pub(super) begun: Instant,
    pub(super) last_error: String,
}

pub(super) enum DialEnd {
    /// A terminal on the agent dialled last, in which a shell waits.
    Reached(Box<dyn Terminal>),
    /// In a way that waiting cannot cure.
    Failed(ApiError),
    /// Terminals open, but no shell runs in them. What the last one said.
    NoShell {
        said: String,
    },
    /// Unreachable for the whole window, or known to be dead, or there is no agent to reach.
    TimedOut,
    Interrupted,
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Terminal>, NoGreeting>> + Send + 'a>>;
type StatusRead<'a> = Pin<Box<dyn Future<Output = Result<Workspace, ApiError>> + Send + 'a>>;

/// Dials until a shell has greeted or the window has passed.
pub(super) async fn dial(target: Target<'_>) -> Dialed {
    let mut dial = Dial::new(&target);
    let end = loop {
        let now = Instant::now();
        dial.begin_what_is_due(now);
        let (next_due, hard_end) = (dial.next_due(), dial.hard_end);
        let end = tokio::select! {
            biased;
            () = target.call.interrupt().cancelled() => Some(DialEnd::Interrupted),
            Some(tried) = dial.attempts.next(), if !dial.attempts.is_empty() => dial.tried(tried),
            read = running(&mut dial.reading) => {
                dial.reading = None;
                dial.take_in(read)
            }
            // Before what is due: with nothing due, that is the hard end too.
            () = sleep_until(hard_end) => Some(DialEnd::TimedOut),
            () = sleep_until(next_due) => None,
        };
        if let Some(end) = end {
            break end;
        }
    };
    let Dial { agent, process_at_start, disconnected_at_start, build, begun, last_error, .. } = dial;
    Dialed { end, agent, process_at_start, disconnected_at_start, build, begun, last_error }
}

struct Dial<'a> {
    target: &'a Target<'a>,
    timings: &'a Timings,
    begun: Instant,
    hard_end: Instant,
    agent: Option<String>,
    process_at_start: Option<String>,
    disconnected_at_start: Option<u64>,
    death: DeathWatch,
    /// It was seen disconnected while it was dialled.
    seen_disconnected: bool,
    build: Option<String>,
    attempts: FuturesUnordered<Attempt<'a>>,
    /// How many were begun,
    tries: u32,
    /// and how many of them nobody answered. A terminal that ended was answered by somebody.
    unanswered: u32,
    /// How many in a row ended without a greeting.
    ended_at_once: u32,
    retry_at: Instant,
    pause: Duration,
    reading: Option<StatusRead<'a>>,
    read_at: Instant,
    has_read: bool,
    /// The last moment at which reads are known to have worked.
    readable_at: Option<Instant>,
    counted: Duration,
    /// A failure that waiting cannot cure, if the agent is the right one and the control plane well.
    in_doubt: Option<ApiError>,
    /// Whether the agent may be judged: an attempt failed, or it has had its time.
    may_judge: bool,
    last_error: String,
}

impl<'a> Dial<'a> {
    fn new(target: &'a Target<'a>) -> Self {
        let timings = target.host_calls.timings();
        let now = Instant::now();
        Self {
            target,
            timings,
            begun: target.begun,
            hard_end: target.hard_end(),
            agent: target.agent.clone(),
            process_at_start: None,
            disconnected_at_start: None,
            death: DeathWatch::off(timings, now),
            seen_disconnected: false,
            build: None,
            attempts: FuturesUnordered::new(),
            tries: 0,
            unanswered: 0,
            ended_at_once: 0,
            retry_at: now,
            pause: timings.first_retry,
            reading: None,
            read_at: now,
            has_read: false,
            readable_at: Some(now),
            counted: Duration::ZERO,
            in_doubt: None,
            may_judge: false,
            last_error: "no answer".to_owned(),
        }
    }

    /// Begins an attempt or a read if its time has come.
    fn begin_what_is_due(&mut self, now: Instant) {
        let Target { host_calls, workspace, call, .. } = *self.target;
        if self.attempts.len() < AT_ONCE
            && self.in_doubt.is_none()
            && now >= self.retry_at
            && let Some(agent) = self.agent.clone()
        {
            self.unanswered += u32::from(!self.attempts.is_empty());
            let (attempts, elapsed) = (self.unanswered, now - self.begun);
            let kind = EventKind::Dialing { agent: agent.clone(), attempts, elapsed };
            host_calls.emit(call, kind);
            self.tries += 1;
            let timings = self.timings;
            self.attempts.push(Box::pin(async move { greeted(host_calls.plane(), &agent, timings).await }));
            // If it stays silent, another one is tried beside it.
            self.retry_at = now + timings.greeting_patience;
        }
        if self.reading.is_none() && now >= self.read_at {
            // A control plane that hangs is one that cannot be read.
            let limit = self.timings.validate_after;
            self.reading = Some(Box::pin(async move {
                timeout(limit, host_calls.plane().workspace(workspace))
                    .await
                    .unwrap_or_else(|_| Err(host_calls.plane().given_up()))
            }));
        }
    }

    fn next_due(&self) -> Instant {
        let attempt = (self.attempts.len() < AT_ONCE && self.in_doubt.is_none() && self.agent.is_some())
            .then_some(self.retry_at);
        let reading = self.reading.is_none().then_some(self.read_at);
        [attempt, reading].into_iter().flatten().min().unwrap_or(self.hard_end)
    }

    /// An attempt ended.
    fn tried(&mut self, tried: Result<Box<dyn Terminal>, NoGreeting>) -> Option<DialEnd> {
        let now = Instant::now();
        let failed = match tried {
            Ok(terminal) => return Some(DialEnd::Reached(terminal)),
            Err(failed) => failed,
        };
        if !matches!(failed, NoGreeting::Refused(_)) {
            self.death.rule_out();
        }
        match failed {
            NoGreeting::SaysElse { said } => return Some(DialEnd::NoShell { said }),
            NoGreeting::Ended { said } => {
                self.ended_at_once += 1;
                if self.ended_at_once >= ENDED_AT_ONCE && self.readable_at.is_some() {
                    return Some(DialEnd::NoShell { said });
                }
                ENDED.clone_into(&mut self.last_error);
                self.retry(now, None);
            }
            NoGreeting::Refused(error) => {
                self.ended_at_once = 0;
                self.unanswered += 1;
                self.last_error = why_refused(&error, self.readable_at.is_some());
                if curable(&error) {
                    self.death.refused();
                    self.retry(now, error.retry_after());
                } else {
                    // A control plane in trouble says all sorts of things: what the workspace is like now decides.
                    self.in_doubt = Some(error);
                    self.read_at = now;
                }
            }
        }
        if !self.may_judge {
            // Looked at once, now; later with every read.
            self.may_judge = true;
            self.read_at = now;
        }
        if self.death.is_dead(now) {
            // What was read last is looked at once more.
            self.read_at = now;
        }
        None
    }

    fn retry(&mut self, now: Instant, after: Option<Duration>) {
        self.retry_at = now + after.unwrap_or(self.pause);
        self.pause = (self.pause * 2).min(self.timings.poll);
    }

    /// A read of the workspace ended.
    fn take_in(&mut self, read: Result<Workspace, ApiError>) -> Option<DialEnd> {
        let now = Instant::now();
        if now - self.begun >= self.timings.validate_after {
            self.may_judge = true;
        }
        let end = match read {
            Ok(workspace) => {
                self.count(now);
                self.look(&workspace, now)
            }
            Err(error) => self.read_failed(error, now),
        };
        self.has_read = true;
        self.read_at = self.next_read(now);
        let over = self.counted >= self.timings.dial_timeout || self.is_known_dead(now);
        end.or_else(|| over.then_some(DialEnd::TimedOut))
    }

    /// Whether the agent is known to be dead: every attempt since its dial began was refused, and every read, also
    /// those of others, worked and showed the same.
    fn is_known_dead(&self, now: Instant) -> bool {
        self.death.is_dead(now)
            && self.attempts.is_empty()
            && !self.target.host_calls.plane().failed_within(now - self.begun)
    }

    /// Every poll interval, when the agent may be judged, and when it may be known to be dead or the window should be
    /// over.
    fn next_read(&self, now: Instant) -> Instant {
        let window = now + self.timings.dial_timeout.saturating_sub(self.counted);
        let mut next = (now + self.timings.poll).min(window);
        if let Some(due) = self.death.due().filter(|due| *due > now) {
            next = next.min(due);
        }
        if !self.may_judge {
            next = next.min((self.begun + self.timings.validate_after).max(now));
        }
        next
    }

    fn count(&mut self, now: Instant) {
        if let Some(since) = self.readable_at {
            self.counted += now - since;
        }
        self.readable_at = Some(now);
    }

    /// What a read says about whom to dial.
    fn look(&mut self, workspace: &Workspace, now: Instant) -> Option<DialEnd> {
        self.build = Some(workspace.latest.build.id.clone());
        let chosen = choose_agent(&workspace.agents);
        if self.has_read {
            self.death.read(chosen, workspace.observed);
        } else if let Some(dialed) = self.agent.clone() {
            let dialed = workspace.agents.iter().find(|agent| agent.id == dialed);
            self.begin_with(dialed, workspace.observed, now);
        }
        if self.agent.is_some() && !self.may_judge {
            return None;
        }
        if workspace.dormant && (self.may_judge || chosen.is_none()) {
            // Terminals in it are refused in many ways, and no start would be made.
            return Some(DialEnd::Failed(ApiError::Dormant));
        }
        let Some(chosen) = chosen else {
            // Nobody to dial: waiting would not change it. The plugin looks why.
            self.last_error = "the newest build has no agent for this chat".to_owned();
            return Some(DialEnd::TimedOut);
        };
        let another = self.agent.as_deref() != Some(chosen.id.as_str());
        if another {
            self.agent = Some(chosen.id.clone());
            self.begin_with(Some(chosen), workspace.observed, now);
            self.in_doubt = None;
        }
        // A terminal from before an agent was gone and came back may stay silent for ever.
        let back = self.seen_disconnected && chosen.state == AgentState::Connected;
        self.seen_disconnected = chosen.state == AgentState::Disconnected;
        if another || back {
            self.attempts.clear();
            self.ended_at_once = 0;
            self.retry_at = now;
            self.pause = self.timings.first_retry;
        }
        // The right one after all, and it cannot be helped.
        self.in_doubt.take().map(DialEnd::Failed)
    }

    /// The dial of an agent begins, if it is among those that were read.
    fn begin_with(&mut self, agent: Option<&Agent>, observed: Option<u64>, now: Instant) {
        let gone = agent.filter(|agent| agent.state == AgentState::Disconnected);
        self.disconnected_at_start = gone.and_then(|agent| agent.disconnected);
        self.process_at_start = agent.and_then(|agent| agent.process.clone());
        self.death = match self.target.away_lately {
            true => DeathWatch::off(self.timings, now),
            false => DeathWatch::begin(self.timings, now, agent, observed),
        };
    }

    /// What a failed read says.
    fn read_failed(&mut self, error: ApiError, now: Instant) -> Option<DialEnd> {
        self.death.rule_out();
        if error.is_away() {
            self.readable_at = None;
            if self.in_doubt.take().is_some() {
                // A control plane in trouble refuses all sorts of things: not held against the agent.
                self.retry_at = now + self.pause;
            }
        }
        let judged = self.may_judge || self.agent.is_none();
        match error {
            // The plugin says what a deleted workspace means.
            ApiError::Gone if judged => {
                self.last_error = error.to_string();
                Some(DialEnd::TimedOut)
            }
            ApiError::Unauthorized(_)
            | ApiError::TokenExpired(_)
            | ApiError::Forbidden(_)
            | ApiError::NotFound
                if judged =>
            {
                Some(DialEnd::Failed(error))
            }
            error => {
                if self.tries == 0 {
                    self.last_error = error.to_string();
                }
                None
            }
        }
    }
}

/// The result of what runs; waits for ever if nothing does.
async fn running<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
