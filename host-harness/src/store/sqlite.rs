//! Chats in one SQLite file.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::{ChatRecord, ChatStore, Failures, StoreError};

/// The format of the file, kept in its `user_version`.
const FORMAT: i64 = 1;
/// How long to wait for another process that writes: its transactions take milliseconds.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE chat (
        name TEXT PRIMARY KEY,
        workspace TEXT,
        build TEXT,
        agent TEXT,
        timeouts INTEGER NOT NULL,
        failed_build TEXT,
        away INTEGER NOT NULL,
        last_failure_ms INTEGER,
        last_away_ms INTEGER
    ) STRICT;
    CREATE TABLE restart_verdict (workspace TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;
    CREATE INDEX restart_verdict_workspace ON restart_verdict (workspace, at_ms);
    CREATE TABLE own_build (id TEXT PRIMARY KEY) STRICT;
";

const COLUMNS: &str =
    "name, workspace, build, agent, timeouts, failed_build, away, last_failure_ms, last_away_ms";

/// A store in a file that outlives processes and may be shared by several.
pub struct SqliteStore {
    path: String,
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Opens the file, making it if it is missing. Its folder must exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let unusable = |error: rusqlite::Error| unusable(&shown, &error);
        let mut connection = Connection::open(path).map_err(unusable)?;
        connection.busy_timeout(BUSY_LIMIT).map_err(unusable)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(unusable)?;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(unusable)?;
        let found: i64 =
            transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unusable)?;
        match found {
            FORMAT => {}
            0 => {
                transaction.execute_batch(SCHEMA).map_err(unusable)?;
                transaction.pragma_update(None, "user_version", FORMAT).map_err(unusable)?;
            }
            found => return Err(StoreError::Newer { path: shown, found, known: FORMAT }),
        }
        transaction.commit().map_err(unusable)?;
        Ok(Self { path: shown, connection: Mutex::new(connection) })
    }

    /// Runs `work` on the connection, which no other thread uses meanwhile.
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        work(&mut self.lock()).map_err(|error| unusable(&self.path, &error))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic under the lock leaves no transaction open: dropping it rolls back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChatStore for SqliteStore {
    fn chat(&self, name: &str) -> Result<Option<ChatRecord>, StoreError> {
        self.with(|connection| read(connection, name))
    }

    fn chats(&self) -> Result<Vec<ChatRecord>, StoreError> {
        self.with(|connection| {
            connection
                .prepare(&format!("SELECT {COLUMNS} FROM chat ORDER BY name"))?
                .query_map([], record)?
                .collect()
        })
    }

    fn update(&self, name: &str, change: &mut dyn FnMut(&mut ChatRecord)) -> Result<ChatRecord, StoreError> {
        self.with(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut chat = read(&transaction, name)?.unwrap_or_default();
            name.clone_into(&mut chat.name);
            change(&mut chat);
            write(&transaction, &chat)?;
            transaction.commit()?;
            Ok(chat)
        })
    }

    fn remove(&self, name: &str) -> Result<bool, StoreError> {
        self.with(|connection| Ok(connection.execute("DELETE FROM chat WHERE name = ?1", [name])? > 0))
    }

    fn note_restart(&self, workspace: &str, at_ms: u64) -> Result<(), StoreError> {
        self.with(|connection| {
            let insert = "INSERT INTO restart_verdict (workspace, at_ms) VALUES (?1, ?2)";
            connection.execute(insert, params![workspace, signed(at_ms)]).map(drop)
        })
    }

    fn restarts_since(&self, workspace: &str, since_ms: u64) -> Result<u32, StoreError> {
        self.with(|connection| {
            let count = "SELECT count(*) FROM restart_verdict WHERE workspace = ?1 AND at_ms >= ?2";
            connection.query_row(count, params![workspace, signed(since_ms)], |row| row.get(0))
        })
    }

    fn note_own_build(&self, build: &str) -> Result<(), StoreError> {
        self.with(|connection| {
            connection.execute("INSERT OR IGNORE INTO own_build (id) VALUES (?1)", [build]).map(drop)
        })
    }

    fn is_own_build(&self, build: &str) -> Result<bool, StoreError> {
        self.with(|connection| {
            let exists = "SELECT EXISTS (SELECT 1 FROM own_build WHERE id = ?1)";
            connection.query_row(exists, [build], |row| row.get(0))
        })
    }
}

