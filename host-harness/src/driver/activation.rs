//! One kept call, from where its journal ends to its next wait or its end.
//!
//! Reads are only kept in memory: they are written together with the effect or the wait that rests on them, and read
//! again by whoever carries the call on after a crash. What was going to be done is written before it is done. What
//! came of it is written with the binding or the wait that follows it, and before anything else is asked for: until
//! then it can be found out by looking.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::host_calls::{Answered, CallContext, HostCalls, IntentLog, NoIntentLog};
use super::transition::Reconciliation;
use crate::bindings::{AgentWait, BuildWait, WaitEnd};
use crate::driver::error::DriveError;
use crate::driver::events::EventKind;
use crate::engine::{Plugin, Step, StepError};
use crate::journal::record::{CallId, CallRecord, Failure, Intent, Open, Outcome};
use crate::journal::{Answer, Asked, EffectClass, Entry, Journal, Request};
use crate::store::lease::Lease;
use crate::store::{Admission, StoreError};

/// A call that is being carried on.
pub(super) struct Activation {
    pub(super) host_calls: HostCalls,
    pub(super) lease: Arc<Lease>,
    pub(super) plugin: Plugin,
    pub(super) id: CallId,
    record: CallRecord,
    call: CallContext,
    journal: Journal,
    /// Entries that the store has.
    stored: usize,
}

/// How an activation ended.
pub(super) enum ActivationEnd {
    /// The call sleeps until this wait ends. It was written down, and nothing else of the call is in memory.
    Suspended(Open, CallContext),
    /// It has ended. The call whose turn it is now, if this host carries that too.
    Completed(Outcome, Option<CallId>),
}

/// Where an activation begins.
pub(super) enum ResumePoint {
    /// At the beginning.
    Beginning,
    /// After the last thing that something rests on: the host is a new one, or has had trouble.
    Crash,
    /// At the end of a wait, which is answered thus.
    Wait(Answer, Option<u64>),
}

impl Activation {
    pub(super) fn new(
        host_calls: HostCalls,
        lease: Arc<Lease>,
        plugin: Plugin,
        id: CallId,
        record: CallRecord,
        entries: Vec<Entry>,
        interrupt: CancellationToken,
    ) -> Self {
        let call = host_calls.resume(id, &record, has_sent(&entries), interrupt);
        let stored = entries.len();
        let journal = Journal::recorded(entries);
        Self { host_calls, lease, plugin, id, record, call, journal, stored }
    }

    /// Carries the call on until it has to wait, or has ended.
    pub(super) async fn carry_on(
        mut self,
        open: Option<Open>,
        from: ResumePoint,
    ) -> Result<ActivationEnd, DriveError> {
        match (from, open) {
            (ResumePoint::Beginning, _) => {}
            (ResumePoint::Wait(answer, observed), Some(open)) => {
                let asked = Asked { asked_ms: open.asked_ms, intent: Some(open.intent) };
                let answered = self.record_answer(open.request, Answered { answer, observed }, asked);
                if let Err(failure) = answered {
                    return self.end(Outcome::Failed(failure)).await;
                }
            }
            (ResumePoint::Wait(..) | ResumePoint::Crash, open) => {
                self.host_calls.emit(&self.call, EventKind::Resumed);
                if let Some(end) = self.after_crash(open).await? {
                    return Ok(end);
                }
            }
        }
        loop {
            let step = match self.plugin.step(&self.record.call, &self.journal) {
                Ok(step) => step,
                // Says nothing about the call, which can be carried on later.
                Err(error @ StepError::HostFault(_)) => return Err(DriveError::Step(Arc::new(error))),
                Err(error) => {
                    return self.end(Outcome::Failed(Failure::Plugin { reason: error.to_string() })).await;
                }
            };
            let request = match step {
                Step::Done(result) => return self.end(Outcome::Done { result }).await,
                Step::Request(request) => request,
            };
            let done = match request.effect_class() {
                EffectClass::Read => self.read(request).await?,
                EffectClass::IdempotentWrite => self.publish(request).await?,
                EffectClass::Effect => self.issue(request).await?,
                EffectClass::Wait => match self.wait(request).await? {
                    Ok(open) => return Ok(ActivationEnd::Suspended(open, self.call)),
                    Err(answered) => answered,
                },
            };
            if let Err(failure) = done {
                return self.end(Outcome::Failed(failure)).await;
            }
        }
    }

