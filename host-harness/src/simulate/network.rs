//! The control plane as one host reaches it: over a network that is slow, loses things and lies about none of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::time::sleep;

use super::dice::Dice;
use super::fault_gate::FaultGate;
use super::plane::{BuildRequest, Job, Plane};
use super::schedule::{At, FaultPoint, Intervention};
use super::shell::{Run, Shell};
use super::world_state::WorldState;
use crate::bindings::{Parameter, Quota};
use crate::control_plane::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace, is_active,
};
use crate::greeting::GREETING;
use crate::store::Store;

/// After how long a client gives up on an answer.
const CLIENT_LIMIT: u64 = 20_000;
/// For how long a request may be under way and still have its effect: less than what hosts wait for.
const IN_FLIGHT: u64 = 50_000;

/// A host's connection to the control plane.
pub struct Network {
    world: Arc<WorldState>,
    gate: Arc<FaultGate>,
    /// The store, to look who asks.
    store: Store,
}

/// What becomes of a request for a build.
#[derive(Clone, Copy)]
enum Fate {
    Answered,
    /// Refused by a server in trouble, without effect.
    Refused,
    /// Somebody else's build comes first.
    Overtaken,
    /// It had its effect, but the answer is lost.
    Unanswered,
    /// It never arrives.
    Lost,
    /// It arrives after the client has given up.
    Late(u64),
}

impl Network {
    /// The connection of one life of a host.
    pub fn new(world: Arc<WorldState>, gate: Arc<FaultGate>, store: Store) -> Self {
        Self { world, gate, store }
    }

    fn dice(&self, concern: &str) -> Dice {
        Dice::new(self.world.schedule.seed, concern, &[self.gate.host, self.gate.life, self.gate.count()])
    }

    /// A read: it takes a while, and may fail.
    async fn read<T>(
        &self,
        look: impl FnOnce(&mut Plane, At) -> Result<T, ApiError> + Send,
    ) -> Result<T, ApiError> {
        self.gate.pass().await;
        let mut dice = self.dice("read");
        if dice.percent(50) {
            sleep(Duration::from_millis(dice.between(1, 40))).await;
        }
        if self.world.schedule.random_faults.reads && !self.world.is_calm() {
            match dice.between(0, 199) {
                0..=2 => return Err(unavailable()),
                3 => {
                    sleep(Duration::from_millis(CLIENT_LIMIT)).await;
                    self.gate.pass().await;
                    return Err(unavailable());
                }
                4 => {
                    return Err(ApiError::RateLimited {
                        retry_after: Some(Duration::from_secs(dice.between(1, 30))),
                    });
                }
                5..=8 => sleep(Duration::from_millis(dice.between(500, CLIENT_LIMIT))).await,
                _ => {}
            }
        }
        self.gate.pass().await;
        if self.is_away() {
            return Err(unavailable());
        }
        let answer = look(&mut self.world.plane(), self.world.now());
        if dice.percent(20) {
            // The answer is under way.
            sleep(Duration::from_millis(dice.between(1, 40))).await;
            self.gate.pass().await;
        }
        answer
    }

    /// Somebody may act on a workspace just when a host has read it and is about to decide.
    fn interfere(&self, read: &Workspace) {
        let at_rest = !is_active(&read.latest.build.status);
        if !at_rest || !self.world.schedule.random_faults.people || self.world.is_calm() {
            return;
        }
        let mut dice = self.dice("interference");
        if dice.percent(3) {
            act(
                &self.world,
                &read.id,
                dice.pick([Intervention::Stop, Intervention::Stop, Intervention::Start]),
            );
        }
    }

    fn user_id(&self) -> String {
        self.world.schedule.user(self.gate.host)
    }

    fn is_away(&self) -> bool {
        self.gate.is_cut_off() || self.world.plane().is_away(self.world.now())
    }

    fn fate(&self, dice: &mut Dice) -> Fate {
        if !self.world.schedule.random_faults.posts || self.world.is_calm() {
            return Fate::Answered;
        }
        match dice.between(0, 99) {
            0..=3 => Fate::Refused,
            4..=8 => Fate::Overtaken,
            9..=13 => Fate::Unanswered,
            14..=17 => Fate::Lost,
            18..=20 => Fate::Late(dice.between(1_000, IN_FLIGHT)),
            _ => Fate::Answered,
        }
    }
}

/// A request arrives.
fn arrive(world: &Arc<WorldState>, workspace: &str, request: BuildRequest) -> Result<BuildRead, ApiError> {
    let (now, intent) = (world.now(), request.intent);
    let made = world.plane().make(workspace, request, now);
    if let Err(ApiError::Invalid(_)) = &made {
        world.observer().note(now, "refusal", &[], || format!("{workspace}: a parameter has no value"));
    }
    if let Ok(read) = &made {
        world.observer().made(now, intent, read);
        world.changed(workspace).notify_waiters();
        if intent.is_some() {
            react(world, workspace, read);
        }
    }
    made
}

