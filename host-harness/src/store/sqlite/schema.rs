//! The formats of the file, and how an older one becomes the present one.

use rusqlite::{Connection, TransactionBehavior};

use super::error::of_sqlite;
use crate::store::error::StoreError;

/// What each format adds to the one before. The file's `user_version` says how many of them it has.
const STEPS: [&str; 3] = [CHATS, CALLS, DETACHED];

/// `restart_verdict` holds the restarts that were made; its name is of a time in which advice was counted.
const CHATS: &str = "
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

/// Calls, journals, leases. The partial indices hold unended calls only, so that they stay small however many are kept.
/// `call_lane` and `call_news` are those of the queues and of calls that need attention; files keep these names.
const CALLS: &str = "
    ALTER TABLE own_build ADD COLUMN at_ms INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX own_build_at ON own_build (at_ms);
    CREATE INDEX restart_verdict_at ON restart_verdict (at_ms);
    CREATE TABLE host (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        deployment TEXT NOT NULL,
        user TEXT,
        lease_until_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE component (hash TEXT PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
    CREATE TABLE call (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        chat TEXT NOT NULL,
        request_key TEXT,
        tool TEXT NOT NULL,
        arguments TEXT NOT NULL,
        deployment TEXT NOT NULL,
        user TEXT,
        workspace TEXT,
        component TEXT NOT NULL,
        record TEXT NOT NULL,
        state INTEGER NOT NULL,
        owner INTEGER,
        interrupted INTEGER NOT NULL,
        sent INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        touched_ms INTEGER NOT NULL,
        note TEXT,
        outcome TEXT,
        ended_ms INTEGER
    ) STRICT;
    CREATE UNIQUE INDEX call_key ON call (chat, request_key) WHERE request_key IS NOT NULL;
    CREATE INDEX call_lane ON call (workspace, id) WHERE state < 2 AND workspace IS NOT NULL;
    CREATE INDEX call_owner ON call (owner, id) WHERE state < 2;
    CREATE INDEX call_news ON call (owner, id) WHERE state < 2 AND (state = 0 OR interrupted = 1);
    CREATE INDEX call_ended ON call (ended_ms) WHERE state = 2;
    CREATE INDEX call_component ON call (component);
    CREATE TABLE entry (
        call INTEGER NOT NULL,
        idx INTEGER NOT NULL,
        format INTEGER NOT NULL,
        function TEXT NOT NULL,
        class TEXT NOT NULL,
        request TEXT NOT NULL,
        intent TEXT,
        asked_ms INTEGER NOT NULL,
        answer TEXT,
        observed_ms INTEGER,
        answered_ms INTEGER,
        PRIMARY KEY (call, idx)
    ) STRICT, WITHOUT ROWID;
";

/// Which calls go on though nobody waits for them. Of those that were begun before, nobody has said that they may end.
const DETACHED: &str = "ALTER TABLE call ADD COLUMN detached INTEGER NOT NULL DEFAULT 1;";

/// The newest format that this program knows.
pub(super) fn newest() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Brings a file to the newest format, in one transaction. A file of a newer program is left as it is.
pub(super) fn migrate(connection: &mut Connection, path: &str) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| of_sqlite(path, &error);
    // As a rule there is nothing to do, and nobody who writes at the moment has to be waited for.
    let present: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if present == newest() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: i64 =
        transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let Some(missing) = usize::try_from(found).ok().and_then(|found| STEPS.get(found..)) else {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: newest() });
    };
    if missing.is_empty() {
        return Ok(());
    }
    for step in missing {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", newest()).map_err(failed)?;
    transaction.commit().map_err(failed)
}
