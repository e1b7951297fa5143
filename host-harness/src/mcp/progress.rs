//! Tells a client that waits what happens meanwhile, if it wants to know; and if nothing happens, that it goes on:
//! clients give up on requests of which they hear nothing.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext, RoleServer};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{Instant, sleep_until, timeout};

use super::Server;
use super::last_progress::LastProgress;
use crate::control_plane::ControlPlane;
use crate::describe::{describe_build, describe_event};
use crate::driver::{Driver, Event};
use crate::journal::record::CallId;

/// For how long a client may take to read what there was to tell before an answer, which else waits in the same way.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a request waits for.
#[derive(Clone, Copy)]
pub(super) enum WaitsFor {
    /// A call that has yet to begin. What happens meanwhile is told when its number is known.
    Begin,
    /// A call, whichever host carries it.
    Call(CallId),
    /// A command: the call of this number, which is kept nowhere.
    Command(u64),
    /// The user's answer to a question.
    User,
}

/// The progress of one request.
pub(super) struct Progress(Option<Reporter>);

struct Reporter {
    peer: Peer<RoleServer>,
    token: ProgressToken,
    /// How many notifications were sent: progress has to grow, and nobody knows how much there will be.
    sent: u32,
    driver: Driver,
    last_progress: LastProgress,
    events: Receiver<Event>,
    begun: Instant,
    /// When something was told last.
    last_told: Instant,
}

impl Progress {
    /// Listens from now on. Without a token in the request nothing is told.
    pub(super) fn new(server: &Server, context: &RequestContext<RoleServer>) -> Self {
        let driver = server.shared.host.driver();
        Self(context.meta.get_progress_token().map(|token| Reporter {
            peer: context.peer.clone(),
            token,
            sent: 0,
            driver: driver.clone(),
            last_progress: server.shared.last_progress.clone(),
            events: driver.subscribe(),
            begun: Instant::now(),
            last_told: Instant::now(),
        }))
    }

    /// Tells of what is waited for, for ever.
    pub(super) async fn tell(&mut self, of: WaitsFor) -> Infallible {
        let Some(reporter) = &mut self.0 else { return pending().await };
        let quiet = reporter.driver.host_calls().timings().quiet;
        loop {
            tokio::select! {
                event = reporter.events.recv(), if of.has_events() => match event {
                    Ok(event) => reporter.event(&event, of).await,
                    // A later event has the newest state.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return pending().await,
                },
                () = sleep_until(reporter.last_told + quiet) => reporter.heartbeat(of, quiet).await,
            }
        }
    }

    /// Tells of the events that came before the end: after the answer it would be too late.
    pub(super) async fn rest(self, of: WaitsFor) {
        let Some(mut reporter) = self.0 else { return };
        let rest = async {
            loop {
                match reporter.events.try_recv() {
                    Ok(event) => reporter.event(&event, of).await,
                    Err(TryRecvError::Lagged(_)) => {}
                    Err(TryRecvError::Empty | TryRecvError::Closed) => return,
                }
            }
        };
        if timeout(LAST_WORDS, rest).await.is_err() {
            tracing::debug!("a client does not read what it is told");
        }
    }
}

impl WaitsFor {
    fn has_events(self) -> bool {
        matches!(self, Self::Call(_) | Self::Command(_))
    }

    fn is_about(self, event: &Event) -> bool {
        match self {
            Self::Call(number) | Self::Command(number) => event.number == number,
            Self::Begin | Self::User => false,
        }
    }
}

impl Reporter {
    async fn event(&mut self, event: &Event, of: WaitsFor) {
        let text = Some(event).filter(|event| of.is_about(event));
        let Some(text) = text.and_then(|event| describe_event(&event.kind)) else { return };
        self.notify(text).await;
    }

    async fn heartbeat(&mut self, of: WaitsFor, quiet: Duration) {
        let now = match of {
            WaitsFor::Begin => "the call has not begun yet".to_owned(),
            WaitsFor::Command(_) => "the command has not ended".to_owned(),
            WaitsFor::User => "the user has not answered yet".to_owned(),
            WaitsFor::Call(id) => match self.last_progress.last(id) {
                Some(heard) => heard,
                // Asked for as long as there is nothing else to tell.
                None => {
                    let look = timeout(quiet, self.look(id)).await;
                    look.ok().flatten().unwrap_or_else(|| "it is in progress".to_owned())
                }
            },
        };
        self.notify(format!("after {} s: {now}", self.begun.elapsed().as_secs())).await;
    }

    /// How a call is that another host carries.
    async fn look(&self, id: CallId) -> Option<String> {
        let host_calls = self.driver.host_calls();
        let row = host_calls.store().call(id).ok().flatten()?;
        if let Some(turn) = host_calls.store().waits_for(&row).ok()? {
            return Some(turn);
        }
        let workspace = host_calls.plane().workspace(row.pinned.workspace.as_deref()?).await.ok()?;
        Some(describe_build(&workspace.latest.build))
    }

    async fn notify(&mut self, text: String) {
        self.sent += 1;
        self.last_told = Instant::now();
        let param =
            ProgressNotificationParam::new(self.token.clone(), f64::from(self.sent)).with_message(text);
        if let Err(error) = self.peer.notify_progress(param).await {
            tracing::debug!(%error, "progress was not told");
        }
    }
}

#[cfg(all(test, feature = "plugin"))]
mod tests {
    use std::sync::Arc;

    use rmcp::model::NumberOrString;
    use rmcp::service::serve_directly;
    use tokio::sync::broadcast;

    use super::*;
    use crate::chat::ChatHost;
    use crate::driver::EventKind;
    use crate::driver::plane::Plane;
    use crate::engine::{Engine, EngineOptions};
    use crate::journal::record::Holder;
    use crate::mcp::Chats;
    use crate::policy::Timings;
    use crate::store::{Store, Turn};

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_not_waited_for_for_ever_at_the_end() {
        let plugin = Engine::new(EngineOptions::default()).unwrap().load(crate::PLUGIN).unwrap();
        let driver = Driver::new(plugin, Arc::new(Plane::default()), Store::in_memory(), Timings::default());
        let server = Server::new(ChatHost::new(driver.clone()), Chats::Chosen);
        // Kept, and not read.
        let (_client, pipe) = tokio::io::duplex(64);
        let running = serve_directly(server.clone(), pipe, None);
        let (happens, events) = broadcast::channel(16);
        let progress = Progress(Some(Reporter {
            peer: running.peer().clone(),
            token: ProgressToken(NumberOrString::Number(1)),
            sent: 0,
            last_progress: server.shared.last_progress.clone(),
            driver,
            events,
            begun: Instant::now(),
            last_told: Instant::now(),
        }));
        let holder = Holder { call: 6, chat: "talk".into(), tool: "stop_workspace".into() };
        let kind = EventKind::WaitingForTurn(Turn { holder, between: 0 });
        happens.send(Event { number: 7, call: Some(7), chat: "talk".into(), kind }).unwrap();
        let told = timeout(2 * LAST_WORDS, progress.rest(WaitsFor::Call(7))).await;
        told.expect("it is given up");
    }
}
