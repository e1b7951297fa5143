//! The plugin in two versions: hosts that come back may have been upgraded, or not yet.

use crate::engine::{Plugin, PluginError};

/// What the newer version calls the workspace in its results, and the older one.
const NEWER: &[u8] = b"workspace_nick";
const OLDER: &[u8] = b"workspace_name";

/// Both versions. Cheap to clone.
#[derive(Clone)]
pub struct Plugins {
    pub older: Plugin,
    pub newer: Plugin,
}

impl Plugins {
    /// This plugin, and another one whose results differ, so that it shows which of them a call ran on.
    pub fn new(older: &Plugin) -> Result<Self, PluginError> {
        let mut changed = older.component().to_vec();
        for at in 0..changed.len().saturating_sub(OLDER.len()) {
            if changed[at..].starts_with(OLDER) {
                changed[at..at + OLDER.len()].copy_from_slice(NEWER);
            }
        }
        Ok(Self { older: older.clone(), newer: older.engine().load(&changed)? })
    }

    /// The one with this hash.
    pub fn of(&self, hash: &str) -> Option<&Plugin> {
        [&self.older, &self.newer].into_iter().find(|plugin| plugin.report().sha256 == hash)
    }
}
