//! The JSON of the REST API, and what the contract makes of it. Read leniently: what is missing or new is no error.

use std::time::{Duration, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde::{Deserialize, Deserializer, Serialize};

use crate::bindings::{
    self, AgentState, FieldProblem, JobStatus, Lifecycle, Provisioner, Refusal, Transition,
};
use crate::control_plane::{self as plane, BuildRead};

/// The type of the resource that an external agent belongs to.
const EXTERNAL_RESOURCE: &str = "coder_external_agent";
/// How far the clock that dates answers may be off the one that dates rows, in milliseconds.
const CLOCK_TOLERANCE_MS: u64 = 5_000;
/// `Date` is cut to whole seconds: the time it stands for is up to this much later, in milliseconds.
const DATE_RESOLUTION_MS: u64 = 999;

/// A value that is absent, null or of another type than expected is the default one.
fn lenient<'de, D: Deserializer<'de>, T: Default + serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

#[derive(Deserialize)]
pub(super) struct User {
    pub(super) id: String,
    #[serde(default)]
    pub(super) username: String,
}

#[derive(Deserialize)]
pub(super) struct ProvisionerDaemon {
    #[serde(default, deserialize_with = "lenient")]
    status: Option<String>,
}

impl ProvisionerDaemon {
    /// One that was not heard of for long is listed all the same.
    pub(super) fn is_there(&self) -> bool {
        self.status.as_deref() != Some("offline")
    }
}

#[derive(Deserialize)]
pub(super) struct Workspaces {
    pub(super) workspaces: Vec<Workspace>,
}

#[derive(Deserialize)]
pub(super) struct Workspace {
    id: String,
    name: String,
    latest_build: Build,
    #[serde(default, deserialize_with = "lenient")]
    owner_name: String,
    #[serde(default, deserialize_with = "lenient")]
    organization_id: String,
    #[serde(default, deserialize_with = "lenient")]
    template_id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    template_active_version_id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    template_require_active_version: bool,
    #[serde(default, deserialize_with = "lenient")]
    template_use_classic_parameter_flow: bool,
    #[serde(default, deserialize_with = "lenient")]
    dormant_at: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Build {
    id: String,
    build_number: u32,
    transition: String,
    job: Job,
    #[serde(default, deserialize_with = "lenient")]
    created_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    initiator_id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    reason: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    template_version_id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    resources: Vec<Resource>,
    #[serde(default, deserialize_with = "lenient")]
    matched_provisioners: Option<MatchedProvisioners>,
}

#[derive(Deserialize)]
struct Job {
    status: String,
    #[serde(default, deserialize_with = "lenient")]
    canceled_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    error: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    error_code: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    queue_position: u32,
}

#[derive(Deserialize)]
struct MatchedProvisioners {
    available: u32,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default, rename = "type", deserialize_with = "lenient")]
    kind: String,
    #[serde(default, deserialize_with = "lenient")]
    agents: Vec<Agent>,
}

#[derive(Deserialize)]
struct Agent {
    id: String,
    name: String,
    status: String,
    #[serde(default, deserialize_with = "lenient")]
    parent_id: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    lifecycle_state: String,
    #[serde(default, deserialize_with = "lenient")]
    created_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    first_connected_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    last_connected_at: Option<String>,
    #[serde(default, deserialize_with = "lenient")]
    disconnected_at: Option<String>,
    /// Where a server tells one process of an agent from another.
    #[serde(default, deserialize_with = "lenient")]
    agent_run_id: Option<String>,
}

#[derive(Serialize)]
pub(super) struct NewBuild<'a> {
    pub(super) transition: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) template_version_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) rich_parameter_values: Vec<Parameter>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Parameter {
    name: String,
    value: String,
}

#[derive(Deserialize)]
pub(super) struct TemplateParameter {
    name: String,
    #[serde(default, deserialize_with = "lenient")]
    required: bool,
    #[serde(default, deserialize_with = "lenient")]
    ephemeral: bool,
}

