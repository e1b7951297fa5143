//! A host process: this test binary, started again to run one call, with a fault at a given place.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{Parameter, Quota};
use workspace_recovery::clock::{Clock, SystemClock};
use workspace_recovery::control_plane::rest::RestClient;
use workspace_recovery::control_plane::{
    ApiError, BuildRead, ControlPlane, LogLine, NewBuild, NewTerminal, TemplateParameter, Terminal, User,
    Workspace,
};
use workspace_recovery::driver::Driver;
use workspace_recovery::engine::{Engine, EngineOptions};
use workspace_recovery::journal::record::Intent;
use workspace_recovery::policy::{ChatTools, Timings};
use workspace_recovery::store::{Listing, Store};

/// Where a child finds its [`Orders`], as JSON.
pub const ORDERS: &str = "WORKSPACE_RECOVERY_TEST_HOST";
/// The chat of all calls.
pub const CHAT: &str = "talk";

/// What a host process is to do.
#[derive(Clone, Serialize, Deserialize)]
pub struct Orders {
    pub url: String,
    pub token: String,
    pub store: PathBuf,
    /// Compiled plugins.
    pub cache: PathBuf,
    pub tool: String,
    pub arguments: String,
    pub fault: Option<Fault>,
    /// Where it writes its [`Report`].
    pub report: PathBuf,
}

/// The host is to be struck at this place.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Which request to the control plane, counted from 0; where only requests for builds count, which of those.
    pub at: usize,
    pub side: Side,
    pub blow: Blow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// After a request for a build was written down, directly before the last look at the lease.
    Intended,
    /// Directly before the request is handed to the client.
    Before,
    /// Directly after its answer came.
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Blow {
    /// It is killed.
    Kill,
    /// It is suspended.
    Stop,
}

/// What a host process saw.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The call's result, or why there is none.
    pub result: Result<Value, String>,
    /// What it asked the control plane for, in order.
    pub requests: Vec<String>,
    /// What the store had of the call directly before and directly after each request, if nothing was to happen.
    pub kept: Vec<Kept>,
    /// Microseconds from each last look at the lease to the request's arrival at the client.
    pub windows: Vec<u64>,
}

/// How many entries a call has, and the request of it that was written down. `None`: it has not begun.
pub type Kept = Option<(usize, Option<String>)>;

/// How long hosts of these tests wait for things.
pub fn timings() -> Timings {
    let (second, millisecond) = (Duration::from_secs(1), Duration::from_millis(1));
    Timings {
        recover_after: 500 * millisecond,
        dial_timeout: 300 * millisecond,
        known_dead_after: second,
        known_dead_dial: 300 * millisecond,
        away_lookback: 500 * millisecond,
        poll: 150 * millisecond,
        first_retry: 20 * millisecond,
        build_limit: 30 * second,
        restart_stop_limit: 30 * second,
        connect_limit: 30 * second,
        scripts_limit: 30 * second,
        // A busy machine may take long over a request; only requests that were never sent are waited for so long.
        in_flight: 5 * second,
        reconcile_limit: 20 * second,
        lease: 800 * millisecond,
        news: 50 * millisecond,
        ..Timings::default()
    }
}

