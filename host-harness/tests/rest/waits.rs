//! Calls that wait: one stream and one read for all that wait at a workspace, however many they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::WaitEnd;
use workspace_recovery::clock::SystemClock;
use workspace_recovery::control_plane::ControlPlane;
use workspace_recovery::driver::{HostCalls, NoIntentLog};
use workspace_recovery::journal::{Answer, Request};
use workspace_recovery::policy::Timings;
use workspace_recovery::store::Store;

use crate::replay::{Asked, Frame, Reply, Server, What};
use crate::stage::Frozen;
use crate::transcript::recorded;

const MINUTE: Duration = Duration::from_secs(60);
const CALLS: usize = 1_000;
const WORKSPACES: usize = 10;

/// Reads of a workspace in a minute in which nothing happens: one for each ten seconds, a tenth earlier at most.
const READS_PER_MINUTE: usize = 7;
/// With a stream that is cut every minute: it is opened again, and its workspace looked at more often until it speaks.
const REQUESTS_PER_MINUTE_CUT: usize = 12;
/// Without streams: one read for each two seconds, a tenth earlier at most; and attempts to open a stream, which come
/// every sixteen seconds in the end.
const REQUESTS_PER_MINUTE_POLLED: usize = 34 + 6;

/// What the streams of the server do.
#[derive(Clone, Copy, PartialEq)]
enum Streams {
    /// They live, and ping every 15 s as a real server does.
    Live,
    /// A proxy cuts them after a minute.
    Cut,
    /// There are none.
    Absent,
}

/// A server with builds that run, and calls that wait for them.
struct Stage {
    clock: Frozen,
    server: Server,
    host_calls: Arc<HostCalls>,
    ended: Arc<AtomicBool>,
}

impl Stage {
    async fn new(streams: Streams) -> Self {
        let clock = Frozen::new();
        let ended = Arc::new(AtomicBool::new(false));
        let (over, body) = (ended.clone(), recorded("05-stop-start-conflicts", 8).body);
        let server =
            Server::start(move |asked| answer(asked, streams, &body, over.load(Ordering::Relaxed))).await;
        let store = Store::in_memory();
        for call in 0..CALLS {
            let workspace = format!("w{}", call % WORKSPACES);
            store.update(&format!("chat{call}"), move |chat| chat.bind(Some(&workspace))).await.unwrap();
        }
        let plane = Arc::new(server.client());
        let host_calls = Arc::new(HostCalls::new(plane, store, Timings::default(), Arc::new(SystemClock)));
        Self { clock, server, host_calls, ended }
    }

