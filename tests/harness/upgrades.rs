//! The plugin is upgraded in the middle of a call: the call ends on the component that it began with.
//!
//! With a store in a file, in real time: one thread of the store's own writes, for which no clock can be stopped.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{JobStatus, Transition};
use workspace_recovery::driver::DriveError;
use workspace_recovery::engine::{Engine, EngineOptions, Plugin};
use workspace_recovery::journal::record::{CallId, Failure};
use workspace_recovery::policy::Timings;
use workspace_recovery::store::{CallRow, Store};

use crate::plane::{Host, Plane, WORKSPACE, tools};

/// What the old plugin calls the workspace's name in its results, and the new one.
const OLD: &str = "workspace_name";
const NEW: &str = "workspace_nick";
/// Everything here has come about by then, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(60);

/// How a host is gone.
#[derive(Clone, Copy, Debug)]
enum Gone {
    Crashed,
    Left,
}

/// What became of the old component in the store.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// Its row is not there.
    Missing,
    /// Half of it is not there.
    Cut,
    /// It is another component.
    Changed,
}

/// A control plane and the path of a store.
struct World {
    plane: Plane,
    folder: tempfile::TempDir,
}

impl World {
    /// Builds go on until the test ends them.
    fn new() -> Self {
        let plane = Plane::running();
        plane.world().new_builds = (2 * LIMIT, JobStatus::Succeeded);
        Self { plane, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("store.db")
    }

    /// A host with this plugin and a connection of its own to the store.
    async fn host(&self, plugin: &Plugin) -> Host {
        let store = Store::open(&self.path()).unwrap();
        store.update("ana", |chat| chat.bind(Some(WORKSPACE))).await.unwrap();
        let timings = Timings {
            poll: Duration::from_millis(50),
            lease: Duration::from_secs(1),
            news: Duration::from_millis(50),
            ..Timings::default()
        };
        self.plane.host_of(plugin.clone(), Arc::new(self.plane.clone()), store, timings)
    }

    /// Begins a restart on the old plugin, whose host is gone when its stop build is in progress.
    async fn begun(&self, gone: Gone) -> CallId {
        let host = self.host(old()).await;
        let call = begin(&host, "restart_workspace").await;
        let waits = || host.store.recording(call).unwrap().is_some_and(|kept| kept.open.is_some());
        until("the call waits", || waits() && !self.posts().is_empty() && host.driver.parked() == 1).await;
        match gone {
            Gone::Crashed => host.driver.halt(),
            Gone::Left => host.driver.leave().await.unwrap(),
        }
        call
    }

    /// Ends the newest build, and every one that is made from now on at once.
    fn end_builds(&self) {
        let mut world = self.plane.world();
        world.new_builds.0 = Duration::ZERO;
        let made = world.builds.last_mut().unwrap();
        made.ends = Some((tokio::time::Instant::now(), JobStatus::Succeeded));
    }

    fn posts(&self) -> Vec<Transition> {
        self.plane.world().posts.iter().map(|post| post.transition.clone()).collect()
    }

    fn harm(&self, harm: Harm) {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(LIMIT).unwrap();
        let hash = &old().report().sha256;
        let changed = match harm {
            Harm::Missing => connection.execute("DELETE FROM component WHERE hash = ?1", [hash]),
            Harm::Cut => connection.execute(
                "UPDATE component SET bytes = substr(bytes, 1, length(bytes) / 2) WHERE hash = ?1",
                [hash],
            ),
            Harm::Changed => connection.execute(
                "UPDATE component SET bytes = ?2 WHERE hash = ?1",
                params![hash, &new().component()[..]],
            ),
        };
        assert_eq!(changed.unwrap(), 1);
    }
}

/// The plugin as it is, and one whose results differ.
fn old() -> &'static Plugin {
    &PLUGINS.0
}

fn new() -> &'static Plugin {
    &PLUGINS.1
}

/// Compiled once, also for the hosts that load one from their store.
static PLUGINS: LazyLock<(Plugin, Plugin)> = LazyLock::new(|| {
    let cache_dir = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("upgrades"));
    let engine = Engine::new(EngineOptions { cache_dir, ..EngineOptions::default() }).unwrap();
    let mut changed = guest_artifact::COMPONENT.to_vec();
    for at in 0..changed.len() - OLD.len() {
        if changed[at..].starts_with(OLD.as_bytes()) {
            changed[at..at + NEW.len()].copy_from_slice(NEW.as_bytes());
        }
    }
    (engine.load(guest_artifact::COMPONENT).unwrap(), engine.load(&changed).unwrap())
});

async fn begin(host: &Host, tool: &str) -> CallId {
    let policy = Timings::default().policy(&tools());
    host.driver.begin("ana", tool, "{}", policy, None).await.unwrap()
}

