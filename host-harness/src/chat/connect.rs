//! Reaching the agent of a chat, and what to make of it if that fails.

use std::time::Duration;

use tokio::time::Instant;

use crate::bindings::Connection as Check;
use crate::bindings::{Cause, Dial, Evidence, Verdict};
use crate::chat::dial::{DialEnd, Dialed, Target, dial};
use crate::chat::execution::{Began, ExecuteError, Unreachable};
use crate::chat::together::went_together;
use crate::chat::{Chat, ChatState};
use crate::clock::millis;
use crate::control_plane::Terminal;
use crate::driver::{CallContext, HostCalls};
use crate::journal::{Export, Output};
use crate::store::{ChatRecord, Failures, StoreError};

impl Chat {
    /// Reaches the chat's agent: a terminal in which a shell waits. Calls of a chat dial one after another; who waited
    /// while a dial failed shares its failure.
    pub(super) async fn connect(&self, call: &CallContext) -> Result<Box<dyn Terminal>, ExecuteError> {
        let Some(workspace) = call.workspace() else {
            let create = self.tools.create.clone().filter(|tool| self.tools.names.contains(tool));
            return Err(ExecuteError::Unbound { chat: self.name.clone(), create });
        };
        let state = self.state(workspace);
        let failed_before = state.connection_state().failed;
        let _dialing = tokio::select! {
            biased;
            () = call.interrupt().cancelled() => return Err(ExecuteError::Interrupted { running: false }),
            dialing = state.dialing.lock() => dialing,
        };
        if let Some(failure) = state.failure_since(failed_before) {
            return Err(ExecuteError::Unreachable(Box::new(failure)));
        }
        let record = self.record()?.filter(|record| record.workspace.as_deref() == Some(workspace));
        let record = record.unwrap_or_default();
        let host_calls = self.driver.host_calls();
        let begun = Instant::now();
        // A status that cannot be read at once keeps the connection.
        call.read_until(begun + host_calls.timings().validate_after);
        let agent = self.known_agent(call, &record, &state).await;
        let away_lately = away_since(lookback(begun, host_calls), last_away(&record.failures, host_calls));
        let target = Target { host_calls, call, workspace, agent, begun, away_lately };
        let hard_end = target.hard_end();
        let dialed = dial(target).await;
        // Whatever there is to say is said when the longest dial is over.
        call.read_until(hard_end.max(Instant::now() + host_calls.timings().last_read));
        if !matches!(dialed.end, DialEnd::Reached(_)) {
            state.connection_state().connection = None;
        }
        match dialed.end {
            DialEnd::Reached(terminal) => {
                self.reached(&state, dialed.build, dialed.agent).await?;
                Ok(terminal)
            }
            DialEnd::Interrupted => Err(ExecuteError::Interrupted { running: false }),
            DialEnd::Failed(error) => Err(ExecuteError::Failed(error)),
            DialEnd::NoShell { said } => Err(ExecuteError::NoShell { said }),
            DialEnd::TimedOut => self.classify(call, &record, &state, dialed).await,
        }
    }

    /// The agent to dial without looking it up. One that was reached by this host is checked first: an agent that is
    /// gone, or of an older build, is looked up anew.
    async fn known_agent(
        &self,
        call: &CallContext,
        record: &ChatRecord,
        state: &ChatState,
    ) -> Option<String> {
        let known = record.agent.clone()?;
        let cached = state.connection_state().connection.as_ref() == Some(&known);
        if cached && self.must_redial(call, &known).await {
            state.connection_state().connection = None;
            return None;
        }
        Some(known)
    }

    /// Whether the plugin says that a connection to this agent must be dropped. If it cannot be asked, the connection
    /// is kept.
    async fn must_redial(&self, call: &CallContext, agent: &str) -> bool {
        let export = Export::CheckConnection { cached: agent.to_owned() };
        match self.driver.drive(call, &export).await {
            Ok(Output::CheckConnection(check)) => check == Check::Redial,
            Ok(_) => false,
            Err(error) => {
                tracing::warn!(chat = self.name, agent, %error, "the connection could not be checked");
                false
            }
        }
    }

    /// Remembers the agent, and forgets failures.
    async fn reached(
        &self,
        state: &ChatState,
        build: Option<String>,
        agent: Option<String>,
    ) -> Result<(), StoreError> {
        let (workspace, reached) = (state.workspace.clone(), agent.clone());
        let remember = move |chat: &mut ChatRecord| {
            if chat.workspace.as_ref() == Some(&workspace) {
                chat.agent = reached;
                chat.build = build.or(chat.build.take());
                chat.failures = Failures { last_away_ms: chat.failures.last_away_ms, ..Failures::default() };
            }
        };
        self.driver.host_calls().store().update(&self.name, remember).await?;
        state.connection_state().connection = agent;
        Ok(())
    }

