//! Hosts that share a store in memory, on a paused clock. Writes can be held back, so that what happens at once
//! happens in a known order.

mod handle;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::{broadcast, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::bindings::{CallError, ToolResult};
use crate::builders::ME;
use crate::clock::Clock;
use crate::driver::plane::Plane;
use crate::driver::{Driver, Event};
use crate::engine::{Engine, EngineOptions};
use crate::journal::record::{Intent, Open};
use crate::journal::{Export, Request};
use crate::policy::{ChatTools, Timings};
use crate::store::{Backend, CallState, Committed, Listing, ReadTransaction, Store, Work};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Long enough for whatever can happen now, much shorter than a host's next round.
const MOMENT: Duration = Duration::from_millis(20);

/// A wall clock that goes with tokio's.
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now_ms(&self) -> u64 {
        1_700_000_000_000 + self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// One control plane and one store, for several hosts.
struct World {
    plane: Plane,
    store: Store,
    clock: Arc<TokioClock>,
    timings: Timings,
}

/// A host, and the way that its writes take.
struct Host {
    driver: Driver,
    writes: Arc<Writes>,
    events: broadcast::Receiver<Event>,
}

/// The store as one host reaches it.
struct Writes {
    backend: Arc<dyn Backend>,
    hold: Mutex<Option<(Hold, oneshot::Receiver<()>)>>,
}

/// Where the next write waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// Before it is done.
    Before,
    /// Afterwards: its host does not know yet.
    After,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(TokioClock(Instant::now()));
        Self { plane: Plane::default(), store: Store::in_memory(), clock, timings: Timings::default() }
    }

    /// A host that stands by and has made its first round.
    async fn host(&self) -> Host {
        let writes = Arc::new(Writes { backend: self.store.backend().clone(), hold: Mutex::default() });
        let (plane, store) = (Arc::new(self.plane.clone()), Store::at(writes.clone()));
        let driver = Driver::with_clock(plugin(), plane, store, self.timings.clone(), self.clock.clone());
        let events = driver.subscribe();
        driver.stand_by().await.unwrap();
        sleep(MOMENT).await;
        Host { driver, writes, events }
    }

    /// A host that does nothing by itself, and acts for this user.
    async fn lease(&self, user: &str) -> Lease {
        self.store.enter("memory", Some(user), self.clock.clone(), 48 * HOUR).await.unwrap()
    }

    /// Begins a start of the workspace by a host that does nothing by itself.
    async fn begin(&self, host: &Host, lease: &Lease, user: &str, workspace: &str) -> CallId {
        let mut record = self.start(host, workspace).await;
        record.pinned.user = Some(user.into());
        self.begin_on(host.driver.plugin.component().clone(), record, lease).await
    }

    async fn begin_on(&self, component: Arc<[u8]>, record: CallRecord, lease: &Lease) -> CallId {
        match lease
            .begin(NewCall { record, component, detached: true, interrupt: CancellationToken::new() })
            .await
            .unwrap()
        {
            BeginOutcome::Active(id) => id,
            other => panic!("{other:?}"),
        }
    }

    /// A start of the workspace, as its own chat asks for it.
    async fn start(&self, host: &Host, workspace: &str) -> CallRecord {
        self.start_by(workspace, host, workspace).await
    }

    /// A start of the workspace, as this chat asks for it.
    async fn start_by(&self, chat: &str, host: &Host, workspace: &str) -> CallRecord {
        let bound = workspace.to_owned();
        self.store.update(chat, move |chat| chat.bind(Some(&bound))).await.unwrap();
        let policy = self.timings.policy(&ChatTools::default());
        host.driver.tool_call(chat, "start_workspace", "{}", policy, None).await.unwrap()
    }

    fn is_interrupted(&self, call: CallId) -> bool {
        self.store.call(call).unwrap().unwrap().interrupted
    }

    fn is_ended(&self, call: CallId) -> bool {
        self.store.call(call).unwrap().unwrap().state == CallState::Ended
    }
}