#[derive(Deserialize)]
pub(super) struct Quota {
    pub(super) credits_consumed: i64,
    pub(super) budget: i64,
}

#[derive(Deserialize)]
pub(super) struct LogLine {
    id: u64,
    #[serde(default, deserialize_with = "lenient")]
    stage: String,
    #[serde(default, deserialize_with = "lenient")]
    output: String,
}

/// Whether `matched_provisioners` of a body tells anything: only some routes fill it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Provisioners {
    Told,
    Ignored,
}

impl Workspace {
    /// `date` is the time of the answer, if it may be trusted at all.
    pub(super) fn into_workspace(self, date: Option<u64>) -> plane::Workspace {
        let Self { latest_build, .. } = self;
        let mut agents = Vec::new();
        for resource in &latest_build.resources {
            let external = resource.kind == EXTERNAL_RESOURCE;
            for agent in &resource.agents {
                // The API has no order of its own: as sent is the order of display.
                let order = i32::try_from(agents.len()).unwrap_or(i32::MAX);
                agents.push(agent.to_agent(order, external));
            }
        }
        let latest = latest_build.into_build(Provisioners::Told);
        let observed = date.filter(|date| {
            let newest = agents.iter().flat_map(times).chain(latest.created).max();
            newest.is_none_or(|newest| newest <= date + DATE_RESOLUTION_MS)
        });
        plane::Workspace {
            id: self.id,
            name: self.name,
            owner: self.owner_name,
            organization: self.organization_id,
            template: self.template_id,
            active_version: self.template_active_version_id,
            requires_active_version: self.template_require_active_version,
            classic_parameters: self.template_use_classic_parameter_flow,
            dormant: self.dormant_at.is_some(),
            latest,
            agents,
            observed,
        }
    }
}

impl Build {
    pub(super) fn into_build(self, provisioners: Provisioners) -> BuildRead {
        let status = job_status(&self.job.status);
        let pending = status == JobStatus::Pending;
        let provisioner = match self.matched_provisioners {
            Some(matched) if pending && provisioners == Provisioners::Told => match matched.available {
                0 => Provisioner::Missing,
                _ => Provisioner::Available,
            },
            _ => Provisioner::Unknown,
        };
        let build = bindings::Build {
            id: self.id,
            number: self.build_number,
            transition: transition(&self.transition),
            cancel_requested: self.job.canceled_at.is_some(),
            ours: false,
            // 0 means that it is not known.
            queue_position: Some(self.job.queue_position).filter(|position| pending && *position > 0),
            provisioner,
            error: self.job.error.filter(|error| !error.trim().is_empty()),
            error_code: self.job.error_code.filter(|code| !code.trim().is_empty()),
            quota: None,
            template_version: self.template_version_id,
            reason: self.reason.clone(),
            status,
        };
        let created = self.created_at.as_deref().and_then(time);
        BuildRead { build, created, initiator: self.initiator_id, reason: self.reason }
    }
}

impl Agent {
    fn to_agent(&self, order: i32, external: bool) -> bindings::Agent {
        let at = |text: &Option<String>| text.as_deref().and_then(time);
        bindings::Agent {
            id: self.id.clone(),
            parent: self.parent_id.clone(),
            name: self.name.clone(),
            order,
            external,
            state: match self.status.as_str() {
                "connecting" => AgentState::Connecting,
                "connected" => AgentState::Connected,
                "disconnected" => AgentState::Disconnected,
                "timeout" => AgentState::TimedOut,
                other => AgentState::Unknown(other.to_owned()),
            },
            lifecycle: match self.lifecycle_state.as_str() {
                "created" => Lifecycle::Created,
                "starting" => Lifecycle::Starting,
                "start_timeout" => Lifecycle::StartTimeout,
                "start_error" => Lifecycle::StartError,
                "ready" => Lifecycle::Ready,
                "shutting_down" => Lifecycle::ShuttingDown,
                "shutdown_timeout" => Lifecycle::ShutdownTimeout,
                "shutdown_error" => Lifecycle::ShutdownError,
                "off" => Lifecycle::Off,
                other => Lifecycle::Unknown(other.to_owned()),
            },
            created: at(&self.created_at).unwrap_or_default(),
            first_connected: at(&self.first_connected_at),
            last_connected: at(&self.last_connected_at),
            disconnected: at(&self.disconnected_at),
            process: self.agent_run_id.clone(),
        }
    }
}