async fn follow(host: &Host, call: CallId) -> Result<Value, DriveError> {
    let never = CancellationToken::new();
    let result = timeout(LIMIT, host.driver.follow(call, &never)).await.expect("the call has not ended")?;
    Ok(serde_json::from_str(&result.unwrap().json).unwrap())
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not so: {what}"));
}

fn row(host: &Host, call: CallId) -> CallRow {
    host.store.call(call).unwrap().unwrap()
}

/// What a restart answers here on the old plugin, if nothing happens to it.
fn restarted() -> Value {
    json!({
        OLD: "dev", "restarted": true, "started": true, "stop_build_id": "b2", "build_id": "b3",
        "message": "The stop has ended what ran in the workspace, commands of other clients included.",
    })
}

#[tokio::test]
async fn a_call_ends_on_the_component_that_it_began_with_and_new_ones_begin_on_the_new() {
    for gone in [Gone::Crashed, Gone::Left] {
        let world = World::new();
        let call = world.begun(gone).await;
        let host = world.host(new()).await;
        host.driver.stand_by().await.unwrap();
        world.end_builds();
        assert_eq!(follow(&host, call).await.unwrap(), restarted(), "{gone:?}");
        assert_eq!(world.posts(), [Transition::Stop, Transition::Start]);

        let later = begin(&host, "stop_workspace").await;
        let stopped = follow(&host, later).await.unwrap();
        assert_eq!(
            (&stopped["stopped"], &stopped[NEW], &stopped[OLD]),
            (&json!(true), &json!("dev"), &Value::Null)
        );
        let on = |call| host.store.recording(call).unwrap().unwrap().call.component;
        assert_eq!((on(call), on(later)), (old().report().sha256.clone(), new().report().sha256.clone()));

        // A component is kept for as long as a call that names it.
        let (_, ended_ms) = host.store.outcome(later).unwrap().unwrap();
        let kept = |plugin: &Plugin| host.store.component(&plugin.report().sha256).unwrap().is_some();
        assert!(kept(old()) && kept(new()));
        assert_eq!(host.store.prune(ended_ms).await.unwrap(), 1);
        assert_eq!((kept(old()), kept(new())), (false, true));
        assert_eq!(host.store.prune(ended_ms + 1).await.unwrap(), 1);
        assert!(!kept(new()));
        host.driver.halt();
    }
}

#[tokio::test]
async fn a_call_whose_component_is_missing_or_damaged_rests_with_a_note_until_a_host_brings_it() {
    let cases = [
        (Harm::Missing, "not in the store any more", None),
        (Harm::Missing, "not in the store any more", Some(Gone::Left)),
        (Harm::Cut, "cannot be used by this host", None),
        (Harm::Changed, "is damaged in the store", Some(Gone::Crashed)),
    ];
    let cases = cases.map(|(harm, said, gone)| async move {
        let world = World::new();
        let call = world.begun(Gone::Crashed).await;
        world.harm(harm);
        let host = world.host(new()).await;
        host.driver.stand_by().await.unwrap();
        world.end_builds();
        let stranded = follow(&host, call).await;
        assert!(matches!(stranded, Err(DriveError::Stranded { .. })), "{harm:?}: {stranded:?}");
        let noted = row(&host, call);
        assert!(noted.note.as_ref().is_some_and(|note| note.contains(said)), "{harm:?}: {noted:?}");
        assert_eq!(world.posts(), [Transition::Stop], "{harm:?}");

        // The host that has the call goes on with what another one brings, or leaves it to that.
        match gone {
            None => {}
            Some(Gone::Crashed) => host.driver.halt(),
            Some(Gone::Left) => host.driver.leave().await.unwrap(),
        }
        let other = world.host(old()).await;
        other.driver.stand_by().await.unwrap();
        assert_eq!(follow(&other, call).await.unwrap(), restarted(), "{harm:?}");
        assert_eq!((world.posts(), row(&host, call).note), (vec![Transition::Stop, Transition::Start], None));
        other.driver.halt();
        host.driver.halt();
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test]
async fn a_call_that_cannot_go_on_can_be_interrupted_if_it_has_sent_nothing() {
    let world = World::new();
    world.plane.foreign_build("f2", Transition::Start, JobStatus::Running);
    let first = world.host(old()).await;
    let call = begin(&first, "stop_workspace").await;
    until("the call waits", || first.driver.parked() == 1).await;
    first.driver.leave().await.unwrap();
    world.harm(Harm::Missing);
    let host = world.host(new()).await;
    host.driver.stand_by().await.unwrap();
    until("the call has been taken over", || host.driver.parked() == 1).await;
    world.end_builds();
    assert!(matches!(follow(&host, call).await, Err(DriveError::Stranded { .. })));
    host.driver.interrupt(call).await.unwrap();
    let ended = follow(&host, call).await;
    assert!(matches!(ended, Err(DriveError::Failed(Failure::Interrupted))), "{ended:?}");
    host.driver.halt();
}
