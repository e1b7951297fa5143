//! What the observer is told of: each with the checks that belong to it.

use super::fault_gate::FaultGate;
use super::invariants::{self, Invariant, Step};
use super::observer::{Observer, Opened, Read};
use super::plane::IntentId;
use super::schedule::At;
use super::world_state::{HOST_BEGIN, WorldState};
use crate::bindings::{Transition, TransitionError, Verdict};
use crate::chat::Began;
use crate::control_plane::{BuildRead, Workspace, is_active};
use crate::journal::record::{CallId, Failure, Intent, Open, Outcome};
use crate::journal::{Answer, Entry, Export, Request};
use crate::store::{CallRow, HostId, HostRow, ReadTransaction, Store, StoreError};

/// How old the read may be that a request rests on: a second from its answer, which may have been under way a while.
const FRESH: At = 1_100;

/// A host sends a request for a build. Answers the intent that it is sent for.
pub fn sent(
    world: &WorldState,
    gate: &FaultGate,
    store: &Store,
    workspace: &str,
    to: &Transition,
) -> Option<IntentId> {
    let now = world.now();
    let mut observer = world.observer();
    let open = observer.open.iter_mut().find(|(_, open)| open.workspace == workspace && open.to == *to);
    let Some((call, open)) = open else {
        let what = format!("host {} asks for a {to:?} of {workspace} that no call wrote down", gate.host);
        observer.check(now, Invariant::IntentFirst, Err(what));
        return None;
    };
    open.sent += 1;
    let (call, id, times, rests_on) = (*call, open.id, open.sent, open.rests_on.clone());
    observer.note(now, "request", &[call, id], || {
        format!("call {call}: host {} asks for intent {id}", gate.host)
    });
    let once =
        if times == 1 { Ok(()) } else { Err(format!("call {call}: intent {id} is sent {times} times")) };
    observer.check(now, Invariant::OneEffectPerIntent, once);
    let based = match observer.reads.get(&(gate.host, workspace.to_owned())) {
        Some(read) if read.build == rests_on && read.at_rest => Ok(()),
        // Another call of the host's has read something newer since.
        Some(_)
            if observer.rested.get(&(gate.host, rests_on.clone())).is_some_and(|at| now <= at + FRESH) =>
        {
            Ok(())
        }
        Some(read) => Err(format!("call {call} rests on {rests_on}, but {} was read last", read.build)),
        None => Err(format!("call {call}: the workspace was not read")),
    };
    observer.check(now, Invariant::RestsOnWhatIs, based);
    let owner = store.call(call).ok().flatten().and_then(|row| row.owner);
    let mut current = None;
    let _ = store.backend().read(&mut |tx| {
        current = match owner {
            Some(owner) => tx.host(owner)?,
            None => None,
        };
        Ok(())
    });
    let fenced = match owner {
        Some(owner) if gate.is(owner) => invariants::is_current(current.as_ref(), HOST_BEGIN + now),
        _ => Err("the call is not its own".to_owned()),
    };
    let fenced = fenced.map_err(|why| format!("host {} sends for call {call}: {why}", gate.host));
    observer.check(now, Invariant::FencedHostsAreSilent, fenced);
    Some(id)
}

impl Observer {
    /// A host read a workspace.
    pub fn read(&mut self, now: At, gate: &FaultGate, workspace: &Workspace) {
        let latest = &workspace.latest.build;
        let read =
            Read { build: latest.id.clone(), number: latest.number, at_rest: !is_active(&latest.status) };
        if read.at_rest {
            self.rested.insert((gate.host, read.build.clone()), now);
        }
        self.reads.insert((gate.host, workspace.id.clone()), read);
    }

    /// The control plane made a build.
    pub fn made(&mut self, now: At, intent: Option<IntentId>, read: &BuildRead) {
        let build = &read.build;
        self.note(now, "build", &[build.number.into()], || {
            let whose = intent.map_or("somebody".to_owned(), |intent| format!("intent {intent}"));
            format!("{}: a {:?} is made for {whose}", build.id, build.transition)
        });
        if let Some(intent) = intent.filter(|intent| self.given_up.contains(intent)) {
            let what = format!("{} is made for intent {intent}, which was given up", build.id);
            self.check(now, Invariant::OneEffectPerIntent, Err(what));
        }
    }

