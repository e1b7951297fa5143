//! The one task that looks after all waits. It begins with the first of them and ends with the last.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::lot::Lot;
use super::probes::Probes;
use super::reading::Reader;
use super::watches::{Heard, Watches};

/// Reads in flight at a time: enough for thousands per second, few enough for any control plane to bear.
pub(super) const MAX_READS: usize = 32;

/// Begins the task, if it does not run.
pub(super) fn ensure(lot: &mut Lot, shared: &Arc<Shared>, reader: &Arc<Reader>) {
    if lot.poller.as_ref().is_some_and(JoinHandle::is_finished) {
        // Its runtime has ended.
        lot.look_again(Instant::now());
    } else if lot.poller.is_some() {
        return;
    }
    lot.poller = Some(tokio::spawn(run(shared.clone(), reader.clone())));
}

/// Begins anew after a panic, as there may be one in a control plane of others: nobody else would ever wake those who wait.
async fn run(shared: Arc<Shared>, reader: Arc<Reader>) {
    while AssertUnwindSafe(look_after(&shared, &reader)).catch_unwind().await.is_err() {
        tracing::error!(
            "looking after waits came to a bad end, and begins anew: please report the panic above"
        );
        sleep(reader.timings.poll).await;
        shared.lock().look_again(Instant::now());
    }
}

/// Looks after the waits until there are none.
async fn look_after(shared: &Shared, reader: &Arc<Reader>) {
    let mut reads = FuturesUnordered::new();
    let mut watches = Watches::new(reader.clone());
    let mut probes = Probes::new(reader.clone());
    loop {
        let due = {
            let (mut lot, now) = (shared.lock(), Instant::now());
            lot.turn(reader, now);
            let deserted = lot.take_deserted();
            watches.close(&deserted);
            probes.close(&deserted);
            while reads.len() < MAX_READS
                && let Some(look) = lot.begin(reader, now)
            {
                if watches.open(&look.place, now) {
                    lot.set_streamed(&look.place);
                }
                reads.push(reader.read(look));
            }
            let Some(due) = lot.due() else {
                // Nobody waits. With this task end the reads, streams and probes that are left.
                lot.poller = None;
                return;
            };
            due
        };
        tokio::select! {
            biased;
            Some(reading) = reads.next() => {
                let to_probe = shared.lock().see(&reading, reader, Instant::now());
                if let Some(agents) = to_probe {
                    probes.set_wanted(&reading.place, &agents);
                }
            }
            Some((key, probed)) = probes.next() => shared.lock().probed(&key, &probed, reader, Instant::now()),
            Some((place, heard)) = watches.next() => match heard {
                Heard::Change(at) => shared.lock().announce(&place, at),
                Heard::End => shared.lock().set_silent(&place, reader.timings.poll, Instant::now()),
            },
            () = shared.changed.notified() => {}
            () = sleep_until(due) => {}
        }
        // Reads that are answered at once must not keep other tasks from running.
        tokio::task::consume_budget().await;
    }
}
