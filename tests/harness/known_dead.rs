//! An agent that is known to be dead is called so after some seconds; every other one has the whole window.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{Action, AgentState, Cause};
use workspace_recovery::chat::{Execute, ExecuteError, Executed};
use workspace_recovery::policy::Timings;
use workspace_recovery::store::Store;

use crate::plane::{Answers, Host, Plane, WORKSPACE, plugin, unavailable};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A host whose agent went so long ago, by a disconnect that was recorded.
fn gone(before: Duration) -> Host {
    let host = Plane::running().host();
    host.plane.world().disconnect(before);
    host
}

async fn execute(host: &Host) -> Result<Executed, ExecuteError> {
    let echo = Execute { command: "echo hi".into(), ..Execute::default() };
    host.chat().execute(&echo, &CancellationToken::new()).await
}

/// The verdict, and how long the dial took.
async fn verdict(host: &Host) -> (Action, Cause, Duration) {
    let begun = Instant::now();
    match execute(host).await {
        Err(ExecuteError::Unreachable(unreachable)) => {
            (unreachable.verdict.action, unreachable.verdict.cause, begun.elapsed())
        }
        other => panic!("{other:?}"),
    }
}

/// The verdict on an agent that went long ago, when this is done to it in the midst of the five seconds.
async fn with(host: Host, change: impl FnOnce(&Host)) -> (Action, Cause, Duration) {
    let (verdict, ()) = tokio::join!(verdict(&host), async {
        sleep(seconds(3)).await;
        change(&host);
    });
    verdict
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_gone_for_two_minutes_is_called_dead_after_five_seconds() {
    assert_eq!(verdict(&gone(seconds(120))).await, (Action::Restart, Cause::Disconnected, seconds(5)));
    // Bound already, it is dialled before it is read.
    let host = gone(seconds(600));
    host.change_chat("ana", |chat| chat.agent = Some("a1".into()));
    assert_eq!(verdict(&host).await, (Action::Restart, Cause::Disconnected, seconds(5)));
    assert!(host.plane.world().opened.len() > 3, "it was tried again and again");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_gone_for_less_than_two_minutes_has_the_whole_window() {
    let before = seconds(120) - Duration::from_millis(1);
    assert_eq!(verdict(&gone(before)).await, (Action::Restart, Cause::Disconnected, seconds(30)));
    let (action, _, took) = verdict(&gone(seconds(89))).await;
    assert_eq!((action, took), (Action::Restart, seconds(30)));
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_that_nobody_saw_is_no_known_death() {
    let host = gone(seconds(600));
    {
        let mut world = host.plane.world();
        world.agents[0].last_connected = world.agents[0].disconnected;
    }
    assert_eq!(verdict(&host).await, (Action::Retry, Cause::InferredDisconnect, seconds(30)));
}

#[tokio::test(start_paused = true)]
async fn a_terminal_that_opens_and_stays_silent_is_no_refusal() {
    let host = gone(seconds(600));
    host.plane.world().answers("a1", Answers::Silence);
    assert_eq!(verdict(&host).await.2, seconds(30));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_within_the_five_seconds_is_reached() {
    let host = gone(seconds(600));
    let (executed, ()) = tokio::join!(execute(&host), async {
        sleep(seconds(4)).await;
        let mut world = host.plane.world();
        world.agents[0].state = AgentState::Connected;
        world.answers("a1", Answers::Runs);
    });
    assert_eq!(executed.unwrap().output, "hi\n");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_back_meanwhile_has_the_whole_window() {
    let again = |host: &Host| {
        let mut world = host.plane.world();
        let gone = world.agents[0].disconnected;
        world.agents[0].last_connected = gone;
        world.agents[0].disconnected = gone.map(|at| at + 1_000);
    };
    assert_eq!(with(gone(seconds(600)), again).await, (Action::Retry, Cause::ChangedDuringDial, seconds(30)));
    let restarted = |host: &Host| host.plane.world().agents[0].process = Some("another".into());
    assert_eq!(with(gone(seconds(600)), restarted).await.2, seconds(30));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_meanwhile_or_shortly_before_lets_the_dial_take_its_window() {
    let host = gone(seconds(600));
    let away = async {
        sleep(seconds(3)).await;
        host.plane.world().reads_fail = Some(unavailable());
        sleep(Duration::from_millis(1_500)).await;
        host.plane.world().reads_fail = None;
    };
    let ((action, cause, took), ()) = tokio::join!(verdict(&host), away);
    assert_eq!((action, cause), (Action::Retry, Cause::ControlPlaneAway));
    assert!(took >= seconds(30), "{took:?}");
    let (_, cause, took) = verdict(&host).await;
    assert_eq!((cause, took), (Cause::ControlPlaneAway, seconds(30)), "and the next one");
    sleep(seconds(90)).await;
    assert_eq!(verdict(&host).await, (Action::Restart, Cause::Disconnected, seconds(5)));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_went_together_with_those_of_many_workspaces_is_not_what_was_away() {
    let after = async |gone: u64, others: &[i64]| {
        let host = gone_with(seconds(gone), others);
        verdict(&host).await
    };
    assert_eq!(after(300, &[0, -4_000]).await, (Action::Retry, Cause::ControlPlaneAway, seconds(5)));
    for others in [&[][..], &[0], &[0, 6_000], &[-60_000, 60_000]] {
        assert_eq!(after(300, others).await.1, Cause::Disconnected, "{others:?}");
    }
    assert_eq!(after(1_200, &[0, 0, 0]).await.1, Cause::Disconnected, "they would be back by now");
    let host = gone_with(seconds(300), &[0, 0]);
    let verdicts = [verdict(&host).await, verdict(&host).await, verdict(&host).await];
    assert_eq!(verdicts.map(|(action, ..)| action), [Action::Retry, Action::Retry, Action::AskUser]);
}

/// As [`gone`], with agents of other workspaces that went so many milliseconds later.
fn gone_with(before: Duration, others: &[i64]) -> Host {
    let host = gone(before);
    let mut world = host.plane.world();
    let at = world.agents[0].disconnected.unwrap();
    world.others_gone = others.iter().map(|later| at.saturating_add_signed(*later)).collect();
    drop(world);
    host
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_policy_knows_no_deaths_gives_every_dial_its_window() {
    for timings in [
        Timings { known_dead_after: Duration::ZERO, ..Timings::default() },
        Timings { known_dead_dial: Duration::ZERO, ..Timings::default() },
    ] {
        let plane = Plane::running();
        let host = plane.host_of(plugin(), Arc::new(plane.clone()), Store::in_memory(), timings);
        host.change_chat("ana", |chat| chat.bind(Some(WORKSPACE)));
        assert_eq!(host.chat().policy().known_dead, None);
        plane.world().disconnect(seconds(600));
        assert_eq!(verdict(&host).await, (Action::Restart, Cause::Disconnected, seconds(30)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_agents_workspace_is_back_ten_seconds_and_two_builds_later() {
    let host = gone(seconds(120));
    let begun = Instant::now();
    assert_eq!(verdict(&host).await.0, Action::Restart);
    let condition = r#"{"only_if_unreachable":true}"#;
    host.chat().call_tool("restart_workspace", condition, &CancellationToken::new()).await.unwrap().unwrap();
    assert_eq!(execute(&host).await.unwrap().output, "hi\n");
    let builds = 2 * host.plane.world().new_builds.0;
    assert!(begun.elapsed() <= builds + seconds(10), "{:?}", begun.elapsed());
}