#[test]
#[ignore = "a host process of the other tests, which start it themselves"]
fn host() {
    if let Ok(orders) = std::env::var(ORDERS) {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(std::io::stderr)
            .init();
        let orders: Orders = serde_json::from_str(&orders).unwrap();
        // In one thread, nothing more is written while that waits to be suspended.
        let suspended = orders.fault.is_some_and(|fault| fault.blow == Blow::Stop);
        let mut runtime = if suspended { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        runtime.enable_all().build().unwrap().block_on(run(orders));
    }
}

async fn run(orders: Orders) {
    let client = RestClient::new(&orders.url, &orders.token).unwrap();
    let store = Store::open(&orders.store).unwrap();
    let seen = Arc::new(Seen::new(orders.fault, orders.store.clone(), store.clone()));
    let plane = Arc::new(Struck { client, seen: seen.clone() });
    let engine = EngineOptions { cache_dir: Some(orders.cache.clone()), ..EngineOptions::default() };
    let plugin = Engine::new(engine).unwrap().load(workspace_recovery::PLUGIN).unwrap();
    let driver = Driver::with_clock(plugin, plane, store.clone(), timings(), seen.clone());

    let names = ["stop_workspace", "start_workspace", "restart_workspace"].map(str::to_owned).into();
    let policy = timings().policy(&ChatTools { names, ..ChatTools::default() });
    let never = CancellationToken::new();
    tracing::debug!("ready");
    let call = match store.calls(Listing::All, 1).unwrap().first() {
        Some(begun) => {
            driver.stand_by().await.unwrap();
            begun.id
        }
        None => driver.begin(CHAT, &orders.tool, &orders.arguments, policy, None).await.unwrap(),
    };
    let result = match driver.follow(call, &never).await {
        Ok(Ok(result)) => Ok(serde_json::from_str(&result.json).unwrap()),
        other => Err(format!("{other:?}")),
    };
    driver.leave().await.unwrap();
    let requests = seen.requests.lock().unwrap().clone();
    let kept = seen.kept.lock().unwrap().clone();
    let windows = seen.windows.lock().unwrap().clone();
    let report = serde_json::to_vec(&Report { result, requests, kept, windows }).unwrap();
    std::fs::write(&orders.report, report).unwrap();
}

/// What is seen of a host: its requests, and its looks at the clock. At one of them it is struck.
struct Seen {
    fault: Option<Fault>,
    path: PathBuf,
    store: Store,
    requests: Mutex<Vec<String>>,
    kept: Mutex<Vec<Kept>>,
    windows: Mutex<Vec<u64>>,
    looked: Mutex<Option<std::time::Instant>>,
    /// It was struck at its last look at the lease; another look is another matter.
    struck: AtomicBool,
}

impl Seen {
    fn new(fault: Option<Fault>, path: PathBuf, store: Store) -> Self {
        let (requests, kept, windows) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (looked, struck) = (Mutex::default(), AtomicBool::new(false));
        Self { fault, path, store, requests, kept, windows, looked, struck }
    }

    /// The host comes to a place.
    fn come_to(&self, number: usize, here: Side) {
        let Some(fault) = self.fault else {
            let kept = self.store.recording(1).unwrap();
            let kept = kept
                .map(|kept| (kept.entries.len(), kept.open.map(|open| open.request.function().to_owned())));
            return self.kept.lock().unwrap().push(kept);
        };
        if (fault.at, fault.side) == (number, here) {
            self.strike(fault.blow);
        }
    }

    fn strike(&self, blow: Blow) {
        let signal = if blow == Blow::Kill { Signal::KILL } else { Signal::STOP };
        if blow == Blow::Stop {
            self.wait_until_nothing_is_written();
        }
        kill_process(getpid(), signal).unwrap();
        // A stop reaches this thread by way of another one, which has to be scheduled first.
        std::thread::sleep(Duration::from_millis(500));
    }

    /// A process that is suspended in the middle of a transaction keeps the file's lock, and with it all others.
    fn wait_until_nothing_is_written(&self) {
        let connection = rusqlite::Connection::open(&self.path).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        // What is still queued gets its turn in between.
        for _ in 0..3 {
            connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Requests for builds that were sent.
    fn sent(&self) -> usize {
        self.requests.lock().unwrap().iter().filter(|name| *name == "create_build").count()
    }

    /// Whether a request for a build is written down that has no answer.
    fn intends(&self) -> bool {
        let open = self.store.recording(1).unwrap().and_then(|kept| kept.open);
        open.is_some_and(|open| matches!(open.intent, Intent::Build(_)))
    }
}

impl Clock for Seen {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        if let Some(Fault { at, side: Side::Intended, blow }) = self.fault
            && !self.struck.load(Ordering::SeqCst)
            && self.sent() == at
            && self.intends()
        {
            self.struck.store(true, Ordering::SeqCst);
            self.strike(blow);
        }
        let now = SystemClock.monotonic_ms();
        *self.looked.lock().unwrap() = Some(std::time::Instant::now());
        now
    }
}

/// The control plane; on the way to it the host is struck.
struct Struck {
    client: RestClient,
    seen: Arc<Seen>,
}

impl Struck {
    async fn pass<T>(&self, name: &str, request: impl Future<Output = T>) -> T {
        let number = {
            let mut requests = self.seen.requests.lock().unwrap();
            requests.push(name.to_owned());
            tracing::debug!("request {}: {name}", requests.len() - 1);
            requests.len() - 1
        };
        // Suspended between its last look at the lease and this request, a host sends it when it wakes up: that window
        // no host can close, since the control plane knows no fencing.
        let window = name == "create_build" && self.seen.fault.is_some_and(|fault| fault.blow == Blow::Stop);
        if !window {
            self.seen.come_to(number, Side::Before);
        }
        if name == "create_build"
            && let Some(looked) = *self.seen.looked.lock().unwrap()
        {
            let window = u64::try_from(looked.elapsed().as_micros()).unwrap();
            self.seen.windows.lock().unwrap().push(window);
        }
        let answer = request.await;
        self.seen.come_to(number, Side::After);
        answer
    }
}

#[async_trait]
impl ControlPlane for Struck {
    fn deployment(&self) -> String {
        self.client.deployment()
    }

    async fn user(&self) -> Result<User, ApiError> {
        self.pass("user", self.client.user()).await
    }

    async fn workspace(&self, workspace: &str) -> Result<Workspace, ApiError> {
        self.pass("workspace", self.client.workspace(workspace)).await
    }

    async fn workspace_by_name(&self, name: &str) -> Result<Workspace, ApiError> {
        self.pass("workspace_by_name", self.client.workspace_by_name(name)).await
    }

    async fn workspaces(&self) -> Result<Vec<Workspace>, ApiError> {
        self.pass("workspaces", self.client.workspaces()).await
    }

    async fn build(&self, build: &str) -> Result<BuildRead, ApiError> {
        self.pass("build", self.client.build(build)).await
    }

    async fn builds(&self, workspace: &str, limit: u32) -> Result<Vec<BuildRead>, ApiError> {
        self.pass("builds", self.client.builds(workspace, limit)).await
    }

    async fn create_build(&self, workspace: &str, build: &NewBuild) -> Result<BuildRead, ApiError> {
        self.pass("create_build", self.client.create_build(workspace, build)).await
    }

    async fn template_parameters(&self, version: &str) -> Result<Vec<TemplateParameter>, ApiError> {
        self.pass("template_parameters", self.client.template_parameters(version)).await
    }

    async fn build_parameters(&self, build: &str) -> Result<Vec<Parameter>, ApiError> {
        self.pass("build_parameters", self.client.build_parameters(build)).await
    }

    async fn quota(&self, workspace: &Workspace) -> Result<Option<Quota>, ApiError> {
        self.pass("quota", self.client.quota(workspace)).await
    }

    async fn build_logs(&self, build: &str, after: u64) -> Result<Vec<LogLine>, ApiError> {
        self.pass("build_logs", self.client.build_logs(build, after)).await
    }

    async fn open_terminal(&self, agent: &str, wanted: &NewTerminal) -> Result<Box<dyn Terminal>, ApiError> {
        self.client.open_terminal(agent, wanted).await
    }

    fn changes(&self, workspace: &str) -> Option<BoxStream<'static, ()>> {
        self.client.changes(workspace)
    }
}
