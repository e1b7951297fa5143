//! The data folder's lock and `server.json`, by which other processes (agents, a second command) find the server.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::error::LocalError;

/// How long [`find`] waits for a server that holds the lock and does not answer yet.
const FIND_LIMIT: Duration = Duration::from_secs(5);
/// How long it waits between two looks: a server that starts answers within a few of them.
const FIND_PAUSE: Duration = Duration::from_millis(50);

/// The process of an endpoint that nobody has served yet. No process has this number.
pub(super) const NOBODY: u32 = 0;

impl Endpoint {
    pub(super) fn read(data_dir: &Path) -> Result<Option<Self>, LocalError> {
        let path = server_file(data_dir);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| LocalError::File { path, error: io::Error::other(error) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LocalError::File { path, error }),
        }
    }

    /// Written by rename: a reader sees the old file or the new one.
    pub(super) fn write(&self, data_dir: &Path) -> Result<(), LocalError> {
        let path = server_file(data_dir);
        write_private(&path, self).map_err(|error| LocalError::File { path, error })
    }
}

pub(super) fn server_file(data_dir: &Path) -> PathBuf {
    data_dir.join("server.json")
}

/// Writes `value` as JSON to a file that only its owner can read, by rename.
pub(super) fn write_private(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    fs::rename(unfinished, path)
}

/// Makes a folder that only its owner can enter. An existing one is left as it is.
pub(super) fn make_private_folder(path: &Path) -> Result<(), LocalError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| LocalError::File { path: path.to_owned(), error })
}

/// The right to serve a data folder. The system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that is just being started has a copy of it for a moment.
        // Should this fail, closing it is what is left.
        let _ = self.file.unlock();
    }
}

impl FolderLock {
    /// None: another process has it.
    pub fn take(data_dir: &Path) -> Result<Option<Self>, LocalError> {
        let path = data_dir.join("lock");
        let file_error = |error| LocalError::File { path: path.clone(), error };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(file_error)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(file_error(error)),
        }
    }
}

/// A secret of 128 random bits.
pub(super) fn new_token() -> String {
    let mut bytes = [0_u8; 16];
    // Fails only on a system without any error of randomness, where nothing here could work.
    getrandom::fill(&mut bytes).expect("the system gives random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) async fn find(data_dir: &Path) -> Result<Option<Endpoint>, LocalError> {
    let until = Instant::now() + FIND_LIMIT;
    loop {
        if !data_dir.is_dir() || FolderLock::take(data_dir)?.is_some() {
            return Ok(None);
        }
        // One that nobody has served is about to be written by the server that has just bound its port.
        if let Some(endpoint) = Endpoint::read(data_dir)?
            && endpoint.pid != NOBODY
            && let Some(port) = endpoint.port()
            && TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        {
            return Ok(Some(endpoint));
        }
        if Instant::now() > until {
            return Err(LocalError::Unresponsive { data_dir: data_dir.to_owned() });
        }
        tokio::time::sleep(FIND_PAUSE).await;
    }
}
