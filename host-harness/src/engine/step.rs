//! One step, and the ways in which it can end.

use std::time::Duration;

use thiserror::Error;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};

use super::config::DEADLINE_TICKS;
use super::limits::{INPUT_BYTES, Limit, Limiter, STEP_FUEL, TRANSFER_BYTES};
use super::linked::Linked;
use super::{Plugin, one_line, outgoing};
use crate::bindings::{
    AgentWait, Agents, Binding, Build, BuildWait, Parameter, ReadError, Transition, TransitionError, types,
    waits, workspace,
};
use crate::journal::{Answer, Export, Journal, Output, Request};

/// A step runs again when the host failed, not the plugin; this many times in all.
const ATTEMPTS: u32 = 3;

/// How a step ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The plugin asks for something that has no answer yet. Carry it out, append the answer, step again.
    Request(Request),
    /// The call is complete.
    Done(Output),
}

/// How a step ended badly.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StepError {
    /// The plugin did not do what it did when the journal was written: it is another plugin, or the journal is not
    /// that of this call. Nothing can be concluded from such a step.
    #[error("the plugin diverged from its journal at entry {index}: {}", diverged(.expected, .got))]
    Diverged {
        /// The entry, counted from 0.
        index: usize,
        /// The request recorded there.
        expected: Box<Request>,
        /// What the plugin did instead: another request, or coming to its end with entries left over.
        got: Box<Step>,
    },
    /// The call reached a limit. Final: every host that steps through this journal comes to the same end.
    #[error(transparent)]
    Limit(#[from] Limit),
    /// The plugin trapped, or handed over something that is no value of the contract. Final.
    #[error("the plugin failed: {reason}")]
    PluginFault {
        /// What it did, in words.
        reason: String,
        /// Its functions, innermost first, where a second run could show them.
        backtrace: Option<String>,
    },
    /// The host could not run the step, three times in a row. Says nothing about the call, which can be stepped later.
    #[error("this host could not run the plugin: {0}")]
    HostFault(HostFault),
}

/// What kept the host from running a step.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostFault {
    /// The step was still running after [`EngineOptions::step_deadline`](super::EngineOptions::step_deadline).
    #[error("a step was not finished within {0:?}")]
    Deadline(Duration),
    /// Memory or another resource of the machine was short.
    #[error("{0}")]
    Resources(String),
    /// The plugin, which was [compiled behind](super::Engine::load_behind), could not be.
    #[error("{0}")]
    NotLoaded(String),
}

/// The state of one step: what the plugin's imports see.
pub(super) struct State {
    journal: Journal,
    /// The entry that answers the next request.
    next: usize,
    limiter: Limiter,
}

/// Why a step left the plugin in the middle of a host call.
#[derive(Debug, Error)]
enum Exit {
    #[error("suspended")]
    Suspended(Request),
    #[error("diverged")]
    Diverged { index: usize, expected: Request, got: Request },
}

impl Plugin {
    /// Runs a call on from its beginning, with the answers recorded so far, up to its next request or its end.
    ///
    /// Takes microseconds, once the plugin is [`ready`](Plugin::ready), and has no effect on the world. Steps of one plugin may run on many threads at once.
    pub fn step(&self, export: &Export, journal: &Journal) -> Result<Step, StepError> {
        let bytes = outgoing::input_bytes(export);
        if bytes > INPUT_BYTES {
            return Err(Limit::Input { bytes }.into());
        }
        let engine = &self.inner.engine.inner;
        let linked = match self.inner.linked.wait() {
            Ok(linked) => linked,
            Err(error) => return Err(StepError::HostFault(HostFault::NotLoaded(error.to_string()))),
        };
        let _slot = engine.slots.take();
        match attempts(|| run(linked, export, journal)) {
            Ok(step) => Ok(step),
            Err(Failure::Plugin(reason)) => {
                Err(StepError::PluginFault { reason, backtrace: self.backtrace(export, journal) })
            }
            Err(Failure::Host(reason)) => Err(StepError::HostFault(HostFault::Resources(reason))),
            Err(Failure::Deadline) => {
                Err(StepError::HostFault(HostFault::Deadline(engine.options.step_deadline)))
            }
            Err(Failure::Step(error)) => Err(error),
        }
    }