    /// All calls begin to wait. Answers how many have ended.
    fn wait(&self) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        for number in 0..CALLS {
            let (host_calls, count) = (self.host_calls.clone(), count.clone());
            tokio::spawn(async move {
                let call = host_calls.begin(&format!("chat{number}"), CancellationToken::new()).unwrap();
                let build = format!("b{}", number % WORKSPACES);
                let request = Request::WaitForBuild { build, limit_ms: 3_600_000 };
                let answered = host_calls.answer(&call, &request, &NoIntentLog).await.unwrap();
                let Answer::WaitForBuild(Ok(wait)) = answered.answer else { panic!() };
                assert_eq!(wait.end, WaitEnd::Reached);
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        count
    }

    /// The requests of so many minutes: for each workspace, the most in one of them, reads and streams apart.
    async fn busiest(&self, minutes: u32) -> BTreeMap<String, (usize, usize)> {
        let mut busiest = BTreeMap::new();
        for _ in 0..minutes {
            let before = self.server.requests().len();
            self.clock.pass(MINUTE).await;
            let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
            for asked in &self.server.requests()[before..] {
                let workspace = asked.path.split('/').nth(4).unwrap();
                let count = counts.entry(workspace.to_owned()).or_default();
                if asked.path.ends_with("/watch-ws") { count.1 += 1 } else { count.0 += 1 }
            }
            for (workspace, count) in counts {
                let most: &mut (usize, usize) = busiest.entry(workspace).or_default();
                *most = (most.0.max(count.0), most.1.max(count.1));
            }
        }
        busiest
    }
}

fn answer(asked: &Asked, streams: Streams, body: &Value, ended: bool) -> Reply {
    let workspace = asked.path.split('/').nth(4).unwrap().to_owned();
    if !asked.path.ends_with("/watch-ws") {
        let mut body = body.clone();
        body["id"] = json!(workspace);
        body["latest_build"]["id"] = json!(workspace.replace('w', "b"));
        body["latest_build"]["job"]["status"] = json!(if ended { "succeeded" } else { "running" });
        return Reply::json(200, body);
    }
    if streams == Streams::Absent {
        return Reply::text(404, "not found");
    }
    let data = What::Text(json!({"type": "data"}).to_string());
    let mut frames = vec![Frame { at: Duration::ZERO, what: data }];
    let pings = if streams == Streams::Cut { 4 } else { 400 };
    frames.extend((1..=pings).map(|ping| Frame { at: ping * MINUTE / 4, what: What::Ping }));
    Reply::timed_socket(frames)
}

/// Prints what was measured, and compares it with the bound: for reads and streams of each workspace, per minute.
fn bounded(what: &str, busiest: &BTreeMap<String, (usize, usize)>, bound: usize) {
    let all: usize = busiest.values().map(|(reads, streams)| reads + streams).sum();
    println!("{CALLS} calls wait at {WORKSPACES} workspaces, {what}: {all} requests per minute at most");
    assert_eq!(busiest.len(), WORKSPACES);
    assert!(busiest.values().all(|(reads, streams)| reads + streams <= bound), "{busiest:?}");
}

#[tokio::test]
async fn a_thousand_calls_that_wait_cost_seven_requests_a_minute_and_workspace_while_streams_live() {
    let stage = Stage::new(Streams::Live).await;
    let ended = stage.wait();
    stage.clock.pass(MINUTE / 4).await;
    let streams =
        |server: &Server| server.requests().iter().filter(|asked| asked.path.ends_with("watch-ws")).count();
    assert_eq!(streams(&stage.server), WORKSPACES, "one stream for each workspace");
    let busiest = stage.busiest(3).await;
    bounded("streams live", &busiest, READS_PER_MINUTE);
    assert_eq!(streams(&stage.server), WORKSPACES);
    stage.ended.store(true, Ordering::Relaxed);
    stage.clock.pass(Duration::from_secs(11)).await;
    assert_eq!(
        ended.load(Ordering::Relaxed),
        CALLS,
        "not announced, and yet seen by all within one safety read"
    );
    let before = stage.server.requests().len();
    stage.clock.pass(MINUTE).await;
    assert_eq!(stage.server.requests().len(), before, "nobody waits any more");
}

#[tokio::test]
async fn streams_that_a_proxy_cuts_are_opened_again_at_little_cost() {
    let stage = Stage::new(Streams::Cut).await;
    let _ended = stage.wait();
    stage.clock.pass(MINUTE / 4).await;
    bounded("streams are cut every minute", &stage.busiest(3).await, REQUESTS_PER_MINUTE_CUT);
}

#[tokio::test]
async fn without_streams_calls_wait_by_polling() {
    let stage = Stage::new(Streams::Absent).await;
    let ended = stage.wait();
    stage.clock.pass(MINUTE / 2).await;
    bounded("there are no streams", &stage.busiest(2).await, REQUESTS_PER_MINUTE_POLLED);
    stage.ended.store(true, Ordering::Relaxed);
    stage.clock.pass(Duration::from_secs(3)).await;
    assert_eq!(ended.load(Ordering::Relaxed), CALLS);
}

#[tokio::test]
async fn a_stream_on_which_nothing_comes_any_more_is_given_up_after_45_seconds_and_one_that_pings_is_kept() {
    let clock = Frozen::new();
    let frames = |pings: u32| {
        let pings = (1..=pings).map(|ping| Frame { at: ping * MINUTE / 4, what: What::Ping });
        Reply::timed_socket(pings.chain([Frame { at: Duration::ZERO, what: What::Nothing }]).collect())
    };
    let server = Server::in_order([frames(0), frames(8)]).await;
    let client = server.client();
    let ends = [client.changes("w").unwrap(), client.changes("w").unwrap()].map(|changes| async {
        let begun = tokio::time::Instant::now();
        assert_eq!(changes.count().await, 0);
        begun.elapsed().as_secs()
    });
    let ends = clock.within(4 * MINUTE, join_all(ends)).await;
    // 45 s after the last ping, which comes after two minutes; time goes in steps.
    assert!((45..47).contains(&ends[0]) && (165..167).contains(&ends[1]), "{ends:?}");
}
