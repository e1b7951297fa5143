//! What a plugin's imports see and answer: its journal, and where that ends.

use thiserror::Error;
use wasmtime::{ResourceLimiter, Store};

use crate::bindings::{
    AgentWait, Agents, Binding, Build, BuildWait, Parameter, ReadError, Transition, TransitionError, types,
    waits, workspace,
};
use crate::journal::{Answer, Journal, Request};
use crate::limits::{Limit, MEMORY_BYTES, STEP_FUEL, TABLE_ELEMENTS, TRANSFER_BYTES};

/// The state of one step: what the plugin's imports see.
pub(super) struct State {
    journal: Journal,
    /// The entry that answers the next request.
    next: usize,
    limiter: Limiter,
}

/// Why a step left the plugin in the middle of a host call.
#[derive(Debug, Error)]
pub(super) enum Exit {
    #[error("suspended")]
    Suspended(Request),
    #[error("diverged")]
    Diverged { index: usize, expected: Request, got: Request },
}

impl State {
    /// The recorded request that the plugin has not made, with its index, if there is one.
    pub(super) fn left(&self) -> Option<(usize, &Request)> {
        self.journal.entries().get(self.next).map(|entry| (self.next, &entry.request))
    }

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

/// A store for one step. *Any* error that leaves an import makes the whole store unusable, so none is used twice.
pub(super) fn store(engine: &wasmtime::Engine, journal: &Journal) -> wasmtime::Result<Store<State>> {
    let state = State { journal: journal.clone(), next: 0, limiter: Limiter };
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_fuel(STEP_FUEL)?;
    store.set_hostcall_fuel(TRANSFER_BYTES);
    Ok(store)
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

/// Refuses memory and tables beyond the limits, with an error that says so. The plugin never gets to see the refusal.
#[derive(Debug)]
struct Limiter;

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _: usize, wanted: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if wanted > MEMORY_BYTES {
            return Err(wasmtime::Error::new(Limit::Memory { wanted }));
        }
        Ok(true)
    }

    /// The host's memory was short, or the memory's own declared maximum was reached. The plugin must not go on from
    /// here either: on another host it might not have come to this.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(&mut self, _: usize, wanted: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if wanted > TABLE_ELEMENTS {
            return Err(wasmtime::Error::new(Limit::Table { wanted }));
        }
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }
}