/// Somebody does something to a workspace that was not planned.
fn act(world: &WorldState, workspace: &str, does: Intervention) {
    let now = world.now();
    world.plane().person(workspace, does, now);
    world
        .observer()
        .note(now, "reaction", &[], || format!("somebody who watches asks for {does:?} of {workspace}"));
    world.changed(workspace).notify_waiters();
}

/// People watch: somebody may cancel what was begun, or do something else as soon as it has ended.
fn react(world: &Arc<WorldState>, workspace: &str, read: &BuildRead) {
    let mut dice = Dice::new(world.schedule.seed, "people", &[world.now(), read.build.number.into()]);
    if !world.schedule.random_faults.people || world.is_calm() || !dice.percent(15) {
        return;
    }
    let (world, workspace, build) = (world.clone(), workspace.to_owned(), read.build.id.clone());
    tokio::spawn(async move {
        let does = dice.pick([
            Intervention::Cancel,
            Intervention::Cancel,
            Intervention::Stop,
            Intervention::Stop,
            Intervention::Start,
            Intervention::Delete,
        ]);
        let ends = world.plane().job(&build).map_or(0, Job::ends);
        let at = if does == Intervention::Cancel {
            dice.between(world.now(), ends)
        } else {
            ends + dice.between(0, 300)
        };
        world.reach(at.min(world.schedule.calm)).await;
        act(&world, &workspace, does);
    });
}

#[async_trait]
impl ControlPlane for Network {
    fn deployment(&self) -> String {
        "simulated".to_owned()
    }

    async fn user(&self) -> Result<User, ApiError> {
        self.read(|_, _| Ok(User { id: self.user_id(), name: self.user_id() })).await
    }

    async fn workspace(&self, workspace: &str) -> Result<Workspace, ApiError> {
        let (world, gate) = (&self.world, &self.gate);
        self.read(|plane, now| {
            let read = plane.workspace(workspace, now)?;
            world.observer().read(now, gate, &read);
            Ok(read)
        })
        .await
        .inspect(|read| self.interfere(read))
    }

    async fn workspace_by_name(&self, name: &str) -> Result<Workspace, ApiError> {
        self.workspace(name).await
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        self.read(|plane, now| Ok(plane.workspaces(now))).await
    }

    async fn build(&self, build: &str) -> Result<BuildRead, ApiError> {
        self.read(|plane, now| plane.build(build, now)).await
    }

    async fn builds(&self, workspace: &str, limit: u32) -> Result<Vec<BuildRead>, ApiError> {
        self.read(|plane, now| plane.builds(workspace, limit as usize, now)).await
    }

    async fn create_build(&self, workspace: &str, build: &NewBuild) -> Result<BuildRead, ApiError> {
        if self.gate.come_to(FaultPoint::BeforePost) {
            return std::future::pending().await;
        }
        // From here on it is out of the host's hands.
        let intent =
            super::observations::sent(&self.world, &self.gate, &self.store, workspace, &build.transition);
        let by = self.user_id();
        let request = BuildRequest {
            transition: build.transition.clone(),
            version: build.template_version.clone(),
            by,
            intent,
        };
        let mut dice = self.dice("post");
        let fate = if self.is_away() { Fate::Lost } else { self.fate(&mut dice) };
        let killed = self.gate.come_to(FaultPoint::AfterPost);
        let answer = match fate {
            Fate::Answered => {
                sleep(Duration::from_millis(dice.between(1, 60))).await;
                arrive(&self.world, workspace, request)
            }
            Fate::Refused => Err(unavailable()),
            Fate::Overtaken => {
                let now = self.world.now();
                self.world.plane().person(
                    workspace,
                    dice.pick([Intervention::Stop, Intervention::Start]),
                    now,
                );
                arrive(&self.world, workspace, request)
            }
            Fate::Unanswered => {
                let _ = arrive(&self.world, workspace, request);
                sleep(Duration::from_millis(dice.between(0, CLIENT_LIMIT))).await;
                Err(ApiError::no_answer("no answer"))
            }
            Fate::Lost => {
                sleep(Duration::from_millis(dice.between(0, CLIENT_LIMIT))).await;
                Err(ApiError::no_answer("no answer"))
            }
            Fate::Late(after) => {
                let (world, workspace) = (self.world.clone(), workspace.to_owned());
                tokio::spawn(async move {
                    sleep(Duration::from_millis(after)).await;
                    // Nobody is there any more to hear the answer.
                    let _ = arrive(&world, &workspace, request);
                });
                sleep(Duration::from_millis(after.min(CLIENT_LIMIT))).await;
                Err(ApiError::no_answer("no answer"))
            }
        };
        if killed {
            return std::future::pending().await;
        }
        self.gate.pass().await;
        answer
    }

    async fn template_parameters(&self, version: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        self.read(|plane, _| Ok(plane.parameters(version))).await
    }

    async fn build_parameters(&self, build: &str) -> Result<Vec<Parameter>, ApiError> {
        self.read(|plane, _| Ok(plane.values(build))).await
    }

