//! Turns at a workspace: one lifecycle call at a time, in order of arrival.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use crate::driver::DriveError;
use crate::policy::MAX_WAITING_CALLS;

/// A call that has its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The call's number within the driver.
    pub call: u64,
    /// Its chat.
    pub chat: String,
    /// Its tool.
    pub tool: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of chat \"{}\" (call {})", self.tool, self.chat, self.call)
    }
}

/// The lanes of all workspaces that somebody is at.
#[derive(Default)]
pub(super) struct Lanes(Mutex<HashMap<String, Lane>>);

#[derive(Default)]
struct Lane {
    /// Tokio's mutex is fair: it is handed over in order of arrival.
    turn: Arc<tokio::sync::Mutex<()>>,
    holder: Option<Holder>,
    waiting: usize,
}

/// The turn; ends when dropped.
pub(super) struct Turn {
    lanes: Arc<Lanes>,
    workspace: String,
    held: Option<OwnedMutexGuard<()>>,
}

impl Lanes {
    /// Waits for the turn at `workspace`, at most `limit`. Calls `waiting` with the holder if it has to wait at all.
    pub(super) async fn turn(
        self: &Arc<Self>,
        workspace: &str,
        caller: Holder,
        limit: Duration,
        interrupt: &CancellationToken,
        waiting: impl FnOnce(Holder),
    ) -> Result<Turn, DriveError> {
        let (place, current) = self.line_up(workspace, &caller)?;
        if let Some(holder) = current {
            waiting(holder);
        }
        let lock = self.lock().get(workspace).map(|lane| lane.turn.clone()).unwrap_or_default();
        let held = tokio::select! {
            biased;
            () = interrupt.cancelled() => return Err(DriveError::Interrupted),
            held = lock.lock_owned() => held,
            () = tokio::time::sleep(limit) => {
                let holder = self.lock().get(workspace).and_then(|lane| lane.holder.clone()).unwrap_or(caller);
                return Err(DriveError::Busy { holder });
            }
        };
        drop(place);
        let mut lanes = self.lock();
        lanes.entry(workspace.to_owned()).or_default().holder = Some(caller);
        drop(lanes);
        Ok(Turn { lanes: self.clone(), workspace: workspace.to_owned(), held: Some(held) })
    }

    /// Takes a place in the line, unless it is full. Answers who has the turn.
    fn line_up(
        self: &Arc<Self>,
        workspace: &str,
        caller: &Holder,
    ) -> Result<(Place, Option<Holder>), DriveError> {
        let mut lanes = self.lock();
        let lane = lanes.entry(workspace.to_owned()).or_default();
        if lane.holder.is_some() && lane.waiting >= MAX_WAITING_CALLS {
            let holder = lane.holder.clone().unwrap_or_else(|| caller.clone());
            return Err(DriveError::Busy { holder });
        }
        lane.waiting += 1;
        let holder = lane.holder.clone();
        Ok((Place { lanes: self.clone(), workspace: workspace.to_owned() }, holder))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line; given up when dropped.
struct Place {
    lanes: Arc<Lanes>,
    workspace: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(lane) = self.lanes.lock().get_mut(&self.workspace) {
            lane.waiting -= 1;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lanes = self.lanes.lock();
        if let Some(lane) = lanes.get_mut(&self.workspace) {
            lane.holder = None;
            // Handed over under the lock: whoever comes next finds the line as it is.
            self.held = None;
            if lane.waiting == 0 {
                lanes.remove(&self.workspace);
            }
        }
    }
}
