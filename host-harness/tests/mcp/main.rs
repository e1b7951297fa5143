//! The MCP server as agents use it: the program itself, against a real local control plane.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod agent;
mod basics;
mod calls;
mod follower;
mod rows;
mod world;