    /// A call was begun.
    pub fn begun(&mut self, world: &WorldState, gate: &FaultGate, id: CallId, row: &CallRow) {
        self.note(world.now(), "call", &[id, gate.host], || {
            let workspace = row.pinned.workspace.as_deref().unwrap_or("no workspace");
            let (chat, tool, arguments, state) = (&row.chat, &row.tool, &row.arguments, row.state);
            format!("call {id}: {chat} at host {}: {tool} {arguments} of {workspace}, {state:?}", gate.host)
        });
    }

    /// A host writes to a call.
    pub fn wrote(
        &mut self,
        world: &WorldState,
        gate: &FaultGate,
        tx: &dyn ReadTransaction,
        row: &CallRow,
    ) -> Result<(), StoreError> {
        let now = world.now();
        let user = world.schedule.user(gate.host);
        let check = match row.owner {
            Some(_) if row.pinned.user.as_ref().is_some_and(|pinned| *pinned != user) => {
                Err(format!("it acts for {user}, not for {:?}", row.pinned.user))
            }
            Some(owner) if gate.is(owner) => {
                invariants::is_current(tx.host(owner)?.as_ref(), HOST_BEGIN + now)
            }
            other => Err(format!("call {} is host {other:?}'s", row.id)),
        };
        let check = check.map_err(|why| format!("host {} writes to call {}: {why}", gate.host, row.id));
        self.check(now, Invariant::FencedHostsAreSilent, check);
        Ok(())
    }

    /// The calls at a workspace after one of them has changed.
    pub fn turns(&mut self, world: &WorldState, workspace: &str, queue: &[CallRow]) {
        let check = invariants::turns_do_not_overlap(queue).map_err(|why| format!("{workspace}: {why}"));
        self.check(world.now(), Invariant::TurnsDoNotOverlap, check);
    }

    /// A host takes calls over.
    pub fn took(
        &mut self,
        world: &WorldState,
        gate: &FaultGate,
        from: Option<HostId>,
        to: HostId,
        current: Option<&HostRow>,
    ) {
        let now = world.now();
        let check = if gate.is(to) {
            invariants::is_current(current, HOST_BEGIN + now)
        } else {
            Err("it is not it".to_owned())
        };
        let check = check.map_err(|why| format!("host {} takes calls over: {why}", gate.host));
        self.check(now, Invariant::FencedHostsAreSilent, check);
        if let Some(from) = from {
            self.note(now, "take-over", &[gate.host, from], || {
                format!("host {} takes over from {from}", gate.host)
            });
        }
    }

    /// An interrupt was noted.
    pub fn interrupted(&mut self, world: &WorldState, call: CallId) {
        self.note(world.now(), "interrupt", &[call], || format!("call {call} is interrupted"));
    }

    /// A request is written down before it is carried out.
    pub fn opened(
        &mut self,
        world: &WorldState,
        gate: &FaultGate,
        row: &CallRow,
        entries: &[Entry],
        open: &Open,
    ) {
        let (now, call) = (world.now(), row.id);
        self.forgotten(world, call);
        let Intent::Build(intent) = &open.intent else {
            self.note(now, "wait", &[call], || format!("call {call} waits: {:?}", open.request));
            return;
        };
        let check = if row.interrupted { Err(format!("call {call} was interrupted before")) } else { Ok(()) };
        self.check(now, Invariant::NothingAfterInterrupt, check);
        let known = self.reads.get(&(gate.host, intent.workspace.clone())).map_or(0, |read| read.number);
        let plane = world.plane();
        if intent.transition == Transition::Stop && invariants::is_conditional(row) {
            let check = invariants::two_signals(Step::Stop, entries, &plane);
            self.check(now, Invariant::TwoSignals, check.map_err(|why| format!("call {call}: {why}")));
        }
        if intent.transition == Transition::Start {
            let rests_on = &intent.rests_on;
            let check = invariants::nobody_is_overruled(entries, rests_on, known, &intent.workspace, &plane);
            self.check(now, Invariant::NobodyIsOverruled, check.map_err(|why| format!("call {call}: {why}")));
        }
        drop(plane);
        self.intents += 1;
        let id = self.intents;
        self.note(now, "intent", &[call, id], || {
            format!(
                "call {call} is going to ask for a {:?} on {} (intent {id})",
                intent.transition, intent.rests_on
            )
        });
        // Of the request: that is what the plugin decided on.
        let Request::IssueTransition { rests_on, .. } = &open.request else { return };
        let (workspace, to, rests_on) =
            (intent.workspace.clone(), intent.transition.clone(), rests_on.clone());
        self.open.insert(call, Opened { id, workspace, to, rests_on, sent: 0 });
    }

