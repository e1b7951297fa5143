//! A host is gone in the middle of a call, the world changes, and another host carries the call on.
//!
//! Every place at which a host can be gone, times everything that can happen meanwhile. The places come from an
//! undisturbed run: directly before and directly after each request to the control plane.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{AgentState, JobStatus, Parameter, Quota, Transition};
use workspace_recovery::control_plane::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace, is_active,
};
use workspace_recovery::driver::DriveError;
use workspace_recovery::journal::record::CallId;
use workspace_recovery::policy::Timings;
use workspace_recovery::store::{Listing, Store};

use crate::builders::{ME, agent, build_read, stop};
use crate::plane::{Host, MadeBuild, Plane, WORKSPACE, tools, unavailable};

/// How long the world is left alone before the next host comes.
const MINUTE: Duration = Duration::from_secs(60);
/// By then every call has ended, except those that nobody may carry.
const LIMIT: Duration = Duration::from_secs(3 * 60 * 60);
/// How long an outage goes on after the next host has come.
const OUTAGE: Duration = Duration::from_secs(5 * 60);
/// How long somebody else's build takes.
const FOREIGN: Duration = Duration::from_secs(20);

const CONDITION: &str = r#"{"only_if_unreachable":true}"#;

/// What is called, and what the workspace is like then.
#[derive(Clone, Copy, Debug)]
struct Scene {
    tool: &'static str,
    arguments: &'static str,
    prepare: fn(&Plane),
}

/// Where a host is gone: at which request, counted from 0, and whether only after its answer.
type Place = (usize, bool);

type Kept = Option<(usize, Option<&'static str>)>;

/// What happens while there is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    /// The newest build, if it goes on, ends so.
    BuildEnds(End),
    /// Somebody else makes a build, which ends so.
    Foreign(Way, End),
    /// The workspace is deleted.
    Deleted,
    /// The token is not accepted any more.
    Revoked,
    /// The token is not accepted for a while.
    RevokedForAWhile,
    /// The control plane is away for a while.
    Away,
    /// The agent is there again.
    AgentBack,
    /// The chat is bound to another workspace.
    Rebound,
    /// The call is interrupted.
    Interrupted,
    /// Nothing, for longer than a call that has sent nothing may wait.
    HalfADay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Succeeded,
    Failed,
    Canceled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Start,
    Stop,
}

const CHANGES: [Change; 18] = [
    Change::Nothing,
    Change::BuildEnds(End::Succeeded),
    Change::BuildEnds(End::Failed),
    Change::BuildEnds(End::Canceled),
    Change::Foreign(Way::Start, End::Succeeded),
    Change::Foreign(Way::Start, End::Failed),
    Change::Foreign(Way::Start, End::Canceled),
    Change::Foreign(Way::Stop, End::Succeeded),
    Change::Foreign(Way::Stop, End::Failed),
    Change::Foreign(Way::Stop, End::Canceled),
    Change::Deleted,
    Change::Revoked,
    Change::RevokedForAWhile,
    Change::Away,
    Change::AgentBack,
    Change::Rebound,
    Change::Interrupted,
    Change::HalfADay,
];

/// How a call that was disturbed ended.
#[derive(Debug)]
struct Ended {
    /// `None`: it has not.
    result: Option<Result<Value, String>>,
    /// What was asked for before the host was gone, and after.
    before: Vec<Transition>,
    after: Vec<Transition>,
    /// The newest build, once everything has come to rest.
    newest: BuildRead,
    /// What the first host asked the control plane for, in order.
    requests: Vec<&'static str>,
    /// What the store had of the call at each place: how many entries, and the request that was written down.
    kept: Vec<Kept>,
    /// Whether the call was begun when the host was gone.
    begun: bool,
}

#[test]
fn a_stop_carried_on_in_a_changed_world_keeps_the_rules() {
    everywhere(Scene { tool: "stop_workspace", arguments: "{}", prepare: |_| {} });
}

#[test]
fn a_start_carried_on_in_a_changed_world_keeps_the_rules() {
    everywhere(Scene { tool: "start_workspace", arguments: "{}", prepare: stopped });
}

#[test]
fn a_restart_carried_on_in_a_changed_world_keeps_the_rules() {
    everywhere(Scene { tool: "restart_workspace", arguments: "{}", prepare: |_| {} });
}

#[test]
fn a_conditional_restart_carried_on_in_a_changed_world_keeps_the_rules() {
    everywhere(Scene { tool: "restart_workspace", arguments: CONDITION, prepare: agent_dead });
}

#[test]
fn a_conditional_stop_carried_on_in_a_changed_world_keeps_the_rules() {
    everywhere(Scene { tool: "stop_workspace", arguments: CONDITION, prepare: agent_dead });
}