    /// Goes back to what can be relied on: an open request is looked into, reads that nothing rests on are forgotten.
    async fn after_crash(&mut self, open: Option<Open>) -> Result<Option<ActivationEnd>, DriveError> {
        let Some(open) = open else {
            self.rewind().await?;
            return Ok(None);
        };
        let Intent::Build(intent) = &open.intent else {
            return Ok(Some(ActivationEnd::Suspended(open, self.take_context())));
        };
        self.call.note_sent();
        let answer = match self.host_calls.reconcile(intent, None).await {
            Ok(Reconciliation::Made(build)) => Ok(build),
            Ok(Reconciliation::Other(error)) => Err(error),
            // Nothing was sent, so there is nothing to stand by: decide again.
            Ok(Reconciliation::Never) => {
                self.rewind().await?;
                self.call = self.host_calls.resume(
                    self.id,
                    &self.record,
                    has_sent(self.journal.entries()),
                    self.call.interrupt().clone(),
                );
                return Ok(None);
            }
            Err(DriveError::Failed(failure)) => {
                return self.end_here(Outcome::Failed(failure)).await.map(Some);
            }
            Err(error) => return Err(error),
        };
        let asked = Asked { asked_ms: open.asked_ms, intent: Some(open.intent) };
        let answered = Answered { answer: Answer::IssueTransition(answer), observed: None };
        if let Err(failure) = self.record_answer(open.request, answered, asked) {
            return self.end_here(Outcome::Failed(failure)).await.map(Some);
        }
        Ok(None)
    }

    /// Forgets everything after the last effect or wait, here and in the store.
    async fn rewind(&mut self) -> Result<(), StoreError> {
        let entries = self.journal.entries();
        let rests = |class| matches!(class, EffectClass::Effect | EffectClass::Wait);
        let keep =
            entries.iter().rposition(|entry| rests(entry.request.effect_class())).map_or(0, |last| last + 1);
        let kept = entries[..keep].to_vec();
        self.lease.rewind(self.id, keep, has_sent(&kept)).await?;
        self.journal = Journal::recorded(kept);
        self.stored = keep;
        Ok(())
    }

    async fn read(&mut self, request: Request) -> Result<Result<(), Failure>, DriveError> {
        self.write_answer().await?;
        let asked = self.asked(None);
        let answered = self.host_calls.answer(&self.call, &request, &NoIntentLog).await?;
        Ok(self.append(request, answered, asked))
    }

    async fn publish(&mut self, request: Request) -> Result<Result<(), Failure>, DriveError> {
        let Request::PublishBinding { build } = &request else { return self.read(request).await };
        let asked = self.asked(None);
        self.host_calls.emit(&self.call, EventKind::Requested(request.clone()));
        let bound = match self.call.workspace() {
            Some(_) => {
                let bound = self.lease.publish(self.id, self.stored, self.unstored(), build.clone()).await?;
                self.stored = self.journal.entries().len();
                bound
            }
            None => false,
        };
        self.host_calls.emit_published(&self.call, build, bound);
        let answer = Answer::PublishBinding(Ok(bound));
        Ok(self.record_answer(request, Answered { answer, observed: None }, asked))
    }

    async fn issue(&mut self, request: Request) -> Result<Result<(), Failure>, DriveError> {
        self.write_answer().await?;
        let intent = Arc::new(std::sync::Mutex::new(None));
        let asked_ms = self.host_calls.clock().now_ms();
        let intents = JournalIntentLog {
            lease: self.lease.clone(),
            call: self.id,
            from: self.stored,
            entries: self.unstored(),
            asked_ms,
            intent: intent.clone(),
        };
        let answered = match self.host_calls.answer(&self.call, &request, &intents).await {
            Ok(answered) => answered,
            Err(DriveError::Failed(failure)) => return Ok(Err(failure)),
            Err(error) => return Err(error),
        };
        let intent = intent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let asked = Asked { asked_ms, intent };
        if asked.intent.is_none() {
            // Refused before anything was written down.
            return Ok(self.append(request, answered, asked));
        }
        self.stored = self.journal.entries().len();
        Ok(self.append(request, answered, asked))
    }

    /// Writes the answer of an effect, if the store does not have it yet.
    async fn write_answer(&mut self) -> Result<(), StoreError> {
        let entries = self.unstored();
        if entries.iter().any(|entry| matches!(entry.asked.intent, Some(Intent::Build(_)))) {
            self.lease.write(self.id, self.stored, entries).await?;
            self.stored = self.journal.entries().len();
        }
        Ok(())
    }