impl Host {
    /// Begins a call, as a task.
    async fn begin(&self, record: CallRecord) -> JoinHandle<Result<CallId, DriveError>> {
        let scheduler = self.driver.scheduler.clone();
        let begun = tokio::spawn(async move { scheduler.begin(record).await });
        sleep(MOMENT).await;
        begun
    }

    async fn follow(&self, call: CallId) -> Result<Result<ToolResult, CallError>, DriveError> {
        self.driver.follow(call, &CancellationToken::new()).await
    }

    /// Its id in the store: another one once it has begun anew.
    fn id(&self) -> u64 {
        self.driver.scheduler.current().unwrap().host()
    }
}

impl Writes {
    /// Holds the next write until what is answered is used or dropped.
    fn hold(&self, hold: Hold) -> oneshot::Sender<()> {
        let (release, released) = oneshot::channel();
        *lock(&self.hold) = Some((hold, released));
        release
    }
}

impl Backend for Writes {
    fn transact(&self, work: Work) -> Committed {
        let Some((hold, released)) = lock(&self.hold).take() else { return self.backend.transact(work) };
        let backend = self.backend.clone();
        let done = match hold {
            Hold::Before => Err(work),
            Hold::After => Ok(backend.transact(work)),
        };
        Box::pin(async move {
            // Released by being dropped as well.
            let _ = released.await;
            match done {
                Ok(done) => done.await,
                Err(work) => backend.transact(work).await,
            }
        })
    }

    fn read(
        &self,
        work: &mut dyn FnMut(&dyn ReadTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.backend.read(work)
    }

    fn generation(&self) -> Result<u64, StoreError> {
        self.backend.generation()
    }
}

/// The plugin, loaded once.
fn plugin() -> Plugin {
    static PLUGIN: LazyLock<Plugin> =
        LazyLock::new(|| Engine::new(EngineOptions::default()).unwrap().load(crate::PLUGIN).unwrap());
    PLUGIN.clone()
}

/// What each call asked for, at all of these hosts together.
fn requests<const N: usize>(hosts: [&mut Host; N]) -> BTreeMap<CallId, Vec<&'static str>> {
    let mut requests: BTreeMap<CallId, Vec<_>> = BTreeMap::new();
    for host in hosts {
        while let Ok(event) = host.events.try_recv() {
            if let (Some(call), EventKind::Requested(request)) = (event.call, event.kind) {
                requests.entry(call).or_default().push(request.function());
            }
        }
    }
    requests
}