impl From<&bindings::Parameter> for Parameter {
    fn from(parameter: &bindings::Parameter) -> Self {
        Self { name: parameter.name.clone(), value: parameter.value.clone() }
    }
}

impl From<Parameter> for bindings::Parameter {
    fn from(parameter: Parameter) -> Self {
        Self { name: parameter.name, value: parameter.value }
    }
}

impl From<TemplateParameter> for plane::TemplateParameter {
    fn from(declared: TemplateParameter) -> Self {
        Self { name: declared.name, required: declared.required, ephemeral: declared.ephemeral }
    }
}

impl From<LogLine> for plane::LogLine {
    fn from(line: LogLine) -> Self {
        Self { id: line.id, stage: line.stage, text: line.output }
    }
}

/// What an error body says; none if it is not one of the API's.
pub(super) fn refusal(body: &[u8]) -> Option<Refusal> {
    #[derive(Deserialize)]
    struct Body {
        message: String,
        #[serde(default, deserialize_with = "lenient")]
        detail: Option<String>,
        #[serde(default, deserialize_with = "lenient")]
        validations: Vec<Validation>,
    }
    #[derive(Deserialize)]
    struct Validation {
        field: String,
        detail: String,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    let said = |text: &String| !text.trim().is_empty();
    let detail = body.detail.filter(said);
    // Whoever is told of it needs a sentence, so what there is takes the place of a message that is none.
    let (message, detail) = match (Some(body.message).filter(said), detail) {
        (Some(message), detail) => (message, detail),
        (None, Some(detail)) => (detail, None),
        (None, None) => ("The control plane gave no reason.".to_owned(), None),
    };
    Some(Refusal {
        message,
        detail,
        validations: body
            .validations
            .into_iter()
            .map(|problem| FieldProblem { field: problem.field, detail: problem.detail })
            .collect(),
        template: None,
    })
}

/// The time of an answer, Unix milliseconds.
pub(super) fn date(headers: &HeaderMap) -> Option<u64> {
    let date = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    u64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// How long to wait, if the answer says so: in seconds, or until a time on its own clock.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(until.saturating_sub(Duration::from_millis(date(headers)?)))
}

/// Whether the time of an answer fits the time of a row that was written for it.
pub(super) fn agree(date: u64, written: u64) -> bool {
    date.abs_diff(written) <= CLOCK_TOLERANCE_MS
}

fn times(agent: &bindings::Agent) -> impl Iterator<Item = u64> + use<> {
    [Some(agent.created), agent.first_connected, agent.last_connected, agent.disconnected]
        .into_iter()
        .flatten()
}

fn time(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok()
}

fn transition(text: &str) -> Transition {
    match text {
        "start" => Transition::Start,
        "stop" => Transition::Stop,
        "delete" => Transition::Delete,
        other => Transition::Unknown(other.to_owned()),
    }
}

fn job_status(text: &str) -> JobStatus {
    match text {
        "pending" => JobStatus::Pending,
        "running" => JobStatus::Running,
        "canceling" => JobStatus::Canceling,
        "succeeded" => JobStatus::Succeeded,
        "failed" => JobStatus::Failed,
        "canceled" => JobStatus::Canceled,
        other => JobStatus::Unknown(other.to_owned()),
    }
}
