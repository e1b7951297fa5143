//! Identical calls that have sent nothing yet are one call.

use std::collections::HashSet;

use rmcp::model::{CallToolResult, ProgressNotificationParam};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::time::timeout;
use workspace_recovery::bindings::Transition::{self, Start, Stop};
use workspace_recovery::store::CallState;

use crate::agent::{Agent, data, is_error, text};
use crate::calls::{hear, hearing};
use crate::world::{SOON, World};

const IN_DEV: [&str; 2] = ["--workspace", "dev"];
/// What who waits for its turn hears.
const WAITS: &str = "waiting for stop_workspace";
/// What is told of a call that another process carries, and that waits for its turn.
const TURN: &str = "it waits for its turn";

/// A workspace at which a stop waits for its build, and everything else for that.
struct Held {
    world: World,
    stops: tokio::task::JoinHandle<CallToolResult>,
}

impl Held {
    async fn new() -> Self {
        let world = World::with_a_workspace().await;
        world.let_builds_run(false).await;
        let (agent, mut told) = hearing(&world).await;
        let stops = tokio::spawn(async move {
            let stopped = agent.call("stop_workspace", json!({})).await;
            agent.close().await;
            stopped
        });
        hear(&mut told, "stop build 2: pending").await;
        Self { world, stops }
    }

    /// Lets the stop go on.
    async fn release(&self) {
        self.world.let_builds_run(true).await;
    }

    /// The stop, and the builds of the one restart behind it.
    async fn end(self, of_restart: &[Transition]) {
        let stopped = self.stops.await.unwrap();
        assert_eq!(data(&stopped)["stopped"], true, "{stopped:?}");
        assert_eq!(self.world.calls().len(), 2, "both restarts are one call");
        let transitions = self.world.transitions().await;
        assert_eq!(transitions, [&[Start, Stop][..], of_restart].concat());
        self.world.end().await;
    }
}

/// Makes a call until it ends, or is cancelled by dropping or using the other end.
async fn call_until(
    agent: &Agent,
    arguments: Value,
    cancelled: oneshot::Receiver<()>,
) -> Option<CallToolResult> {
    tokio::select! {
        result = agent.call("restart_workspace", arguments) => Some(result),
        _ = cancelled => None,
    }
}

