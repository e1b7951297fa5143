//! The engine: runs a plugin one step at a time.
//!
//! A plugin is a pure function of its input and of the answers to its requests. [`Plugin::step`] makes a fresh
//! instance, answers its requests from the [`Journal`] and ends at the first that has no answer yet:
//!
//! ```text
//! step(export, journal) -> Request(host call) | Done(output)
//! ```
//!
//! The caller carries the request out, appends the answer and steps again. Nothing is kept between two steps but the
//! journal, so a call that waits holds no instance, no thread and no stack. A step is synchronous and takes
//! microseconds; asynchronous callers may step on the thread that they are on.

mod cache;
pub mod check;
mod compiling;
mod config;
mod error;
#[cfg(all(test, feature = "plugin"))]
mod headroom;
mod imports;
mod linked;
mod options;
mod outcome;
mod outgoing;
mod step;

use std::sync::{Arc, OnceLock};

use wasmtime::component::{Component, HasSelf, Linker};

pub use crate::limits::Limit;
pub use check::{Refused, Report};
pub use error::{EngineError, PluginError};
pub use options::EngineOptions;
pub use outcome::{HostFault, Step, StepError};

use crate::bindings::{self, Tool};
use crate::journal::{Export, Journal, Output};
use crate::limits::INPUT_BYTES;
use cache::Cache;
use compiling::Compiling;
use config::{Reservation, Slots, Ticker};
use error::one_line;
use imports::State;
use linked::Linked;
use step::Failure;

/// Runs plugins. Cloning is cheap, and the clones are one engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// A plugin, checked, and compiled or being compiled. Cloning is cheap.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<Loaded>,
}

struct Inner {
    wasmtime: wasmtime::Engine,
    linker: Linker<State>,
    options: EngineOptions,
    slots: Slots,
    _ticker: Ticker,
    cache: Option<Cache>,
    /// A second engine, with backtraces. Made when a plugin traps unexpectedly for the first time.
    diagnosis: OnceLock<Option<Diagnosis>>,
}

struct Diagnosis {
    wasmtime: wasmtime::Engine,
    linker: Linker<State>,
}

struct Loaded {
    engine: Engine,
    report: Report,
    component: Arc<[u8]>,
    linked: Compiling,
    /// The same plugin on the engine with backtraces.
    diagnosable: OnceLock<Option<Linked>>,
}

impl Engine {
    /// Sets up an engine, with a thread of its own that watches over the steps' deadlines. The thread ends with the
    /// engine.
    ///
    /// Its plugins' memories are laid out in address space that is reserved now: some 4 GiB for each of
    /// [`concurrent_steps`](EngineOptions::concurrent_steps), of which next to nothing is used. Where that is not to be
    /// had (`ulimit -v`, small virtual machines), some 32 MiB each do, at the price of somewhat slower plugins.
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        let make = |reservation| wasmtime::Engine::new(&config::pooled(&options, reservation)?);
        let wasmtime = make(Reservation::Whole).or_else(|error| {
            let error = one_line(&error);
            tracing::warn!(%error, "address space is short: plugins run with smaller reservations, somewhat slower");
            make(Reservation::Small)
        })?;
        let ticker = Ticker::start(&wasmtime, options.step_deadline).map_err(wasmtime::Error::new)?;
        let linker = linker(&wasmtime)?;
        let cache = options.cache_dir.as_deref().and_then(|folder| Cache::open(folder, &wasmtime));
        let slots = Slots::new(options.concurrent_steps);
        let diagnosis = OnceLock::new();
        Ok(Self {
            inner: Arc::new(Inner { wasmtime, linker, options, slots, _ticker: ticker, cache, diagnosis }),
        })
    }

    /// Checks a component, compiles it (or takes the compiled form from the cache) and prepares it for stepping.
    pub fn load(&self, component: &[u8]) -> Result<Plugin, PluginError> {
        let report = check::check(component)?;
        let linked = self.link(component, &report)?;
        Ok(self.plugin(component.into(), report, Compiling::done(linked)))
    }

    /// As [`load`](Self::load), but answers when the component has been checked, and compiles it on a thread of its
    /// own. [`Plugin::ready`] tells when that is done, and whether it went well; a step waits for it.
    pub fn load_behind(&self, component: &[u8]) -> Result<Plugin, PluginError> {
        let report = check::check(component)?;
        let component: Arc<[u8]> = component.into();
        let (engine, bytes, of) = (self.clone(), component.clone(), report.clone());
        let linked = Compiling::begin(move || engine.link(&bytes, &of));
        Ok(self.plugin(component, report, linked))
    }

    fn plugin(&self, component: Arc<[u8]>, report: Report, linked: Compiling) -> Plugin {
        let (engine, diagnosable) = (self.clone(), OnceLock::new());
        Plugin { inner: Arc::new(Loaded { engine, report, component, linked, diagnosable }) }
    }

    fn link(&self, component: &[u8], report: &Report) -> Result<Linked, PluginError> {
        let compiled = self.compile(component, report)?;
        Linked::new(&self.inner.linker, &compiled)
            .and_then(|linked| {
                let _slot = self.inner.slots.take();
                step::rehearse(&linked)?;
                Ok(linked)
            })
            .map_err(|error| PluginError::Mismatch { reason: one_line(&error) })
    }

    fn compile(&self, component: &[u8], report: &Report) -> Result<Component, PluginError> {
        let engine = &self.inner.wasmtime;
        if let Some(compiled) = self.inner.cache.as_ref().and_then(|cache| cache.get(&report.sha256, engine))
        {
            return Ok(compiled);
        }
        let compiled = Component::from_binary(engine, component)
            .map_err(|error| PluginError::NotCompiled { reason: one_line(&error) })?;
        if let Some(cache) = &self.inner.cache {
            cache.put(&report.sha256, &compiled);
        }
        Ok(compiled)
    }

    fn diagnosis(&self) -> Option<&Diagnosis> {
        let make = || {
            let wasmtime = wasmtime::Engine::new(&config::with_backtraces()).ok()?;
            let linker = linker(&wasmtime).ok()?;
            Some(Diagnosis { wasmtime, linker })
        };
        self.inner.diagnosis.get_or_init(make).as_ref()
    }
}

