//! Streams that announce changes of workspaces, kept open while somebody waits for something there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesUnordered};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::poll_schedule::HEAP;
use super::reading::Reader;
use super::wait::WorkspaceKey;
use crate::control_plane::ControlPlane;
use crate::driver::jitter::jittered;

/// Streams at a time. Each is a connection; workspaces beyond that are polled.
const MAX_WATCHES: usize = 64;
/// The longest pause before a stream that has ended is asked for again, in polling intervals.
const LONGEST_PAUSE: u32 = 8;

/// All streams.
pub(super) struct Watches {
    reader: Arc<Reader>,
    open: BTreeMap<WorkspaceKey, Watch>,
    news: FuturesUnordered<BoxFuture<'static, Option<(Stream, bool)>>>,
}

struct Watch {
    /// The stream is closed when this is dropped.
    _close: oneshot::Sender<()>,
    /// When the workspace was or is to be polled because of a change.
    poll_at: Instant,
}

/// What a stream said.
pub(super) enum StreamNews {
    /// Something may have changed: look at this time.
    Change(Instant),
    /// The stream has ended; it is opened again.
    End,
}

struct Stream {
    workspace: Arc<str>,
    changes: Option<BoxStream<'static, ()>>,
    /// The pause before it is asked for again.
    pause: Duration,
    close: oneshot::Receiver<()>,
}

impl Watches {
    pub(super) fn new(reader: Arc<Reader>) -> Self {
        Self { reader, open: BTreeMap::new(), news: FuturesUnordered::new() }
    }

    /// Opens a stream for a workspace that is polled now, unless it has one, or cannot have one. Answers whether it
    /// did.
    pub(super) fn open(&mut self, key: &WorkspaceKey, now: Instant) -> bool {
        if self.open.len() >= MAX_WATCHES || self.open.contains_key(key) {
            return false;
        }
        let Some(workspace) = key.clone() else { return false };
        let Some(changes) = self.reader.plane.changes(&workspace) else { return false };
        let (closer, close) = oneshot::channel();
        let pause = self.reader.timings.first_retry;
        self.listen(Stream { workspace, changes: Some(changes), pause, close });
        self.open.insert(key.clone(), Watch { _close: closer, poll_at: now });
        true
    }

    pub(super) fn close(&mut self, workspaces: &[WorkspaceKey]) {
        for workspace in workspaces {
            self.open.remove(workspace);
        }
    }

    /// The next thing that a stream says. `None`: there are no streams. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<(WorkspaceKey, StreamNews)> {
        loop {
            let Some((stream, changed)) = self.news.next().await? else { continue };
            let workspace = Some(stream.workspace.clone());
            self.listen(stream);
            if !changed {
                return Some((workspace, StreamNews::End));
            }
            // Closed just now, if it is not there.
            let Some(watch) = self.open.get_mut(&workspace) else { continue };
            let now = Instant::now();
            if watch.poll_at <= now {
                watch.poll_at = now.max(watch.poll_at + HEAP);
            }
            return Some((workspace, StreamNews::Change(watch.poll_at)));
        }
    }

    fn listen(&self, mut stream: Stream) {
        let reader = self.reader.clone();
        self.news.push(Box::pin(async move {
            let changed = stream.next(&reader).await?;
            Some((stream, changed))
        }));
    }
}

impl Stream {
    /// Whether a change was announced, or the stream has ended. `None`: it was closed.
    async fn next(&mut self, reader: &Reader) -> Option<bool> {
        let Self { workspace, changes, pause, close } = self;
        let next = async {
            if changes.is_none() {
                sleep(jittered(*pause, workspace, 0)).await;
                *pause = (*pause * 2).min(reader.timings.poll * LONGEST_PAUSE);
                *changes = reader.plane.changes(workspace);
            }
            let changed = match changes {
                Some(changes) => changes.next().await.is_some(),
                None => false,
            };
            if changed {
                *pause = reader.timings.first_retry;
            } else {
                *changes = None;
            }
            changed
        };
        tokio::select! {
            biased;
            _ = close => None,
            changed = next => Some(changed),
        }
    }
}
