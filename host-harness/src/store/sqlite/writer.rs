//! The thread that writes, and commits together what has piled up.

use std::sync::mpsc::{self, Receiver, Sender};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::error::of_sqlite;
use super::rows::Rows;
use crate::store::error::StoreError;
use crate::store::transaction::{Committed, Work};

/// The most pieces of work in one commit: a commit of so many takes some ten milliseconds.
const BATCH: usize = 512;

type Done = Result<(), StoreError>;

/// Hands work to the thread. The thread ends when this is dropped and all work is done.
pub(super) struct Writer {
    jobs: Sender<Job>,
    path: String,
}

struct Job {
    work: Work,
    done: oneshot::Sender<Done>,
}

impl Writer {
    pub(super) fn start(connection: Connection, path: String) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel();
        let shown = path.clone();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(connection, &queue, &shown))
            .map_err(|error| StoreError::Unusable { path: path.clone(), reason: error.to_string() })?;
        Ok(Self { jobs, path })
    }

    pub(super) fn transact(&self, work: Work) -> Committed {
        let (done, committed) = oneshot::channel();
        let sent = self.jobs.send(Job { work, done });
        let path = self.path.clone();
        Box::pin(async move {
            let gone = || StoreError::Unusable { path, reason: "its writing thread has ended".to_owned() };
            if sent.is_err() {
                return Err(gone());
            }
            committed.await.unwrap_or_else(|_| Err(gone()))
        })
    }
}

fn write_all(mut connection: Connection, queue: &Receiver<Job>, path: &str) {
    while let Ok(first) = queue.recv() {
        let jobs: Vec<Job> = std::iter::once(first).chain(queue.try_iter().take(BATCH - 1)).collect();
        let (mut waiting, mut work) = (Vec::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
        for job in jobs {
            waiting.push(job.done);
            work.push(job.work);
        }
        let done = commit(&mut connection, work, path);
        for (waiting, done) in waiting.into_iter().zip(done) {
            // Whoever does not wait any more does not want to know.
            let _ = waiting.send(done);
        }
    }
}

/// Does all the work in one transaction. Work that fails is undone by itself; the rest is committed.
fn commit(connection: &mut Connection, work: Vec<Work>, path: &str) -> Vec<Done> {
    let failed = |error: rusqlite::Error| of_sqlite(path, &error);
    let count = work.len();
    let all = |error: rusqlite::Error| vec![Err(failed(error)); count];
    let transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => return all(error),
    };
    let done: Vec<Done> = work.into_iter().map(|work| alone(&transaction, work, path)).collect();
    // Some failures, a full disk among them, undo the whole transaction: nothing in it was done then.
    if transaction.is_autocommit()
        && let Some(Err(error)) = done.iter().find(|done| done.is_err())
    {
        return vec![Err(error.clone()); count];
    }
    match transaction.commit() {
        Ok(()) => done,
        Err(error) => all(error),
    }
}

/// Does one piece of work, and undoes it if it fails.
fn alone(connection: &Connection, work: Work, path: &str) -> Done {
    let run = |sql| {
        let ran = connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        ran.map(drop).map_err(|error| of_sqlite(path, &error))
    };
    run("SAVEPOINT alone")?;
    let done = work(&mut Rows { connection, path });
    if done.is_err() {
        // Fails where the whole transaction was undone, and the savepoint with it.
        run("ROLLBACK TO alone").and_then(|()| run("RELEASE alone")).ok();
        return done;
    }
    run("RELEASE alone")
}
