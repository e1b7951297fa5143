//! The control plane as the host sees it: a narrow trait, its types, and errors decided by status, never by text.
//!
//! [`rest`] is the production implementation. Every read goes through [`watched::Watched`], which remembers since when
//! authenticated reads have worked without a gap.

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use crate::bindings::{Agent, Build, JobStatus, Parameter, Quota, Transition};

mod error;
pub mod watched;

pub(crate) use error::refusal;
pub use error::{ApiError, Lost};

#[cfg(feature = "rest")]
pub mod rest;

/// What a control plane can be asked for. Object safe: hosts hold an `Arc<dyn ControlPlane>`.
///
/// Every function is bounded in time by its implementation; dropping its future abandons the request.
#[async_trait]
pub trait ControlPlane: Send + Sync {
    /// Names the deployment: calls that were begun on one are not carried on on another.
    fn deployment(&self) -> String;

    /// The user whose credentials are used.
    async fn user(&self) -> Result<User, ApiError>;

    /// One consistent read of the workspace with its newest build, that build's job and its agents.
    ///
    /// A deleted workspace is [`ApiError::Gone`].
    async fn workspace(&self, workspace: &str) -> Result<Workspace, ApiError>;

    /// The same read by name: `name` for a workspace of this user, `owner/name` for somebody else's, or its id.
    async fn workspace_by_name(&self, name: &str) -> Result<Workspace, ApiError>;

    /// The workspaces of this user, by name.
    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError>;

    /// One build by id. Its `provisioner` is always `unknown`: only [`ControlPlane::workspace`] tells.
    async fn build(&self, build: &str) -> Result<BuildRead, ApiError>;

    /// The newest builds of a workspace, at most `limit`, newest first.
    async fn builds(&self, workspace: &str, limit: u32) -> Result<Vec<BuildRead>, ApiError>;

    /// Asks for a build, once. [`ApiError::UnknownOutcome`]: it may or may not have been made; look before asking
    /// again.
    async fn create_build(&self, workspace: &str, build: &NewBuild) -> Result<BuildRead, ApiError>;

    /// The parameters that a template version declares.
    async fn template_parameters(&self, version: &str) -> Result<Vec<TemplateParameter>, ApiError>;

    /// The parameter values that a build was made with.
    async fn build_parameters(&self, build: &str) -> Result<Vec<Parameter>, ApiError>;

    /// What the workspace's owner consumes of the budget, or `None` where the deployment has no budgets.
    async fn quota(&self, workspace: &Workspace) -> Result<Option<Quota>, ApiError>;

    /// How many provisioner daemons are there to carry out the builds of an organisation. `None`: the control plane
    /// does not tell that, or not to this user.
    async fn provisioners(&self, organization: &str) -> Result<Option<usize>, ApiError> {
        let _ = organization;
        Ok(None)
    }

    /// One page of a build's log: the lines after the line `after` (0 for all), oldest first.
    async fn build_logs(&self, build: &str, after: u64) -> Result<Vec<LogLine>, ApiError>;

    /// Opens a terminal on an agent and runs a command in it. Success does *not* mean that the agent is there: a dead
    /// agent that still reads connected gives a terminal that stays silent.
    async fn open_terminal(&self, agent: &str, terminal: &NewTerminal)
    -> Result<Box<dyn Terminal>, ApiError>;

    /// A stream of announcements: each item says that the workspace may have changed, look now. `None`: there are none
    /// here. Returns at once; what has to be opened is opened when the stream is polled.
    ///
    /// It is a hint and no more. Announcements may be missed, late, or one for several changes, so whoever waits for
    /// something has to look from time to time as well; the first comes when the stream is open, whether or not there
    /// was a change. The end of the stream says nothing about the workspace.
    fn changes(&self, workspace: &str) -> Option<BoxStream<'static, ()>> {
        let _ = workspace;
        None
    }
}

