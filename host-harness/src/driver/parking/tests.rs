//! The parking on a paused clock, with a control plane in memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, advance, sleep, timeout};

use super::*;
use crate::bindings::{BuildWait, WaitEnd};
use crate::builders::NOW;
use crate::control_plane::ApiError;
use crate::control_plane::watched::Watched;
use crate::driver::events::Listeners;
use crate::driver::parking::poller::MAX_READS;
use crate::driver::plane::Plane;
use crate::journal::Answer;
use crate::policy::Timings;
use crate::store::Store;

mod probes;
mod streams;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A parking, its control plane, and the calls that it wakes.
struct ParkingTest {
    plane: Plane,
    parking: Parking,
    wake: mpsc::UnboundedSender<EndedWait>,
    woken: mpsc::UnboundedReceiver<EndedWait>,
}

fn parking_test() -> ParkingTest {
    let (plane, timings) = (Plane::default(), Timings::default());
    let reader = Reader {
        plane: Arc::new(Watched::new(Arc::new(plane.clone()), timings.read_silence)),
        store: Store::in_memory(),
        events: Listeners::default(),
        timings: Arc::new(timings),
    };
    let (wake, woken) = mpsc::unbounded_channel();
    ParkingTest { plane, parking: Parking::new(reader), wake, woken }
}

fn poll() -> Duration {
    Timings::default().poll
}

impl ParkingTest {
    /// Parks a wait for the build of a workspace.
    fn park(&self, call: u64, workspace: &str, limit: Duration) {
        self.park_for(call, workspace, &format!("build of {workspace}"), limit);
    }

    fn park_for(&self, call: u64, workspace: &str, build: &str, limit: Duration) {
        let what = WaitFor::Build { build: build.into(), deadline: Instant::now() + limit };
        self.park_what(call, workspace, what, Instant::now());
    }

    fn park_what(&self, call: u64, workspace: &str, what: WaitFor, begun: Instant) {
        let wait = Wait { call, chat: "ana".into(), workspace: Some(workspace.into()), what, begun };
        self.parking.park(wait, ReplyTo::Scheduler(self.wake.clone()));
    }

    async fn woken(&mut self) -> EndedWait {
        timeout(24 * HOUR, self.woken.recv()).await.expect("somebody wakes").unwrap()
    }

    /// The next end of a wait for a build, and how many milliseconds it waited.
    async fn ended(&mut self) -> (WaitEnd, u32) {
        let wait = build_wait(self.woken().await);
        (wait.end, wait.waited_ms)
    }

    fn reads(&self) -> usize {
        self.plane.world().reads.len()
    }
}

fn build_wait(woken: EndedWait) -> BuildWait {
    match woken.answer {
        Answer::WaitForBuild(Ok(wait)) => wait,
        other => panic!("{other:?}"),
    }
}

