//! A plugin's linked form, which may still be in the making.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::SetOnce;

use super::error::PluginError;
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

    /// Begins a thread that makes it.
    pub(super) fn begin(make: impl FnOnce() -> Made + Send + 'static) -> Self {
        let made = Arc::new(SetOnce::new());
        let here = made.clone();
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(make))
                .unwrap_or_else(|_| Err(not_compiled("the compiler panicked".to_owned())));
            // Nobody else sets it.
            let _ = here.set(result);
        };
        let thread = thread::Builder::new().name("plugin-compiler".into()).spawn(run);
        if let Err(error) = &thread {
            // No thread has begun that would set it.
            let _ = made.set(Err(not_compiled(format!("no thread can be started: {error}"))));
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
            let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn not_compiled(reason: String) -> PluginError {
    PluginError::NotCompiled { reason }
}
