//! Paths that mean the same wherever this program is started.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// A path that means the same wherever this program is started.
pub fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot tell where `{}` is", path.display()))
}
