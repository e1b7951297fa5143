//! One world: its schedule is carried out, faults first, then calm; in the end everything must have come to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::clients::{ScheduledCall, execute};
use super::hosts::{Fitting, Host, Hosts};
use super::invariants::{Invariant, Violation};
use super::observer::Digest;
use super::plugins::Plugins;
use super::schedule::{Event, FaultPoint, Schedule, ScheduledEvent};
use super::world_state::WorldState;
use crate::engine::Step;
use crate::journal::Journal;
use crate::journal::record::{CallId, Outcome};
use crate::store::{Listing, Store};

/// For how long the calm may last until every call has ended: longer than all limits of a call together.
const CALM: u64 = 3 * 60 * 60 * 1000;
/// How often it is looked whether all have.
const LOOK: Duration = Duration::from_secs(10);

/// What became of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldReport {
    /// Calls that were made.
    pub calls: u64,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// A hash of all that happened.
    pub digest: Digest,
    /// Virtual time that passed, in milliseconds.
    pub lasted: u64,
    /// What must not have happened.
    pub violations: Vec<Violation>,
    /// What happened, in words, if that was asked for.
    pub lines: Vec<String>,
}

/// Lets a world run from its beginning to its end, in this thread.
pub fn run(schedule: &Schedule, plugins: &Plugins, tell: bool) -> std::io::Result<WorldReport> {
    run_fitted(schedule, plugins, tell, Arc::new(|seams, _| seams))
}

/// As [`run`], with this done to the parts of each host.
pub fn run_fitted(
    schedule: &Schedule,
    plugins: &Plugins,
    tell: bool,
    fitting: Fitting,
) -> std::io::Result<WorldReport> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build()?;
    Ok(runtime.block_on(live(schedule.clone(), plugins.clone(), tell, fitting)))
}

async fn live(schedule: Schedule, plugins: Plugins, tell: bool, fitting: Fitting) -> WorldReport {
    let world = WorldState::new(schedule, tell);
    tokio::select! {
        biased;
        () = world.stuck() => {}
        () = pass(&world, &plugins, fitting) => {}
    }
    let mut observer = world.observer();
    WorldReport {
        calls: observer.counts.get("call").copied().unwrap_or_default(),
        counts: std::mem::take(&mut observer.counts),
        digest: observer.digest,
        lasted: world.now(),
        violations: std::mem::take(&mut observer.violations),
        lines: std::mem::take(&mut observer.lines),
    }
}

/// Everything that happens, and the checks afterwards.
async fn pass(world: &Arc<WorldState>, plugins: &Plugins, fitting: Fitting) {
    let store = Store::in_memory();
    for chat in 1..=world.schedule.chats {
        bind(&store, chat, world.schedule.home(chat)).await;
    }
    let hosts = Hosts::begin(world.clone(), plugins.clone(), store.clone(), fitting);
    for (number, ScheduledEvent { at, event }) in world.schedule.events.clone().into_iter().enumerate() {
        world.reach(at).await;
        happen(world, &hosts, &store, number as u64, event).await;
    }
    world.reach(world.schedule.calm).await;
    let ended = end(world, &store).await;
    replay(world, &store, plugins);
    let unended =
        if ended { Vec::new() } else { store.calls(Listing::Unended, usize::MAX).unwrap_or_default() };
    for row in unended {
        let what = format!(
            "call {} is {:?} still, host {:?} has it; it is pinned to {:?}",
            row.id, row.state, row.owner, row.pinned
        );
        world.observer().check(world.now(), Invariant::CallsEnd, Err(what));
    }
}

