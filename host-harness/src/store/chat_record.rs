//! What is kept of a chat.

/// One chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatRecord {
    /// Its name, unique in the store.
    pub name: String,
    /// The id of the workspace it is bound to.
    pub workspace: Option<String>,
    /// The build it was last bound to.
    pub build: Option<String>,
    /// The agent that it last reached, until a new build clears it.
    pub agent: Option<String>,
    /// What has gone wrong lately.
    pub failures: Failures,
}

/// Failures in a row. They are forgotten on success, on a new build, and after a quiet time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Dials that timed out and count.
    pub timeouts: u32,
    /// The newest build when they did.
    pub build: Option<String>,
    /// Dials for whose failure the control plane was to blame.
    pub away: u32,
    /// When the last dial failed, host's Unix milliseconds.
    pub last_ms: Option<u64>,
    /// When a read of the control plane last failed during a dial, host's Unix milliseconds.
    pub last_away_ms: Option<u64>,
}

impl ChatRecord {
    /// Binds the chat to a workspace, or to none. Binding it to another one forgets build, agent and failures.
    pub fn bind(&mut self, workspace: Option<&str>) {
        if self.workspace.as_deref() != workspace {
            *self = Self { name: std::mem::take(&mut self.name), ..Self::default() };
            self.workspace = workspace.map(str::to_owned);
        }
    }
}