    async fn quota(&self, workspace: &Workspace) -> Result<Option<Quota>, ApiError> {
        let (world, id) = (&self.world, &workspace.id);
        self.read(|_, now| {
            world.observer().note(now, "quota", &[], || format!("{id}: its owner's budget is used up"));
            Ok(Some(Quota { credits_consumed: 10, budget: 10 }))
        })
        .await
    }

    async fn build_logs(&self, _build: &str, _after: u64) -> Result<Vec<LogLine>, ApiError> {
        self.read(|_, _| Ok(Vec::new())).await
    }

    async fn open_terminal(&self, agent: &str, wanted: &NewTerminal) -> Result<Box<dyn Terminal>, ApiError> {
        let _ = wanted;
        let asked = agent.to_owned();
        let answers = self.read(move |plane, now| plane.terminal(&asked, now)).await?;
        let may_fail = self.world.schedule.random_faults.reads && !self.world.is_calm();
        let mut dice = self.dice("terminal");
        Ok(Box::new(Screen {
            agent: agent.to_owned(),
            world: self.world.clone(),
            gate: self.gate.clone(),
            shell: Shell::default(),
            shown: VecDeque::from_iter(answers.then(Shell::greeting)),
            cut_after: (may_fail && dice.percent(20)).then(|| dice.between(0, 12)),
        }))
    }

    fn changes(&self, workspace: &str) -> Option<BoxStream<'static, ()>> {
        let (world, gate, workspace) = (self.world.clone(), self.gate.clone(), workspace.to_owned());
        let dice = self.dice("changes");
        let first = true;
        Some(stream::unfold((world, gate, workspace, dice, first), announcement).boxed())
    }
}

type Announcing = (Arc<WorldState>, Arc<FaultGate>, String, Dice, bool);

/// The next announcement of a change: slow, or lost, or the stream ends.
async fn announcement((world, gate, workspace, mut dice, first): Announcing) -> Option<((), Announcing)> {
    loop {
        let may_fail = world.schedule.random_faults.changes && !world.is_calm();
        if first {
            gate.pass().await;
            return Some(((), (world, gate, workspace, dice, false)));
        }
        let foreseen = world.plane().next_change(&workspace, world.now());
        tokio::select! {
            biased;
            () = world.changed(&workspace).notified() => {}
            () = reach(&world, foreseen) => {}
        }
        gate.pass().await;
        if gate.is_cut_off() || world.plane().is_away(world.now()) || (may_fail && dice.percent(3)) {
            return None;
        }
        if may_fail && dice.percent(25) {
            continue;
        }
        if may_fail && dice.percent(25) {
            sleep(Duration::from_millis(dice.between(100, 20_000))).await;
        }
        return Some(((), (world, gate, workspace, dice, false)));
    }
}

async fn reach(world: &WorldState, at: Option<At>) {
    match at {
        Some(at) => world.reach(at).await,
        None => std::future::pending().await,
    }
}

/// A terminal in which a shell answers, until it is cut or its agent is gone; then it stays silent or ends.
struct Screen {
    agent: String,
    world: Arc<WorldState>,
    gate: Arc<FaultGate>,
    shell: Shell,
    shown: VecDeque<String>,
    /// It is cut after so many more things that are typed or shown.
    cut_after: Option<u64>,
}

impl Screen {
    /// Whether it is cut now.
    fn is_cut(&mut self) -> bool {
        match &mut self.cut_after {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn is_answered(&self) -> bool {
        matches!(self.world.plane().terminal(&self.agent, self.world.now()), Ok(true))
    }
}

#[async_trait]
impl Terminal for Screen {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        self.gate.pass().await;
        if self.shown.is_empty() || !self.is_answered() {
            return std::future::pending().await;
        }
        if self.is_cut() {
            self.shown.clear();
            return Ok(None);
        }
        let shown = self.shown.pop_front();
        if shown.as_ref().is_some_and(|shown| shown.contains(GREETING)) {
            self.world.observer().greeted(&self.agent);
        }
        Ok(shown.map(String::into_bytes))
    }

    async fn send(&mut self, input: &str) -> Result<(), ApiError> {
        self.gate.pass().await;
        if self.is_cut() {
            return Err(unavailable());
        }
        if self.is_answered() {
            let (world, now) = (&self.world, self.world.now());
            let mut plane = world.plane();
            let mut begun = Vec::new();
            let shown = self.shell.typed(input, plane.notes(&self.agent), &mut |command, _| {
                begun.push(command.to_owned());
                Run { output: "done\n".to_owned(), code: Some(0) }
            });
            drop(plane);
            for command in begun {
                world.observer().command_begun(now, &command);
            }
            // Each record may be the last that arrives.
            self.shown.extend(shown.split_inclusive("\r\n\r\n").map(str::to_owned));
        }
        Ok(())
    }

    async fn close(&mut self) {}
}

fn unavailable() -> ApiError {
    ApiError::Unavailable("no answer".to_owned())
}