/// Has an event come about.
async fn happen(world: &Arc<WorldState>, hosts: &Arc<Hosts>, store: &Store, number: u64, event: Event) {
    let now = world.now();
    world.observer().note(now, "event", &[number], || {
        ScheduledEvent { at: now, event }.to_string().trim_start().to_owned()
    });
    match event {
        Event::Call { chat, host, tool, only_if, caller } => {
            let call = ScheduledCall { number, chat, host, tool, only_if, caller };
            tokio::spawn(call.make(world.clone(), hosts.clone()));
        }
        Event::Execute { chat, host } => {
            tokio::spawn(execute(world.clone(), hosts.clone(), number, chat, host));
        }
        Event::Rebind { chat, to } => bind(store, chat, to).await,
        Event::Person { workspace, does } => {
            let workspace = format!("w{workspace}");
            world.plane().person(&workspace, does, now);
            world.changed(&workspace).notify_waiters();
        }
        Event::AgentDies { workspace, back } => {
            let workspace = format!("w{workspace}");
            if let Some(agent) = world.plane().agent_mut(&workspace, now) {
                agent.dies(now, back);
            }
            world.changed(&workspace).notify_waiters();
        }
        Event::AgentHangs { workspace, back } => {
            if let Some(agent) = world.plane().agent_mut(&format!("w{workspace}"), now) {
                agent.hangs(now, back);
            }
        }
        // Known to the control plane from the beginning.
        Event::Away { .. } | Event::NoProvisioner { .. } => {}
        Event::CutOff { host, lasts } => with(hosts, host, |host| host.gate.cut_off(world.until(lasts))),
        Event::StoreFull { host, lasts } => with(hosts, host, |host| host.gate.fill(world.until(lasts))),
        Event::Suspend { host, lasts } => with(hosts, host, |host| host.gate.suspend(world.until(lasts))),
        Event::Crash { host, point: FaultPoint::Now, back } => with(hosts, host, |host| host.gate.die(back)),
        Event::Crash { host, point, back } => with(hosts, host, |host| host.gate.arm(point, back)),
        Event::Leave { host, back } => {
            if let Some(host) = hosts.get(host) {
                tokio::spawn(async move {
                    // It is gone afterwards in any case.
                    let _ = host.driver.leave().await;
                    host.gate.die(back);
                });
            }
        }
    }
}

fn with(hosts: &Hosts, number: u64, happen: impl FnOnce(&Host)) {
    if let Some(host) = hosts.get(number) {
        happen(&host);
    }
}

async fn bind(store: &Store, chat: u64, workspace: u64) {
    let workspace = format!("w{workspace}");
    let bound = store.update(&format!("c{chat}"), move |record| record.bind(Some(&workspace))).await;
    debug_assert!(bound.is_ok(), "the backend in memory has no faults of its own");
}

/// Waits until every call has ended. Answers whether that came about.
async fn end(world: &WorldState, store: &Store) -> bool {
    let last = world.schedule.calm + CALM;
    while store.calls(Listing::Unended, 1).is_ok_and(|calls| !calls.is_empty()) {
        if world.now() > last {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

/// Steps every call over its recording, on the plugin that it began with.
fn replay(world: &WorldState, store: &Store, plugins: &Plugins) {
    for row in store.calls(Listing::All, usize::MAX).unwrap_or_default() {
        let check = replay_one(store, plugins, row.id).map_err(|why| format!("call {}: {why}", row.id));
        world.observer().check(world.now(), Invariant::RecordingsReplay, check);
    }
}

fn replay_one(store: &Store, plugins: &Plugins, call: CallId) -> Result<(), String> {
    let recording = store.recording(call).map_err(|error| error.to_string())?.ok_or("it is not there")?;
    let Some(Outcome::Done { result }) = recording.outcome else { return Ok(()) };
    let plugin = plugins.of(&recording.call.component).ok_or("it began on a component that no host has")?;
    match plugin.step(&recording.call.call, &Journal::recorded(recording.entries)) {
        Ok(Step::Done(again)) if again == result => Ok(()),
        Ok(other) => Err(format!("the recording leads to {other:?}, not to {result:?}")),
        Err(error) => Err(error.to_string()),
    }
}