#[test]
fn a_stop_behind_a_foreign_build_carried_on_in_a_changed_world_keeps_the_rules() {
    everywhere(Scene { tool: "stop_workspace", arguments: "{}", prepare: starting });
}

fn stopped(plane: &Plane) {
    let mut world = plane.world();
    let read = build_read(stop(2, JobStatus::Succeeded));
    world.builds.push(MadeBuild { read, ends: None });
    world.agents.clear();
}

fn agent_dead(plane: &Plane) {
    plane.world().disconnect(10 * MINUTE);
}

fn starting(plane: &Plane) {
    foreign(plane, Way::Start, End::Succeeded);
}

/// Runs the product of places and changes, and looks whether each run kept the rules.
fn everywhere(scene: Scene) {
    let clean = run(scene, None, Change::Nothing);
    let clean_result = clean.result.clone().unwrap();
    assert!(clean_result.is_ok(), "{clean:?}");
    let mut wrong = Vec::new();
    for place in places(&clean) {
        for change in CHANGES {
            let ended = run(scene, Some(place), change);
            let broken = broken_rules(scene, change, &clean, &ended);
            if !broken.is_empty() {
                let side = if place.1 { "after" } else { "before" };
                let request = clean.requests[place.0];
                wrong.push(format!(
                    "gone {side} request {} ({request}), {change:?}: {}\n    {ended:?}",
                    place.0,
                    broken.join("; ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} runs broke rules:\n{}", wrong.len(), wrong.join("\n"));
}

/// The places at which a host can be gone. Between two writes to the store they are alike but for the time, so that the
/// first and the last of them stand for all.
fn places(clean: &Ended) -> Vec<Place> {
    let all = (0..clean.requests.len()).flat_map(|at| [(at, false), (at, true)]);
    let all: Vec<_> = all.zip(&clean.kept).collect();
    let alike = all.chunk_by(|(_, one), (_, other)| one == other);
    let ends = alike.flat_map(|places| {
        let (first, last) = (places[0].0, places[places.len() - 1].0);
        [Some(first), Some(last).filter(|last| *last != first)]
    });
    ends.flatten().collect()
}

/// The rules that a run broke.
fn broken_rules(scene: Scene, change: Change, clean: &Ended, ended: &Ended) -> Vec<&'static str> {
    let mut broken = Vec::new();
    let mut rule = |kept: bool, rule| {
        if !kept {
            broken.push(rule);
        }
    };
    let sent = !ended.before.is_empty();
    let all: Vec<_> = ended.before.iter().chain(&ended.after).cloned().collect();
    let wanted = clean.before.iter().chain(&clean.after);
    for way in [Transition::Start, Transition::Stop] {
        let made = all.iter().filter(|made| **made == way).count();
        rule(made <= 1, "a build was asked for twice");
        rule(
            made == 0 || wanted.clone().any(|wanted| *wanted == way),
            "a build was asked for that nobody wanted",
        );
    }
    if change == Change::Revoked {
        // No host may carry it; `Abandoned` is a test of its own.
        rule(ended.after.is_empty(), "something was sent without credentials");
        return broken;
    }
    let Some(result) = &ended.result else { return vec!["the call did not end"] };

    let same = Some(result) == clean.result.as_ref() && all == wanted.cloned().collect::<Vec<_>>();
    match change {
        Change::Nothing | Change::Away | Change::RevokedForAWhile | Change::BuildEnds(End::Succeeded) => {
            // A call that begins in an outage has an error to tell.
            rule(same || !ended.begun, "it was not as in the undisturbed run");
        }
        Change::HalfADay if sent || !ended.begun => rule(same, "it was not as in the undisturbed run"),
        Change::HalfADay => rule(ended.after.is_empty(), "something was sent too late"),
        Change::Deleted | Change::Interrupted | Change::Rebound if ended.begun => {
            rule(ended.after.is_empty(), "something was sent after the call had lost its object");
        }
        Change::AgentBack if scene.arguments == CONDITION && !sent => {
            rule(ended.after.is_empty(), "something was sent although the agent was back");
        }
        Change::Foreign(..) => rule(!sent || ended.after.is_empty(), "somebody else was overruled"),
        _ => {}
    }
    if let Ok(result) = result {
        let is = |way: Transition| {
            ended.newest.build.transition == way && ended.newest.build.status == JobStatus::Succeeded
        };
        let told = |key: &str| result[key] == true;
        let fits = change == Change::Deleted || change == Change::Rebound;
        rule(fits || !told("started") || is(Transition::Start), "it says started, and that is not true");
        rule(fits || !told("restarted") || is(Transition::Start), "it says restarted, and that is not true");
        let failed_start = result.get("error").is_some() && result.get("stop_build_id").is_some();
        rule(
            fits || !told("stopped") || failed_start || is(Transition::Stop),
            "it says stopped, and that is not true",
        );
    }
    broken
}

/// One run: a host that is gone at a place, a change, and another host.
fn run(scene: Scene, place: Option<Place>, change: Change) -> Ended {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(disturbed(scene, place, change))
}

async fn disturbed(scene: Scene, place: Option<Place>, change: Change) -> Ended {
    let plane = Plane::running();
    (scene.prepare)(&plane);
    let store = Store::in_memory();
    let first = Seen::of(&plane, &store, place);
    let host = plane.host_with(first.clone(), store.clone());
    host.change_chat("ana", |chat| chat.bind(Some(WORKSPACE)));

    let mut result = tokio::select! {
        result = call(&host, scene) => Some(result),
        () = first.gone.cancelled() => None,
    };
    host.driver.halt();
    let before = plane.world().posts.iter().map(|post| post.transition.clone()).collect::<Vec<_>>();
    let begun = !store.calls(Listing::All, 1).unwrap().is_empty();
    if result.is_none() {
        happens(change, &plane, &host).await;
        sleep(if change == Change::HalfADay { 720 * MINUTE } else { MINUTE }).await;
        let second = plane.host_with(Seen::of(&plane, &store, None), store.clone());
        let again = async {
            match store.calls(Listing::All, 1).unwrap().first() {
                Some(row) => {
                    second.driver.stand_by().await.unwrap();
                    follow(&second, row.id).await
                }
                None => call(&second, scene).await,
            }
        };
        let relief = async {
            sleep(OUTAGE).await;
            if matches!(change, Change::Away | Change::RevokedForAWhile) {
                plane.world().reads_fail = None;
            }
            std::future::pending().await
        };
        let limit = if change == Change::Revoked { 10 * MINUTE } else { LIMIT };
        result = timeout(limit, async {
            tokio::select! {
                result = again => result,
                () = relief => unreachable!("pending"),
            }
        })
        .await
        .ok();
        second.driver.halt();
    }
    sleep(FOREIGN + MINUTE).await;
    plane.world().reads_fail = None;
    let newest = plane.builds(WORKSPACE, 1).await.unwrap().remove(0);
    let posts = plane.world().posts.iter().map(|post| post.transition.clone()).collect::<Vec<_>>();
    let after = posts[before.len()..].to_vec();
    let requests = first.requests.lock().unwrap().clone();
    let kept = first.kept.lock().unwrap().clone();
    Ended { result, before, after, newest, requests, kept, begun }
}

async fn call(host: &Host, scene: Scene) -> Result<Value, String> {
    let policy = Timings::default().policy(&tools());
    match host.driver.begin("ana", scene.tool, scene.arguments, policy, None).await {
        Ok(id) => follow(host, id).await,
        Err(error) => Err(error.to_string()),
    }
}

async fn follow(host: &Host, id: CallId) -> Result<Value, String> {
    loop {
        return match host.driver.follow(id, &CancellationToken::new()).await {
            Ok(Ok(result)) => Ok(serde_json::from_str(&result.json).unwrap()),
            Ok(Err(error)) => Err(format!("{error:?}")),
            // It is tried again by itself.
            Err(DriveError::Stranded { .. } | DriveError::Store(_) | DriveError::Step(_)) => continue,
            Err(error) => Err(error.to_string()),
        };
    }
}

async fn happens(change: Change, plane: &Plane, host: &Host) {
    match change {
        Change::Nothing | Change::HalfADay => {}
        Change::BuildEnds(end) => end_newest(plane, end),
        Change::Foreign(way, end) => {
            end_newest(plane, End::Succeeded);
            foreign(plane, way, end);
        }
        Change::Deleted => plane.world().reads_fail = Some(ApiError::Gone),
        Change::Revoked | Change::RevokedForAWhile => {
            plane.world().reads_fail = Some(ApiError::Unauthorized("log in again".into()));
        }
        Change::Away => plane.world().reads_fail = Some(unavailable()),
        Change::AgentBack => {
            for agent in &mut plane.world().agents {
                (agent.state, agent.disconnected) = (AgentState::Connected, None);
            }
        }
        Change::Rebound => host.change_chat("ana", |chat| chat.bind(Some("w2"))),
        Change::Interrupted => {
            for row in host.store.calls(Listing::Unended, 1).unwrap() {
                host.store.interrupt(row.id).await.unwrap();
            }
        }
    }
}

impl End {
    fn status(self) -> JobStatus {
        match self {
            Self::Succeeded => JobStatus::Succeeded,
            Self::Failed => JobStatus::Failed,
            Self::Canceled => JobStatus::Canceled,
        }
    }
}

/// Ends the newest build now, if it goes on.
fn end_newest(plane: &Plane, end: End) {
    let mut world = plane.world();
    let Some(newest) = world.builds.last_mut() else { return };
    let goes_on =
        newest.ends.as_ref().map_or(is_active(&newest.read.build.status), |(at, _)| Instant::now() < *at);
    if goes_on {
        newest.ends = Some((Instant::now(), end.status()));
    }
}

fn foreign(plane: &Plane, way: Way, end: End) {
    let mut world = plane.world();
    let name = format!("f{}", world.builds.len() + 1);
    let transition = if way == Way::Start { Transition::Start } else { Transition::Stop };
    world.foreign_build(&name, transition, JobStatus::Running);
    let ends = Some((Instant::now() + FOREIGN, end.status()));
    world.builds.last_mut().unwrap().ends = ends;
    world.agents = if way == Way::Start { vec![agent("a9")] } else { Vec::new() };
}

/// The control plane as one host sees it. At the given place the host is gone: nothing comes back to it any more.
struct Seen {
    plane: Plane,
    place: Option<Place>,
    gone: CancellationToken,
    requests: Mutex<Vec<&'static str>>,
    store: Store,
    kept: Mutex<Vec<Kept>>,
}

impl Seen {
    fn of(plane: &Plane, store: &Store, place: Option<Place>) -> Arc<Self> {
        let (gone, requests, kept) = (CancellationToken::new(), Mutex::default(), Mutex::default());
        Arc::new(Self { plane: plane.clone(), place, gone, requests, store: store.clone(), kept })
    }

    async fn pass<T>(&self, name: &'static str, request: impl Future<Output = T>) -> T {
        if self.gone.is_cancelled() {
            return std::future::pending().await;
        }
        let number = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(name);
            requests.len() - 1
        };
        self.may_be_gone((number, false)).await;
        let answer = request.await;
        self.may_be_gone((number, true)).await;
        answer
    }

    async fn may_be_gone(&self, here: Place) {
        let kept = self.store.recording(1).unwrap();
        let kept = kept.map(|kept| (kept.entries.len(), kept.open.map(|open| open.request.function())));
        self.kept.lock().unwrap().push(kept);
        if self.place == Some(here) {
            self.gone.cancel();
            std::future::pending().await
        }
    }
}

#[async_trait]
impl ControlPlane for Seen {
    fn deployment(&self) -> String {
        self.plane.deployment()
    }

    async fn user(&self) -> Result<User, ApiError> {
        let me = || Ok(User { id: ME.into(), name: "ana".into() });
        self.pass("user", self.plane.user()).await.or_else(|error| {
            // It is the workspace that is gone.
            if error == ApiError::Gone { me() } else { Err(error) }
        })
    }

    async fn workspace(&self, workspace: &str) -> Result<Workspace, ApiError> {
        self.pass("workspace", self.plane.workspace(workspace)).await
    }

    async fn workspace_by_name(&self, name: &str) -> Result<Workspace, ApiError> {
        self.pass("workspace_by_name", self.plane.workspace_by_name(name)).await
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        self.pass("workspaces", self.plane.workspaces()).await
    }

    async fn build(&self, build: &str) -> Result<BuildRead, ApiError> {
        self.pass("build", self.plane.build(build)).await
    }

    async fn builds(&self, workspace: &str, limit: u32) -> Result<Vec<BuildRead>, ApiError> {
        self.pass("builds", self.plane.builds(workspace, limit)).await
    }

    async fn create_build(&self, workspace: &str, build: &NewBuild) -> Result<BuildRead, ApiError> {
        self.pass("create_build", self.plane.create_build(workspace, build)).await
    }

    async fn template_parameters(&self, version: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        self.pass("template_parameters", self.plane.template_parameters(version)).await
    }

    async fn build_parameters(&self, build: &str) -> Result<Vec<Parameter>, ApiError> {
        self.pass("build_parameters", self.plane.build_parameters(build)).await
    }

    async fn quota(&self, workspace: &Workspace) -> Result<Option<Quota>, ApiError> {
        self.pass("quota", self.plane.quota(workspace)).await
    }

    async fn build_logs(&self, build: &str, after: u64) -> Result<Vec<LogLine>, ApiError> {
        self.pass("build_logs", self.plane.build_logs(build, after)).await
    }

    async fn open_terminal(&self, agent: &str, wanted: &NewTerminal) -> Result<Box<dyn Terminal>, ApiError> {
        self.plane.open_terminal(agent, wanted).await
    }
}
