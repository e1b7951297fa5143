//! The control plane's truth: workspaces, their builds as jobs, and agents. No I/O, no timers: what is the case is
//! worked out from the time.

use std::collections::BTreeMap;

use super::agent::{Life, Span};
use super::dice::Dice;
use super::schedule::{At, Intervention, Schedule};
use super::shell::Notes;
use crate::bindings::{AgentState, Build, JobStatus, Parameter, Provisioner, Transition};
use crate::control_plane::{ApiError, BuildRead, TemplateParameter, Workspace, is_active, refusal};

/// The control plane's time when a world begins, Unix milliseconds.
pub const BEGIN: u64 = 1_800_000_000_000;
/// A person who uses no host.
const SOMEBODY: &str = "somebody";
/// The template's parameter that its newer version asks for.
const PARAMETER: &str = "size";

/// All that the control plane knows.
pub struct Plane {
    seed: u64,
    lucky_builds: bool,
    lucky_agents: bool,
    workspaces: Vec<SimulatedWorkspace>,
    /// When it is away, for everybody. The past and the planned future.
    pub outages: Vec<Span>,
    /// When no provisioner takes builds.
    no_provisioner: Vec<Span>,
    /// What is noted of commands, by the agents that they run on. It outlives the agent's process.
    notes: BTreeMap<String, Notes>,
}

struct SimulatedWorkspace {
    builds: Vec<Job>,
    template: Template,
}

/// What a workspace is made from.
#[derive(Clone, Copy, Default)]
struct Template {
    /// When its version `v2` becomes the active one instead of `v1`.
    newer_from: Option<At>,
    /// Starts have to use the active version.
    is_strict: bool,
    /// `v2` has a parameter without a default.
    asks_more: bool,
}

/// A request for a build.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// What it is to do.
    pub transition: Transition,
    /// The template version that it names.
    pub version: Option<String>,
    /// Who asks.
    pub by: String,
    /// The intent of ours behind it, if there is one.
    pub intent: Option<IntentId>,
}

/// A build with its job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// Its number.
    pub number: u32,
    /// What it does.
    pub transition: Transition,
    /// The intent of ours that it was made for; somebody else's has none.
    pub made_for: Option<IntentId>,
    by: String,
    version: String,
    /// It has a value for the template's parameter.
    has_value: bool,
    /// When it was asked for.
    pub created: At,
    begins: At,
    ends: At,
    end: End,
    cancel_requested: Option<At>,
    agent: Option<Life>,
}

/// Names one intent of one call.
pub type IntentId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Succeeds,
    Fails,
    /// Its owner has used up his budget.
    LacksQuota,
    /// Cancelled before it did anything.
    Canceled,
    /// Cancelled, with all its work done.
    CanceledInVain,
    /// It came to an error because it was cancelled.
    FailsByCancel,
}

/// Whether a workspace is at rest, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestState {
    /// Its newest build is a start that succeeded.
    Up,
    /// Its newest build is a stop that succeeded.
    Down,
    /// Anything else.
    Between,
}

impl Plane {
    /// The world's workspaces as they are at its beginning: most are up.
    pub fn new(schedule: &Schedule, outages: Vec<Span>, no_provisioner: Vec<Span>) -> Self {
        let workspaces = (1..=schedule.workspaces).map(|workspace| {
            let up = !Dice::new(schedule.seed, "beginning", &[workspace]).percent(20);
            let id = format!("w{workspace}-b1");
            let job = Job {
                id,
                number: 1,
                transition: if up { Transition::Start } else { Transition::Stop },
                made_for: None,
                by: SOMEBODY.to_owned(),
                version: format!("w{workspace}-v1"),
                has_value: false,
                created: 0,
                begins: 0,
                ends: 0,
                end: End::Succeeds,
                cancel_requested: None,
                agent: up.then(|| Life::old(format!("w{workspace}-a1"))),
            };
            SimulatedWorkspace { builds: vec![job], template: Template::draw(schedule, workspace) }
        });
        Self {
            seed: schedule.seed,
            lucky_builds: !schedule.random_faults.builds,
            lucky_agents: !schedule.random_faults.agents,
            workspaces: workspaces.collect(),
            outages,
            no_provisioner,
            notes: BTreeMap::new(),
        }
    }

    /// Whether it is away.
    pub fn is_away(&self, now: At) -> bool {
        self.outages.iter().any(|(from, to)| *from <= now && now < *to)
    }

    /// The workspaces that are not deleted, as read.
    pub fn workspaces(&self, now: At) -> Vec<Workspace> {
        (1..=self.workspaces.len())
            .filter_map(|number| self.workspace(&format!("w{number}"), now).ok())
            .collect()
    }

