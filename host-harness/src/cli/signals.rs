//! Signals that end a command.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancelled by the first SIGINT or SIGTERM. A second one ends the program at once.
pub fn interrupted_by_signals() -> anyhow::Result<CancellationToken> {
    cancelled_by([SignalKind::interrupt(), SignalKind::terminate()])
}

/// Cancelled by the first of these signals. A second one ends the program at once.
pub fn cancelled_by<const N: usize>(kinds: [SignalKind; N]) -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in kinds {
        let (mut signals, cancel) = (signal(kind)?, token.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if cancel.is_cancelled() {
                    std::process::exit(130);
                }
                cancel.cancel();
            }
        });
    }
    Ok(token)
}
