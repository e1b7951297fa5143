//! Runs one step in an instance of its own.

use wasmtime::{PoolConcurrencyLimitError, Trap, WasmBacktrace};

use super::config::DEADLINE_TICKS;
use super::error::one_line;
use super::imports::{Exit, State, store};
use super::linked::Linked;
use super::outcome::{Step, StepError};
use super::outgoing;
use crate::journal::{Export, Journal, Output};
use crate::limits::Limit;

/// A step runs again when the host failed, not the plugin; this many times in all.
const ATTEMPTS: u32 = 3;

/// Runs a call on from its beginning, with the answers recorded so far, up to its next request or its end.
pub(super) fn step(linked: &Linked, export: &Export, journal: &Journal) -> Result<Step, Failure> {
    attempts(|| attempt(linked, export, journal))
}

/// Runs a step that trapped once more, on an engine that keeps track of where it is.
pub(super) fn backtrace(linked: &Linked, export: &Export, journal: &Journal) -> Option<String> {
    let mut store = store(linked.engine(), journal).ok()?;
    let instance = linked.instantiate(&mut store).ok()?;
    let error = linked.call(instance, &mut store, export).err()?;
    error.downcast_ref::<WasmBacktrace>().map(ToString::to_string)
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
pub(super) enum Failure {
    /// In a way that is final.
    Step(StepError),
    /// By a fault of the plugin: final too, but worth a second look.
    Plugin(String),
    /// By a fault of the host: worth another attempt.
    Host(String),
    Deadline,
}

fn attempt(linked: &Linked, export: &Export, journal: &Journal) -> Result<Step, Failure> {
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
pub(super) fn fuel_of(linked: &Linked, export: &Export, journal: &Journal) -> wasmtime::Result<u64> {
    let mut store = store(linked.engine(), journal)?;
    store.set_epoch_deadline(DEADLINE_TICKS);
    let instance = linked.instantiate(&mut store)?;
    // The end is an error wherever the call is suspended.
    let _ = linked.call(instance, &mut store, export);
    Ok(crate::limits::STEP_FUEL - store.get_fuel()?)
}

/// The plugin came to its end: it must have used up the journal.
fn finish(output: Output, state: &State) -> Result<Step, StepError> {
    if let Some((index, left)) = state.left() {
        let (expected, got) = (Box::new(left.clone()), Box::new(Step::Done(output)));
        return Err(StepError::Diverged { index, expected, got });
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

#[cfg(test)]
#[path = "faults.rs"]
mod faults;