fn read(connection: &Connection, name: &str) -> rusqlite::Result<Option<ChatRecord>> {
    connection
        .prepare(&format!("SELECT {COLUMNS} FROM chat WHERE name = ?1"))?
        .query_row([name], record)
        .optional()
}

fn record(row: &Row<'_>) -> rusqlite::Result<ChatRecord> {
    let time = |column| row.get::<_, Option<i64>>(column).map(|at| at.map(i64::unsigned_abs));
    Ok(ChatRecord {
        name: row.get(0)?,
        workspace: row.get(1)?,
        build: row.get(2)?,
        agent: row.get(3)?,
        failures: Failures {
            timeouts: row.get(4)?,
            build: row.get(5)?,
            away: row.get(6)?,
            last_ms: time(7)?,
            last_away_ms: time(8)?,
        },
    })
}

fn write(transaction: &Transaction<'_>, chat: &ChatRecord) -> rusqlite::Result<()> {
    let failures = &chat.failures;
    let replace = format!("REPLACE INTO chat ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    transaction.prepare(&replace)?.execute(params![
        chat.name,
        chat.workspace,
        chat.build,
        chat.agent,
        failures.timeouts,
        failures.build,
        failures.away,
        failures.last_ms.map(signed),
        failures.last_away_ms.map(signed),
    ])?;
    Ok(())
}

/// SQLite has no unsigned numbers; times reach the limit in the year 292 million.
fn signed(at_ms: u64) -> i64 {
    i64::try_from(at_ms).unwrap_or(i64::MAX)
}

fn unusable(path: &str, error: &rusqlite::Error) -> StoreError {
    StoreError::Unusable { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn what_was_stored_is_found_by_the_next_process() {
        let folder = folder();
        let path = folder.path().join("chats.db");
        let failures = Failures {
            timeouts: 1,
            build: Some("b1".into()),
            away: 2,
            last_ms: Some(1_700_000_000_000),
            last_away_ms: Some(5),
        };
        let store = SqliteStore::open(&path).unwrap();
        let written = store
            .update("ana", &mut |chat| {
                chat.bind(Some("w1"));
                chat.build = Some("b1".into());
                chat.agent = Some("a1".into());
                chat.failures = failures.clone();
            })
            .unwrap();
        store.note_own_build("b1").unwrap();
        store.note_own_build("b1").unwrap();
        store.note_restart("w1", 100).unwrap();
        store.note_restart("w1", 200).unwrap();
        store.note_restart("w2", 200).unwrap();
        drop(store);

        let store = SqliteStore::open(&path).unwrap();
        assert_eq!(store.chat("ana").unwrap(), Some(written.clone()));
        assert_eq!(store.chats().unwrap(), [written]);
        assert!(store.is_own_build("b1").unwrap() && !store.is_own_build("b2").unwrap());
        assert_eq!(
            (store.restarts_since("w1", 100).unwrap(), store.restarts_since("w1", 101).unwrap()),
            (2, 1)
        );
        assert!(store.remove("ana").unwrap() && !store.remove("ana").unwrap());
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_and_left_as_it_is() {
        let folder = folder();
        let path = folder.path().join("chats.db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", FORMAT + 1).unwrap();
        let error = SqliteStore::open(&path).err().unwrap();
        assert!(matches!(error, StoreError::Newer { found, known, .. } if found == known + 1), "{error}");
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 0);
    }

    #[test]
    fn two_processes_count_the_same_chat_without_losing_a_count() {
        let folder = folder();
        let path = folder.path().join("chats.db");
        let stores = [SqliteStore::open(&path).unwrap(), SqliteStore::open(&path).unwrap()];
        std::thread::scope(|scope| {
            for store in &stores {
                scope.spawn(|| {
                    for _ in 0..50 {
                        store.update("ana", &mut |chat| chat.failures.timeouts += 1).unwrap();
                    }
                });
            }
        });
        assert_eq!(stores[0].chat("ana").unwrap().unwrap().failures.timeouts, 100);
    }
}
