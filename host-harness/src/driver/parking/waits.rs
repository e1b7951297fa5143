//! The table of waits, by workspace, and when each workspace is to be polled next. No clock and no I/O: the poller
//! has both.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::parked::{Ending, Parked};
use super::poll_schedule::{HEAP, PATIENCE, PollInFlight, interval, overdue};
use super::probes::{ProbeKey, Probed};
use super::reading::{Poll, Reader, Reading};
use super::wait::WorkspaceKey;
use crate::bindings::WaitEnd;

/// Workspaces whose turn it is in one go, so that parking is not held up for long.
const TURN: usize = 1024;

/// All waits.
#[derive(Default)]
pub(super) struct WaitTable {
    workspaces: BTreeMap<WorkspaceKey, WorkspaceWaits>,
    /// Where each call waits.
    calls: BTreeMap<u64, WorkspaceKey>,
    /// When each workspace is due. It has all workspaces in it.
    schedule: BTreeSet<(Instant, WorkspaceKey)>,
    /// Workspaces that are due for a poll. Entries of workspaces that are not `Queued` are left over.
    queue: VecDeque<WorkspaceKey>,
    /// The polls that are being made.
    polls_in_flight: BTreeMap<WorkspaceKey, PollInFlight>,
    /// Polls that were begun.
    polls: u64,
    /// Nothing is read before this, deadlines apart: the control plane asked for it.
    quiet_until: Option<Instant>,
    /// Workspaces with a stream of changes or probes at which nobody waits any more.
    deserted: Vec<WorkspaceKey>,
    /// What looks after the waits.
    pub(super) poller: Option<JoinHandle<()>>,
}

/// The waits of one workspace. There may be a million: mind the size.
struct WorkspaceWaits {
    /// By call.
    parked: Vec<Parked>,
    /// When something is to be done: see [`Phase`].
    due: Instant,
    /// Polls that were begun.
    polls: u32,
    phase: Phase,
    /// A stream of changes was asked for, or probes were, which are to be ended in the end.
    attended: bool,
    /// That stream has said something, and has not ended since.
    live: bool,
    /// A change was announced while it was being polled.
    again: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Due for the next poll.
    Idle,
    /// Waits for its poll to begin; due for ending the waits that cannot wait for that any more.
    Queued,
    /// Is being polled; due for ending the waits that cannot wait for the outcome any more.
    Polling,
}

impl WaitTable {
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Adds a wait, in place of the one that its call may have.
    pub(super) fn park(&mut self, workspace: WorkspaceKey, mut parked: Parked, poll: Duration, now: Instant) {
        drop(self.remove(parked.call));
        parked.since = self.polls;
        // The text that is there already is shared.
        let workspace =
            self.workspaces.get_key_value(&workspace).map_or(workspace, |(known, _)| known.clone());
        self.calls.insert(parked.call, workspace.clone());
        if let Some(waits) = self.workspaces.get_mut(&workspace) {
            let due = match waits.phase {
                Phase::Idle => now,
                // The workspace is polled again directly after the poll that is being made.
                Phase::Queued | Phase::Polling => {
                    waits.due.min(overdue(&parked, self.polls_in_flight.get(&workspace).copied(), poll))
                }
            };
            let at = waits.parked.partition_point(|other| other.call < parked.call);
            waits.parked.insert(at, parked);
            self.set_due(&workspace, due);
            return;
        }
        self.schedule.insert((now, workspace.clone()));
        // Most workspaces have one wait, for which this is just enough room.
        self.workspaces.insert(workspace, WorkspaceWaits::new(vec![parked], now));
    }

    pub(super) fn remove(&mut self, call: u64) -> Option<Parked> {
        let workspace = self.calls.remove(&call)?;
        let waits = self.workspaces.get_mut(&workspace)?;
        let at = waits.parked.binary_search_by_key(&call, |parked| parked.call).ok()?;
        let parked = waits.parked.remove(at);
        if waits.parked.is_empty() {
            self.leave(&workspace);
        }
        Some(parked)
    }

    /// Removes all waits. They are handed out, so that they can be dropped without the lock.
    pub(super) fn clear(&mut self) -> Self {
        let mut old = std::mem::take(self);
        // Numbers go on: a poll that is being made must not be mistaken for a later one.
        self.polls = old.polls;
        self.quiet_until = old.quiet_until;
        self.poller = old.poller.take();
        self.deserted = std::mem::take(&mut old.deserted);
        let attended = old.workspaces.iter().filter(|(_, waits)| waits.attended);
        self.deserted.extend(attended.map(|(workspace, _)| workspace.clone()));
        old
    }

