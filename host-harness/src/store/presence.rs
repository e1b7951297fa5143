//! Whether the process of a host is still there, on this machine.
//!
//! A host holds a lock on a file beside the store for as long as its process lives: the operating system lets go of it
//! when the process ends, however it ends. Whoever finds the lock free knows that the host is gone, and need not wait
//! for the end of its lease. A host without such a file (of another kind of store, or where files cannot be locked) is
//! judged by its lease alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::transaction::HostId;

/// Shows that a host is there, until it is dropped or the process ends.
pub(super) struct Presence {
    path: PathBuf,
    _locked: File,
}

impl Presence {
    /// Shows that the host is there. None where that cannot be shown, which costs others some time and nothing else.
    pub(super) fn show(store: &Path, host: HostId) -> Option<Self> {
        let path = file(store, host);
        let locked = lock(&path).inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "should this process be killed, its calls wait longer");
        });
        Some(Self { _locked: locked.ok()?, path })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Whether a host has shown that it was there, and its process is gone.
pub(super) fn is_gone(store: &Path, host: HostId) -> bool {
    File::open(file(store, host)).is_ok_and(|file| file.try_lock().is_ok())
}

/// Forgets a host that is gone.
pub(super) fn forget(store: &Path, host: HostId) {
    remove(&file(store, host));
}

/// Locked before it has its name: nobody finds it unlocked while its host lives.
fn lock(path: &Path) -> io::Result<File> {
    let made = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    made.as_file().try_lock()?;
    Ok(made.persist(path)?)
}

fn file(store: &Path, host: HostId) -> PathBuf {
    let mut path = store.as_os_str().to_owned();
    path.push(format!("-host-{host}"));
    path.into()
}

/// It may be gone already.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}