    /// Runs a step that trapped once more, on an engine that keeps track of where it is.
    fn backtrace(&self, export: &Export, journal: &Journal) -> Option<String> {
        let linked = self.linked_with_backtraces()?;
        let mut store = store(linked.engine(), journal).ok()?;
        let instance = linked.instantiate(&mut store).ok()?;
        let error = linked.call(instance, &mut store, export).err()?;
        error.downcast_ref::<WasmBacktrace>().map(ToString::to_string)
    }
}

/// Runs a step again for as long as the host is to blame: it is pure, so nothing happens twice.
fn attempts(mut run: impl FnMut() -> Result<Step, Failure>) -> Result<Step, Failure> {
    for _ in 1..ATTEMPTS {
        match run() {
            Err(Failure::Host(_) | Failure::Deadline) => {}
            ended => return ended,
        }
    }
    run()
}

/// How an attempt at a step ended badly.
enum Failure {
    /// In a way that is final.
    Step(StepError),
    /// By a fault of the plugin: final too, but worth a second look.
    Plugin(String),
    /// By a fault of the host: worth another attempt.
    Host(String),
    Deadline,
}

fn run(linked: &Linked, export: &Export, journal: &Journal) -> Result<Step, Failure> {
    let host = |error: wasmtime::Error| Failure::Host(one_line(&error));
    let mut store = store(linked.engine(), journal).map_err(host)?;
    store.set_epoch_deadline(DEADLINE_TICKS);
    // Making an instance runs none of the plugin's code as a rule: an error without a type is the machine's.
    let instance = match linked.instantiate(&mut store) {
        Ok(instance) => instance,
        Err(error) => return ended_by(error, journal, Failure::Host),
    };
    match linked.call(instance, &mut store, export) {
        Ok(output) => finish(output, &store.into_data()).map_err(Failure::Step),
        Err(error) => ended_by(error, journal, Failure::Plugin),
    }
}

/// Makes an instance once, because the types of a plugin's exports are compared with the contract's only there. An
/// error without a type is about those; whatever else can go wrong is for the first step to say.
pub(super) fn rehearse(linked: &Linked) -> wasmtime::Result<()> {
    let mut store = store(linked.engine(), &Journal::new())?;
    store.set_epoch_deadline(DEADLINE_TICKS);
    match linked.instantiate_checked(&mut store) {
        Err(error) if !error.is::<Exit>() && !error.is::<Limit>() && !error.is::<Trap>() => Err(error),
        _ => Ok(()),
    }
}

/// How much fuel a step takes, whatever its end.
#[cfg(all(test, feature = "plugin"))]
pub(super) fn fuel_of(plugin: &Plugin, export: &Export, journal: &Journal) -> wasmtime::Result<u64> {
    let linked =
        plugin.inner.linked.wait().as_ref().map_err(|error| wasmtime::Error::msg(error.to_string()))?;
    let mut store = store(linked.engine(), journal)?;
    store.set_epoch_deadline(DEADLINE_TICKS);
    let instance = linked.instantiate(&mut store)?;
    // The end is an error wherever the call is suspended.
    let _ = linked.call(instance, &mut store, export);
    Ok(STEP_FUEL - store.get_fuel()?)
}

/// A store for one step. *Any* error that leaves an import makes the whole store unusable, so none is used twice.
fn store(engine: &wasmtime::Engine, journal: &Journal) -> wasmtime::Result<Store<State>> {
    let state = State { journal: journal.clone(), next: 0, limiter: Limiter };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_fuel(STEP_FUEL)?;
    store.set_hostcall_fuel(TRANSFER_BYTES);
    Ok(store)
}

/// The plugin came to its end: it must have used up the journal.
fn finish(output: Output, state: &State) -> Result<Step, StepError> {
    if let Some(left) = state.journal.entries().get(state.next) {
        return Err(StepError::Diverged {
            index: state.next,
            expected: Box::new(left.request.clone()),
            got: Box::new(Step::Done(output)),
        });
    }
    outgoing::output(&output)?;
    Ok(Step::Done(output))
}

