//! The REST client, and what rests on it, against a server that answers what a real one answered (`tests/transcripts`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "../../../tests/support/builders.rs"]
mod builders;
mod client;
mod dormant;
mod effects;
mod errors;
mod every;
mod headers;
mod play;
mod proxies;
mod replay;
mod secrets;
mod stage;
mod tls;
mod token;
mod transcript;
mod verdicts;
mod waits;

use workspace_recovery::bindings as types;

/// The token that the server is shown in all tests.
const TOKEN: &str = "secret-token-1234";