    /// Asks the plugin what to make of a dial that timed out, and counts it.
    async fn classify(
        &self,
        call: &CallContext,
        record: &ChatRecord,
        state: &ChatState,
        dialed: Dialed,
    ) -> Result<Box<dyn Terminal>, ExecuteError> {
        let host_calls = self.driver.host_calls();
        let tried = dialed.begun.elapsed();
        let away_now = host_calls.plane().failed_within(tried);
        let last_away = last_away(&record.failures, host_calls);
        let away = away_since(lookback(dialed.begun, host_calls), last_away);
        let with_others = match dialed.disconnected_at_start.filter(|_| !away) {
            Some(at) => went_together(host_calls, &state.workspace, at).await,
            None => false,
        };
        let earlier = earlier(&record.failures, dialed.build.as_deref(), host_calls);
        let since = host_calls
            .clock()
            .now_ms()
            .saturating_sub(u64::from(millis(host_calls.timings().restart_memory)));
        let evidence = Evidence {
            dial: Dial::TimedOut(millis(tried)),
            dialed: dialed.agent.clone(),
            dialed_process: dialed.process_at_start.clone(),
            disconnected_at_start: dialed.disconnected_at_start,
            earlier_timeouts: earlier.timeouts,
            control_plane_away: away || with_others,
            trusted_in_ms: last_away.filter(|_| away).map(|at| trusted_in(at, host_calls)),
            earlier_away: earlier.away,
            recent_restarts: host_calls.store().restarts_since(&state.workspace, since)?,
        };
        let export = Export::ClassifyFailure {
            evidence,
            policy: host_calls.timings().policy(&self.tools_from_here(&state.workspace).await),
        };
        let (output, kept) = self.driver.drive_and_keep(call, export).await?;
        let Output::ClassifyFailure(verdict) = output else {
            unreachable!("the engine answered something else to classify-failure")
        };
        let verdict = self.explain_from_here(verdict, &state.workspace).await;
        if call.interrupt().is_cancelled() {
            return Err(ExecuteError::Interrupted { running: false });
        }
        let Dialed { agent, build, last_error, .. } = dialed;
        let away_at = last_away.filter(|_| away_now);
        self.count(&state.workspace, build, earlier, &verdict, away_at).await?;
        let failure = Unreachable {
            verdict,
            call: kept,
            tried,
            agent,
            last_error,
            began: Began::No,
            output: String::new(),
        };
        state.connection_state().note_failure(failure.clone());
        Err(ExecuteError::Unreachable(Box::new(failure)))
    }

    /// Counts a failure as its verdict says.
    async fn count(
        &self,
        workspace: &str,
        build: Option<String>,
        earlier: Failures,
        verdict: &Verdict,
        away_at: Option<u64>,
    ) -> Result<(), StoreError> {
        let host_calls = self.driver.host_calls();
        let now = host_calls.clock().now_ms();
        let mut failures = earlier;
        failures.timeouts += u32::from(verdict.counts_as_timeout);
        failures.away = if verdict.cause == Cause::ControlPlaneAway { failures.away + 1 } else { 0 };
        failures.build = build.or(failures.build);
        failures.last_ms = Some(now);
        failures.last_away_ms = away_at.or(failures.last_away_ms);
        let bound = workspace.to_owned();
        let counted = move |chat: &mut ChatRecord| {
            if chat.workspace.as_ref() == Some(&bound) {
                chat.failures = failures;
            }
        };
        host_calls.store().update(&self.name, counted).await?;
        Ok(())
    }
}

/// The failures before this one that still count: of this build, and not long ago.
fn earlier(failures: &Failures, build: Option<&str>, host_calls: &HostCalls) -> Failures {
    let quiet = u64::from(millis(host_calls.timings().quiet_reset));
    let recent = failures.last_ms.is_some_and(|at| host_calls.clock().now_ms().saturating_sub(at) < quiet);
    let same_build = build.is_none() || failures.build.is_none() || failures.build.as_deref() == build;
    if recent && same_build {
        failures.clone()
    } else {
        Failures { last_away_ms: failures.last_away_ms, ..Failures::default() }
    }
}

/// When the control plane could not be read last, as far as is known: by this process, or by one before it.
fn last_away(failures: &Failures, host_calls: &HostCalls) -> Option<u64> {
    let here = host_calls.plane().failed_ago().map(|ago| ms_ago(ago, host_calls));
    here.max(failures.last_away_ms)
}

/// From when on an absence of the control plane counts for a dial that began then.
fn lookback(begun: Instant, host_calls: &HostCalls) -> u64 {
    ms_ago(begun.elapsed() + host_calls.timings().away_lookback, host_calls)
}

fn away_since(since: u64, last_away: Option<u64>) -> bool {
    last_away.is_some_and(|at| at >= since)
}

/// After how many milliseconds a dial may begin for which an absence at `at` does not count any more.
fn trusted_in(at: u64, host_calls: &HostCalls) -> u32 {
    let from = at.saturating_add(millis(host_calls.timings().away_lookback).into()).saturating_add(1);
    u32::try_from(from.saturating_sub(host_calls.clock().now_ms())).unwrap_or(u32::MAX)
}

fn ms_ago(ago: Duration, host_calls: &HostCalls) -> u64 {
    host_calls.clock().now_ms().saturating_sub(millis(ago).into())
}
