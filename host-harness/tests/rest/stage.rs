//! Time that goes only when a test lets it, with real sockets.

use std::time::Duration;

use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, advance, pause, resume};

/// How finely time goes at least: what is due within one step happens at its end.
const STEP: Duration = Duration::from_millis(50);
/// Steps of a long time, which then are longer.
const STEPS: u32 = 400;
/// How often all that is ready gets its turn before time goes on. A request and its answer take some ten turns.
const TURNS: u32 = 60;
/// Sockets live in real time: in each step a busy machine's kernel gets a moment to deliver.
const MOMENT: Duration = Duration::from_millis(1);

/// The runtime's clock, stopped. By itself a stopped clock jumps to whatever is due next as soon as there is nothing
/// else to do, and to wait for a socket counts as nothing; a task that blocks keeps it from that.
pub struct Frozen {
    _end: std::sync::mpsc::Sender<()>,
    _blocks: JoinHandle<()>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        resume();
    }
}

impl Frozen {
    /// Stops the clock. The runtime has to have one thread.
    pub fn new() -> Self {
        pause();
        let (end, ended) = std::sync::mpsc::channel();
        let blocks = tokio::task::spawn_blocking(move || {
            let _ = ended.recv();
        });
        Self { _end: end, _blocks: blocks }
    }

    /// What comes of something within so much time.
    pub async fn within<T>(&self, time: Duration, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = work => done,
            () = self.pass(time) => panic!("not done within {time:?}"),
        }
    }

    /// Lets so much time go, and everything happen that is due meanwhile.
    pub async fn pass(&self, time: Duration) {
        let (end, step) = (Instant::now() + time, STEP.max(time / STEPS));
        loop {
            for _ in 0..TURNS {
                yield_now().await;
            }
            let left = end - Instant::now();
            if left.is_zero() {
                return;
            }
            advance(left.min(step)).await;
            std::thread::sleep(MOMENT);
        }
    }
}