/// Lets the poller come to rest.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waits_at_a_workspace_cost_one_read_each_time() {
    let mut test = parking_test();
    for call in 0..1000 {
        test.park(call, "w", HOUR);
    }
    sleep(MINUTE).await;
    assert!((27..=35).contains(&test.reads()), "{}", test.reads());
    assert_eq!(test.parking.len(), 1000);
    test.plane.end("w");
    for call in 0..1000 {
        assert_eq!(test.woken().await.call, call);
    }
    assert!(test.parking.len() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_build_that_is_not_the_newest_is_read_by_itself_once_for_all() {
    let mut test = parking_test();
    test.plane.end("older");
    for call in 0..10 {
        test.park_for(call, "w", "older", HOUR);
    }
    for _ in 0..10 {
        assert_eq!(test.ended().await.0, WaitEnd::Reached);
    }
    assert_eq!(test.plane.world().builds, ["older"]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_panics_is_one_that_failed() {
    let mut test = parking_test();
    test.plane.world().panics = Some("w".into());
    test.park(1, "w", MINUTE);
    test.park(2, "x", HOUR);
    settle().await;
    test.plane.end("x");
    assert_eq!(test.woken().await.call, 2, "others are not affected");
    assert_eq!(test.ended().await, (WaitEnd::Limit, 60_000));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_ever_after_a_panic() {
    let mut test = parking_test();
    (test.plane.world().streams, test.plane.world().bad_streams) = (true, 1);
    test.park(1, "w", HOUR);
    sleep(MINUTE).await;
    test.plane.end("w");
    assert_eq!(test.ended().await.0, WaitEnd::Reached);
    assert_eq!(test.plane.world().opened.len(), 1, "a stream was opened again");
}

#[tokio::test(start_paused = true)]
async fn a_woken_call_is_told_the_time_of_the_read_that_woke_it() {
    let mut test = parking_test();
    test.park(7, "w", MINUTE);
    test.plane.end("w");
    let woken = test.woken().await;
    assert_eq!((woken.call, woken.observed), (7, Some(NOW)));
    test.park(8, "x", MINUTE);
    assert_eq!(test.woken().await.observed, None, "nothing was seen that ended it");
}

#[tokio::test(start_paused = true)]
async fn reads_in_flight_are_bounded_and_all_workspaces_are_read_in_the_end() {
    let test = parking_test();
    test.plane.world().takes = Duration::from_millis(100);
    for call in 0..200 {
        test.park(call, &format!("w{call}"), HOUR);
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(test.plane.world().in_flight, (0, MAX_READS));
    assert_eq!(test.reads(), 200);
}

#[tokio::test(start_paused = true)]
async fn polls_are_spread_by_a_tenth_of_the_interval_and_always_in_the_same_way() {
    let intervals = async || {
        let test = parking_test();
        test.park(1, "w1", HOUR);
        test.park(2, "w2", HOUR);
        sleep(10 * MINUTE).await;
        [test.plane.intervals("w1"), test.plane.intervals("w2")]
    };
    let [one, other] = intervals().await;
    for interval in one.iter().chain(&other) {
        // The clock's timers go by milliseconds.
        assert!(*interval >= poll() * 9 / 10 && *interval <= poll() * 11 / 10 + Duration::from_millis(1));
    }
    assert!(one.iter().max().unwrap() > &(poll() * 105 / 100), "{one:?}");
    assert!(one.iter().min().unwrap() < &(poll() * 95 / 100), "{one:?}");
    assert_ne!(one, other);
    assert_eq!(intervals().await, [one, other]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_whose_time_was_over_before_it_was_parked_reads_once() {
    let mut test = parking_test();
    let begun = Instant::now();
    advance(HOUR).await;
    let what = || WaitFor::Build { build: "build of w".into(), deadline: begun + MINUTE };
    test.park_what(1, "w", what(), begun);
    let wait = build_wait(test.woken().await);
    assert_eq!((wait.end, wait.waited_ms), (WaitEnd::Limit, 3_600_000));
    assert!(wait.build.is_some());
    test.plane.end("w");
    test.park_what(1, "w", what(), begun);
    assert_eq!(test.ended().await.0, WaitEnd::Reached);
    assert_eq!(test.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_last_look_is_taken_at_the_deadline() {
    let mut test = parking_test();
    test.park(1, "w", Duration::from_millis(5_000));
    sleep(Duration::from_millis(4_990)).await;
    test.plane.end("w");
    assert_eq!(test.ended().await, (WaitEnd::Reached, 5_000));
}

#[tokio::test(start_paused = true)]
async fn the_last_look_is_given_time_to_be_answered() {
    let mut test = parking_test();
    test.plane.world().takes = Duration::from_millis(300);
    test.park(1, "w", Duration::from_secs(30));
    sleep(Duration::from_millis(29_900)).await;
    test.plane.end("w");
    assert_eq!(test.ended().await.0, WaitEnd::Reached);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_does_not_outlast_the_limit() {
    let mut test = parking_test();
    test.plane.world().takes = HOUR;
    test.park(1, "w", MINUTE);
    settle().await;
    test.park(2, "w", Duration::ZERO);
    assert_eq!(test.ended().await.0, WaitEnd::Limit);
    assert_eq!(test.ended().await, (WaitEnd::Limit, 60_000));
    test.park(3, "v", Duration::ZERO);
    assert_eq!(test.ended().await, (WaitEnd::Limit, 2_000), "one read is given its time");
}

#[tokio::test(start_paused = true)]
async fn a_wait_does_not_take_what_was_read_before_it_began() {
    let mut test = parking_test();
    test.plane.world().takes = Duration::from_millis(500);
    test.park(1, "w", HOUR);
    settle().await;
    test.park(2, "w", Duration::from_millis(100));
    assert_eq!(test.woken().await.call, 2);
    assert_eq!(test.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_agents_scripts_are_waited_for_until_the_last_deadline_at_most() {
    let mut test = parking_test();
    let begun = Instant::now();
    let what = || WaitFor::Agent {
        build: "build of w".into(),
        agent: "agent of w".into(),
        connect_deadline: begun + MINUTE,
        probe_limit: MINUTE,
        scripts_limit: 10 * MINUTE,
        last_deadline: begun + 3 * MINUTE,
    };
    test.park_what(1, "w", what(), begun);
    let Answer::WaitForAgent(Ok(wait)) = test.woken().await.answer else { panic!("no end of a wait") };
    assert_eq!((wait.end, wait.waited_ms), (WaitEnd::Limit, 180_000));
    test.plane.end("w");
    test.park_what(1, "w", what(), begun);
    let Answer::WaitForAgent(Ok(wait)) = test.woken().await.answer else { panic!("no end of a wait") };
    assert_eq!(
        wait.end,
        WaitEnd::Reached,
        "its time is over, but it reads once, and is given time for a probe"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_before_the_time_that_the_control_plane_asked_for_but_the_last_look() {
    let mut test = parking_test();
    test.plane.world().fail = Some(ApiError::RateLimited { retry_after: Some(MINUTE) });
    test.park(1, "w1", HOUR);
    settle().await;
    test.plane.world().fail = None;
    test.park(2, "w2", HOUR);
    test.park(3, "w3", MINUTE / 2);
    sleep(MINUTE / 4).await;
    assert_eq!(test.reads(), 1);
    assert_eq!(test.ended().await, (WaitEnd::Limit, 30_000));
    assert_eq!(test.reads(), 2);
    sleep(MINUTE / 2).await;
    assert_eq!(test.reads(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_wait_ends_at_once_with_the_last_thing_known_and_the_others_go_on() {
    let mut test = parking_test();
    test.park(1, "w", HOUR);
    test.park(2, "w", HOUR);
    sleep(Duration::from_millis(1_500)).await;
    test.parking.interrupt(1);
    test.parking.interrupt(99);
    let wait = build_wait(test.woken().await);
    assert_eq!((wait.end, wait.waited_ms), (WaitEnd::Interrupted, 1_500));
    assert!(wait.build.is_some());
    test.plane.end("w");
    assert_eq!(test.woken().await.call, 2);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_wait_is_not_answered_and_its_workspace_not_read_any_more() {
    let test = parking_test();
    test.park(1, "w", HOUR);
    let (tell, told) = oneshot::channel();
    let what = WaitFor::Build { build: "build of v".into(), deadline: Instant::now() + HOUR };
    let wait = Wait { call: 2, chat: "ana".into(), workspace: Some("v".into()), what, begun: Instant::now() };
    test.parking.park(wait, ReplyTo::Caller(tell));
    settle().await;
    test.parking.forget(2);
    assert!(told.await.is_err());
    sleep(MINUTE).await;
    assert_eq!(test.plane.intervals("v").len(), 0);
    assert!(test.plane.intervals("w").len() > 20);
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_while_nobody_waits() {
    let mut test = parking_test();
    let alive = || Handle::current().metrics().num_alive_tasks();
    for round in 0..3 {
        test.park(round, "w", Duration::ZERO);
        assert_eq!(alive(), 1);
        test.woken().await;
        settle().await;
        assert_eq!(alive(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn clearing_abandons_reads_and_streams_and_leaves_nothing_running() {
    let mut test = parking_test();
    test.plane.world().streams = true;
    test.plane.world().takes = MINUTE;
    for call in 0..100 {
        test.park(call, &format!("w{call}"), HOUR);
    }
    settle().await;
    assert_eq!(test.plane.world().in_flight.0, MAX_READS);
    test.parking.clear();
    settle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
    assert_eq!(test.plane.world().in_flight.0, 0);
    assert!(test.plane.world().open.values().all(mpsc::UnboundedSender::is_closed));
    assert!(test.parking.len() == 0 && test.woken.try_recv().is_err());
    // The reads of then are not taken for those of now.
    test.plane.world().takes = Duration::ZERO;
    test.park(1, "w1", Duration::ZERO);
    assert_eq!(test.ended().await, (WaitEnd::Limit, 0));
}

#[tokio::test(start_paused = true)]
async fn a_parking_that_is_dropped_takes_its_task_along() {
    let test = parking_test();
    test.park(1, "w", HOUR);
    settle().await;
    drop(test.parking);
    settle().await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_parked_again_has_the_new_wait_only() {
    let mut test = parking_test();
    test.park(1, "w", MINUTE);
    test.park(1, "v", 2 * MINUTE);
    assert_eq!(test.parking.len(), 1);
    assert_eq!(test.ended().await, (WaitEnd::Limit, 120_000));
    assert!(timeout(HOUR, test.woken()).await.is_err());
}

#[test]
fn a_parked_wait_is_small() {
    assert!(size_of::<Parked>() <= 112, "{}", size_of::<Parked>());
}