/// What an error from wasmtime means. `untyped` says who is to blame for one that has no type of its own.
fn ended_by(
    error: wasmtime::Error,
    journal: &Journal,
    untyped: fn(String) -> Failure,
) -> Result<Step, Failure> {
    let error = match error.downcast::<Exit>() {
        Ok(Exit::Suspended(request)) => {
            outgoing::request(&request).and_then(|()| journal.admits(&request)).map_err(failure)?;
            return Ok(Step::Request(request));
        }
        Ok(Exit::Diverged { index, expected, got }) => {
            let (expected, got) = (Box::new(expected), Box::new(Step::Request(got)));
            return Err(Failure::Step(StepError::Diverged { index, expected, got }));
        }
        Err(error) => error,
    };
    if let Some(limit) = error.downcast_ref::<Limit>() {
        return Err(failure(limit.clone()));
    }
    Err(match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => failure(Limit::Fuel),
        Some(Trap::StackOverflow) => failure(Limit::Stack),
        Some(Trap::Interrupt) => Failure::Deadline,
        Some(trap) => Failure::Plugin(trap.to_string()),
        None if error.is::<PoolConcurrencyLimitError>() || error.is::<std::io::Error>() => {
            Failure::Host(one_line(&error))
        }
        None if is_transfer_limit(&error) => failure(Limit::Transfer),
        None => untyped(one_line(&error)),
    })
}

fn failure(limit: Limit) -> Failure {
    Failure::Step(StepError::Limit(limit))
}

/// wasmtime keeps the type of this error to itself; a test watches its words.
fn is_transfer_limit(error: &wasmtime::Error) -> bool {
    error.root_cause().to_string().contains("fuel allocated for hostcalls has been exhausted")
}

impl State {
    /// The recorded answer to a request, or the exit of this step.
    fn answer(&mut self, request: Request) -> wasmtime::Result<Answer> {
        let Some(entry) = self.journal.entries().get(self.next) else {
            return Err(wasmtime::Error::new(Exit::Suspended(request)));
        };
        if entry.request.function() != request.function() || entry.request != request {
            let (index, expected) = (self.next, entry.request.clone());
            return Err(wasmtime::Error::new(Exit::Diverged { index, expected, got: request }));
        }
        self.next += 1;
        Ok(entry.answer.clone())
    }
}

/// Takes the recorded answer out of its variant. [`Journal::append`] sees to it that it is the request's.
macro_rules! answer {
    ($state:expr, $variant:ident $fields:tt) => {
        match $state.answer(Request::$variant $fields)? {
            Answer::$variant(answer) => Ok(answer),
            other => Err(wasmtime::Error::msg(format!("the journal answers with {}", other.function()))),
        }
    };
}

impl types::Host for State {}

impl workspace::Host for State {
    fn latest_build(&mut self, check_start: bool) -> wasmtime::Result<Result<Binding, ReadError>> {
        answer!(self, LatestBuild { check_start })
    }

    fn agent_status(&mut self) -> wasmtime::Result<Result<Agents, ReadError>> {
        answer!(self, AgentStatus {})
    }

    fn issue_transition(
        &mut self,
        to: Transition,
        rests_on: String,
        parameters: Vec<Parameter>,
    ) -> wasmtime::Result<Result<Build, TransitionError>> {
        answer!(self, IssueTransition { to, rests_on, parameters })
    }

    fn publish_binding(&mut self, build: String) -> wasmtime::Result<Result<bool, ReadError>> {
        answer!(self, PublishBinding { build })
    }
}

impl waits::Host for State {
    fn wait_for_build(
        &mut self,
        build: String,
        limit_ms: u32,
    ) -> wasmtime::Result<Result<BuildWait, ReadError>> {
        answer!(self, WaitForBuild { build, limit_ms })
    }

    fn wait_for_agent(
        &mut self,
        build: String,
        agent: String,
        connect_limit_ms: u32,
        scripts_limit_ms: u32,
    ) -> wasmtime::Result<Result<AgentWait, ReadError>> {
        answer!(self, WaitForAgent { build, agent, connect_limit_ms, scripts_limit_ms })
    }
}

/// A divergence in words: the function first, and the arguments only where the function is the same.
fn diverged(expected: &Request, got: &Step) -> String {
    match got {
        Step::Done(_) => format!("{} was recorded, but the call ended without it", expected.function()),
        Step::Request(got) if got.function() == expected.function() => {
            format!("{} was recorded with {expected:?}, now it is {got:?}", expected.function())
        }
        Step::Request(got) => format!("{} was recorded, now it is {}", expected.function(), got.function()),
    }
}

#[cfg(test)]
#[path = "faults.rs"]
mod faults;
