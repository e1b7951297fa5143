//! Runs the workspace-recovery plugin: for people who build chat hosts.
//!
//! The plugin (see `wit/` for its contract) is a pure function of its journal. The [`engine`] steps it, the [`driver`]
//! carries out the one request that a step ends with, against a [`control_plane`]; a [`chat`] runs commands in a
//! workspace and asks the plugin what to do when the workspace cannot be reached.
//!
//! # A whole host
//!
//! It runs a command in a workspace and, if that cannot be reached, does what the verdict says (with the features
//! `plugin` and `rest`; `examples/embed.rs` is the same as a program, and `docs/embedding.md` goes through it):
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use tokio_util::sync::CancellationToken;
//! # use workspace_recovery::bindings::Action;
//! # use workspace_recovery::chat::{ChatHost, Execute, ExecuteError};
//! # use workspace_recovery::control_plane::rest::RestClient;
//! # use workspace_recovery::driver::Driver;
//! # use workspace_recovery::engine::{Engine, EngineOptions};
//! # use workspace_recovery::policy::{ChatTools, Timings};
//! # use workspace_recovery::store::Store;
//! # async fn host(url: &str, token: &str, workspace: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let plugin = Engine::new(EngineOptions::default())?.load(workspace_recovery::PLUGIN)?;
//! let plane = Arc::new(RestClient::new(url, token)?);
//! let driver = Driver::new(plugin, plane, Store::in_memory(), Timings::default());
//! let names = driver.list_tools().await?.into_iter().map(|tool| tool.name).collect();
//!
//! let host = ChatHost::new(driver);
//! host.bind("my chat", workspace).await?;
//! let chat = host.chat("my chat", ChatTools { names, ..ChatTools::default() });
//!
//! let interrupt = CancellationToken::new();
//! let command = Execute { command: "uname -a".to_owned(), ..Execute::default() };
//! match chat.execute(&command, &interrupt).await {
//!     Ok(executed) => print!("{}", executed.output),
//!     Err(ExecuteError::Unreachable(why)) if why.verdict.action == Action::Restart => {
//!         let arguments = r#"{"only_if_unreachable": true}"#;
//!         let restarted = chat.call_tool("restart_workspace", arguments, &interrupt).await?;
//!         println!("{}: {restarted:?}", why.verdict.message);
//!     }
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! - [`bindings`]: the contract's types.
//! - [`journal`]: a call as data: its input, its requests, their answers.
//! - [`engine`]: checks, compiles and steps plugins, within limits.
//! - [`control_plane`]: what a control plane can be asked for, and the REST client (feature `rest`).
//! - [`driver`]: runs calls: requests, waits, turns at a workspace, events.
//! - [`chat`]: chats: dials, `execute`, verdicts.
//! - [`store`]: chats, and calls with their journals, in memory or in a SQLite file (feature `store`).
//! - [`limits`]: the limits of a plugin, each with its reason.
//! - [`evidence`]: for how long an agent has been gone.
//! - [`replay`]: runs a recorded call again, offline.
//! - [`policy`]: the times that hosts keep to and that tests shorten.
//! - [`clock`]: the host's wall clock.
#![cfg_attr(
    feature = "local",
    doc = "- [`local`]: a control plane on this machine, with real agent processes."
)]
#![cfg_attr(
    feature = "simulate",
    doc = "- [`simulate`]: plugin, engine and driver in worlds made of chance."
)]
#![cfg_attr(feature = "mcp", doc = "- [`mcp`]: the tools as an MCP server.")]
#![cfg_attr(feature = "cli", doc = "- [`cli`]: the command line.")]

mod arguments;
pub mod bindings;
#[cfg(test)]
#[path = "../../tests/support/host_builders.rs"]
mod builders;
pub mod chat;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod control_plane;
#[cfg(feature = "mcp")]
mod describe;
pub mod driver;
pub mod engine;
pub mod evidence;
mod greeting;
pub mod journal;
pub mod limits;
#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "mcp")]
pub mod mcp;
pub mod policy;
pub mod replay;
mod sanitize;
#[cfg(feature = "simulate")]
pub mod simulate;
pub mod store;

#[cfg(test)]
use bindings as types;

/// The plugin of this repository, a component. Feature `plugin`.
#[cfg(feature = "plugin")]
pub use guest_artifact::COMPONENT as PLUGIN;

/// The examples of the page on embedding.
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedding.md")]
struct Embedding;
