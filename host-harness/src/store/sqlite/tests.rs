//! What only a file can do wrong.

use std::fs;
use std::sync::Arc;

use rusqlite::params;

use super::super::{ChatRecord, Failures, Store};
use super::*;
use crate::clock::{Clock, SystemClock};
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A file as the first version of this program made it.
fn first_format(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE chat (name TEXT PRIMARY KEY, workspace TEXT, build TEXT, agent TEXT,
                 timeouts INTEGER NOT NULL, failed_build TEXT, away INTEGER NOT NULL, last_failure_ms INTEGER,
                 last_away_ms INTEGER) STRICT;
             CREATE TABLE restart_verdict (workspace TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;
             CREATE INDEX restart_verdict_workspace ON restart_verdict (workspace, at_ms);
             CREATE TABLE own_build (id TEXT PRIMARY KEY) STRICT;
             PRAGMA user_version = 1;",
        )
        .unwrap();
    let chat = "INSERT INTO chat VALUES ('ana', 'w1', 'b1', NULL, 1, 'b1', 0, 5, NULL)";
    connection.execute(chat, []).unwrap();
    connection.execute("INSERT INTO own_build VALUES ('b1')", []).unwrap();
    connection.execute("INSERT INTO restart_verdict VALUES ('w1', ?1)", params![100]).unwrap();
}

#[tokio::test]
async fn what_was_stored_is_found_by_the_next_process() {
    let folder = folder();
    let path = folder.path().join("store.db");
    let failures = Failures {
        timeouts: 1,
        build: Some("b1".into()),
        away: 2,
        last_ms: Some(1_700_000_000_000),
        last_away_ms: Some(5),
    };
    let store = Store::open(&path).unwrap();
    let set = failures.clone();
    let written = store
        .update("ana", move |chat| {
            chat.bind(Some("w1"));
            (chat.build, chat.agent, chat.failures) = (Some("b1".into()), Some("a1".into()), set);
        })
        .await
        .unwrap();
    for (workspace, at) in [("w1", 100), ("w1", 200), ("w2", 200)] {
        store.write(move |tx| tx.add_restart(workspace, at)).await.unwrap();
    }
    drop(store);

    let store = Store::open(&path).unwrap();
    assert_eq!(store.chat("ana").unwrap(), Some(written.clone()));
    assert_eq!(store.chats().unwrap(), [written]);
    assert_eq!((store.restarts_since("w1", 100).unwrap(), store.restarts_since("w1", 101).unwrap()), (2, 1));
}

#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_to_date_with_what_it_holds() {
    let folder = folder();
    let path = folder.path().join("store.db");
    first_format(&path);
    let store = Store::open(&path).unwrap();
    let expected = ChatRecord {
        name: "ana".into(),
        workspace: Some("w1".into()),
        build: Some("b1".into()),
        agent: None,
        failures: Failures {
            timeouts: 1,
            build: Some("b1".into()),
            away: 0,
            last_ms: Some(5),
            last_away_ms: None,
        },
    };
    assert_eq!(store.chats().unwrap(), [expected]);
    assert!(store.is_own_build("b1").unwrap());
    assert_eq!(store.restarts_since("w1", 0), Ok(1));
    store.prune(1).await.unwrap();
    drop(store);
    assert!(Store::open(&path).is_ok(), "a second time there is nothing to do");
}

/// A file of the second format, as text: a restart that was finished, and one that was interrupted.
const SECOND_FORMAT: &str = include_str!("../../../tests/golden/store-2.sql");

#[test]
fn calls_in_a_file_of_the_second_format_are_read() {
    let folder = folder();
    let path = folder.path().join("store.db");
    Connection::open(&path).unwrap().execute_batch(SECOND_FORMAT).unwrap();
    let store = Store::open(&path).unwrap();
    let (finished, interrupted) =
        (store.recording(5).unwrap().unwrap(), store.recording(6).unwrap().unwrap());
    assert_eq!((finished.entries.len(), finished.open), (15, None));
    assert!(finished.outcome.is_some() && interrupted.outcome.is_some());
    assert!(store.call(6).unwrap().unwrap().interrupted);
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left_as_it_is() {
    let folder = folder();
    let path = folder.path().join("store.db");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", schema::newest() + 1).unwrap();
    let error = Store::open(&path).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found, known, .. } if found == known + 1), "{error}");
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn a_file_that_is_no_store_or_was_cut_off_is_told_as_damaged() {
    let folder = folder();
    let text = folder.path().join("text.db");
    fs::write(&text, "a shopping list, long enough to look like something\n".repeat(40)).unwrap();
    let error = Store::open(&text).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("move it away"), "{error}");

    let cut = folder.path().join("cut.db");
    let store = Store::open(&cut).unwrap();
    for number in 0..200 {
        store.update(&format!("chat {number} {}", "x".repeat(200)), |_| {}).await.unwrap();
    }
    drop(store);
    let connection = Connection::open(&cut).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    let length = fs::metadata(&cut).unwrap().len();
    fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(length / 2).unwrap();
    let error = Store::open(&cut).and_then(|store| store.chats().map(drop)).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_told_as_that_and_nothing_of_the_work_is_there_afterwards() {
    let folder = folder();
    let path = folder.path().join("store.db");
    let mut connection = connect(&path).unwrap();
    schema::migrate(&mut connection, "store.db").unwrap();
    // What SQLite says when a file may not grow is what it says when the disk is full.
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    connection.pragma_update(None, "max_page_count", pages + 2).unwrap();
    let writer = Writer::start(connection, "store.db".into()).unwrap();
    let fill = |name: &str, bytes: usize| {
        let chat =
            ChatRecord { name: name.to_owned(), build: Some("x".repeat(bytes)), ..ChatRecord::default() };
        writer.transact(Box::new(move |tx| tx.put_chat(&chat)))
    };
    fill("small", 10).await.unwrap();
    let error = fill("large", 100_000).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    fill("another", 10).await.unwrap();
    let names: Vec<_> =
        Store::open(&path).unwrap().chats().unwrap().into_iter().map(|chat| chat.name).collect();
    assert_eq!(names, ["another", "small"]);
}

