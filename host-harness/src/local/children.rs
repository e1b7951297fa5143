//! The agent processes that this server has started.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;

/// The agents that this server has started, from before they hold their pid file, by their folder.
#[derive(Debug, Default)]
pub(super) struct Children {
    by_folder: Mutex<HashMap<PathBuf, Pid>>,
}

impl Children {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Pid>> {
        self.by_folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
