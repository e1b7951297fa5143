//! A workspace that is a folder of this machine, with terminals that a test chooses the shell of, and can cut.

use std::collections::VecDeque;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use pty_process::{OwnedReadPty, OwnedWritePty, Size};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{JobStatus, Parameter, Quota};
use workspace_recovery::chat::{ChatHost, Execute, ExecuteError, Executed};
use workspace_recovery::control_plane::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace,
};
use workspace_recovery::driver::Driver;
use workspace_recovery::engine::{Engine, EngineOptions, Plugin};
use workspace_recovery::policy::{ChatTools, Timings};
use workspace_recovery::store::Store;

use crate::builders::{ME, agent, build_read, start, workspace};

/// What a workspace has to have beside a shell.
pub const NEEDED: [&str; 8] = ["mkdir", "rm", "cat", "dd", "head", "tail", "wc", "sleep"];

/// The workspace, and the host whose chat works in it.
pub struct Desk {
    pub chats: ChatHost,
    pub place: Arc<Place>,
}

pub struct Place {
    home: TempDir,
    /// The login shell.
    shell: PathBuf,
    /// What `/bin/sh` is, if it is something else than on this machine.
    sh: Option<PathBuf>,
    path: String,
    state: Mutex<State>,
    end: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Pieces that were typed or shown so far.
    frames: usize,
    cut: Option<Cut>,
    /// What is typed into the first terminal is held back, and the terminal is cut.
    hold_back: bool,
    held_back: Option<(String, OwnedWritePty)>,
    /// Terminals outlive their connections.
    parked: Vec<(Child, OwnedReadPty, Option<OwnedWritePty>)>,
}

/// When terminals are cut.
#[derive(Clone, Copy)]
pub struct Cut {
    /// Before this piece.
    pub before: usize,
    /// Whether none opens afterwards.
    pub for_good: bool,
}

impl Desk {
    pub async fn new(shell: &Path) -> Self {
        Self::with(shell, None, &std::env::var("PATH").unwrap()).await
    }

    /// With this shell, this `/bin/sh`, and this `PATH`.
    pub async fn with(shell: &Path, sh: Option<&Path>, path: &str) -> Self {
        let place = Arc::new(Place {
            home: tempfile::tempdir().unwrap(),
            shell: shell.to_owned(),
            sh: sh.map(Path::to_owned),
            path: path.to_owned(),
            state: Mutex::default(),
            end: CancellationToken::new(),
        });
        let store = Store::in_memory();
        store.update("talk", |chat| chat.bind(Some("w"))).await.unwrap();
        // Short, since shells are near.
        let timings = Timings {
            dial_timeout: Duration::from_secs(2),
            validate_after: Duration::from_millis(500),
            keep_alive: Duration::from_secs(1),
            shell_limit: Duration::from_secs(1),
            signal_grace: Duration::from_millis(500),
            ..Timings::default()
        };
        let plane: Arc<dyn ControlPlane> = Arc::new(Reach(place.clone()));
        Self { chats: ChatHost::new(Driver::new(plugin(), plane, store, timings)), place }
    }

    pub async fn execute(&self, execute: Execute) -> Result<Executed, ExecuteError> {
        self.chats.chat("talk", ChatTools::default()).execute(&execute, &CancellationToken::new()).await
    }

    pub async fn run(&self, command: &str) -> Result<Executed, ExecuteError> {
        self.execute(Execute { command: command.to_owned(), ..Execute::default() }).await
    }

    /// Runs a command, which has to end with this.
    pub async fn gives(&self, command: &str, code: i32, output: &str) {
        let expected = Executed { output: output.to_owned(), exit_code: Some(code), ..Executed::default() };
        match self.run(command).await {
            Ok(executed) => assert_eq!(executed, expected, "{command:?} with {:?}", self.place.shell),
            Err(error) => panic!("{command:?} with {:?}: {error}", self.place.shell),
        }
    }
}

impl Place {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Cuts terminals so from now on, counted from now on.
    pub fn cut(&self, cut: Cut) {
        let mut state = self.state();
        (state.cut, state.frames) = (Some(cut), 0);
    }

    /// Whether a terminal was cut since.
    pub fn was_cut(&self) -> bool {
        let state = self.state();
        state.cut.is_some_and(|cut| state.frames > cut.before)
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The lines of a file in the home folder.
    pub fn lines(&self, file: &str) -> usize {
        std::fs::read_to_string(self.home().join(file)).unwrap_or_default().lines().count()
    }

    /// Waits until no more folders of sessions are left than so many.
    pub async fn has_left(&self, most: usize) {
        let left = || {
            let sessions = std::fs::read_dir(self.home().join(".local/state/workspace-recovery-sessions"));
            sessions.map_or(0, |sessions| sessions.flatten().filter(|entry| entry.path().is_dir()).count())
        };
        let removed = async {
            while left() > most {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), removed).await;
        assert!(in_time.is_ok(), "{} are left", left());
    }

    /// Holds back what is typed into the next terminal.
    pub fn hold_back_first(&self) {
        self.state().hold_back = true;
    }

    /// Types what was held back.
    pub async fn let_go(&self) {
        let (typed, mut pty) = self.state().held_back.take().unwrap();
        pty.write_all(typed.as_bytes()).await.unwrap();
        let mut state = self.state();
        state.parked.last_mut().unwrap().2.get_or_insert(pty);
    }

    /// Lets [`ended`](Self::ended) return.
    pub fn end(&self) {
        self.end.cancel();
    }

    pub async fn ended(&self) {
        self.end.cancelled().await;
    }

    /// A piece passes. False: the terminal is cut.
    fn passes(&self) -> bool {
        let mut state = self.state();
        state.frames += 1;
        state
            .cut
            .is_none_or(|cut| state.frames != cut.before + 1 && !(cut.for_good && state.frames > cut.before))
    }
}

/// A folder with nothing but these programs, for `PATH`.
pub fn folder_of(programs: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for program in programs {
        symlink(found(program).unwrap(), folder.path().join(program)).unwrap();
    }
    folder
}

/// Where a program is.
pub fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Where a program is that not every machine has: a test is skipped without it, but not in CI.
pub fn found_or_skipped(program: &str) -> Option<PathBuf> {
    let file = found(program);
    if file.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
    }
    file
}