/// An open terminal. Dropping it closes it; what runs in it may go on.
#[async_trait]
pub trait Terminal: Send {
    /// The next piece of output, standard output and error in one stream; `None` when the session ended. The end of the
    /// command and the loss of the connection look the same.
    ///
    /// Cancel safe: a future that is dropped has taken nothing.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError>;

    /// Types `input`.
    async fn send(&mut self, input: &str) -> Result<(), ApiError>;

    /// Closes the session.
    async fn close(&mut self);
}

/// A user of the deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Opaque.
    pub id: String,
    /// The name to log in with.
    pub name: String,
}

/// A workspace as read in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Opaque.
    pub id: String,
    /// The bare name, without its owner.
    pub name: String,
    /// The owner's name.
    pub owner: String,
    /// The id of the organisation it belongs to.
    pub organization: String,
    /// The template's id.
    pub template: Option<String>,
    /// The template version that new workspaces get.
    pub active_version: Option<String>,
    /// Whether each start must use the active version.
    pub requires_active_version: bool,
    /// Whether the template takes parameters the classic way, in which an empty value counts as missing.
    pub classic_parameters: bool,
    /// Set aside for want of use: it can be stopped, but not started.
    pub dormant: bool,
    /// The newest build with its job.
    pub latest: BuildRead,
    /// The agents of the newest build, in the control plane's order.
    pub agents: Vec<Agent>,
    /// The control plane's time of this read, Unix milliseconds. `None`: its clock cannot be trusted.
    pub observed: Option<u64>,
}

/// A build and what the contract does not carry of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRead {
    /// As the plugin gets it. `ours` is false here: a control plane cannot know.
    pub build: Build,
    /// When it was asked for, Unix milliseconds on the control plane's clock.
    pub created: Option<u64>,
    /// The id of the user who asked for it.
    pub initiator: Option<String>,
    /// Why it was made, in the control plane's word; `initiator` when a user asked without giving a reason.
    pub reason: Option<String>,
}

/// A request for a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBuild {
    /// What it is to do.
    pub transition: Transition,
    /// The template version to use. `None`: that of the build before.
    pub template_version: Option<String>,
    /// Values for parameters; those not named keep the values of the build before.
    pub parameters: Vec<Parameter>,
}

/// A parameter that a template version declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateParameter {
    /// Its name.
    pub name: String,
    /// It has no default.
    pub required: bool,
    /// Its value is not kept from build to build.
    pub ephemeral: bool,
}

/// One line of a build's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Counts up within a build, from 1; not without gaps.
    pub id: u64,
    /// The stage of the build that it belongs to.
    pub stage: String,
    /// The text; may be empty.
    pub text: String,
}

/// A request for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTerminal {
    /// A UUID. Opening the same session again while its command runs attaches to that command, and shows some of its
    /// output again.
    pub session: String,
    /// Run by the login shell of the workspace's user. It travels as a part of an address, of which proxies take 8 KiB,
    /// and agents read it only in part from some 6 KB on: what is long has to be typed.
    pub command: String,
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// Whether a job in this state has come to its end. The contract's `job-status` defines it.
pub fn is_terminal(status: &JobStatus) -> bool {
    matches!(status, JobStatus::Succeeded | JobStatus::Failed | JobStatus::Canceled)
}

/// Whether a job in this state keeps other builds from beginning: it does until it has come to its end.
pub fn is_active(status: &JobStatus) -> bool {
    !is_terminal(status)
}

#[cfg(test)]
use crate::bindings as types;

#[cfg(test)]
#[path = "../../tests/support/job_statuses.rs"]
mod job_statuses;

#[cfg(test)]
mod tests {
    use super::{is_active, is_terminal, job_statuses};

    #[test]
    fn a_job_is_in_progress_until_it_is_known_to_have_ended() {
        for (status, ended) in job_statuses::all() {
            assert_eq!((is_terminal(&status), is_active(&status)), (ended, !ended), "{status:?}");
        }
    }
}
