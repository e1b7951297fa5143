//! The rules, on each backend.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use super::*;
use crate::bindings::{Binding, Build, JobStatus, Transition};
use crate::builders::{self, policy};
use crate::clock::Clock;
use crate::journal::record::{
    BuildIntent, CallRecord, FORMAT, Failure, Holder, Intent, Open, Pinned, RecordingError,
};
use crate::journal::{Answer, Asked, Entry, Export, Output, Request};

mod leases;
mod turns;

/// A clock that a test sets.
#[derive(Default)]
struct SetClock {
    now: AtomicU64,
    monotonic: AtomicU64,
}

impl Clock for SetClock {
    fn now_ms(&self) -> u64 {
        1_800_000_000_000 + self.now.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.monotonic.load(Ordering::SeqCst)
    }
}

impl SetClock {
    fn pass(&self, seconds: u64) {
        self.now.fetch_add(seconds * 1000, Ordering::SeqCst);
        self.monotonic.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

/// A store with two hosts of one user.
struct World {
    store: Store,
    clock: Arc<SetClock>,
    one: Lease,
    two: Lease,
    _folder: Option<tempfile::TempDir>,
}

const LEASE: Duration = Duration::from_secs(15);

async fn enter(store: &Store, clock: &Arc<SetClock>, user: &str) -> Lease {
    store.enter("here", Some(user), clock.clone(), LEASE).await.unwrap()
}

impl World {
    async fn over(store: Store, folder: Option<tempfile::TempDir>) -> Self {
        let clock = Arc::new(SetClock::default());
        store.update("ana", |chat| chat.bind(Some("w1"))).await.unwrap();
        let (one, two) = (enter(&store, &clock, "u1").await, enter(&store, &clock, "u1").await);
        Self { store, clock, one, two, _folder: folder }
    }

    /// One of each backend.
    async fn all() -> Vec<Self> {
        let mut worlds = vec![Self::over(Store::in_memory(), None).await];
        #[cfg(feature = "store")]
        {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(&folder.path().join("store.db")).unwrap();
            worlds.push(Self::over(store, Some(folder)).await);
        }
        worlds
    }

    async fn begin(&self, lease: &Lease, new: NewCall) -> BeginOutcome {
        lease.begin(new).await.unwrap()
    }

    fn orphans(&self) -> Vec<CallId> {
        self.store.orphans(self.clock.now_ms()).unwrap().iter().map(|row| row.id).collect()
    }

    /// Begins a call that has its turn.
    async fn active(&self) -> CallId {
        self.active_of(stop("ana", None)).await
    }

    async fn active_of(&self, new: NewCall) -> CallId {
        match self.begin(&self.one, new).await {
            BeginOutcome::Active(id) => id,
            other => panic!("{other:?}"),
        }
    }

    /// A host does not wait for a call any more, and nobody else does there.
    async fn abandon(&self, call: CallId, by: &Lease) -> Abandoned {
        self.store.abandon(call, Some(by.host()), self.clock.now_ms(), || true).await.unwrap()
    }

    fn is_interrupted(&self, call: CallId) -> bool {
        self.store.call(call).unwrap().unwrap().interrupted
    }
}

/// A stop of the chat's workspace, `w1`.
fn stop(chat: &str, key: Option<&str>) -> NewCall {
    let call = Export::CallTool { name: "stop_workspace".into(), arguments: "{}".into(), policy: policy() };
    let record = CallRecord {
        format: FORMAT,
        key: key.map(str::to_owned),
        chat: chat.into(),
        pinned: Pinned { deployment: "here".into(), user: Some("u1".into()), workspace: Some("w1".into()) },
        call,
        contract: "0.1.0".into(),
        component: "c0ffee".into(),
        engine: "e".into(),
        created_ms: 1_800_000_000_000,
    };
    NewCall { record, component: Arc::from(*b"bytes"), detached: true, interrupt: CancellationToken::new() }
}

/// As [`stop`], for somebody who waits for it.
fn wanted_stop(chat: &str) -> NewCall {
    NewCall { detached: false, ..stop(chat, None) }
}

fn build() -> Build {
    Build { ours: true, ..builders::stop(2, JobStatus::Pending) }
}

fn intent() -> Open {
    let request =
        Request::IssueTransition { to: Transition::Stop, rests_on: "b1".into(), parameters: Vec::new() };
    let intent = BuildIntent {
        workspace: "w1".into(),
        transition: Transition::Stop,
        user: "u1".into(),
        names_version: None,
        version: Some("v1".into()),
        rests_on: "b1".into(),
        rests_on_number: 1,
        after_stop: false,
        observed: Some(5),
    };
    Open { request, intent: Intent::Build(intent), asked_ms: 7 }
}

fn wait() -> Open {
    let request = Request::WaitForBuild { build: "b2".into(), limit_ms: 600_000 };
    Open { request, intent: Intent::Wait { deadline_ms: 9, last_ms: 9 }, asked_ms: 8 }
}

fn read() -> Entry {
    Entry {
        request: Request::LatestBuild { check_start: false },
        answer: Answer::LatestBuild(Ok(Binding::Unbound)),
        observed: Some(3),
        asked: Asked { asked_ms: 1, intent: None },
        answered_ms: 2,
    }
}

/// The answer to an open request.
fn answered(open: Open, answer: Answer) -> Entry {
    let asked = Asked { asked_ms: open.asked_ms, intent: Some(open.intent) };
    Entry { request: open.request, answer, observed: None, asked, answered_ms: 11 }
}

fn done() -> Outcome {
    Outcome::Failed(Failure::Unresolved { lost: None })
}

#[tokio::test]
async fn what_a_call_did_is_read_back_as_it_was_written() {
    for world in World::all().await {
        let (one, id) = (&world.one, world.active().await);
        assert_eq!(one.open(id, 0, vec![read()], intent()).await, Ok(Admission::Granted));
        let recording = world.store.recording(id).unwrap().unwrap();
        assert_eq!((recording.entries, recording.open), (vec![read()], Some(intent())));

        let made = answered(intent(), Answer::IssueTransition(Ok(build())));
        one.write(id, 1, vec![made.clone()]).await.unwrap();
        assert!(world.store.is_own_build("b2").unwrap());
        assert_eq!(one.open(id, 2, vec![read()], wait()).await, Ok(Admission::Granted));
        assert_eq!(one.waiting().unwrap().len(), 1);
        let outcome = Outcome::Done { result: Output::CheckConnection(crate::bindings::Connection::Redial) };
        one.end(id, 2, vec![read(), read()], outcome.clone()).await.unwrap();
        let recording = world.store.recording(id).unwrap().unwrap();
        assert_eq!(recording.call, stop("ana", None).record);
        assert_eq!(recording.entries, [read(), made, read(), read()]);
        assert_eq!((recording.open, recording.outcome), (None, Some(outcome)));
        assert_eq!(world.store.component("c0ffee").unwrap().as_deref(), Some(&b"bytes"[..]));

        let text = world.store.recording(id).unwrap().unwrap().to_json_lines().unwrap();
        assert_eq!(Recording::from_json_lines(&text).unwrap(), world.store.recording(id).unwrap().unwrap());
    }
}

#[tokio::test]
async fn an_interrupt_that_is_noted_first_keeps_an_effect_and_a_wait_from_being_written() {
    for world in World::all().await {
        let id = world.active().await;
        assert_eq!(world.store.interrupt(id).await, Ok(Interrupted::Noted));
        assert_eq!(world.one.open(id, 0, vec![read()], intent()).await, Ok(Admission::Interrupted));
        assert_eq!(world.one.open(id, 0, vec![read()], wait()).await, Ok(Admission::Interrupted));
        let recording = world.store.recording(id).unwrap().unwrap();
        assert_eq!((recording.entries.len(), recording.open), (0, None));
        assert_eq!(world.one.needing_attention().unwrap().len(), 1);
        world.one.end(id, 0, Vec::new(), done()).await.unwrap();
        assert_eq!(world.store.interrupt(id).await, Ok(Interrupted::Ended));
        assert_eq!(world.store.interrupt(999).await, Ok(Interrupted::Unknown));
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_interrupted_only_if_nothing_was_going_to_be_sent() {
    for world in World::all().await {
        let id = world.active_of(wanted_stop("ana")).await;
        let somebody_waits = world.store.abandon(id, Some(world.one.host()), world.clock.now_ms(), || false);
        assert_eq!(somebody_waits.await, Ok(Abandoned::GoesOn));
        assert!(!world.is_interrupted(id));
        assert_eq!(world.abandon(id, &world.one).await, Abandoned::Interrupted);
        assert!(world.is_interrupted(id));
        world.one.end(id, 0, Vec::new(), done()).await.unwrap();
        assert_eq!(world.abandon(id, &world.one).await, Abandoned::GoesOn);

        let id = world.active_of(wanted_stop("ana")).await;
        world.one.open(id, 0, Vec::new(), intent()).await.unwrap();
        assert_eq!(world.abandon(id, &world.one).await, Abandoned::GoesOn);
        assert!(!world.is_interrupted(id));
    }
}

#[tokio::test]
async fn a_call_is_abandoned_only_by_the_host_that_carries_it_or_after_that_is_gone() {
    for world in World::all().await {
        let id = world.active_of(wanted_stop("ana")).await;
        assert_eq!(world.begin(&world.two, wanted_stop("ana")).await, BeginOutcome::Same(id));
        assert_eq!(world.abandon(id, &world.two).await, Abandoned::Elsewhere);
        assert!(!world.is_interrupted(id));
        world.clock.pass(10);
        world.two.renew(None).await.unwrap();
        world.clock.pass(5);
        assert_eq!(world.abandon(id, &world.two).await, Abandoned::Interrupted);
        assert!(world.is_interrupted(id));
    }
}

#[tokio::test]
async fn a_call_that_somebody_lets_go_on_by_itself_is_not_abandoned() {
    for world in World::all().await {
        let begun = world.active().await;
        assert_eq!(world.begin(&world.one, wanted_stop("ana")).await, BeginOutcome::Same(begun));
        assert_eq!(world.abandon(begun, &world.one).await, Abandoned::GoesOn);
        world.one.end(begun, 0, Vec::new(), done()).await.unwrap();

        let joined = world.active_of(wanted_stop("ana")).await;
        assert_eq!(world.begin(&world.two, stop("ana", None)).await, BeginOutcome::Same(joined));
        assert_eq!(world.abandon(joined, &world.one).await, Abandoned::GoesOn);
        world.one.end(joined, 0, Vec::new(), done()).await.unwrap();

        let detached = world.active_of(wanted_stop("ana")).await;
        world.store.detach(detached).await.unwrap();
        assert_eq!(world.abandon(detached, &world.one).await, Abandoned::GoesOn);
        assert!(!world.is_interrupted(detached));
    }
}

#[tokio::test]
async fn a_chat_that_was_bound_elsewhere_keeps_an_effect_from_being_written() {
    for world in World::all().await {
        let id = world.active().await;
        world.store.update("ana", |chat| chat.bind(Some("w2"))).await.unwrap();
        assert_eq!(world.one.open(id, 0, Vec::new(), intent()).await, Ok(Admission::Rebound));
        assert_eq!(world.one.open(id, 0, Vec::new(), wait()).await, Ok(Admission::Granted));
        assert!(!world.one.publish(id, 0, Vec::new(), "b9".into()).await.unwrap());
        assert_eq!(world.store.chat("ana").unwrap().unwrap().build, None);
    }
}

#[tokio::test]
async fn a_note_that_is_said_again_shows_since_when() {
    for world in World::all().await {
        let id = world.active().await;
        let note = |text: Option<&str>| world.one.note(id, text.map(str::to_owned));
        world.clock.pass(1);
        let said = note(Some("no component")).await.unwrap();
        world.clock.pass(1);
        assert_eq!(note(Some("no component")).await, Ok(said.clone()));
        assert!(note(None).await.unwrap().touched_ms > said.touched_ms);
        assert_eq!(world.store.call(id).unwrap().unwrap().note, None);
    }
}

#[tokio::test]
async fn a_component_is_brought_where_an_unended_call_needs_it() {
    for world in World::all().await {
        let bring = |bytes: &'static [u8]| world.store.bring_component("c0ffee", Arc::from(bytes));
        bring(b"early").await.unwrap();
        assert_eq!(world.store.component("c0ffee").unwrap(), None);
        let id = world.active().await;
        bring(b"sound").await.unwrap();
        assert_eq!(world.store.component("c0ffee").unwrap().as_deref(), Some(&b"sound"[..]));
        world.one.end(id, 0, Vec::new(), done()).await.unwrap();
        bring(b"late").await.unwrap();
        assert_eq!(world.store.component("c0ffee").unwrap().as_deref(), Some(&b"sound"[..]));
    }
}

#[tokio::test]
async fn what_nothing_rests_on_is_forgotten_with_an_open_request_behind_it() {
    for world in World::all().await {
        let id = world.active().await;
        world.one.open(id, 0, vec![read()], intent()).await.unwrap();
        world.one.rewind(id, 0, false).await.unwrap();
        assert!(!world.store.call(id).unwrap().unwrap().sent);
        let recording = world.store.recording(id).unwrap().unwrap();
        assert_eq!((recording.entries.len(), recording.open), (0, None));
    }
}

#[tokio::test]
async fn old_ended_calls_are_removed_with_all_that_only_they_needed() {
    for world in World::all().await {
        let old = world.active().await;
        world.one.open(old, 0, vec![read()], intent()).await.unwrap();
        let made = answered(intent(), Answer::IssueTransition(Ok(build())));
        world.one.write(old, 1, vec![made]).await.unwrap();
        world.one.end(old, 2, Vec::new(), done()).await.unwrap();
        world.clock.pass(10);
        let between = world.clock.now_ms();
        let kept = world.active().await;
        assert_eq!(world.store.prune(between).await, Ok(1));
        assert_eq!(world.store.recording(old).unwrap(), None);
        assert!(world.store.recording(kept).unwrap().is_some());
        assert!(!world.store.is_own_build("b2").unwrap());
        assert!(world.store.component("c0ffee").unwrap().is_some(), "a kept call names it");
        world.one.end(kept, 0, Vec::new(), done()).await.unwrap();
        assert_eq!(world.store.prune(u64::MAX / 2).await, Ok(1));
        assert_eq!(world.store.component("c0ffee").unwrap(), None);
        assert!(world.store.calls(Listing::All, 10).unwrap().is_empty());
    }
}

#[test]
fn a_file_that_is_no_exported_call_is_refused_with_the_line_and_the_reason() {
    let refused = |text: &str| Recording::from_json_lines(text).unwrap_err();
    assert!(matches!(refused(""), RecordingError::NoCall));
    assert!(matches!(
        refused("{\"line\":\"outcome\",\"ended\":\"done\"}"),
        RecordingError::Line { line: 1, .. }
    ));
    let recording =
        Recording { call: stop("ana", None).record, entries: vec![read()], open: None, outcome: None };
    let text = recording.to_json_lines().unwrap();
    let entry_first: String = text.lines().rev().collect::<Vec<_>>().join("\n");
    assert!(matches!(refused(&entry_first), RecordingError::NoCall));
    assert!(matches!(refused(&format!("{text}{text}")), RecordingError::Line { line: 3, .. }));
    let newer = text.replacen("\"format\":1", "\"format\":2", 1);
    assert!(matches!(refused(&newer), RecordingError::Newer { found: 2 }));
    assert!(matches!(refused(&format!("{text}half a li")), RecordingError::Line { line: 3, .. }));
}

/// Work that panics or fails in the middle leaves nothing behind, on any backend whose rules write before they fail.
#[cfg(feature = "store")]
#[tokio::test]
async fn work_that_fails_leaves_nothing_behind_and_does_not_take_others_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store.db")).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let fails = store.write(|tx| {
        tx.put_chat(&ChatRecord { name: "half".into(), ..ChatRecord::default() })?;
        Err::<(), _>(StoreError::LeaseLost)
    });
    let works = store.update("whole", |_| {});
    let (failed, worked) = tokio::join!(fails, works);
    assert_eq!(failed, Err(StoreError::LeaseLost));
    worked.unwrap();
    for chat in store.chats().unwrap() {
        seen.lock().unwrap().push(chat.name);
    }
    assert_eq!(*seen.lock().unwrap(), ["whole"]);
}