fn plugin() -> Plugin {
    static PLUGIN: std::sync::LazyLock<Plugin> = std::sync::LazyLock::new(|| {
        Engine::new(EngineOptions::default()).unwrap().load(workspace_recovery::PLUGIN).unwrap()
    });
    PLUGIN.clone()
}

/// The control plane of the workspace, which is always well.
struct Reach(Arc<Place>);

fn newest() -> BuildRead {
    build_read(start(1, JobStatus::Succeeded))
}

#[async_trait]
impl ControlPlane for Reach {
    fn deployment(&self) -> String {
        "desk".into()
    }

    async fn user(&self) -> Result<User, ApiError> {
        Ok(User { id: ME.into(), name: "ana".into() })
    }

    async fn workspace(&self, id: &str) -> Result<Workspace, ApiError> {
        Ok(workspace(id, newest(), vec![agent("a1")]))
    }

    async fn workspace_by_name(&self, name: &str) -> Result<Workspace, ApiError> {
        self.workspace(name).await
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        Ok(vec![self.workspace("w").await?])
    }

    async fn build(&self, _: &str) -> Result<BuildRead, ApiError> {
        Ok(newest())
    }

    async fn builds(&self, _: &str, _: u32) -> Result<Vec<BuildRead>, ApiError> {
        Ok(vec![newest()])
    }

    async fn create_build(&self, _: &str, _: &NewBuild) -> Result<BuildRead, ApiError> {
        Err(ApiError::NotFound)
    }

    async fn template_parameters(&self, _: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        Ok(Vec::new())
    }

    async fn build_parameters(&self, _: &str) -> Result<Vec<Parameter>, ApiError> {
        Ok(Vec::new())
    }

    async fn quota(&self, _: &Workspace) -> Result<Option<Quota>, ApiError> {
        Ok(None)
    }

    async fn build_logs(&self, _: &str, _: u64) -> Result<Vec<LogLine>, ApiError> {
        Ok(Vec::new())
    }

    async fn open_terminal(&self, _: &str, wanted: &NewTerminal) -> Result<Box<dyn Terminal>, ApiError> {
        let place = &self.0;
        {
            let state = place.state();
            if state.cut.is_some_and(|cut| cut.for_good && state.frames > cut.before) {
                return Err(ApiError::Unavailable("no terminal".into()));
            }
        }
        let (pty, pts) = pty_process::open().unwrap();
        pty.resize(Size::new(wanted.height, wanted.width)).unwrap();
        let command = pty_process::Command::new(&place.shell)
            .arg("-c")
            .arg(with_sh(&wanted.command, place.sh.as_deref()))
            .current_dir(place.home())
            .env_clear()
            .env("HOME", place.home())
            .env("PATH", &place.path)
            .env("SHELL", &place.shell)
            .env("TERM", "xterm-256color")
            .env("TMPDIR", place.home());
        let child = command.spawn(pts).map_err(|error| ApiError::Unavailable(error.to_string()))?;
        let (read, write) = pty.into_split();
        let open = Some((child, read, write));
        Ok(Box::new(Screen { place: place.clone(), open, shown: VecDeque::new() }))
    }
}

/// The text, with another `/bin/sh`.
fn with_sh(text: &str, sh: Option<&Path>) -> String {
    match sh {
        Some(sh) => text.replace("/bin/sh", sh.to_str().unwrap()),
        None => text.to_owned(),
    }
}

struct Screen {
    place: Arc<Place>,
    /// None: it was cut.
    open: Option<(Child, OwnedReadPty, OwnedWritePty)>,
    shown: VecDeque<u8>,
}

impl Screen {
    fn passes(&mut self) -> bool {
        if !self.place.passes()
            && let Some((child, read, write)) = self.open.take()
        {
            self.place.state().parked.push((child, read, Some(write)));
        }
        self.open.is_some()
    }
}

#[async_trait]
impl Terminal for Screen {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        if self.shown.is_empty() {
            let Some((_, pty, _)) = &mut self.open else { return Ok(None) };
            let mut buffer = [0; 4096];
            match pty.read(&mut buffer).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(length) => self.shown.extend(&buffer[..length]),
            }
        }
        if !self.passes() {
            return Ok(None);
        }
        Ok(Some(self.shown.drain(..).collect()))
    }

    async fn send(&mut self, input: &str) -> Result<(), ApiError> {
        let cut = || ApiError::Unavailable("the connection was cut".into());
        if !self.passes() {
            return Err(cut());
        }
        let input = with_sh(input, self.place.sh.as_deref());
        if std::mem::take(&mut self.place.state().hold_back)
            && let Some((child, read, write)) = self.open.take()
        {
            let mut state = self.place.state();
            state.held_back = Some((input, write));
            state.parked.push((child, read, None));
            return Err(cut());
        }
        let (_, _, pty) = self.open.as_mut().ok_or_else(cut)?;
        pty.write_all(input.as_bytes()).await.map_err(|_| cut())
    }

    async fn close(&mut self) {
        if let Some((child, read, write)) = self.open.take() {
            self.place.state().parked.push((child, read, Some(write)));
        }
    }
}
