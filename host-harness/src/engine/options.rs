//! How an engine is set up.

use std::path::PathBuf;
use std::time::Duration;

/// How an [`Engine`](super::Engine) is set up. `EngineOptions::default()` is right for most hosts.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Where compiled plugins are kept, so that a later start need not compile them: milliseconds instead of half a
    /// second. The folder is made if need be, and made private: what is in it is machine code. Without one, and where
    /// it cannot be used, each start compiles. `None` by default.
    pub cache_dir: Option<PathBuf>,
    /// The most steps that run at once; more wait for their turn. A step never waits while it runs, so there is no use
    /// in more than a few per core. Twice the number of cores by default, at least 8.
    pub concurrent_steps: u32,
    /// The wall-clock time after which a step is given up as the *host's* failure and run again. It is only there for
    /// hosts that come to a standstill: a plugin that does not end is ended by [`STEP_FUEL`](crate::limits::STEP_FUEL)
    /// within some 50 ms. 5 s by default.
    pub step_deadline: Duration,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(4, |cores| cores.get());
        Self {
            cache_dir: None,
            concurrent_steps: u32::try_from(cores * 2).unwrap_or(u32::MAX).clamp(8, 128),
            step_deadline: Duration::from_secs(5),
        }
    }
}
