//! What the host remembers of chats: bindings, counts, restart verdicts, and which builds its calls made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "store")]
mod sqlite;
#[cfg(feature = "store")]
pub use sqlite::SqliteStore;

/// Where chats are kept. Functions are quick and synchronous; each is atomic, also against other processes that share
/// the store.
pub trait ChatStore: Send + Sync {
    /// The chat of that name, if it is known.
    fn chat(&self, name: &str) -> Result<Option<ChatRecord>, StoreError>;

    /// All chats, by name.
    fn chats(&self) -> Result<Vec<ChatRecord>, StoreError>;

    /// Changes a chat in one transaction, making it first if it is not known. Answers what it is then.
    fn update(&self, name: &str, change: &mut dyn FnMut(&mut ChatRecord)) -> Result<ChatRecord, StoreError>;

    /// Forgets a chat. Answers whether it was known.
    fn remove(&self, name: &str) -> Result<bool, StoreError>;

    /// Remembers that a restart of the workspace was advised at this time (host's Unix milliseconds).
    fn note_restart(&self, workspace: &str, at_ms: u64) -> Result<(), StoreError>;

    /// How many restarts of the workspace were advised at or after this time.
    fn restarts_since(&self, workspace: &str, since_ms: u64) -> Result<u32, StoreError>;

    /// Remembers a build that a call of this host made.
    fn note_own_build(&self, build: &str) -> Result<(), StoreError>;

    /// Whether a call of this host made the build.
    fn is_own_build(&self, build: &str) -> Result<bool, StoreError>;
}

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

/// Why the store could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, read or written.
    #[error(
        "the chat store {path} cannot be used: {reason}; check that the file and its folder are writable"
    )]
    Unusable {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// The file was written by a newer version of this program.
    #[error(
        "the chat store {path} has format {found}, this program knows {known}: use a newer program or another file"
    )]
    Newer {
        /// The file.
        path: String,
        /// The format found.
        found: i64,
        /// The newest format known.
        known: i64,
    },
}

/// A store that lives as long as the value.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    chats: BTreeMap<String, ChatRecord>,
    restarts: BTreeMap<String, Vec<u64>>,
    own_builds: BTreeSet<String>,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Nothing panics while holding the lock but a caller's `change`, which works on a copy.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChatStore for MemoryStore {
    fn chat(&self, name: &str) -> Result<Option<ChatRecord>, StoreError> {
        Ok(self.lock().chats.get(name).cloned())
    }

    fn chats(&self) -> Result<Vec<ChatRecord>, StoreError> {
        Ok(self.lock().chats.values().cloned().collect())
    }

    fn update(&self, name: &str, change: &mut dyn FnMut(&mut ChatRecord)) -> Result<ChatRecord, StoreError> {
        let mut memory = self.lock();
        let mut chat = memory.chats.get(name).cloned().unwrap_or_default();
        name.clone_into(&mut chat.name);
        change(&mut chat);
        memory.chats.insert(name.to_owned(), chat.clone());
        Ok(chat)
    }

    fn remove(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.lock().chats.remove(name).is_some())
    }

    fn note_restart(&self, workspace: &str, at_ms: u64) -> Result<(), StoreError> {
        self.lock().restarts.entry(workspace.to_owned()).or_default().push(at_ms);
        Ok(())
    }

    fn restarts_since(&self, workspace: &str, since_ms: u64) -> Result<u32, StoreError> {
        let memory = self.lock();
        let times = memory.restarts.get(workspace).map(Vec::as_slice).unwrap_or_default();
        Ok(u32::try_from(times.iter().filter(|at| **at >= since_ms).count()).unwrap_or(u32::MAX))
    }

    fn note_own_build(&self, build: &str) -> Result<(), StoreError> {
        self.lock().own_builds.insert(build.to_owned());
        Ok(())
    }

    fn is_own_build(&self, build: &str) -> Result<bool, StoreError> {
        Ok(self.lock().own_builds.contains(build))
    }
}
