//! The one task that looks after all waits. It begins with the first of them and ends with the last.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::probes::Probes;
use super::reading::Reader;
use super::waits::WaitTable;
use super::watches::{StreamNews, Watches};

/// Reads in flight at a time: enough for thousands per second, few enough for any control plane to bear.
pub(super) const MAX_READS: usize = 32;

/// What callers and the poller share.
#[derive(Default)]
pub(super) struct Shared {
    table: Mutex<WaitTable>,
    /// Something was parked, or nothing is any more.
    pub(super) changed: Notify,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, WaitTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins the task, if it does not run.
pub(super) fn ensure(table: &mut WaitTable, shared: &Arc<Shared>, reader: &Arc<Reader>) {
    if table.poller.as_ref().is_some_and(JoinHandle::is_finished) {
        // Its runtime has ended.
        table.poll_again(Instant::now());
    } else if table.poller.is_some() {
        return;
    }
    table.poller = Some(tokio::spawn(run(shared.clone(), reader.clone())));
}

/// Begins anew after a panic, as there may be one in a control plane of others: nobody else would ever wake those who
/// wait.
async fn run(shared: Arc<Shared>, reader: Arc<Reader>) {
    while AssertUnwindSafe(look_after(&shared, &reader)).catch_unwind().await.is_err() {
        tracing::error!(
            "looking after waits came to a bad end, and begins anew: please report the panic above"
        );
        sleep(reader.timings.poll).await;
        shared.lock().poll_again(Instant::now());
    }
}

/// Looks after the waits until there are none.
async fn look_after(shared: &Shared, reader: &Arc<Reader>) {
    let mut reads = FuturesUnordered::new();
    let mut watches = Watches::new(reader.clone());
    let mut probes = Probes::new(reader.clone());
    loop {
        let due = {
            let (mut table, now) = (shared.lock(), Instant::now());
            table.turn(reader, now);
            let deserted = table.take_deserted();
            watches.close(&deserted);
            probes.close(&deserted);
            while reads.len() < MAX_READS
                && let Some(poll) = table.begin(reader, now)
            {
                if watches.open(&poll.workspace, now) {
                    table.set_streamed(&poll.workspace);
                }
                reads.push(reader.read(poll));
            }
            let Some(due) = table.due() else {
                // Nobody waits. With this task end the reads, streams and probes that are left.
                table.poller = None;
                return;
            };
            due
        };
        tokio::select! {
            biased;
            Some(reading) = reads.next() => {
                let to_probe = shared.lock().see(&reading, reader, Instant::now());
                if let Some(agents) = to_probe {
                    probes.set_targets(&reading.workspace, &agents);
                }
            }
            Some((key, probed)) = probes.next() => shared.lock().probed(&key, &probed, reader, Instant::now()),
            Some((workspace, heard)) = watches.next() => match heard {
                StreamNews::Change(at) => shared.lock().announce(&workspace, at),
                StreamNews::End => shared.lock().set_silent(&workspace, reader.timings.poll, Instant::now()),
            },
            () = shared.changed.notified() => {}
            () = sleep_until(due) => {}
        }
        // Reads that are answered at once must not keep other tasks from running.
        tokio::task::consume_budget().await;
    }
}
