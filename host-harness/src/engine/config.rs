//! How wasmtime is set up, and what runs beside it: the deadline's ticker and the slots of the pool.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, WasmFeatures};

use super::options::EngineOptions;
use crate::limits::{CORE_INSTANCES, MEMORY_BYTES, STACK_BYTES, TABLE_ELEMENTS};

/// What compilers for `wasm32` use by default, and the component model. Everything else is refused: the less there is,
/// the less can differ between two machines.
pub(super) const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::COMPONENT_MODEL);

/// Memory and tables of a slot that stay mapped between two steps, in bytes. Wiping them is cheaper than giving the
/// pages back and faulting them in again. An honest guest's whole memory is smaller. It is wiped unseen: for a memory
/// as small as that of our guest, asking the kernel which pages were written takes longer than writing them all.
const KEEP_RESIDENT: usize = 512 << 10;

/// Ticks of the epoch within a step's deadline: a step ends at most one tick, an eighth of the deadline, late.
const TICKS_PER_DEADLINE: u32 = 8;

/// A step's deadline in ticks, counted from the tick that is under way.
pub(super) const DEADLINE_TICKS: u64 = TICKS_PER_DEADLINE as u64 + 1;

/// How much address space a slot's memory gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reservation {
    /// All that a plugin can address, and a guard: code needs no bounds checks.
    Whole,
    /// What a plugin may use, which code has to look at with each access.
    Small,
}

/// What a memory may grow to: above our own limit, which is judged first and has an error of its own.
const MEMORY_ROOM: usize = 2 * MEMORY_BYTES;

/// The guard after a small reservation: accesses just behind a bound that was checked.
const SMALL_GUARD: u64 = 64 << 10;

/// The engine that steps run on.
pub(super) fn pooled(options: &EngineOptions, reservation: Reservation) -> wasmtime::Result<Config> {
    let slots = options.concurrent_steps.max(1);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots * CORE_INSTANCES)
        .total_memories(slots)
        .total_tables(slots * CORE_INSTANCES)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(1)
        .max_tables_per_component(CORE_INSTANCES)
        .max_unused_warm_slots(slots)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(KEEP_RESIDENT)
        .pagemap_scan(Enabled::No)
        .max_memory_size(MEMORY_ROOM)
        // Above our own limit, as the memory's.
        .table_elements(2 * TABLE_ELEMENTS);
    let mut config = common();
    if reservation == Reservation::Small {
        config.memory_reservation(MEMORY_ROOM as u64).memory_guard_size(SMALL_GUARD);
    }
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        // A call is suspended by an error: with a backtrace each, suspending would cost more than running.
        .wasm_backtrace_max_frames(None)
        // Only backtraces need it, and it is a tenth of an image.
        .generate_address_map(false);
    Ok(config)
}

/// The engine on which a step that trapped is run once more, to see where.
pub(super) fn with_backtraces() -> Config {
    let mut config = common();
    config.wasm_backtrace_max_frames(NonZeroUsize::new(32));
    config
}

fn common() -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all().difference(FEATURES), false)
        .wasm_features(FEATURES, true)
        .concurrency_support(false)
        .cranelift_nan_canonicalization(true)
        .consume_fuel(true)
        .max_wasm_stack(STACK_BYTES);
    config
}

/// The thread that counts the engine's epoch up. It ends when this is dropped.
pub(super) struct Ticker {
    /// Never sent on: the thread sees that it is gone.
    _alive: Sender<Infallible>,
}

impl Ticker {
    pub(super) fn start(engine: &wasmtime::Engine, deadline: Duration) -> std::io::Result<Self> {
        // Weakly: a step that still runs keeps the engine, this thread must not.
        let engine = engine.weak();
        let tick = deadline / TICKS_PER_DEADLINE;
        let (alive, dropped) = mpsc::channel();
        let run = move || {
            while dropped.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                if let Some(engine) = engine.upgrade() {
                    engine.increment_epoch();
                }
            }
        };
        std::thread::Builder::new().name("plugin-deadlines".into()).spawn(run)?;
        Ok(Self { _alive: alive })
    }
}

/// The pool's slots. A step takes one while it runs, so that a pool that is in use is waited for instead of failing.
pub(super) struct Slots {
    queue: Mutex<Queue>,
    freed: Condvar,
}

struct Queue {
    free: u32,
    /// Threads that wait. Waking nobody is a system call too, and one per step would be felt.
    waiting: u32,
}

/// A slot that is taken; dropping it frees it.
pub(super) struct Slot<'a>(&'a Slots);

impl Slots {
    pub(super) fn new(slots: u32) -> Self {
        Self { queue: Mutex::new(Queue { free: slots.max(1), waiting: 0 }), freed: Condvar::new() }
    }

    /// Takes a slot, waiting for one if all are taken.
    pub(super) fn take(&self) -> Slot<'_> {
        let mut queue = self.lock();
        while queue.free == 0 {
            queue.waiting += 1;
            queue = self.freed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.waiting -= 1;
        }
        queue.free -= 1;
        Slot(self)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.free += 1;
        if queue.waiting > 0 {
            self.0.freed.notify_one();
        }
    }
}
