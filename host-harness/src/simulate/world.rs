//! One world: its plan is carried out, faults first, then calm; in the end everything must have come to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::callers::{Wanted, execute};
use super::hosts::{Host, Hosts};
use super::invariants::{Invariant, Violation};
use super::plan::{Event, Moment, Plan, Planned};
use super::plugins::Plugins;
use super::stage::Stage;
use super::watch::Digest;
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
pub struct Seen {
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
pub fn run(plan: &Plan, plugins: &Plugins, tell: bool) -> std::io::Result<Seen> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build()?;
    Ok(runtime.block_on(live(plan.clone(), plugins.clone(), tell)))
}

async fn live(plan: Plan, plugins: Plugins, tell: bool) -> Seen {
    let stage = Stage::new(plan, tell);
    tokio::select! {
        biased;
        () = stage.stuck() => {}
        () = pass(&stage, &plugins) => {}
    }
    let mut watch = stage.watch();
    Seen {
        calls: watch.counts.get("call").copied().unwrap_or_default(),
        counts: std::mem::take(&mut watch.counts),
        digest: watch.digest,
        lasted: stage.now(),
        violations: std::mem::take(&mut watch.violations),
        lines: std::mem::take(&mut watch.lines),
    }
}

/// Everything that happens, and the checks afterwards.
async fn pass(stage: &Arc<Stage>, plugins: &Plugins) {
    let store = Store::in_memory();
    for chat in 1..=stage.plan.chats {
        bind(&store, chat, stage.plan.home(chat)).await;
    }
    let hosts = Hosts::begin(stage.clone(), plugins.clone(), store.clone());
    for (number, Planned { at, event }) in stage.plan.events.clone().into_iter().enumerate() {
        stage.reach(at).await;
        happen(stage, &hosts, &store, number as u64, event).await;
    }
    stage.reach(stage.plan.calm).await;
    let ended = end(stage, &store).await;
    replay(stage, &store, plugins);
    let unended =
        if ended { Vec::new() } else { store.calls(Listing::Unended, usize::MAX).unwrap_or_default() };
    for row in unended {
        let what = format!(
            "call {} is {:?} still, host {:?} has it; it is pinned to {:?}",
            row.id, row.state, row.owner, row.pinned
        );
        stage.watch().check(stage.now(), Invariant::CallsEnd, Err(what));
    }
}

/// Has an event come about.
async fn happen(stage: &Arc<Stage>, hosts: &Arc<Hosts>, store: &Store, number: u64, event: Event) {
    let now = stage.now();
    stage
        .watch()
        .note(now, "event", &[number], || Planned { at: now, event }.to_string().trim_start().to_owned());
    match event {
        Event::Call { chat, host, tool, only_if, caller } => {
            let wanted = Wanted { number, chat, host, tool, only_if, caller };
            tokio::spawn(wanted.make(stage.clone(), hosts.clone()));
        }
        Event::Execute { chat, host } => {
            tokio::spawn(execute(stage.clone(), hosts.clone(), number, chat, host));
        }
        Event::Rebind { chat, to } => bind(store, chat, to).await,
        Event::Person { workspace, does } => {
            let workspace = format!("w{workspace}");
            stage.plane().person(&workspace, does, now);
            stage.changed(&workspace).notify_waiters();
        }
        Event::AgentDies { workspace, back } => {
            let workspace = format!("w{workspace}");
            if let Some(agent) = stage.plane().agent_mut(&workspace, now) {
                agent.dies(now, back);
            }
            stage.changed(&workspace).notify_waiters();
        }
        Event::AgentHangs { workspace, back } => {
            if let Some(agent) = stage.plane().agent_mut(&format!("w{workspace}"), now) {
                agent.hangs(now, back);
            }
        }
        // Known to the control plane from the beginning.
        Event::Away { .. } | Event::NoProvisioner { .. } => {}
        Event::CutOff { host, lasts } => with(hosts, host, |host| host.gate.cut_off(stage.until(lasts))),
        Event::StoreFull { host, lasts } => with(hosts, host, |host| host.gate.fill(stage.until(lasts))),
        Event::Suspend { host, lasts } => with(hosts, host, |host| host.gate.suspend(stage.until(lasts))),
        Event::Crash { host, moment: Moment::Now, back } => with(hosts, host, |host| host.gate.die(back)),
        Event::Crash { host, moment, back } => with(hosts, host, |host| host.gate.arm(moment, back)),
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
    debug_assert!(bound.is_ok(), "the home in memory has no faults of its own");
}

/// Waits until every call has ended. Answers whether that came about.
async fn end(stage: &Stage, store: &Store) -> bool {
    let last = stage.plan.calm + CALM;
    while store.calls(Listing::Unended, 1).is_ok_and(|calls| !calls.is_empty()) {
        if stage.now() > last {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

/// Steps every call over its recording, on the plugin that it began with.
fn replay(stage: &Stage, store: &Store, plugins: &Plugins) {
    for row in store.calls(Listing::All, usize::MAX).unwrap_or_default() {
        let check = replay_one(store, plugins, row.id).map_err(|why| format!("call {}: {why}", row.id));
        stage.watch().check(stage.now(), Invariant::RecordingsReplay, check);
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
