//! Probes of agents that read as ready: is there a terminal on them in which a shell waits?
//!
//! A probe is for all who wait for the agent, and for nobody else: it is given up when they have gone, or when the
//! agent does not read as connected any more. It goes on beside the reads of its workspace and takes nothing away from
//! those.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::reading::Reader;
use super::wait::WorkspaceKey;
use crate::control_plane::{ApiError, ControlPlane};
use crate::greeting::{Attempted, Attempts, ENDED, curable, no_shell, why_refused};
use crate::policy::Timings;

/// Probes at a time; each is a connection or two. An agent that is well takes some 50 ms of one, one that hangs takes a
/// dial's whole time, so this is enough for thousands of agents a second, or for hundreds that hang at once. Others
/// wait for their turn.
pub(super) const MAX_PROBES: usize = 256;

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    /// A shell waits.
    Answered,
    /// Nobody answered for as long as a dial takes. What was in the way last.
    Unanswered(String),
    /// Terminals open, but no shell runs commands there. Waiting does not change that.
    NoShell(String),
    /// This host could not open a terminal, and it is not the agent's fault.
    Untried(String),
}

/// An agent, and where it is waited for.
pub(super) type ProbeKey = (WorkspaceKey, Arc<str>);

/// All probes.
pub(super) struct Probes {
    reader: Arc<Reader>,
    /// What is wanted and has not ended: a sender where it runs, which ends it when it is dropped.
    targets: BTreeMap<ProbeKey, Option<oneshot::Sender<()>>>,
    /// What waits for its turn. Keys that are not wanted any more are left over.
    queue: VecDeque<ProbeKey>,
    running: FuturesUnordered<BoxFuture<'static, (ProbeKey, Option<Probed>)>>,
}

impl Probes {
    pub(super) fn new(reader: Arc<Reader>) -> Self {
        Self { reader, targets: BTreeMap::new(), queue: VecDeque::new(), running: FuturesUnordered::new() }
    }

    /// At this workspace these agents are to be probed, and no others.
    pub(super) fn set_targets(&mut self, workspace: &WorkspaceKey, agents: &[Arc<str>]) {
        self.keep_at(workspace, |agent| agents.contains(agent));
        for agent in agents {
            let key = (workspace.clone(), agent.clone());
            if !self.targets.contains_key(&key) {
                self.targets.insert(key.clone(), None);
                self.queue.push_back(key);
            }
        }
        self.begin_what_may();
    }

    /// Nobody waits at these workspaces any more.
    pub(super) fn close(&mut self, workspaces: &[WorkspaceKey]) {
        for workspace in workspaces {
            self.keep_at(workspace, |_| false);
        }
        self.begin_what_may();
    }

    /// The end of the next one that ends. `None`: none runs. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<(ProbeKey, Probed)> {
        loop {
            let (key, probed) = self.running.next().await?;
            // One that was given up has no end, and may be wanted anew.
            if probed.is_some() {
                self.targets.remove(&key);
            }
            self.begin_what_may();
            if let Some(probed) = probed {
                return Some((key, probed));
            }
        }
    }

    fn keep_at(&mut self, workspace: &WorkspaceKey, keep: impl Fn(&Arc<str>) -> bool) {
        let first = (workspace.clone(), Arc::from(""));
        let at_workspace = self.targets.range(first..).take_while(|((at, _), _)| at == workspace);
        let gone: Vec<ProbeKey> =
            at_workspace.filter(|((_, agent), _)| !keep(agent)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.targets.remove(&key);
        }
    }

    fn begin_what_may(&mut self) {
        while self.running.len() < MAX_PROBES
            && let Some(key) = self.queue.pop_front()
        {
            let Some(running @ None) = self.targets.get_mut(&key) else { continue };
            let (ender, ended) = oneshot::channel();
            *running = Some(ender);
            let reader = self.reader.clone();
            self.running.push(Box::pin(async move {
                let probing = AssertUnwindSafe(probe(&*reader.plane, &key.1, &reader.timings)).catch_unwind();
                let probed = tokio::select! {
                    biased;
                    _ = ended => None,
                    probed = probing => Some(probed.unwrap_or_else(|_| {
                        tracing::error!("a probe came to a bad end: please report the panic above");
                        Probed::Unanswered("the probe came to a bad end".to_owned())
                    })),
                };
                (key, probed)
            }));
        }
    }
}

/// Tries to have a terminal on the agent in which a shell waits, as a command does that finds its agent connected: for
/// as long as a dial takes, with a second terminal beside one that stays silent.
async fn probe(plane: &dyn ControlPlane, agent: &str, timings: &Timings) -> Probed {
    let end = Instant::now() + timings.dial_timeout;
    let mut attempts = Attempts::new(plane, timings);
    let mut last_error = "its terminal stays silent".to_owned();
    loop {
        let due = attempts.due().unwrap_or(end).min(end);
        let tried = tokio::select! {
            biased;
            tried = attempts.next() => tried,
            () = sleep_until(due) => {
                if due >= end {
                    return Probed::Unanswered(last_error);
                }
                attempts.begin(agent, due);
                continue;
            }
        };
        match tried {
            Attempted::Greeted(mut terminal) => {
                terminal.close().await;
                return Probed::Answered;
            }
            Attempted::NoShell { said } | Attempted::Ended { said, enough: true } => {
                return Probed::NoShell(no_shell(&said));
            }
            Attempted::Ended { .. } => ENDED.clone_into(&mut last_error),
            Attempted::Refused(error) if curable(&error) || matches!(error, ApiError::Unauthorized(_)) => {
                // Whether the token is good is for the reads to say.
                last_error = why_refused(&error, true);
                attempts.release();
            }
            Attempted::Refused(ApiError::NotFound) => {
                return Probed::Untried("this token may not open a terminal there".to_owned());
            }
            Attempted::Refused(error) => return Probed::Untried(error.to_string()),
        }
    }
}
