//! What a template says, the words that are stored and sent, and the names of the only user and organization.

use serde::{Deserialize, Serialize};

/// The only user. `me` is another name for it.
pub(super) const USER: &str = "owner";
/// The only organization.
pub(super) const ORGANIZATION: &str = "local";

/// A template and its first version, as given to [`LocalAdmin::create_template`](super::LocalAdmin::create_template).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TemplateSpec {
    /// The template's name; unique.
    pub name: String,
    /// Whether a start has to use the active version.
    pub require_active_version: bool,
    /// Report a missing parameter the older way: one problem, as text, not as field validations.
    pub classic_parameters: bool,
    /// Its first and active version.
    pub version: VersionSpec,
}

/// One version of a template: its parameters, its agents, and how its builds go.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VersionSpec {
    /// The version's name. Empty: a number is used.
    pub name: String,
    /// Template parameters.
    pub parameters: Vec<ParameterSpec>,
    /// The agents that a start build makes.
    pub agents: Vec<AgentSpec>,
    /// How start builds go.
    pub start: BuildSpec,
    /// How stop builds go.
    pub stop: BuildSpec,
    /// How delete builds go.
    pub delete: BuildSpec,
    /// What a running workspace costs, against the budget of the control plane.
    pub daily_cost: i64,
}

impl Default for VersionSpec {
    fn default() -> Self {
        Self {
            name: String::new(),
            parameters: Vec::new(),
            agents: vec![AgentSpec::default()],
            start: BuildSpec::default(),
            stop: BuildSpec::default(),
            delete: BuildSpec::default(),
            daily_cost: 0,
        }
    }
}

/// A template parameter: text.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParameterSpec {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Whether a build needs a value for it that nobody has given yet.
    pub required: bool,
    /// The value used when there is none, unless it is required.
    pub default_value: String,
    /// The values allowed. Empty: any.
    pub options: Vec<String>,
}

/// An agent of a workspace.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSpec {
    /// Its name, such as `main`.
    pub name: String,
    /// Runs in the workspace's home folder as `sh -c` when the agent process starts. Empty: none.
    pub startup_script: String,
    /// Seconds after which the script is reported as `start_timeout` (it goes on). 0: never.
    pub script_timeout_seconds: u32,
    /// Seconds after which an agent that never connected reads `timeout`. 0: never.
    pub connection_timeout_seconds: u32,
    /// Runs on a computer that is not part of the workspace: no process is started for it.
    pub external: bool,
    /// Whether a process is started for it. False gives an agent that never connects.
    pub connects: bool,
}

impl Default for AgentSpec {
    fn default() -> Self {
        Self {
            name: "main".to_owned(),
            startup_script: String::new(),
            script_timeout_seconds: 0,
            connection_timeout_seconds: 120,
            external: false,
            connects: true,
        }
    }
}

/// How a kind of build goes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BuildSpec {
    /// How long it takes, in milliseconds. None: the control plane's usual time.
    pub duration_ms: Option<u64>,
    /// The error that it ends with, having done nothing. None: it succeeds.
    pub failure: Option<String>,
    /// The machine-readable code of that error.
    pub error_code: Option<String>,
    /// What a cancel does to it.
    pub on_cancel: OnCancel,
}

/// What a build does when it is canceled while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCancel {
    /// It ends at once with the error "canceled", and so as `failed`.
    #[default]
    Stop,
    /// It does not react. When it is given up it ends as `failed`.
    Ignore,
    /// It is too late: all its work gets done, and it ends as `canceled`.
    Finish,
}

/// Declares an enum of words with its stored and sent form.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub(super) enum $name { $(#[serde(rename = $word)] $variant),+ }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl rusqlite::types::FromSql for $name {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
                Self::parse(value.as_str()?).ok_or(rusqlite::types::FromSqlError::InvalidType)
            }
        }

        impl rusqlite::types::ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }
    };
}

words! {
    /// What a build does.
    Transition { Start = "start", Stop = "stop", Delete = "delete" }
}

words! {
    /// What an agent reports of its scripts.
    Lifecycle {
        Created = "created",
        Starting = "starting",
        StartTimeout = "start_timeout",
        StartError = "start_error",
        Ready = "ready",
        ShuttingDown = "shutting_down",
        Off = "off",
    }
}

words! {
    /// Where a build's job stands.
    JobStatus {
        Pending = "pending",
        Running = "running",
        Succeeded = "succeeded",
        Canceling = "canceling",
        Canceled = "canceled",
        Failed = "failed",
    }
}

impl VersionSpec {
    pub(super) fn build(&self, transition: Transition) -> &BuildSpec {
        match transition {
            Transition::Start => &self.start,
            Transition::Stop => &self.stop,
            Transition::Delete => &self.delete,
        }
    }

    pub(super) fn has_external_agent(&self) -> bool {
        self.agents.iter().any(|agent| agent.external)
    }
}
