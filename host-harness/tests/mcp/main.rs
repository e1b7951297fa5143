//! The MCP server as agents use it: the program itself, against a real local control plane.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod agent;
mod arguments;
mod asking;
mod basics;
mod calls;
mod cold;
mod config;
mod deployment;
mod follower;
mod hostile;
mod http;
mod inside;
mod joins;
mod patience;
mod played;
mod ready;
mod rows;
mod rows_deployment;
mod schemas;
mod served;
mod sessions;
mod tokens;
mod world;
