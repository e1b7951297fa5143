//! The control plane as one host reaches it: over a network that is slow, loses things and lies about none of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::time::sleep;

use super::dice::Dice;
use super::gate::Gate;
use super::plan::{At, Deed, Moment};
use super::plane::{Job, Order, Plane};
#[cfg(test)]
use super::shell::Notes;
use super::shell::{Run, Shell};
use super::stage::Stage;
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
    stage: Arc<Stage>,
    gate: Arc<Gate>,
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
    pub fn new(stage: Arc<Stage>, gate: Arc<Gate>, store: Store) -> Self {
        Self { stage, gate, store }
    }

    fn dice(&self, concern: &str) -> Dice {
        Dice::new(self.stage.plan.seed, concern, &[self.gate.host, self.gate.life, self.gate.count()])
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
        if self.stage.plan.luck.reads && !self.stage.is_calm() {
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
        let answer = look(&mut self.stage.plane(), self.stage.now());
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
        if !at_rest || !self.stage.plan.luck.people || self.stage.is_calm() {
            return;
        }
        let mut dice = self.dice("interference");
        if dice.percent(3) {
            act(&self.stage, &read.id, dice.pick([Deed::Stop, Deed::Stop, Deed::Start]));
        }
    }

    fn user_id(&self) -> String {
        self.stage.plan.user(self.gate.host)
    }

    fn is_away(&self) -> bool {
        self.gate.is_cut_off() || self.stage.plane().is_away(self.stage.now())
    }

    fn fate(&self, dice: &mut Dice) -> Fate {
        if !self.stage.plan.luck.posts || self.stage.is_calm() {
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
fn arrive(stage: &Arc<Stage>, workspace: &str, order: Order) -> Result<BuildRead, ApiError> {
    let (now, intent) = (stage.now(), order.intent);
    let made = stage.plane().make(workspace, order, now);
    if let Err(ApiError::Invalid(_)) = &made {
        stage.watch().note(now, "refusal", &[], || format!("{workspace}: a parameter has no value"));
    }
    if let Ok(read) = &made {
        stage.watch().made(now, intent, read);
        stage.changed(workspace).notify_waiters();
        if intent.is_some() {
            react(stage, workspace, read);
        }
    }
    made
}

/// Somebody does something to a workspace that was not planned.
fn act(stage: &Stage, workspace: &str, does: Deed) {
    let now = stage.now();
    stage.plane().person(workspace, does, now);
    stage
        .watch()
        .note(now, "reaction", &[], || format!("somebody who watches asks for {does:?} of {workspace}"));
    stage.changed(workspace).notify_waiters();
}

/// People watch: somebody may cancel what was begun, or do something else as soon as it has ended.
fn react(stage: &Arc<Stage>, workspace: &str, read: &BuildRead) {
    let mut dice = Dice::new(stage.plan.seed, "people", &[stage.now(), read.build.number.into()]);
    if !stage.plan.luck.people || stage.is_calm() || !dice.percent(15) {
        return;
    }
    let (stage, workspace, build) = (stage.clone(), workspace.to_owned(), read.build.id.clone());
    tokio::spawn(async move {
        let does = dice.pick([Deed::Cancel, Deed::Cancel, Deed::Stop, Deed::Stop, Deed::Start, Deed::Delete]);
        let ends = stage.plane().job(&build).map_or(0, Job::ends);
        let at =
            if does == Deed::Cancel { dice.between(stage.now(), ends) } else { ends + dice.between(0, 300) };
        stage.reach(at.min(stage.plan.calm)).await;
        act(&stage, &workspace, does);
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
        let (stage, gate) = (&self.stage, &self.gate);
        self.read(|plane, now| {
            let read = plane.workspace(workspace, now)?;
            stage.watch().read(now, gate, &read);
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
        if self.gate.come_to(Moment::BeforePost) {
            return std::future::pending().await;
        }
        // From here on it is out of the host's hands.
        let intent = super::watch::sent(&self.stage, &self.gate, &self.store, workspace, &build.transition);
        let by = self.user_id();
        let order = Order {
            transition: build.transition.clone(),
            version: build.template_version.clone(),
            by,
            intent,
        };
        let mut dice = self.dice("post");
        let fate = if self.is_away() { Fate::Lost } else { self.fate(&mut dice) };
        let killed = self.gate.come_to(Moment::AfterPost);
        let answer = match fate {
            Fate::Answered => {
                sleep(Duration::from_millis(dice.between(1, 60))).await;
                arrive(&self.stage, workspace, order)
            }
            Fate::Refused => Err(unavailable()),
            Fate::Overtaken => {
                let now = self.stage.now();
                self.stage.plane().person(workspace, dice.pick([Deed::Stop, Deed::Start]), now);
                arrive(&self.stage, workspace, order)
            }
            Fate::Unanswered => {
                let _ = arrive(&self.stage, workspace, order);
                sleep(Duration::from_millis(dice.between(0, CLIENT_LIMIT))).await;
                Err(ApiError::no_answer("no answer"))
            }
            Fate::Lost => {
                sleep(Duration::from_millis(dice.between(0, CLIENT_LIMIT))).await;
                Err(ApiError::no_answer("no answer"))
            }
            Fate::Late(after) => {
                let (stage, workspace) = (self.stage.clone(), workspace.to_owned());
                tokio::spawn(async move {
                    sleep(Duration::from_millis(after)).await;
                    // Nobody is there any more to hear the answer.
                    let _ = arrive(&stage, &workspace, order);
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
        let (stage, id) = (&self.stage, &workspace.id);
        self.read(|_, now| {
            stage.watch().note(now, "quota", &[], || format!("{id}: its owner's budget is used up"));
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
        let luck = self.stage.plan.luck.reads && !self.stage.is_calm();
        let mut dice = self.dice("terminal");
        Ok(Box::new(Screen {
            agent: agent.to_owned(),
            stage: self.stage.clone(),
            gate: self.gate.clone(),
            shell: Shell::default(),
            shown: VecDeque::from_iter(answers.then(Shell::greeting)),
            cut_after: (luck && dice.percent(20)).then(|| dice.between(0, 12)),
        }))
    }

    fn changes(&self, workspace: &str) -> Option<BoxStream<'static, ()>> {
        let (stage, gate, workspace) = (self.stage.clone(), self.gate.clone(), workspace.to_owned());
        let dice = self.dice("changes");
        let first = true;
        Some(stream::unfold((stage, gate, workspace, dice, first), announcement).boxed())
    }
}

type Announcing = (Arc<Stage>, Arc<Gate>, String, Dice, bool);

/// The next announcement of a change: slow, or lost, or the stream ends.
async fn announcement((stage, gate, workspace, mut dice, first): Announcing) -> Option<((), Announcing)> {
    loop {
        let luck = stage.plan.luck.changes && !stage.is_calm();
        if first {
            gate.pass().await;
            return Some(((), (stage, gate, workspace, dice, false)));
        }
        let foreseen = stage.plane().next_change(&workspace, stage.now());
        tokio::select! {
            biased;
            () = stage.changed(&workspace).notified() => {}
            () = reach(&stage, foreseen) => {}
        }
        gate.pass().await;
        if gate.is_cut_off() || stage.plane().is_away(stage.now()) || (luck && dice.percent(3)) {
            return None;
        }
        if luck && dice.percent(25) {
            continue;
        }
        if luck && dice.percent(25) {
            sleep(Duration::from_millis(dice.between(100, 20_000))).await;
        }
        return Some(((), (stage, gate, workspace, dice, false)));
    }
}

async fn reach(stage: &Stage, at: Option<At>) {
    match at {
        Some(at) => stage.reach(at).await,
        None => std::future::pending().await,
    }
}

/// A terminal in which a shell answers, until it is cut or its agent is gone; then it stays silent or ends.
struct Screen {
    agent: String,
    stage: Arc<Stage>,
    gate: Arc<Gate>,
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
        matches!(self.stage.plane().terminal(&self.agent, self.stage.now()), Ok(true))
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
            self.stage.watch().greeted(&self.agent);
        }
        Ok(shown.map(String::into_bytes))
    }

    async fn send(&mut self, input: &str) -> Result<(), ApiError> {
        self.gate.pass().await;
        if self.is_cut() {
            return Err(unavailable());
        }
        if self.is_answered() {
            let (stage, now) = (&self.stage, self.stage.now());
            let mut plane = stage.plane();
            let mut begun = Vec::new();
            #[cfg(test)]
            if crate::sabotage::is(crate::sabotage::Sabotage::ForgetsSessions) {
                *plane.notes(&self.agent) = Notes::default();
            }
            let shown = self.shell.typed(input, plane.notes(&self.agent), &mut |command, _| {
                begun.push(command.to_owned());
                Run { output: "done\n".to_owned(), code: Some(0) }
            });
            drop(plane);
            for command in begun {
                stage.watch().command_begun(now, &command);
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