/// Waits until so many requests have heard that they wait.
async fn until_all_wait(told: &mut UnboundedReceiver<ProgressNotificationParam>, requests: usize) {
    let all = async {
        let mut who = HashSet::new();
        while who.len() < requests {
            let heard = told.recv().await.unwrap();
            let message = heard.message.unwrap();
            if [WAITS, TURN].iter().any(|part| message.contains(part)) {
                who.insert(heard.progress_token);
            }
        }
    };
    timeout(SOON, all).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_make_the_same_call_at_once_get_the_result_of_one() {
    let world = World::with_a_workspace().await;
    let (one, two) = (Agent::start(&world, &IN_DEV).await, Agent::start(&world, &IN_DEV).await);
    let restart = |agent: Agent, arguments: Value| async move {
        let result = agent.call("restart_workspace", arguments).await;
        agent.close().await;
        result
    };
    let (first, second) =
        tokio::join!(restart(one, json!({})), restart(two, json!({ "only_if_unreachable": false })));
    assert_eq!(data(&first)["restarted"], true, "{first:?}");
    assert_eq!(data(&first), data(&second));
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    assert_eq!(world.calls().len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_of_two_clients_cancels_the_other_still_gets_its_result() {
    for who_began_cancels in [true, false] {
        let held = Held::new().await;
        let (agent, mut told) = hearing(&held.world).await;
        let ((cancel, cancelled), (_goes_on, never)) = (oneshot::channel(), oneshot::channel());
        let (first, second) = if who_began_cancels { (cancelled, never) } else { (never, cancelled) };
        let cancels = async {
            until_all_wait(&mut told, 2).await;
            cancel.send(()).unwrap();
            // Asked after the cancellation was sent: it has arrived.
            agent.call("workspace_status", json!({})).await;
            held.release().await;
        };
        let begins = call_until(&agent, json!({}), first);
        let (began, joined, ()) = tokio::join!(begins, call_until(&agent, json!({}), second), cancels);
        assert_eq!((began.is_none(), joined.is_none()), (who_began_cancels, !who_began_cancels));
        let result = began.or(joined).unwrap();
        assert_eq!(data(&result)["restarted"], true, "{result:?}");
        agent.close().await;
        held.end(&[Start]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_clients_cancel_before_anything_is_sent_nothing_is() {
    let held = Held::new().await;
    let (agent, mut told) = hearing(&held.world).await;
    let both = async {
        tokio::join!(agent.call("restart_workspace", json!({})), agent.call("restart_workspace", json!({})))
    };
    tokio::select! {
        results = both => panic!("{results:?}"),
        () = until_all_wait(&mut told, 2) => {}
    }
    held.world.until_calls(|calls| calls[0].state == CallState::Ended).await;
    assert!(held.world.calls()[0].interrupted);
    held.release().await;
    agent.close().await;
    held.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_process_that_cancels_ends_nothing_and_one_whose_call_is_ended_there_hears_what_to_do()
 {
    let held = Held::new().await;
    let ((owner, mut told), (joiner, mut told_joiner)) =
        (hearing(&held.world).await, hearing(&held.world).await);
    let (cancel, cancelled) = oneshot::channel();
    let joins = async {
        hear(&mut told, WAITS).await;
        tokio::select! {
            result = joiner.call("restart_workspace", json!({})) => panic!("{result:?}"),
            _ = hear(&mut told_joiner, TURN) => {}
        }
        // Asked after the cancellation was sent: it has arrived.
        joiner.call("workspace_status", json!({})).await;
        assert!(!held.world.calls()[0].interrupted, "somebody waits for it there");
        let cancels = async {
            hear(&mut told_joiner, TURN).await;
            cancel.send(()).unwrap();
        };
        tokio::join!(joiner.call("restart_workspace", json!({})), cancels).0
    };
    let (began, joined) = tokio::join!(call_until(&owner, json!({}), cancelled), joins);
    assert_eq!(began, None);
    assert!(is_error(&joined), "{joined:?}");
    assert!(text(&joined).contains("nothing was changed; make the same call again"), "{joined:?}");
    held.release().await;
    owner.close().await;
    joiner.close().await;
    held.end(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_call_after_the_server_was_killed_joins_the_one_that_had_sent_nothing() {
    let held = Held::new().await;
    let (agent, mut told) = hearing(&held.world).await;
    tokio::select! {
        result = agent.call("restart_workspace", json!({})) => panic!("{result:?}"),
        () = async {
            hear(&mut told, WAITS).await;
            agent.signal(rustix::process::Signal::KILL);
        } => {}
    }
    agent.kill().await;
    let (agent, mut told) = hearing(&held.world).await;
    let goes_on = async {
        until_all_wait(&mut told, 1).await;
        held.release().await;
    };
    let (result, ()) = tokio::join!(agent.call("restart_workspace", json!({})), goes_on);
    assert_eq!(data(&result)["restarted"], true, "{result:?}");
    agent.close().await;
    held.end(&[Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_does_not_say_of_a_call_that_waits_for_its_turn_that_it_is_in_progress() {
    let held = Held::new().await;
    let (agent, mut told) = hearing(&held.world).await;
    let looks = async {
        hear(&mut told, WAITS).await;
        let status = agent.call("workspace_status", json!({})).await;
        held.release().await;
        status
    };
    let (restarted, status) = tokio::join!(agent.call("restart_workspace", json!({})), looks);
    assert_eq!(data(&restarted)["restarted"], true, "{restarted:?}");
    let lines = "  in progress: stop_workspace (call 1)\n  waits for its turn: restart_workspace (call 2)\n";
    assert!(text(&status).ends_with(lines), "{}", text(&status));
    let states: Vec<_> =
        data(&status)["calls"].as_array().unwrap().iter().map(|call| &call["state"]).collect();
    assert_eq!(states, ["in progress", "waits for its turn"]);
    agent.close().await;
    held.end(&[Start]).await;
}