/// What a start asks for whose build is in progress at first, if nothing comes between.
async fn undisturbed() -> Vec<&'static str> {
    let world = World::new();
    let mut host = world.host().await;
    let call = host.begin(world.start(&host, "w").await).await.await.unwrap().unwrap();
    world.plane.end("w");
    let result = host.follow(call).await.unwrap().unwrap();
    assert!(result.json.contains(r#""started":true"#), "{}", result.json);
    requests([&mut host]).remove(&call).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_ended_while_it_gets_its_turn_costs_its_host_nothing() {
    let world = World::new();
    let host = world.host().await;
    let other = world.lease(ME).await;
    let first = world.begin(&host, &other, ME, "w").await;
    let queued = host.begin(world.start_by("x", &host, "w").await).await.await.unwrap().unwrap();
    let (id, release) = (host.id(), host.writes.hold(Hold::Before));
    other.end(first, 0, Vec::new(), Outcome::Failed(Failure::Interrupted)).await.unwrap();
    // The host has read that the turn is free, and is about to take it.
    sleep(world.timings.news).await;
    host.driver.interrupt(queued).await.unwrap();
    drop(release);
    sleep(MOMENT).await;
    assert_eq!(host.id(), id, "the host began anew");
    assert_eq!(host.driver.unended(), 0);
    assert!(matches!(host.follow(queued).await, Err(DriveError::Failed(Failure::Interrupted))));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_ends_while_it_waits_for_its_turn_is_told_to_have_ended() {
    let timings = Timings { turn_limit: Duration::from_secs(60), ..Timings::default() };
    let world = World { timings, ..World::new() };
    let mut host = world.host().await;
    host.begin(world.start(&host, "w").await).await.await.unwrap().unwrap();
    let interrupted = host.begin(world.start_by("x", &host, "w").await).await.await.unwrap().unwrap();
    let late = host.begin(world.start_by("y", &host, "w").await).await.await.unwrap().unwrap();
    host.driver.interrupt(interrupted).await.unwrap();
    assert!(!host.driver.carries(interrupted) && host.driver.carries(late));
    sleep(2 * world.timings.turn_limit).await;
    assert!(world.is_ended(late) && !host.driver.carries(late));
    let mut told: BTreeMap<CallId, Vec<EventKind>> = BTreeMap::new();
    while let Ok(event) = host.events.try_recv() {
        told.entry(event.call.unwrap()).or_default().push(event.kind);
    }
    for call in [interrupted, late] {
        let told = &told[&call];
        assert!(matches!(told[..], [EventKind::WaitingForTurn(_), .., EventKind::Ended]), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_turn_hears_how_many_are_ahead_and_when_that_changes() {
    let world = World::new();
    let (mut host, other) = (world.host().await, world.lease(ME).await);
    let first = world.begin(&host, &other, ME, "w").await;
    let record = world.start_by("x", &host, "w").await;
    let component = host.driver.plugin.component().clone();
    let begun = other
        .begin(NewCall { record, component, detached: true, interrupt: CancellationToken::new() })
        .await
        .unwrap();
    let BeginOutcome::Queued(second, _) = begun else { panic!("{begun:?}") };
    let third = host.begin(world.start_by("y", &host, "w").await).await.await.unwrap().unwrap();
    let mut hear = async || {
        // Long enough for several rounds: what has not changed is not told again.
        sleep(4 * world.timings.news).await;
        let mut told = Vec::new();
        while let Ok(event) = host.events.try_recv() {
            if let (Some(call), EventKind::WaitingForTurn(_)) = (event.call, &event.kind) {
                assert_eq!(call, third);
                told.extend(crate::describe::describe_event(&event.kind));
            }
        }
        told
    };
    let waits = |chat, call| format!("waiting for start_workspace of chat \"{chat}\" (call {call})");
    assert_eq!(hear().await, [format!("{} and 1 more call", waits("w", first))]);
    other.end(first, 0, Vec::new(), Outcome::Failed(Failure::Interrupted)).await.unwrap();
    assert_eq!(hear().await, [waits("x", second)]);
    other.end(second, 0, Vec::new(), Outcome::Failed(Failure::Interrupted)).await.unwrap();
    assert!(hear().await.is_empty());
    let row = world.store.call(third).unwrap().unwrap();
    assert_eq!((row.state, world.store.waits_for(&row)), (CallState::Active, Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn calls_that_begin_while_nobody_knows_the_user_wait_for_that_side_by_side() {
    let world = World::new();
    let silent = Duration::from_secs(15);
    world.plane.world().silent = Some(silent);
    let host = world.host().await;
    let begun = Instant::now();
    let policy = world.timings.policy(&ChatTools::default());
    let begin = |workspace: String| {
        let (driver, policy) = (host.driver.clone(), policy.clone());
        async move { driver.begin(&workspace, "start_workspace", "{}", policy, None).await }
    };
    let all = join_all((0..10).map(|number| begin(format!("w{number}")))).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(begun.elapsed() < 2 * silent, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_is_for_the_workspace_that_its_asker_saw() {
    let world = World::new();
    let host = world.host().await;
    world.start(&host, "w").await;
    world.store.update("w", |chat| chat.bind(Some("v"))).await.unwrap();
    let policy = world.timings.policy(&ChatTools::default());
    let call = host.driver.begin_with_handle("w", "w", "start_workspace", "{}", policy).await.unwrap();
    let result = host.follow(call.id()).await.unwrap().unwrap();
    assert!(result.json.contains("not bound"), "{}", result.json);
    assert_eq!(world.plane.world().reads.len(), 0, "neither is looked at");
    call.release();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_ended_while_it_runs_is_let_go_and_told_to_those_who_wait_for_it() {
    let world = World::new();
    let host = world.host().await;
    world.plane.world().takes = 2 * MOMENT;
    let call = host.begin(world.start(&host, "w").await).await.await.unwrap().unwrap();
    let id = host.id();
    let lease = host.driver.scheduler.current().unwrap();
    lease.end(call, 0, Vec::new(), Outcome::Failed(Failure::Interrupted)).await.unwrap();
    assert!(matches!(host.follow(call).await, Err(DriveError::Failed(Failure::Interrupted))));
    sleep(2 * MOMENT).await;
    assert_eq!((host.id(), host.driver.unended()), (id, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_panics_is_told_and_tried_again() {
    let world = World::new();
    let host = world.host().await;
    world.plane.world().panics = Some("w".into());
    let call = host.begin(world.start(&host, "w").await).await.await.unwrap().unwrap();
    let told = timeout(HOUR, host.follow(call)).await.expect("somebody knows that it does not run any more");
    assert!(matches!(told, Err(DriveError::Stranded { .. })), "{told:?}");
    world.plane.world().panics = None;
    world.plane.end("w");
    assert!(host.follow(call).await.unwrap().is_ok());
}

/// A call is in the store as soon as its host has written it there. The host's next round finds it, and must not take
/// it for one that is nobody's: when the host learns that it was written, the call may run, sleep, or have ended.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_adopted_while_it_is_begun_runs_once() {
    // Longer than it takes until the host's next round is made.
    let long = Timings::default().news * 2;
    for (takes, ends) in [(long, false), (Duration::ZERO, false), (Duration::ZERO, true)] {
        let world = World::new();
        let mut host = world.host().await;
        let other = world.lease(ME).await;
        let orphan = world.begin(&host, &other, ME, "v").await;
        let record = world.start(&host, "w").await;
        world.plane.world().takes = takes;
        let release = host.writes.hold(Hold::After);
        let begun = host.begin(record).await;
        other.leave().await.unwrap();
        // The host takes the orphan over, and looks for calls that it does not know.
        sleep(world.timings.news).await;
        if ends {
            world.plane.end("w");
            sleep(world.timings.poll * 2).await;
        }
        let call = orphan + 1;
        assert_eq!(world.is_ended(call), ends);
        drop(release);
        sleep(MOMENT).await;
        assert_eq!(begun.await.unwrap().unwrap(), call);
        sleep(2 * takes).await;
        world.plane.end("w");
        world.plane.end("v");
        assert!(host.follow(call).await.unwrap().is_ok());
        assert!(host.follow(orphan).await.unwrap().is_ok());
        sleep(world.timings.news).await;
        assert_eq!(host.driver.unended(), 0);
        if !ends {
            let undisturbed = undisturbed().await;
            let all = requests([&mut host]);
            assert_eq!((&all[&call], &all[&orphan]), (&undisturbed, &undisturbed), "reads take {takes:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_gets_its_turn_and_ends_while_it_is_begun_does_not_wait_afterwards() {
    for ends in [false, true] {
        let world = World::new();
        let mut host = world.host().await;
        let first = host.begin(world.start(&host, "w").await).await.await.unwrap().unwrap();
        let record = world.start_by("x", &host, "w").await;
        let release = host.writes.hold(Hold::After);
        let begun = host.begin(record).await;
        if ends {
            world.plane.end("w");
        } else {
            host.driver.interrupt(first).await.unwrap();
        }
        sleep(world.timings.poll * 2).await;
        let call = first + 1;
        assert!(world.is_ended(first));
        assert_eq!(world.is_ended(call), ends);
        drop(release);
        assert_eq!(begun.await.unwrap().unwrap(), call);
        let mut told = Vec::new();
        while let Ok(event) = host.events.try_recv() {
            if event.call == Some(call) {
                told.push(event.kind);
            }
        }
        let waits = told.iter().any(|kind| matches!(kind, EventKind::WaitingForTurn(_)));
        assert!(!told.is_empty() && !waits, "it has its turn: {told:?}");
        world.plane.end("w");
        assert!(host.follow(call).await.unwrap().is_ok());
        assert_eq!((host.driver.carries(call), host.driver.unended()), (false, 0), "it has ended");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_two_hosts_find_at_once_are_each_carried_on_by_one() {
    const CALLS: u64 = 12;
    let undisturbed = undisturbed().await;
    for hold in [Hold::Before, Hold::After] {
        let world = World::new();
        let (mut one, mut two) = (world.host().await, world.host().await);
        let other = world.lease(ME).await;
        let mut calls = Vec::new();
        for number in 0..CALLS {
            calls.push(world.begin(&one, &other, ME, &format!("w{number}")).await);
        }
        // Both have read that there are calls without a host when the first of them takes them over.
        let release = one.writes.hold(hold);
        other.leave().await.unwrap();
        sleep(world.timings.news).await;
        assert!(lock(&one.writes.hold).is_none(), "it has not tried");
        drop(release);
        sleep(MOMENT).await;
        assert_eq!(one.driver.unended() + two.driver.unended(), calls.len(), "{hold:?}");
        for number in 0..CALLS {
            world.plane.end(&format!("w{number}"));
        }
        for call in &calls {
            assert!(one.follow(*call).await.unwrap().is_ok());
        }
        let all = requests([&mut one, &mut two]);
        for call in &calls {
            assert_eq!(all[call], undisturbed, "{hold:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_no_host_may_carry_on_is_abandoned_after_a_day_and_frees_its_workspace() {
    // A host that looks around once a minute is quick to test for a day.
    let timings = Timings { news: Duration::from_secs(60), lease: HOUR, ..Timings::default() };
    let world = World { timings, ..World::new() };
    let host = world.host().await;
    let stranger = world.lease("somebody else").await;
    let left = world.begin(&host, &stranger, "somebody else", "w").await;
    let open = Open {
        request: Request::WaitForBuild { build: "build of w".into(), limit_ms: 1000 },
        intent: Intent::Wait { deadline_ms: 0, last_ms: 0 },
        asked_ms: 0,
    };
    stranger.open(left, 0, Vec::new(), open).await.unwrap();
    stranger.leave().await.unwrap();
    let queued = host.begin(world.start_by("x", &host, "w").await).await.await.unwrap().unwrap();
    let waited = host.follow(queued).await;
    assert!(matches!(waited, Err(DriveError::Failed(Failure::Busy { holder })) if holder.call == left));

    sleep(23 * HOUR).await;
    assert!(!world.is_ended(left), "it is given up too early");
    sleep(2 * HOUR).await;
    assert!(world.is_ended(left), "it is not given up");
    let abandoned = host.follow(left).await;
    assert!(matches!(abandoned, Err(DriveError::Failed(Failure::Abandoned { hours: 24 }))), "{abandoned:?}");
    world.plane.end("w");
    let next = host.begin(world.start(&host, "w").await).await.await.unwrap().unwrap();
    assert!(host.follow(next).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_component_nobody_brings_is_abandoned_after_a_day_and_frees_its_workspace() {
    let timings = Timings { news: Duration::from_secs(60), lease: HOUR, ..Timings::default() };
    let world = World { timings, ..World::new() };
    let host = world.host().await;
    let other = world.lease(ME).await;
    let record = CallRecord { component: "c0ffee".into(), ..world.start(&host, "w").await };
    let stranded = world.begin_on(Arc::from(*b"no component"), record, &other).await;
    other.leave().await.unwrap();
    assert!(matches!(host.follow(stranded).await, Err(DriveError::Stranded { .. })));

    sleep(23 * HOUR).await;
    assert!(!world.is_ended(stranded), "it is given up too early");
    sleep(2 * HOUR).await;
    let abandoned = host.follow(stranded).await;
    assert!(matches!(abandoned, Err(DriveError::Failed(Failure::Abandoned { hours: 24 }))), "{abandoned:?}");
    world.plane.end("w");
    let next = host.begin(world.start(&host, "w").await).await.await.unwrap().unwrap();
    assert!(host.follow(next).await.unwrap().is_ok());
}
