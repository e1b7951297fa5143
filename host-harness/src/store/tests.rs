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
async fn a_host_whose_lease_has_run_out_writes_nothing_even_if_nobody_has_taken_over() {
    for world in World::all().await {
        let id = world.active().await;
        world.clock.pass(14);
        assert!(world.one.is_current());
        world.one.renew(None).await.unwrap();
        world.clock.pass(15);
        assert!(!world.one.is_current());
        let lost = Err(StoreError::LeaseLost);
        assert_eq!(world.one.renew(None).await, lost);
        assert_eq!(world.one.open(id, 0, Vec::new(), intent()).await.map(drop), lost);
        assert_eq!(world.one.write(id, 0, vec![read()]).await, lost);
        assert_eq!(world.one.publish(id, 0, Vec::new(), "b2".into()).await.map(drop), lost);
        assert_eq!(world.one.rewind(id, 0, false).await, lost);
        assert_eq!(world.one.end(id, 0, Vec::new(), done()).await.map(drop), lost);
        assert_eq!(world.one.begin(stop("ana", None)).await.map(drop), lost);
        assert_eq!(world.store.recording(id).unwrap().unwrap().open, None);
    }
}

#[tokio::test]
async fn a_call_that_has_ended_or_is_another_hosts_is_told_apart_from_a_lost_lease() {
    for world in World::all().await {
        let id = world.active().await;
        let not_held = Err(StoreError::NotHeld { call: id });
        assert_eq!(world.two.rewind(id, 0, false).await, not_held);
        world.one.end(id, 0, Vec::new(), done()).await.unwrap();
        assert_eq!(world.one.rewind(id, 0, false).await, not_held);
        assert_eq!(world.one.renew(None).await, Ok(()));
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
async fn calls_of_a_host_that_is_gone_go_to_another_of_the_same_user_and_control_plane_only() {
    for world in World::all().await {
        let id = world.active().await;
        let stranger = enter(&world.store, &world.clock, "u2").await;
        assert_eq!(world.two.take_over(None).await, Ok(0), "its host is there");
        world.clock.pass(10);
        stranger.renew(None).await.unwrap();
        world.two.renew(None).await.unwrap();
        world.clock.pass(10);
        assert_eq!(world.orphans(), [id]);
        assert_eq!(stranger.take_over(None).await, Ok(0));
        assert_eq!(world.two.take_over(None).await, Ok(1));
        assert_eq!(world.two.calls().unwrap().len(), 1);
        assert!(world.orphans().is_empty());
        world.two.open(id, 0, Vec::new(), intent()).await.unwrap();
        world.two.leave().await.unwrap();
        assert_eq!(world.orphans(), [id]);
        assert_eq!(stranger.take_over(None).await, Ok(0));
        let third = enter(&world.store, &world.clock, "u1").await;
        assert_eq!(third.take_over(None).await, Ok(1));
        assert_eq!(third.calls().unwrap()[0].id, id);
    }
}

#[tokio::test]
async fn a_host_leaves_to_others_what_would_end_its_own_process_and_does_not_look_again_for_it() {
    for world in World::all().await {
        let self_ending = |workspace: &str, tool: &str| {
            Some(SelfEnding { workspace: workspace.into(), tools: vec![tool.into()] })
        };
        let own = self_ending("w1", "stop_workspace");
        let id = world.active().await;
        assert_eq!(world.two.has_unowned(own.as_ref()), Ok(false), "its host is there");
        world.clock.pass(10);
        world.two.renew(None).await.unwrap();
        world.clock.pass(10);
        assert_eq!(world.two.take_over(own.clone()).await, Ok(0));
        assert_eq!(world.orphans(), [id], "any other host may");
        assert_eq!(world.two.has_unowned(own.as_ref()), Ok(false), "none for it");
        assert_eq!(world.two.has_unowned(None), Ok(true));
        assert_eq!(world.two.take_over(own).await, Ok(0));
        for other in [self_ending("w2", "stop_workspace"), self_ending("w1", "restart_workspace")] {
            assert_eq!(world.two.has_unowned(other.as_ref()), Ok(true));
        }
        assert_eq!(world.two.take_over(self_ending("w2", "stop_workspace")).await, Ok(1));
        // What it carries already stays its own.
        assert_eq!(world.two.take_over(self_ending("w1", "stop_workspace")).await, Ok(0));
        assert_eq!(world.two.calls().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_call_of_which_nobody_knows_for_whom_it_acts_ends_with_its_host_and_holds_nobody_up() {
    for world in World::all().await {
        let mut unknown = stop("ana", None);
        unknown.record.pinned.user = None;
        let BeginOutcome::Active(first) = world.begin(&world.one, unknown).await else {
            panic!("not active")
        };
        let BeginOutcome::Queued(second, _) = world.begin(&world.two, stop("bo", None)).await else {
            panic!("not queued")
        };
        world.one.leave().await.unwrap();
        assert_eq!(world.two.take_over(None).await, Ok(0));
        let (outcome, _) = world.store.outcome(first).unwrap().unwrap();
        assert_eq!(outcome, Outcome::Failed(Failure::Unidentified));
        assert_eq!(world.two.take_turn(second).await, Ok(true));
    }
}

#[tokio::test]
async fn calls_at_one_workspace_take_turns_in_order_of_arrival_across_hosts_and_chats() {
    for world in World::all().await {
        let first = world.active().await;
        let holder = Holder { call: first, chat: "ana".into(), tool: "stop_workspace".into() };
        let BeginOutcome::Queued(second, named) = world.begin(&world.two, stop("ben", None)).await else {
            panic!()
        };
        assert_eq!(named, Turn { holder: holder.clone(), between: 0 });
        let BeginOutcome::Queued(third, named) = world.begin(&world.one, stop("cem", None)).await else {
            panic!()
        };
        assert_eq!(named, Turn { holder, between: 1 });
        assert_eq!(world.two.take_turn(second).await, Ok(false));
        assert_eq!(
            world.one.end(first, 0, Vec::new(), done()).await,
            Ok(None),
            "the next is not this host's"
        );
        assert_eq!(world.one.take_turn(third).await, Ok(false));
        assert_eq!(world.two.take_turn(second).await, Ok(true));
        world.two.end(second, 0, Vec::new(), done()).await.unwrap();
        assert_eq!(world.one.take_turn(third).await, Ok(true));

        let BeginOutcome::Queued(fourth, _) = world.begin(&world.one, stop("dan", None)).await else {
            panic!()
        };
        for number in 5..12 {
            let chat = format!("chat {number}");
            assert!(matches!(world.begin(&world.one, stop(&chat, None)).await, BeginOutcome::Queued(..)));
        }
        let busy = world.begin(&world.two, stop("late", None)).await;
        assert!(matches!(busy, BeginOutcome::Busy(Holder { call, .. }) if call == third), "{busy:?}");
        assert_eq!(world.one.end(third, 0, Vec::new(), done()).await, Ok(Some(fourth)));
        assert_eq!(world.store.call(fourth).unwrap().unwrap().state, CallState::Active);
    }
}

#[tokio::test]
async fn the_same_request_is_one_call_by_its_key_or_while_nothing_else_was_asked_for_or_it_has_an_effect() {
    for world in World::all().await {
        let BeginOutcome::Active(keyed) = world.begin(&world.one, stop("ana", Some("k"))).await else {
            panic!()
        };
        assert_eq!(world.begin(&world.two, stop("ana", Some("k"))).await, BeginOutcome::Same(keyed));
        let mut other = stop("ana", Some("k"));
        if let Export::CallTool { arguments, .. } = &mut other.record.call {
            *arguments = r#"{"only_if_unreachable":true}"#.into();
        }
        assert_eq!(world.begin(&world.two, other).await, BeginOutcome::KeyTaken(keyed));
        assert_eq!(world.begin(&world.two, stop("ana", None)).await, BeginOutcome::Same(keyed));
        let BeginOutcome::Queued(other, _) = world.begin(&world.two, stop("ben", None)).await else {
            panic!()
        };
        let waits = world.begin(&world.two, stop("ana", None)).await;
        let BeginOutcome::Queued(waiting, _) = waits else { panic!("the other one comes first: {waits:?}") };
        assert_eq!(world.begin(&world.one, stop("ana", None)).await, BeginOutcome::Same(waiting));
        world.one.open(keyed, 0, Vec::new(), intent()).await.unwrap();
        assert_eq!(world.begin(&world.two, stop("ana", None)).await, BeginOutcome::Same(keyed));
        for ends in [waiting, other] {
            world.two.end(ends, 0, Vec::new(), done()).await.unwrap();
        }
        world.one.end(keyed, 0, Vec::new(), done()).await.unwrap();
        assert_eq!(world.begin(&world.one, stop("ana", Some("k"))).await, BeginOutcome::Same(keyed));
        assert!(matches!(world.begin(&world.one, stop("ana", None)).await, BeginOutcome::Active(_)));
    }
}

#[tokio::test]
async fn a_call_that_has_sent_nothing_is_not_joined_if_it_is_interrupted_or_for_another_user() {
    for world in World::all().await {
        let first = world.active().await;
        let mut for_another = stop("ana", None);
        for_another.record.pinned.user = Some("u2".into());
        let second = world.begin(&world.two, for_another).await;
        let BeginOutcome::Queued(second, _) = second else { panic!("{second:?}") };
        world.two.end(second, 0, Vec::new(), done()).await.unwrap();
        world.store.interrupt(first).await.unwrap();
        let third = world.begin(&world.two, stop("ana", None)).await;
        assert!(matches!(third, BeginOutcome::Queued(..)), "{third:?}");
    }
}

#[tokio::test]
async fn the_same_call_made_again_while_the_control_plane_could_not_say_for_whom_is_one_call() {
    let by = |user: Option<&str>| {
        let mut new = wanted_stop("ana");
        new.record.pinned.user = user.map(str::to_owned);
        new
    };
    for (first, again) in [(Some("u1"), None), (None, Some("u1")), (None, None)] {
        for world in World::all().await {
            let id = world.active_of(by(first)).await;
            assert_eq!(
                world.begin(&world.two, by(again)).await,
                BeginOutcome::Same(id),
                "{first:?} {again:?}"
            );
        }
    }
}

#[tokio::test]
async fn whoever_asks_again_after_a_deliberate_interrupt_is_not_given_the_end_of_the_interrupted_call() {
    for world in World::all().await {
        let first = world.active().await;
        world.one.open(first, 0, Vec::new(), intent()).await.unwrap();
        assert_eq!(world.begin(&world.two, stop("ana", None)).await, BeginOutcome::Same(first));
        world.store.interrupt(first).await.unwrap();
        let second = world.begin(&world.two, stop("ana", None)).await;
        let BeginOutcome::Queued(second, turn) = second else { panic!("{second:?}") };
        assert_eq!(turn.holder.call, first);
        assert_eq!(world.begin(&world.one, stop("ana", None)).await, BeginOutcome::Same(second));
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

#[tokio::test]
async fn a_call_that_no_host_could_carry_on_for_a_day_is_abandoned() {
    for world in World::all().await {
        let id = world.active().await;
        world.clock.pass(23 * 60 * 60);
        assert_eq!(world.store.abandon_old(world.clock.now_ms()).await, Ok(0));
        world.clock.pass(60 * 60 + 15);
        assert_eq!(world.store.abandon_old(world.clock.now_ms()).await, Ok(1));
        let (outcome, _) = world.store.outcome(id).unwrap().unwrap();
        assert_eq!(outcome, Outcome::Failed(Failure::Abandoned { hours: 24 }));
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
