//! Where a control plane answers.

use serde::{Deserialize, Serialize};

/// Where a control plane answers. `server.json` in its data folder, readable by its owner only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The base address, such as `http://127.0.0.1:40123`.
    pub url: String,
    /// The token for the header `Coder-Session-Token`.
    pub token: String,
    /// The process that serves, or served last. 0: none has yet.
    pub pid: u32,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(super) fn new(port: u16, token: String, pid: u32) -> Self {
        Self { url: format!("http://127.0.0.1:{port}"), token, pid }
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.url.rsplit(':').next()?.parse().ok()
    }
}
