//! Commands whose client has less patience than a dial takes. Some clients cancel after a few seconds what they then
//! ask for again, and a dial that began anew each time would never come to a verdict: it goes on for the rest of its
//! window, and the same request made again joins it. No command begins for nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::workspaces::BoundChat;
use crate::chat::{Execute, ExecuteError, Executed};
use crate::driver::HostCalls;

/// Dials that are kept at the same time; the oldest make room. A client has one or two.
const MOST_KEPT: usize = 64;

/// A command that runs, or whose agent is dialled. Dropped, it is told to end.
pub(super) struct Running {
    asked: Asked,
    task: JoinHandle<Result<Executed, ExecuteError>>,
    stands: Arc<Mutex<Stands>>,
    interrupt: CancellationToken,
    _ends: DropGuard,
    /// The number of its call.
    pub(super) number: u64,
}

/// What makes two requests the same.
#[derive(PartialEq, Eq)]
struct Asked {
    chat: String,
    workspace: String,
    execute: Execute,
}

/// How a command stands.
struct Stands {
    is_waited_for: bool,
    /// Whether it was handed to the workspace when its agent was there, or nobody waited then. None: it was not there
    /// yet.
    handed_over: Option<bool>,
    /// Since then it is over.
    over: Option<Instant>,
}

/// The dials that nobody waits for at the moment, oldest first.
#[derive(Default)]
pub(super) struct CancelledDials(Mutex<Vec<Running>>);

impl Running {
    fn begin(BoundChat { chat, workspace }: BoundChat, execute: &Execute, host_calls: &HostCalls) -> Self {
        let interrupt = CancellationToken::new();
        let call = host_calls.begin_in(chat.name(), Some(workspace.clone()), interrupt.clone());
        let asked = Asked { chat: chat.name().to_owned(), workspace, execute: execute.clone() };
        let stands = Arc::new(Mutex::new(Stands { is_waited_for: true, handed_over: None, over: None }));
        let (number, execute, noted) = (call.number(), execute.clone(), stands.clone());
        let task = tokio::spawn(async move {
            let may_begin = || {
                let mut stands = lock(&noted);
                stands.handed_over = Some(stands.is_waited_for);
                stands.is_waited_for
            };
            let came = chat.execute_as(&call, &execute, &may_begin).await;
            lock(&noted).over = Some(Instant::now());
            came
        });
        Self { asked, task, stands, _ends: interrupt.clone().drop_guard(), interrupt, number }
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> Result<Executed, ExecuteError> {
        match (&mut self.task).await {
            Ok(came) => came,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Nobody but the end of the whole program stops it so.
            Err(_) => Err(ExecuteError::Interrupted { running: true }),
        }
    }

    /// Tells it to end.
    pub(super) fn interrupt(&self) {
        self.interrupt.cancel();
    }

    /// Whether whoever asks for the same may have what comes of it: it is not over, or was not before a time as long as
    /// a dial. One that looks afresh knows better then.
    fn is_fresh(&self, dial: Duration) -> bool {
        lock(&self.stands).over.is_none_or(|over| over.elapsed() <= dial)
    }
}

impl CancelledDials {
    /// Joins the same command if its dial was kept, or begins it.
    pub(super) fn join_or_begin(
        &self,
        bound: BoundChat,
        execute: &Execute,
        host_calls: &HostCalls,
    ) -> Running {
        let is_same = |kept: &Running| {
            kept.asked.chat == bound.chat.name()
                && kept.asked.workspace == bound.workspace
                && kept.asked.execute == *execute
        };
        let dial = host_calls.timings().dial_timeout;
        let same = {
            let mut kept = lock(&self.0);
            kept.retain(|kept| kept.is_fresh(dial));
            kept.iter().position(is_same).map(|place| kept.remove(place))
        };
        let joined = same.filter(|running| {
            let mut stands = lock(&running.stands);
            stands.is_waited_for = true;
            // One whose agent was there when nobody waited says nothing.
            stands.handed_over.is_none()
        });
        joined.unwrap_or_else(|| Running::begin(bound, execute, host_calls))
    }

    /// Keeps a command that nobody waits for any more, for the rest of its dial. One that was handed over is given
    /// back.
    pub(super) fn keep(&self, running: Running) -> Result<(), Running> {
        {
            let mut stands = lock(&running.stands);
            if stands.handed_over == Some(true) {
                drop(stands);
                return Err(running);
            }
            stands.is_waited_for = false;
        }
        let mut kept = lock(&self.0);
        if kept.len() >= MOST_KEPT {
            kept.remove(0);
        }
        kept.push(running);
        Ok(())
    }

    /// Forgets the same command if its dial is kept: it was begun before this one, whose client has heard how the
    /// chat's dial ended, and would be told that once more. (The request for this one overtook the other's
    /// cancellation.)
    pub(super) fn forget_same_as(&self, told: &Running) {
        lock(&self.0).retain(|kept| kept.asked != told.asked);
    }

    /// Ends all dials that are kept.
    pub(super) fn end(&self) {
        lock(&self.0).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
