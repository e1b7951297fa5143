//! A backend in one SQLite file.
//!
//! The journal mode is WAL, so that readers and the writer do not wait for each other, and `synchronous` is FULL: each
//! commit is on the disk before it counts. The weaker NORMAL would lose the last commits when the machine loses power,
//! and with them the intent of a build that was already asked for.
//!
//! One thread writes. What piles up while it waits for the disk is committed together, so that many calls share one
//! wait.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::error::StoreError;
use super::transaction::{Backend, Committed, ReadTransaction, Work};
use error::of_sqlite;
use rows::Rows;
use writer::Writer;

mod error;
mod rows;
mod schema;
mod writer;

/// How long to wait for another process that writes: its transactions take milliseconds.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// The pages of the file that a connection keeps in memory, in KiB: those that the calls in flight write to, and the
/// upper levels of the tables.
const CACHE: i32 = 16 * 1024;
/// The pages that are written to the log before they are written back to the file. A page that changes often is written
/// back once for all its changes.
const LOG_PAGES: i32 = 4_000;
/// Prepared statements kept per connection: all there are.
const STATEMENTS: usize = 64;

/// A store in a file that outlives processes and may be shared by several.
pub(super) struct Sqlite {
    file: PathBuf,
    /// As errors show it.
    path: String,
    writer: Writer,
    reader: Mutex<Connection>,
}

impl Sqlite {
    /// Opens the file, making it if it is missing, and brings it to the present format. Its folder must exist.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let mut connection = connect(path).map_err(|error| of_sqlite(&shown, &error))?;
        schema::migrate(&mut connection, &shown)?;
        let reader = connect(path)
            .and_then(|reader| reader.pragma_update(None, "query_only", true).map(|()| reader))
            .map_err(|error| of_sqlite(&shown, &error))?;
        let writer = Writer::start(connection, shown.clone())?;
        Ok(Self { file: path.to_owned(), path: shown, writer, reader: Mutex::new(reader) })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        // A panic under the lock leaves no transaction open: dropping it rolls back.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Sqlite {
    fn transact(&self, work: Work) -> Committed {
        self.writer.transact(work)
    }

    fn read(
        &self,
        work: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut reader = self.reader();
        let transaction = reader
            .transaction_with_behavior(TransactionBehavior::Deferred)
            .map_err(|error| of_sqlite(&self.path, &error))?;
        work(&Rows { connection: &transaction, path: &self.path })
    }

    fn generation(&self) -> Result<u64, StoreError> {
        let version: i64 = self
            .reader()
            .pragma_query_value(None, "data_version", |row| row.get(0))
            .map_err(|error| of_sqlite(&self.path, &error))?;
        Ok(version.unsigned_abs())
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.file)
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        // Each connection is used by one thread at a time, which the types see to.
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_LIMIT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise statements are prepared anew for new values, in the hope of a better plan: half the time of a query.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    // Negative: KiB.
    connection.pragma_update(None, "cache_size", -CACHE)?;
    // What savepoints need to be undone would be written to temporary files, one per transaction.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

#[cfg(test)]
mod tests;
