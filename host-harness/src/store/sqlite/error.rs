//! What SQLite says, as the store's own errors.

use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

use crate::store::error::StoreError;

/// What an error of SQLite means for whoever uses the store.
pub(super) fn of_sqlite(path: &str, error: &rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    let extended = error.sqlite_error().map(|error| error.extended_code);
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        // The file beside the store that processes share in memory cannot be made as large as it has to be.
        _ if extended == Some(SQLITE_IOERR_SHMSIZE) => StoreError::Full { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path, reason: error.to_string() }
        }
        _ => StoreError::Unusable { path, reason: error.to_string() },
    }
}