#[test]
fn a_disk_that_is_full_when_a_store_is_opened_is_told_as_that_too() {
    // What a full file system of some megabytes gave, in which the store's log was there already.
    let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(SQLITE_IOERR_SHMSIZE), None);
    let told = of_sqlite("store.db", &error);
    assert!(matches!(told, StoreError::Full { .. }) && !told.to_string().contains("writable"), "{told}");
}

#[tokio::test]
async fn a_file_that_may_not_be_written_is_told_as_that_and_stays_as_it_is() {
    let folder = folder();
    let path = folder.path().join("store.db");
    drop(Store::open(&path).unwrap());
    // What SQLite says when it may only read is what it says in a folder that is read-only.
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let writer = Writer::start(connection, "store.db".into()).unwrap();
    let chat = ChatRecord { name: "ana".to_owned(), ..ChatRecord::default() };
    let error = writer.transact(Box::new(move |tx| tx.put_chat(&chat))).await.unwrap_err();
    assert!(matches!(error, StoreError::Unusable { .. }), "{error}");
    assert!(error.to_string().contains("check that the file and its folder are writable"), "{error}");
    assert_eq!(Store::open(&path).unwrap().chats().unwrap(), []);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_with_its_name() {
    let folder = folder();
    let path = folder.path().join("missing").join("store.db");
    let error = Store::open(&path).err().unwrap().to_string();
    assert!(error.contains("missing") && error.contains("writable"), "{error}");
}

/// Each look-up that a running host makes goes by an index that holds unended calls only, or by a key.
#[test]
fn no_query_of_a_running_host_reads_through_the_history() {
    let folder = folder();
    let path = folder.path().join("store.db");
    drop(Store::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    let plan = |sql: &str| -> String {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let parameters = vec![1; statement.parameter_count()];
        let lines = statement
            .query_map(rusqlite::params_from_iter(parameters), |row| row.get::<_, String>(3))
            .unwrap();
        lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    for (sql, index) in rows::QUERIES {
        let plan = plan(sql);
        assert!(
            plan.contains(index) && !plan.contains("SCAN call") && !plan.contains("SCAN entry"),
            "{sql}: {plan}"
        );
    }
}

#[tokio::test]
async fn the_lease_of_a_host_ends_when_its_process_is_gone_and_not_before() {
    let folder = folder();
    let path = folder.path().join("store.db");
    let store = Store::open(&path).unwrap();
    let lease = || store.enter("here", None, Arc::new(SystemClock), Duration::from_secs(900));
    let (dead, alive) = (lease().await.unwrap(), lease().await.unwrap());
    let file = |host: u64| folder.path().join(format!("store.db-host-{host}"));
    let until = |host: u64| {
        let hosts = store.read(|tx| tx.hosts()).unwrap();
        hosts.into_iter().find(|row| row.id == host).unwrap().lease_until_ms
    };
    let now = SystemClock.now_ms();
    store.end_leases_of_the_gone(now).await.unwrap();
    assert!(until(dead.host()) > now && until(alive.host()) > now);

    // What a process leaves behind that was killed: a file that nobody has locked.
    fs::remove_file(file(dead.host())).unwrap();
    fs::write(file(dead.host()), "").unwrap();
    store.end_leases_of_the_gone(now).await.unwrap();
    assert!(until(dead.host()) <= now && until(alive.host()) > now);
    assert!(!file(dead.host()).exists(), "nothing is left of it");

    // One of another machine, or of an earlier program, shows nothing.
    fs::remove_file(file(alive.host())).unwrap();
    store.end_leases_of_the_gone(now).await.unwrap();
    assert!(until(alive.host()) > now, "its lease has to run out");
    alive.leave().await.unwrap();
    drop(dead);
    assert!(
        fs::read_dir(folder.path())
            .unwrap()
            .flatten()
            .all(|file| !file.file_name().to_string_lossy().contains("-host-"))
    );
}
