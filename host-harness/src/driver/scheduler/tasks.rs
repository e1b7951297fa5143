//! What becomes of one call: it runs, sleeps, rests or ends.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{CallEnd, REST, RunJob, Scheduler, lock};
use crate::driver::activation::{Activation, ActivationEnd, ResumePoint};
use crate::driver::error::DriveError;
use crate::driver::events::EventKind;
use crate::driver::host_calls::CallContext;
use crate::driver::parking::{ReplyTo, Wait, WaitFor};
use crate::engine::Plugin;
use crate::journal::Request;
use crate::journal::record::{CallId, CallRecord, Failure, Intent, Open, Outcome, Recording};
use crate::store::lease::Lease;
use crate::store::{ABANDON_AFTER, StoreError};

impl Scheduler {
    /// Lets a call run to its next wait or its end.
    pub(super) async fn run(self, lease: Arc<Lease>, job: RunJob) {
        let call = job.call;
        let token = lock(&self.0.owned).run(call);
        let end = AssertUnwindSafe(self.try_run(&lease, job, token.clone())).catch_unwind().await;
        // As there may be one in a control plane of others. Nobody else knows that the call does not run any more.
        let panicked = |_| {
            Err(DriveError::Stranded {
                why: "something panicked: please report what was printed of it".into(),
            })
        };
        match end.unwrap_or_else(panicked) {
            Ok(ActivationEnd::Suspended(open, context)) => {
                self.park(open, &context, call, token.is_cancelled())
            }
            Ok(ActivationEnd::Completed(outcome, next)) => self.ended(call, Ok(outcome), next),
            // The lease may last after all: it is looked at more strictly before something is sent.
            Err(DriveError::Store(StoreError::LeaseLost)) => {
                self.rest(call);
                self.note_store_error(&StoreError::LeaseLost);
            }
            Err(DriveError::Store(StoreError::NotHeld { .. })) => self.drop_call(call),
            Err(error) => {
                tracing::warn!(call, %error, "a call rests");
                self.rest(call);
                self.notify_subscribers(call, &Err(error));
            }
        }
    }

    /// A call turned out to have ended, or to be another host's. Those who wait for its end look into the store.
    pub(super) fn drop_call(&self, call: CallId) {
        lock(&self.0.owned).forget(call);
        lock(&self.0.subscribers).remove(&call);
    }

    pub(super) fn rest(&self, call: CallId) {
        let mut owned = lock(&self.0.owned);
        owned.forget(call);
        owned.resting.insert(call, Instant::now() + REST);
    }

    async fn try_run(
        &self,
        lease: &Arc<Lease>,
        job: RunJob,
        token: CancellationToken,
    ) -> Result<ActivationEnd, DriveError> {
        let host_calls = self.0.host_calls.clone();
        let recording = match job.recording {
            Some(recording) => *recording,
            None => match host_calls.store().recording(job.call)? {
                Some(recording) => recording,
                None => return Err(DriveError::UnknownCall { call: job.call }),
            },
        };
        let plugin = match self.plugin_of(&recording.call).await? {
            Ok(plugin) => plugin,
            Err(why) => return self.strand(lease, job.call, recording.entries.len(), why).await,
        };
        // It may have been stranded: here until now, or at another host.
        if matches!(job.from, ResumePoint::Crash)
            && host_calls.store().call(job.call)?.is_some_and(|row| row.note.is_some())
        {
            lease.note(job.call, None).await?;
        }
        let Recording { call, entries, open, .. } = recording;
        let activation = Activation::new(host_calls, lease.clone(), plugin, job.call, call, entries, token);
        activation.carry_on(open, job.from).await
    }

    /// A call cannot go on here. It rests with a note, for people, until a host comes that brings its component. One
    /// that has sent nothing can be interrupted meanwhile; one that has waited for a day is given up.
    async fn strand(
        &self,
        lease: &Lease,
        call: CallId,
        stored: usize,
        why: String,
    ) -> Result<ActivationEnd, DriveError> {
        let row = lease.note(call, Some(why.clone())).await?;
        let waited = self.0.host_calls.clock().now_ms().saturating_sub(row.touched_ms);
        let failure = if row.interrupted && !row.sent {
            Failure::Interrupted
        } else if Duration::from_millis(waited) >= ABANDON_AFTER {
            Failure::Abandoned { hours: ABANDON_AFTER.as_secs() / 3600 }
        } else {
            return Err(DriveError::Stranded { why });
        };
        let outcome = Outcome::Failed(failure);
        let next = lease.end(call, stored, Vec::new(), outcome.clone()).await?;
        self.0.host_calls.announce(call, &row.chat, EventKind::Ended);
        Ok(ActivationEnd::Completed(outcome, next))
    }