    /// The entries that the store does not have yet.
    fn unstored(&self) -> Vec<Entry> {
        self.journal.entries()[self.stored..].to_vec()
    }

    /// Writes a wait down. The call sleeps then, or was interrupted before.
    async fn wait(&mut self, request: Request) -> Result<Result<Open, Result<(), Failure>>, DriveError> {
        self.host_calls.emit(&self.call, EventKind::Requested(request.clone()));
        let asked_ms = self.host_calls.clock().now_ms();
        let (first, second) = match &request {
            Request::WaitForAgent { connect_limit_ms, scripts_limit_ms, .. } => {
                (*connect_limit_ms, *scripts_limit_ms)
            }
            Request::WaitForBuild { limit_ms, .. } => (*limit_ms, 0),
            _ => (0, 0),
        };
        let deadline_ms = asked_ms + u64::from(first);
        let intent = Intent::Wait { deadline_ms, last_ms: deadline_ms + u64::from(second) };
        let open = Open { request: request.clone(), intent, asked_ms };
        let entries = self.unstored();
        match self.lease.open(self.id, self.stored, entries, open.clone()).await? {
            Admission::Granted => Ok(Ok(open)),
            Admission::Interrupted | Admission::Rebound => {
                let (end, waited_ms) = (WaitEnd::Interrupted, 0);
                let answer = match &request {
                    Request::WaitForAgent { .. } => {
                        Answer::WaitForAgent(Ok(AgentWait { end, waited_ms, agent: None, probe: None }))
                    }
                    _ => Answer::WaitForBuild(Ok(BuildWait { end, waited_ms, build: None })),
                };
                let asked = self.asked(None);
                Ok(Err(self.record_answer(request, Answered { answer, observed: None }, asked)))
            }
        }
    }

    async fn end(mut self, outcome: Outcome) -> Result<ActivationEnd, DriveError> {
        self.end_here(outcome).await
    }

    async fn end_here(&mut self, outcome: Outcome) -> Result<ActivationEnd, DriveError> {
        let entries = self.unstored();
        let next = self.lease.end(self.id, self.stored, entries, outcome.clone()).await?;
        self.host_calls.emit(&self.call, EventKind::Ended);
        Ok(ActivationEnd::Completed(outcome, next))
    }

    /// Tells listeners of an answer that did not come through [`HostCalls::answer`], which tells them itself, and takes
    /// it into the journal.
    fn record_answer(&mut self, request: Request, answered: Answered, asked: Asked) -> Result<(), Failure> {
        self.host_calls.emit(&self.call, EventKind::Answered(answered.answer.clone()));
        self.append(request, answered, asked)
    }

    fn append(&mut self, request: Request, answered: Answered, asked: Asked) -> Result<(), Failure> {
        let effect = request.effect_class() == EffectClass::Effect;
        let now = self.host_calls.clock().now_ms();
        let Answered { answer, observed } = answered;
        self.journal.record(request, answer, observed, asked, now).map_err(|error| {
            let reason = error.to_string();
            if effect { Failure::Unrecorded { reason } } else { Failure::Answer { reason } }
        })
    }

    fn asked(&self, intent: Option<Intent>) -> Asked {
        Asked { asked_ms: self.host_calls.clock().now_ms(), intent }
    }

    /// Takes the context out: the activation ends here.
    fn take_context(&mut self) -> CallContext {
        let empty = self.host_calls.resume(self.id, &self.record, false, CancellationToken::new());
        std::mem::replace(&mut self.call, empty)
    }
}

/// Whether a request for a build was written down. One that was refused before that was never sent.
fn has_sent(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| matches!(entry.asked.intent, Some(Intent::Build(_))))
}

/// Writes an intent, with the entries that it rests on.
struct JournalIntentLog {
    lease: Arc<Lease>,
    call: CallId,
    from: usize,
    entries: Vec<Entry>,
    asked_ms: u64,
    /// What was written, once it was.
    intent: Arc<std::sync::Mutex<Option<Intent>>>,
}

#[async_trait]
impl IntentLog for JournalIntentLog {
    async fn intend(&self, request: &Request, intent: Intent) -> Result<Admission, StoreError> {
        let open = Open { request: request.clone(), intent: intent.clone(), asked_ms: self.asked_ms };
        let admission = self.lease.open(self.call, self.from, self.entries.clone(), open).await?;
        if admission == Admission::Granted {
            *self.intent.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(intent);
        }
        Ok(admission)
    }

    fn may_send(&self) -> bool {
        self.lease.is_current()
    }
}