impl Plugin {
    /// What the plugin is: its hash, its contract version, its imports and exports.
    pub fn report(&self) -> &Report {
        &self.inner.report
    }

    /// The component that the plugin was loaded from.
    pub fn component(&self) -> &Arc<[u8]> {
        &self.inner.component
    }

    /// Waits until it is compiled, and says what went wrong if it could not be.
    pub async fn ready(&self) -> Result<(), PluginError> {
        self.inner.linked.ready().await.as_ref().map(drop).map_err(Clone::clone)
    }

    /// Its tools. Waits until it is compiled, unless they are known without asking it.
    pub async fn list_tools(&self) -> Result<Vec<Tool>, StepError> {
        if let Some(known) = self.known_tools() {
            return Ok(known);
        }
        // If it could not be compiled, that is for the step to say.
        let _ = self.ready().await;
        match self.step(&Export::ListTools, &Journal::new())? {
            Step::Done(Output::ListTools(tools)) => Ok(tools),
            Step::Done(_) | Step::Request(_) => {
                let reason = "it asked the host for something before it would list its tools".to_owned();
                Err(StepError::PluginFault { reason, backtrace: None })
            }
        }
    }

    /// Its tools, if they are known without asking it: those of the plugin that was built together with this library.
    pub fn known_tools(&self) -> Option<Vec<Tool>> {
        #[cfg(feature = "plugin")]
        if *self.inner.component == *crate::PLUGIN {
            return serde_json::from_str(guest_artifact::TOOLS?).ok();
        }
        None
    }

    /// The engine that runs it.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// Runs a call on from its beginning, with the answers recorded so far, up to its next request or its end.
    ///
    /// Takes microseconds, once the plugin is [`ready`](Plugin::ready), and has no effect on the world. Steps of one
    /// plugin may run on many threads at once.
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
        step::step(linked, export, journal).map_err(|failure| match failure {
            Failure::Step(error) => error,
            Failure::Plugin(reason) => {
                let linked = self.linked_with_backtraces();
                let backtrace = linked.and_then(|linked| step::backtrace(linked, export, journal));
                StepError::PluginFault { reason, backtrace }
            }
            Failure::Host(reason) => StepError::HostFault(HostFault::Resources(reason)),
            Failure::Deadline => StepError::HostFault(HostFault::Deadline(engine.options.step_deadline)),
        })
    }

    fn linked_with_backtraces(&self) -> Option<&Linked> {
        let make = || {
            let Diagnosis { wasmtime, linker } = self.inner.engine.diagnosis()?;
            let component = Component::from_binary(wasmtime, &self.inner.component).ok()?;
            Linked::new(linker, &component).ok()
        };
        self.inner.diagnosable.get_or_init(make).as_ref()
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("report", &self.inner.report).finish_non_exhaustive()
    }
}

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    bindings::Plugin::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    Ok(linker)
}