    /// A request has its answer.
    pub fn answered(&mut self, world: &WorldState, call: CallId, entry: &Entry) {
        let opened = self.open.remove(&call);
        if let Answer::IssueTransition(Err(TransitionError::Unavailable(_))) = &entry.answer {
            // No build was made, and none will be: that is what this answer says.
            self.given_up.extend(opened.map(|opened| opened.id));
        }
        self.note(world.now(), "answer", &[call], || {
            format!("call {call}: {} is answered {:?}", entry.request.function(), entry.answer)
        });
    }

    /// Open requests of a call are forgotten without an answer.
    pub fn forgotten(&mut self, world: &WorldState, call: CallId) {
        let Some(opened) = self.open.remove(&call) else { return };
        let plane = world.plane();
        let made = plane.made_for(&opened.workspace, opened.id);
        let check = match made {
            Some(job) => {
                Err(format!("call {call} forgets intent {}, for which {} was made", opened.id, job.id))
            }
            None => Ok(()),
        };
        drop(plane);
        self.given_up.insert(opened.id);
        self.check(world.now(), Invariant::OneEffectPerIntent, check);
    }

    /// A call ends.
    pub fn ended(
        &mut self,
        world: &WorldState,
        row: &CallRow,
        export: Option<&Export>,
        (entries, open): (&[Entry], Option<&Open>),
        outcome: &Outcome,
    ) {
        let (now, call) = (world.now(), row.id);
        let unresolved =
            matches!(outcome, Outcome::Failed(Failure::Unresolved { .. } | Failure::Unrecorded { .. }));
        if unresolved || open.is_none() {
            self.open.remove(&call);
        } else {
            self.forgotten(world, call);
        }
        let told = |why: String| format!("call {call}: {why}");
        let plane = world.plane();
        if let Some(advice) = invariants::restart_advice(export, outcome) {
            let check = invariants::two_signals(advice, entries, &plane);
            self.check(now, Invariant::TwoSignals, check.map_err(|why| format!("verdict {call}: {why}")));
        }
        let truth = invariants::results_are_true(row, entries, outcome, &plane, now);
        let truth =
            truth.and_then(|()| invariants::ready_is_true(entries, outcome, &self.greeted)).map_err(told);
        let workspace = row.pinned.workspace.as_deref().unwrap_or_default();
        let down = invariants::down_is_told(row, entries, outcome, workspace, &plane, now).map_err(told);
        drop(plane);
        self.check(now, Invariant::ResultsAreTrue, truth);
        self.check(now, Invariant::DownIsTold, down);
        let text = serde_json::to_string(outcome).unwrap_or_default();
        self.digest.add(text.as_bytes());
        self.note(now, "end", &[call], || format!("call {call} ends: {text}"));
    }

    /// A shell has greeted in a terminal on an agent.
    pub fn greeted(&mut self, agent: &str) {
        self.greeted.insert(agent.to_owned());
    }

    /// A command begins.
    pub fn command_begun(&mut self, now: At, command: &str) {
        let times = self.commands.entry(command.to_owned()).or_default();
        *times += 1;
        let check = match *times {
            1 if self.never_begun.contains(command) => {
                Err(format!("command {command} begins after it was given up"))
            }
            1 => Ok(()),
            times => Err(format!("command {command} begins {times} times")),
        };
        self.note(now, "command", &[], || format!("command {command} begins"));
        self.check(now, Invariant::CommandsBeginOnce, check);
    }

    /// A chat is told whether its command has begun.
    pub fn command_reported(&mut self, now: At, command: &str, began: Began) {
        let times = self.commands.get(command).copied().unwrap_or_default();
        let check = match began {
            Began::No if times > 0 => Err(format!("command {command} has begun, and is said not to have")),
            Began::Yes if times == 0 => Err(format!("command {command} is said to have begun, and has not")),
            _ => Ok(()),
        };
        if began == Began::No {
            self.never_begun.insert(command.to_owned());
        }
        self.check(now, Invariant::CommandsBeginOnce, check);
    }

    /// A chat was advised what to do.
    pub fn advised(&mut self, world: &WorldState, workspace: &str, verdict: &Verdict) {
        let now = world.now();
        self.note(now, "verdict", &[verdict.action as u64], || {
            format!("verdict on {workspace}: {:?} ({:?})", verdict.action, verdict.cause)
        });
    }
}