    /// The plugin that a call began on: this host's own, or the one that is kept with the call.
    async fn plugin_of(&self, record: &CallRecord) -> Result<Result<Plugin, String>, StoreError> {
        let hash = &record.component;
        if *hash == self.0.plugin.report().sha256 {
            // It may still be compiled. That it cannot be is for the first step to say.
            let _ = self.0.plugin.ready().await;
            return Ok(Ok(self.0.plugin.clone()));
        }
        if let Some(known) = lock(&self.0.others).get(hash) {
            return Ok(Ok(known.clone()));
        }
        let Some(bytes) = self.0.host_calls.store().component(hash)? else {
            return Ok(Err(format!("the component that it began on ({hash}) is not in the store any more")));
        };
        let engine = self.0.plugin.engine().clone();
        // Compiling takes a while.
        let loaded = tokio::task::spawn_blocking(move || engine.load(&bytes)).await;
        Ok(match loaded {
            Ok(Ok(plugin)) if plugin.report().sha256 != *hash => {
                Err(format!("the component that it began on ({hash}) is damaged in the store"))
            }
            Ok(Ok(plugin)) => {
                lock(&self.0.others).insert(hash.clone(), plugin.clone());
                Ok(plugin)
            }
            Ok(Err(error)) => {
                Err(format!("the component that it began on cannot be used by this host: {error}"))
            }
            Err(error) => Err(format!("the component that it began on could not be loaded: {error}")),
        })
    }

    /// Has a plugin at hand that calls may have begun on.
    #[cfg(feature = "simulate")]
    pub(in crate::driver) fn know(&self, plugin: Plugin) {
        lock(&self.0.others).insert(plugin.report().sha256.clone(), plugin);
    }

    /// Lays a call to sleep until its wait ends.
    pub(super) fn park(&self, open: Open, context: &CallContext, call: CallId, interrupted: bool) {
        let mut owned = lock(&self.0.owned);
        owned.forget(call);
        owned.parked.insert(call);
        drop(owned);
        let parking = self.0.host_calls.parking();
        parking.park(self.wait(open, context, call), ReplyTo::Scheduler(self.0.ended_waits.clone()));
        if interrupted || context.interrupt().is_cancelled() {
            parking.interrupt(call);
        }
    }

    /// A wait as it was written down, on this process's clock.
    fn wait(&self, open: Open, context: &CallContext, call: CallId) -> Wait {
        let (now, now_ms) = (Instant::now(), self.0.host_calls.clock().now_ms());
        let at = |ms: u64| now + Duration::from_millis(ms.saturating_sub(now_ms));
        let waited = Duration::from_millis(now_ms.saturating_sub(open.asked_ms));
        let (deadline, last_deadline) = match open.intent {
            Intent::Wait { deadline_ms, last_ms } => (at(deadline_ms), at(last_ms)),
            Intent::Build(_) => (now, now),
        };
        let what = match open.request {
            Request::WaitForAgent { build, agent, connect_limit_ms, scripts_limit_ms } => WaitFor::Agent {
                build: build.into(),
                agent: agent.into(),
                connect_deadline: deadline,
                probe_limit: Duration::from_millis(connect_limit_ms.into()),
                scripts_limit: Duration::from_millis(scripts_limit_ms.into()),
                last_deadline,
            },
            Request::WaitForBuild { build, .. } => WaitFor::Build { build: build.into(), deadline },
            other => unreachable!("{} is no wait", other.function()),
        };
        let workspace = context.workspace().map(Into::into);
        Wait {
            call,
            chat: context.chat().into(),
            workspace,
            what,
            begun: now.checked_sub(waited).unwrap_or(now),
        }
    }

    /// A call has ended, and another one may have its turn.
    pub(super) fn ended(&self, call: CallId, outcome: CallEnd, next: Option<CallId>) {
        lock(&self.0.owned).forget(call);
        self.notify_subscribers(call, &outcome);
        if let Some(next) = next
            && let Ok(Some(row)) = self.0.host_calls.store().call(next)
        {
            self.start(next, row.chat, row.tool);
        }
    }

    /// A call has its turn.
    pub(super) fn start(&self, call: CallId, chat: String, tool: String) {
        // It may have been seen twice: by the call before it, and in the store.
        if !lock(&self.0.owned).claim(call) {
            return;
        }
        self.0.host_calls.announce(call, &chat, EventKind::Started { tool });
        self.send(RunJob { call, from: ResumePoint::Beginning, recording: None });
    }

    pub(super) fn notify_subscribers(&self, call: CallId, outcome: &CallEnd) {
        for subscriber in lock(&self.0.subscribers).remove(&call).unwrap_or_default() {
            // Whoever does not wait any more does not want to know.
            let _ = subscriber.send(outcome.clone());
        }
    }

    pub(super) fn send(&self, job: RunJob) {
        // The other end lives as long as this does, or everything has been stopped.
        let _ = self.0.jobs.send(job);
    }

    /// Sees to it that a lost lease is noticed.
    pub(super) fn note_store_error(&self, error: &StoreError) {
        if *error == StoreError::LeaseLost {
            self.0.lost.notify_one();
        }
    }
}