    /// A workspace by id, as read.
    pub fn workspace(&self, id: &str, now: At) -> Result<Workspace, ApiError> {
        let space = self.space(id)?;
        let latest = space.latest();
        if latest.transition == Transition::Delete && latest.status(now) == JobStatus::Succeeded {
            return Err(ApiError::Gone);
        }
        let agent = latest.agent.as_ref().filter(|_| latest.has_agents(now));
        Ok(Workspace {
            id: id.to_owned(),
            name: id.to_owned(),
            owner: "owner".to_owned(),
            organization: "organization".to_owned(),
            template: Some("template".to_owned()),
            active_version: Some(space.template.active(id, now)),
            requires_active_version: space.template.is_strict,
            classic_parameters: false,
            dormant: false,
            latest: self.read(latest, now),
            agents: agent.map(|agent| agent.seen(now, &self.outages, BEGIN)).into_iter().collect(),
            observed: Some(BEGIN + now),
        })
    }

    /// A build by id, as read.
    pub fn build(&self, id: &str, now: At) -> Result<BuildRead, ApiError> {
        let mut read = self.read(self.job(id).ok_or(ApiError::NotFound)?, now);
        read.build.provisioner = Provisioner::Unknown;
        Ok(read)
    }

    /// The newest builds of a workspace, newest first.
    pub fn builds(&self, id: &str, limit: usize, now: At) -> Result<Vec<BuildRead>, ApiError> {
        self.workspace(id, now)?;
        Ok(self.space(id)?.builds.iter().rev().take(limit).map(|job| self.read(job, now)).collect())
    }

    /// What a template version asks for that has no default. Each workspace has a template of its own.
    pub fn parameters(&self, version: &str) -> Vec<TemplateParameter> {
        let space = version.split_once('-').and_then(|(workspace, _)| self.space(workspace).ok());
        let asks = space.is_some_and(|space| space.template.asks(version));
        let parameter = TemplateParameter { name: PARAMETER.to_owned(), required: true, ephemeral: false };
        asks.then_some(parameter).into_iter().collect()
    }

    /// The values that a build has.
    pub fn values(&self, build: &str) -> Vec<Parameter> {
        let has = self.job(build).is_some_and(|job| job.has_value);
        let value = Parameter { name: PARAMETER.to_owned(), value: "small".to_owned() };
        has.then_some(value).into_iter().collect()
    }

    /// A build by id, in truth.
    pub fn job(&self, id: &str) -> Option<&Job> {
        let (workspace, _) = id.split_once('-')?;
        self.space(workspace).ok()?.builds.iter().find(|job| job.id == id)
    }

    /// All builds of a workspace, oldest first.
    pub fn jobs(&self, workspace: &str) -> &[Job] {
        self.space(workspace).map_or(&[], |space| &space.builds)
    }

    /// The build that was made for an intent, if one was.
    pub fn made_for(&self, workspace: &str, intent: IntentId) -> Option<&Job> {
        self.jobs(workspace).iter().find(|job| job.made_for == Some(intent))
    }

    /// Where the workspace is, in truth.
    pub fn rest_state(&self, workspace: &str, now: At) -> RestState {
        let Ok(space) = self.space(workspace) else { return RestState::Between };
        let latest = space.latest();
        match (&latest.transition, latest.status(now)) {
            (Transition::Start, JobStatus::Succeeded) => RestState::Up,
            (Transition::Stop, JobStatus::Succeeded) => RestState::Down,
            _ => RestState::Between,
        }
    }

    /// The agent of the newest build, in truth.
    pub fn agent(&self, workspace: &str, now: At) -> Option<&Life> {
        let latest = self.space(workspace).ok()?.latest();
        latest.agent.as_ref().filter(|_| latest.has_agents(now))
    }

    /// Whether a terminal on this agent works. One of an agent that was lost only just now opens and stays silent.
    pub fn terminal(&self, agent: &str, now: At) -> Result<bool, ApiError> {
        let (workspace, _) = agent.split_once('-').ok_or(ApiError::NotFound)?;
        let read = self.workspace(workspace, now)?;
        let known = read.agents.iter().find(|known| known.id == agent).ok_or(ApiError::NotFound)?;
        if known.state != AgentState::Connected {
            return Err(ApiError::Unavailable("the agent is not connected".to_owned()));
        }
        Ok(self.agent(workspace, now).is_some_and(|life| life.answers(now, &self.outages)))
    }

