//! What the benchmarks of kept calls share: a control plane that answers at once, and a store with chats.

#![expect(dead_code, reason = "each benchmark uses a part of it")]

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, params};
use workspace_recovery::bindings::{Build, JobStatus, Parameter, Policy, Provisioner, Quota, Transition};
use workspace_recovery::control_plane::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace,
};
use workspace_recovery::{bindings as types, control_plane, policy};

#[path = "../../../tests/support/host_builders.rs"]
mod builders;

use builders::{build_read, default_policy};

/// Whom the host acts for.
pub const USER: &str = "2d0c4c0a-5a0e-4a36-9a5c-0c4f8a4f3d11";

/// A control plane in memory, with numbered workspaces.
pub struct Plane {
    builds: Builds,
    /// Reads of workspaces that were answered.
    pub reads: AtomicU64,
}

enum Builds {
    /// In every workspace somebody else's start runs, and never ends. Takes no memory per workspace.
    NeverEnd,
    /// Builds run when they are first seen, and have succeeded when they are seen again.
    EndAtOnce(Vec<Mutex<World>>),
}

/// One workspace.
struct World {
    newest: BuildRead,
    /// Builds of somebody else that are still to get in the way: each begins when the one before was seen ended.
    others: u32,
}

impl Plane {
    /// Workspaces in which a build runs that never ends.
    pub fn stuck() -> Self {
        Self { builds: Builds::NeverEnd, reads: AtomicU64::new(0) }
    }

    /// So many started workspaces, numbered from 0.
    pub fn prompt(workspaces: usize) -> Self {
        let world = || Mutex::new(World { newest: start(1), others: 0 });
        let worlds = std::iter::repeat_with(world).take(workspaces).collect();
        Self { builds: Builds::EndAtOnce(worlds), reads: AtomicU64::new(0) }
    }

    /// Starts a workspace once more, after which so many builds of somebody else get in the way of a call.
    pub fn start_again(&self, number: usize, others: u32) {
        let mut world = self.world(&workspace_id(number)).lock().unwrap();
        *world = World { newest: start(world.newest.build.number + 1), others };
    }

    fn world(&self, workspace: &str) -> &Mutex<World> {
        match &self.builds {
            Builds::EndAtOnce(worlds) => &worlds[number(workspace)],
            Builds::NeverEnd => unreachable!("nothing can be asked for where builds never end"),
        }
    }

    fn newest(&self, workspace: &str) -> BuildRead {
        if matches!(self.builds, Builds::NeverEnd) {
            return made(workspace, 1, Transition::Start, JobStatus::Running);
        }
        let mut world = self.world(workspace).lock().unwrap();
        if world.newest.build.status == JobStatus::Running {
            world.newest.build.status = JobStatus::Succeeded;
        } else if world.others > 0 {
            world.others -= 1;
            let number = world.newest.build.number + 1;
            world.newest = made(workspace, number, Transition::Start, JobStatus::Running);
        }
        world.newest.clone()
    }
}

/// The id of a workspace.
pub fn workspace_id(number: usize) -> String {
    format!("0d6f3c1e-8a55-4f0e-9c8e-{number:012}")
}

/// The name of a workspace's chat.
pub fn chat_name(number: usize) -> String {
    format!("chat {number}")
}

fn number(workspace: &str) -> usize {
    workspace[workspace.len() - 12..].parse().unwrap()
}

/// A start that has succeeded.
fn start(number: u32) -> BuildRead {
    made(&workspace_id(0), number, Transition::Start, JobStatus::Succeeded)
}

/// A build whose id tells its workspace and number.
fn made(workspace: &str, number: u32, transition: Transition, status: JobStatus) -> BuildRead {
    let build = Build {
        id: format!("{number:08}{}", &workspace[8..]),
        provisioner: Provisioner::Available,
        template_version: Some("41d0a6ac-1f43-4b4f-a9ad-0d3f3c3f5a55".into()),
        ..builders::build(number, transition, status)
    };
    BuildRead { initiator: Some(USER.into()), ..build_read(build) }
}

#[async_trait]
impl ControlPlane for Plane {
    fn deployment(&self) -> String {
        "https://coder.example.com/".into()
    }

    async fn user(&self) -> Result<User, ApiError> {
        Ok(User { id: USER.into(), name: "ana".into() })
    }

    async fn workspace(&self, workspace: &str) -> Result<Workspace, ApiError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(Workspace {
            template: Some("9c4a7a1e-6a0e-4d9c-b9a5-4f4d6f1f8a11".into()),
            ..builders::workspace(workspace, self.newest(workspace), Vec::new())
        })
    }

    async fn create_build(&self, workspace: &str, wanted: &NewBuild) -> Result<BuildRead, ApiError> {
        let mut world = self.world(workspace).lock().unwrap();
        let number = world.newest.build.number + 1;
        world.newest = made(workspace, number, wanted.transition.clone(), JobStatus::Running);
        Ok(world.newest.clone())
    }

    // No call of these benchmarks comes to any of the rest.

    async fn workspace_by_name(&self, _: &str) -> Result<Workspace, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn build(&self, _: &str) -> Result<BuildRead, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn builds(&self, _: &str, _: u32) -> Result<Vec<BuildRead>, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn template_parameters(&self, _: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn build_parameters(&self, _: &str) -> Result<Vec<Parameter>, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn quota(&self, _: &Workspace) -> Result<Option<Quota>, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn build_logs(&self, _: &str, _: u64) -> Result<Vec<LogLine>, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn open_terminal(&self, _: &str, _: &NewTerminal) -> Result<Box<dyn Terminal>, ApiError> {
        Err(ApiError::NotFound)
    }
}

/// The policy of a chat with the usual tools, in which calls may wait as long and as often as a benchmark likes.
pub fn policy() -> Policy {
    Policy { conflict_rounds: 100, build_limit_ms: 24 * 60 * 60 * 1000, ..default_policy() }
}

/// Adds the chats from 0 to `count` to a store, each bound to the workspace of its number.
pub fn add_chats(store: &Path, count: usize) {
    let mut connection = connect(store);
    let transaction = connection.transaction().unwrap();
    {
        let insert = "INSERT INTO chat (name, workspace, timeouts, away) VALUES (?1, ?2, 0, 0)";
        let mut insert = transaction.prepare(insert).unwrap();
        for number in 0..count {
            insert.execute(params![chat_name(number), workspace_id(number)]).unwrap();
        }
    }
    transaction.commit().unwrap();
}

/// A connection to a store beside the host's, for what a host does not do.
pub fn connect(store: &Path) -> Connection {
    let connection = Connection::open(store).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection
}

/// A runtime as hosts have it.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}
