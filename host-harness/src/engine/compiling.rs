//! A plugin's linked form, which may still be in the making.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::SetOnce;

use super::PluginError;
use super::linked::Linked;

/// What has been made, or why it could not be.
type Made = Result<Linked, PluginError>;

/// A linked plugin that is there, or is being made by a thread.
pub(super) struct Compiling {
    made: Arc<SetOnce<Made>>,
    /// Taken by whoever waits for its end without being able to be suspended.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Compiling {
    pub(super) fn done(linked: Linked) -> Self {
        Self { made: Arc::new(SetOnce::new_with(Some(Ok(linked)))), thread: Mutex::default() }
    }

    /// Begins a thread that makes it. Where there is none to be had, it is made here and now.
    pub(super) fn begin(make: impl FnOnce() -> Made + Send + 'static) -> Self {
        let made = Arc::new(SetOnce::new());
        let make = Mutex::new(Some(make));
        let run = {
            let made = made.clone();
            Arc::new(move || {
                let Some(make) = lock(&make).take() else { return };
                let result = catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|_| {
                    Err(PluginError::NotCompiled { reason: "the compiler panicked".to_owned() })
                });
                // Only this function sets it, and it runs once.
                let _ = made.set(result);
            })
        };
        let begun = run.clone();
        let thread = thread::Builder::new().name("plugin-compiler".into()).spawn(move || begun());
        if thread.is_err() {
            run();
        }
        Self { made, thread: Mutex::new(thread.ok()) }
    }

    pub(super) async fn ready(&self) -> &Made {
        self.made.wait().await
    }

    /// As [`ready`](Self::ready), for callers that are not asynchronous: their thread waits.
    pub(super) fn wait(&self) -> &Made {
        loop {
            if let Some(made) = self.made.get() {
                return made;
            }
            // Others wait for the lock meanwhile. What the thread came to is told by what it has set.
            let mut thread = lock(&self.thread);
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