    /// What is noted of commands where this agent runs.
    pub fn notes(&mut self, agent: &str) -> &mut Notes {
        self.notes.entry(agent.to_owned()).or_default()
    }

    /// Makes a build, unless one is in progress.
    pub fn make(&mut self, workspace: &str, request: BuildRequest, now: At) -> Result<BuildRead, ApiError> {
        self.workspace(workspace, now)?;
        let index = index(workspace).ok_or(ApiError::NotFound)?;
        let (latest, template) = (self.workspaces[index].latest(), self.workspaces[index].template);
        if is_active(&latest.status(now)) {
            return Err(ApiError::Conflict(refusal("another build is in progress")));
        }
        let version = request.version.clone().unwrap_or_else(|| latest.version.clone());
        let asks = request.transition == Transition::Start && template.asks(&version);
        // People give it where it is asked for; it is kept from build to build.
        let has_value = latest.has_value || (asks && request.by == SOMEBODY);
        if asks && !has_value {
            return Err(ApiError::Invalid(refusal("a value for size is missing")));
        }
        let number = self.workspaces[index].builds.len() as u64 + 1;
        let mut job = self.job_of(workspace, index as u64, number, request, now);
        (job.version, job.has_value) = (version, has_value);
        let read = self.read(&job, now);
        self.workspaces[index].builds.push(job);
        Ok(read)
    }

    fn job_of(&self, workspace: &str, index: u64, number: u64, request: BuildRequest, now: At) -> Job {
        let BuildRequest { transition, by, intent, .. } = request;
        let mut dice = Dice::new(self.seed, "build", &[index, number]);
        let queued = if !self.lucky_builds && dice.percent(20) { dice.between(100, 30_000) } else { 0 };
        let mut begins = now + queued;
        while let Some((_, to)) =
            self.no_provisioner.iter().find(|(from, to)| *from <= begins && begins < *to)
        {
            begins = *to;
        }
        let takes = if dice.percent(5) { dice.between(60_000, 300_000) } else { dice.between(1_000, 40_000) };
        let fails = !self.lucky_builds && dice.percent(10);
        let lacks_quota = fails && transition == Transition::Start && dice.percent(30);
        let ends = begins + takes;
        let agent = (transition == Transition::Start).then(|| {
            let mut dice = Dice::new(self.seed, "agent", &[index, number]);
            Life::new(format!("{workspace}-a{number}"), ends, self.lucky_agents, &mut dice)
        });
        Job {
            id: format!("{workspace}-b{number}"),
            number: number as u32,
            transition,
            made_for: intent,
            by,
            version: String::new(),
            has_value: false,
            created: now,
            begins,
            ends,
            end: match (fails, lacks_quota) {
                (_, true) => End::LacksQuota,
                (true, _) => End::Fails,
                (false, _) => End::Succeeds,
            },
            cancel_requested: None,
            agent,
        }
    }

    /// Somebody does something to a workspace, if it can be done.
    pub fn person(&mut self, workspace: &str, does: Intervention, now: At) {
        let transition = match does {
            Intervention::Stop => Transition::Stop,
            Intervention::Start => Transition::Start,
            Intervention::Delete => Transition::Delete,
            Intervention::Cancel => return self.cancel(workspace, now),
        };
        let template = self.space(workspace).map(|space| space.template).unwrap_or_default();
        let version =
            (transition == Transition::Start && template.is_strict).then(|| template.active(workspace, now));
        let request = BuildRequest { transition, version, by: SOMEBODY.to_owned(), intent: None };
        // Refused if a build is in progress or the workspace is gone: that is how it goes.
        let _ = self.make(workspace, request, now);
    }

    fn cancel(&mut self, workspace: &str, now: At) {
        let (seed, lucky) = (self.seed, self.lucky_builds);
        let Some(index) = index(workspace) else { return };
        let Some(job) = self.workspaces.get_mut(index).and_then(|space| space.builds.last_mut()) else {
            return;
        };
        if !is_active(&job.status(now)) || job.cancel_requested.is_some() {
            return;
        }
        let mut dice = Dice::new(seed, "cancel", &[index as u64, job.number.into()]);
        job.cancel_requested = Some(now);
        if now < job.begins {
            (job.ends, job.end) = (now, End::Canceled);
            return;
        }
        let end =
            dice.pick([End::Canceled, End::Canceled, End::CanceledInVain, End::FailsByCancel, End::Succeeds]);
        job.end = if lucky { End::Canceled } else { end };
        job.ends = now + dice.between(100, 10_000);
        if let Some(agent) = &mut job.agent {
            let mut dice = Dice::new(seed, "agent", &[index as u64, job.number.into()]);
            *agent =
                Life::new(format!("{workspace}-a{}", job.number), job.ends, self.lucky_agents, &mut dice);
        }
    }

