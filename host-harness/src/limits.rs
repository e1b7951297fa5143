//! The limits of a plugin, each with its reason, and the errors that say which one was reached.
//!
//! A limit only ever *ends* a call: a plugin cannot see how much is left, so no limit steers what it does. "The largest
//! honest call" below is a restart with every conflict round, several hundred agents and long build errors. Each limit
//! leaves it room a hundredfold, except where the reason says otherwise.

use thiserror::Error;

/// Bytes of one linear memory. The guest needs 128 KiB to 1 MiB; the largest honest call stays below 200 KiB.
pub const MEMORY_BYTES: usize = 16 << 20;

/// Elements of one table. A table holds the functions that are called indirectly: about a hundred in an honest guest.
pub const TABLE_ELEMENTS: usize = 10_000;

/// Bytes of native stack that a plugin's calls may take. The host's threads need this much on top of their own use: a
/// thread of 2 MiB (the default of Rust and tokio) has room. An honest guest uses a few KiB.
pub const STACK_BYTES: usize = 256 << 10;

/// Instructions of one step, about: one unit of fuel is one instruction, or one byte of a bulk copy. The largest honest
/// step takes a few hundred thousand. All of it takes some 50 ms.
pub const STEP_FUEL: u64 = 100_000_000;

/// Bytes that the plugin may hand over in one host call, and in its result, counting each value in its host form.
/// Bounds what the host allocates on a plugin's behalf. The largest honest one is the list of tools, below 40 KiB.
pub const TRANSFER_BYTES: usize = 4 << 20;

/// Bytes of one string from the plugin. The longest honest one is a tool's schema or a result, below 10 KiB.
pub const OUT_STRING_BYTES: usize = 1 << 20;

/// Items of one list from the plugin. The longest honest one has as many items as a template has parameters: tens.
pub const OUT_LIST_ITEMS: usize = 4_096;

/// Bytes of all strings in a call's input. The longest honest one is a start's parameters, a few KiB.
pub const INPUT_BYTES: usize = 512 << 10;

/// Bytes of one request, as recorded. It carries part of the input at most.
pub const REQUEST_BYTES: usize = 1 << 20;

/// Host calls of one call. The largest honest call makes about forty.
pub const HOST_CALLS: usize = 4_096;

/// Bytes of one answer, as recorded. Below a hundredfold on purpose: the lists and strings in an answer are cut or
/// refused first, see below.
pub const ANSWER_BYTES: usize = 1 << 20;

/// Bytes of a whole journal, as recorded. The largest honest call stays below 160 KiB.
pub const JOURNAL_BYTES: usize = 16 << 20;

/// Bytes of a text in an answer that is only there to be read (an error, a detail). Longer ones are cut: a model is
/// better served by the beginning of a build error than by none.
pub const ANSWER_TEXT_BYTES: usize = 8 << 10;

/// Bytes of an identifier or a name in an answer. They cannot be cut without meaning something else, so an answer with
/// a longer one is refused. Control planes use 36 characters for identifiers and up to 64 for names.
pub const ANSWER_NAME_BYTES: usize = 1 << 10;

/// Agents in one answer; more are refused, because leaving some out could change a verdict. A workspace has a handful.
pub const ANSWER_AGENTS: usize = 512;

/// Field problems in one answer; the rest is cut. A form with more problems than this is not read to its end.
pub const ANSWER_PROBLEMS: usize = 128;

/// Bytes of a component. The plugin of this repository has some 260 KiB.
pub const COMPONENT_BYTES: usize = 16 << 20;

/// Core instances, memories and tables that one component may be made of. A component made by the usual tools has one
/// module of its own and two small ones that join it to its imports; this leaves room for an adapter.
pub const CORE_INSTANCES: u32 = 8;

/// The engine and its limits in a few words, for the record of a call.
pub fn description() -> String {
    format!(
        "wasmtime 48, memory {MEMORY_BYTES}, table {TABLE_ELEMENTS}, stack {STACK_BYTES}, fuel {STEP_FUEL}, \
         host calls {HOST_CALLS}, journal {JOURNAL_BYTES}"
    )
}

/// A limit that a call has reached. It ends the call and is the same on every host.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Limit {
    /// [`MEMORY_BYTES`]
    #[error("the plugin asked for {wanted} bytes of memory; it may have {MEMORY_BYTES}")]
    Memory {
        /// The size wanted, in bytes.
        wanted: usize,
    },
    /// [`TABLE_ELEMENTS`]
    #[error("the plugin asked for a table of {wanted} elements; it may have {TABLE_ELEMENTS}")]
    Table {
        /// The size wanted, in elements.
        wanted: usize,
    },
    /// [`STACK_BYTES`]
    #[error("the plugin's calls are nested too deeply: they may take {STACK_BYTES} bytes of stack")]
    Stack,
    /// [`STEP_FUEL`]
    #[error("the plugin did not come to a host call or to its end within {STEP_FUEL} instructions")]
    Fuel,
    /// [`TRANSFER_BYTES`]
    #[error("the plugin handed over more than {TRANSFER_BYTES} bytes at once")]
    Transfer,
    /// [`OUT_STRING_BYTES`]
    #[error("the plugin handed over a string of {bytes} bytes; it may have {OUT_STRING_BYTES}")]
    OutString {
        /// The string's length, in bytes.
        bytes: usize,
    },
    /// [`OUT_LIST_ITEMS`]
    #[error("the plugin handed over a list of {items} items; it may have {OUT_LIST_ITEMS}")]
    OutList {
        /// The list's length.
        items: usize,
    },
    /// [`INPUT_BYTES`]
    #[error("the call's input has {bytes} bytes; it may have {INPUT_BYTES}")]
    Input {
        /// The length of all strings of the input, in bytes.
        bytes: usize,
    },
    /// [`REQUEST_BYTES`]
    #[error("the plugin made a request of {bytes} bytes; it may have {REQUEST_BYTES}")]
    Request {
        /// The request's length as recorded, in bytes.
        bytes: usize,
    },
    /// [`HOST_CALLS`]
    #[error("the plugin made more than {HOST_CALLS} host calls")]
    HostCalls,
    /// [`JOURNAL_BYTES`]
    #[error("the call's journal has no room for another host call: it may have {JOURNAL_BYTES} bytes")]
    Journal,
}