    /// Forgets the polls that are being made, and makes them anew: the poller has come to a bad end.
    pub(super) fn poll_again(&mut self, now: Instant) {
        for workspace in std::mem::take(&mut self.polls_in_flight).into_keys() {
            if let Some(waits) = self.workspaces.get_mut(&workspace) {
                waits.phase = Phase::Idle;
                self.set_due(&workspace, now);
            }
        }
    }

    /// Does what is due now, or a good part of it: ends waits whose time is over, and queues workspaces that are to be
    /// polled.
    pub(super) fn turn(&mut self, reader: &Reader, now: Instant) {
        for _ in 0..TURN {
            let Some((_, workspace)) = self.schedule.first().filter(|(due, _)| *due <= now) else { return };
            let workspace = workspace.clone();
            let Some(waits) = self.workspaces.get_mut(&workspace) else {
                unreachable!("the schedule has a workspace at which nobody waits");
            };
            if waits.phase == Phase::Idle {
                let last_call = waits.first_deadline();
                match self.quiet_until.filter(|until| now < *until && now < last_call) {
                    Some(until) => self.set_due(&workspace, until.min(last_call)),
                    None => {
                        waits.phase = Phase::Queued;
                        self.queue.push_back(workspace.clone());
                        self.set_due(&workspace, now.max(last_call) + PATIENCE);
                    }
                }
                continue;
            }
            let in_flight = self.polls_in_flight.get(&workspace).copied();
            self.end_some(&workspace, now, |parked| {
                (overdue(parked, in_flight, reader.timings.poll) <= now).then_some((Ok(WaitEnd::Limit), None))
            });
            self.set_next_end(&workspace, reader.timings.poll);
        }
    }

    /// Begins the poll at the workspace that has waited longest for it, if there is one.
    pub(super) fn begin(&mut self, reader: &Reader, now: Instant) -> Option<Poll> {
        while let Some(workspace) = self.queue.pop_front() {
            let Some(waits) =
                self.workspaces.get_mut(&workspace).filter(|waits| waits.phase == Phase::Queued)
            else {
                continue;
            };
            waits.phase = Phase::Polling;
            waits.polls = waits.polls.wrapping_add(1);
            self.polls += 1;
            let mut builds = BTreeMap::new();
            for (build, told) in waits.parked.iter().filter_map(|parked| parked.build()) {
                let after = builds.entry(build.clone()).or_insert(told);
                *after = told.min(*after);
            }
            self.polls_in_flight.insert(workspace.clone(), PollInFlight { number: self.polls, begun: now });
            self.set_next_end(&workspace, reader.timings.poll);
            return Some(Poll { workspace, number: self.polls, builds });
        }
        None
    }

    /// Shows the waits what was read. Answers the agents that are to be probed at that workspace from now on, if the
    /// reading says so.
    pub(super) fn see(&mut self, reading: &Reading, reader: &Reader, now: Instant) -> Option<Vec<Arc<str>>> {
        let workspace = &reading.workspace;
        if self.polls_in_flight.get(workspace).is_none_or(|poll| poll.number != reading.number) {
            // All who waited for it have gone.
            return None;
        }
        self.polls_in_flight.remove(workspace);
        self.quiet_until = self.quiet_until.max(reading.quiet_until(now));
        self.end_some(workspace, now, |parked| {
            if parked.since >= reading.number {
                return None;
            }
            let ending = parked.see(reading, reader, now)?;
            let rests_on_it = matches!(ending, Ok(WaitEnd::Reached | WaitEnd::Gone));
            Some((ending, reading.observed.filter(|_| rests_on_it)))
        });
        let waits = self.workspaces.get_mut(workspace)?;
        waits.phase = Phase::Idle;
        let missed = waits.parked.iter().any(|parked| parked.since >= reading.number);
        let pause = if missed {
            Duration::ZERO
        } else if std::mem::take(&mut waits.again) {
            HEAP
        } else {
            let announced = waits.live && !reading.logged;
            interval(reader.timings.poll, announced, workspace, waits.polls)
        };
        // The last look is taken at the deadline, so that what came about in time is seen.
        let due = (now + pause).min(waits.first_deadline());
        let mut to_probe: Vec<_> = waits.parked.iter().filter_map(Parked::to_probe).cloned().collect();
        to_probe.sort_unstable();
        to_probe.dedup();
        waits.attended |= !to_probe.is_empty();
        self.set_due(workspace, due);
        reading.has_agents().then_some(to_probe)
    }