    /// The agent of a workspace's newest build, to have something happen to it.
    pub fn agent_mut(&mut self, workspace: &str, now: At) -> Option<&mut Life> {
        let latest = self.workspaces.get_mut(index(workspace)?)?.builds.last_mut()?;
        if latest.has_agents(now) { latest.agent.as_mut() } else { None }
    }

    /// When something of a workspace changes next, as far as can be foreseen.
    pub fn next_change(&self, workspace: &str, now: At) -> Option<At> {
        let latest = self.space(workspace).ok()?.latest();
        let agent = latest.agent.as_ref().and_then(|agent| agent.next_change(now));
        [Some(latest.begins), Some(latest.ends), agent].into_iter().flatten().filter(|at| *at > now).min()
    }

    fn space(&self, workspace: &str) -> Result<&SimulatedWorkspace, ApiError> {
        index(workspace).and_then(|index| self.workspaces.get(index)).ok_or(ApiError::NotFound)
    }

    fn read(&self, job: &Job, now: At) -> BuildRead {
        let status = job.status(now);
        let waits = status == JobStatus::Pending;
        let missing = waits && self.no_provisioner.iter().any(|(from, to)| *from <= now && now < *to);
        let build = Build {
            id: job.id.clone(),
            number: job.number,
            transition: job.transition.clone(),
            cancel_requested: job.cancel_requested.is_some_and(|at| at <= now),
            ours: false,
            queue_position: waits.then_some(1),
            provisioner: match (waits, missing) {
                (false, _) => Provisioner::Unknown,
                (true, true) => Provisioner::Missing,
                (true, false) => Provisioner::Available,
            },
            error: matches!(status, JobStatus::Failed).then(|| "the job failed".to_owned()),
            status,
            error_code: job.lacks_quota(now).then(|| "INSUFFICIENT_QUOTA".to_owned()),
            quota: None,
            template_version: Some(job.version.clone()),
            reason: None,
        };
        BuildRead {
            build,
            created: Some(BEGIN + job.created),
            initiator: Some(job.by.clone()),
            reason: Some("initiator".to_owned()),
        }
    }
}

impl Template {
    fn draw(schedule: &Schedule, workspace: u64) -> Self {
        let mut dice = Dice::new(schedule.seed, "template", &[workspace]);
        let newer_from = dice.percent(50).then(|| dice.between(0, schedule.calm));
        let template = Self { newer_from, is_strict: dice.percent(40), asks_more: dice.percent(40) };
        if schedule.random_faults.builds { template } else { Self::default() }
    }

    fn active(self, workspace: &str, now: At) -> String {
        let number = if self.newer_from.is_some_and(|from| from <= now) { 2 } else { 1 };
        format!("{workspace}-v{number}")
    }

    fn asks(self, version: &str) -> bool {
        self.asks_more && version.ends_with("-v2")
    }
}

impl SimulatedWorkspace {
    fn latest(&self) -> &Job {
        // A workspace begins with a build, and none is ever removed.
        &self.builds[self.builds.len() - 1]
    }
}

impl Job {
    /// Where its job stands.
    pub fn status(&self, now: At) -> JobStatus {
        if now >= self.ends {
            return match self.end {
                End::Succeeds => JobStatus::Succeeded,
                End::Fails | End::LacksQuota | End::FailsByCancel => JobStatus::Failed,
                End::Canceled | End::CanceledInVain => JobStatus::Canceled,
            };
        }
        if self.cancel_requested.is_some() {
            JobStatus::Canceling
        } else if now < self.begins {
            JobStatus::Pending
        } else {
            JobStatus::Running
        }
    }

    /// The agent that it makes, whether or not it comes to that.
    pub fn agent(&self) -> Option<&Life> {
        self.agent.as_ref()
    }

    /// When it ends, unless somebody cancels it.
    pub fn ends(&self) -> At {
        self.ends
    }

    /// Whether somebody asked to cancel it, and when.
    pub fn cancel_requested(&self) -> Option<At> {
        self.cancel_requested
    }

    fn lacks_quota(&self, now: At) -> bool {
        now >= self.ends && self.end == End::LacksQuota
    }

    fn has_agents(&self, now: At) -> bool {
        now >= self.ends && matches!(self.end, End::Succeeds | End::CanceledInVain)
    }
}

/// The place of a workspace's id in the list.
fn index(workspace: &str) -> Option<usize> {
    workspace.strip_prefix('w')?.parse::<usize>().ok()?.checked_sub(1)
}