    /// Tells the waits how a probe ended. Those that it did not end are looked after again soon.
    pub(super) fn probed(
        &mut self,
        (workspace, agent): &ProbeKey,
        probed: &Probed,
        reader: &Reader,
        now: Instant,
    ) {
        self.end_some(workspace, now, |parked| parked.probed(agent, probed));
        let Some(waits) = self.workspaces.get(workspace).filter(|waits| waits.phase == Phase::Idle) else {
            return;
        };
        let due = waits.due.min(now + reader.timings.first_retry);
        self.set_due(workspace, due);
    }

    /// Notes that a stream of changes was asked for at a workspace.
    pub(super) fn set_streamed(&mut self, workspace: &WorkspaceKey) {
        if let Some(waits) = self.workspaces.get_mut(workspace) {
            waits.attended = true;
        }
    }

    /// A change was announced: the workspace is to be polled, at that time.
    pub(super) fn announce(&mut self, workspace: &WorkspaceKey, at: Instant) {
        let Some(waits) = self.workspaces.get_mut(workspace) else { return };
        waits.live = true;
        match waits.phase {
            Phase::Idle => {
                let due = at.min(waits.due);
                self.set_due(workspace, due);
            }
            // The look will see it.
            Phase::Queued => {}
            Phase::Polling => waits.again = true,
        }
    }

    /// The stream of changes has ended: polling is all there is.
    pub(super) fn set_silent(&mut self, workspace: &WorkspaceKey, poll: Duration, now: Instant) {
        let Some(waits) = self.workspaces.get_mut(workspace) else { return };
        if std::mem::take(&mut waits.live) && waits.phase == Phase::Idle {
            let due = waits.due.min(now + interval(poll, false, workspace, waits.polls));
            self.set_due(workspace, due);
        }
    }

    /// The workspaces with a stream of changes or probes at which nobody waits any more, each once.
    pub(super) fn take_deserted(&mut self) -> Vec<WorkspaceKey> {
        std::mem::take(&mut self.deserted)
    }

    /// When something is due next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.schedule.first().map(|(due, _)| *due)
    }

    /// Ends those waits of a workspace for which `ending` says so.
    fn end_some(
        &mut self,
        workspace: &WorkspaceKey,
        now: Instant,
        mut ending: impl FnMut(&mut Parked) -> Option<(Ending, Option<u64>)>,
    ) {
        let Some(waits) = self.workspaces.get_mut(workspace) else { return };
        // Not `extract_if`: the waits that stay, usually all, are not to be moved.
        let mut endings = waits.parked.iter_mut().map(&mut ending).collect::<VecDeque<_>>();
        if endings.iter().all(Option::is_none) {
            return;
        }
        let parked = std::mem::take(&mut waits.parked);
        for parked in parked {
            match endings.pop_front().flatten() {
                Some((ending, observed)) => {
                    self.calls.remove(&parked.call);
                    parked.end(ending, observed, now);
                }
                None => waits.parked.push(parked),
            }
        }
        if waits.parked.is_empty() {
            self.leave(workspace);
        }
    }

    /// Makes a workspace whose look has not ended due for the end of the wait that ends first without it.
    fn set_next_end(&mut self, workspace: &WorkspaceKey, poll: Duration) {
        let in_flight = self.polls_in_flight.get(workspace).copied();
        let ends = self
            .workspaces
            .get(workspace)
            .and_then(|waits| waits.parked.iter().map(|parked| overdue(parked, in_flight, poll)).min());
        if let Some(ends) = ends {
            self.set_due(workspace, ends);
        }
    }

    fn set_due(&mut self, workspace: &WorkspaceKey, due: Instant) {
        let Some(waits) = self.workspaces.get_mut(workspace) else { return };
        if waits.due == due {
            return;
        }
        self.schedule.remove(&(waits.due, workspace.clone()));
        waits.due = due;
        self.schedule.insert((due, workspace.clone()));
    }

    /// Removes a workspace at which nobody waits any more.
    fn leave(&mut self, workspace: &WorkspaceKey) {
        let Some(waits) = self.workspaces.remove(workspace) else { return };
        self.schedule.remove(&(waits.due, workspace.clone()));
        self.polls_in_flight.remove(workspace);
        if waits.attended {
            self.deserted.push(workspace.clone());
        }
    }
}

impl WorkspaceWaits {
    fn new(parked: Vec<Parked>, due: Instant) -> Self {
        Self { parked, due, polls: 0, phase: Phase::Idle, attended: false, live: false, again: false }
    }

    fn first_deadline(&self) -> Instant {
        self.parked.iter().map(|parked| parked.deadline).min().unwrap_or(self.due)
    }
}
