//! What becomes of calls whose request, client or server goes away, and what is told meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use rmcp::model::{
    CallToolResponse, CancelTaskParams, ClientCapabilities, GetTaskParams, InputResponses,
    ProgressNotificationParam, ProtocolVersion, TaskPayload, TaskStatus, UpdateTaskParams,
};
use rmcp::service::{ClientLifecycleMode, ServiceError};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout};
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::local::{AgentSignal, BuildSpec, VersionSpec};
use workspace_recovery::store::{CallRow, CallState};

use crate::agent::{Agent, Client, data, is_error, text};
use crate::deployment::{Says, is_terminal, is_user};
use crate::world::{LOOK, SOON, World};

/// How long a client waits for the end of a server that it has closed its end to. Most wait 2 s; this machine is busy.
const PATIENCE: Duration = Duration::from_secs(4);
const IN_DEV: [&str; 2] = ["--workspace", "dev"];

/// An agent that hears of progress.
pub async fn hearing(world: &World) -> (Agent, UnboundedReceiver<ProgressNotificationParam>) {
    let (progress, told) = unbounded_channel();
    let client = Client { progress: Some(progress), ..Client::default() };
    (Agent::start_as(world, &IN_DEV, client, ClientLifecycleMode::Initialize).await, told)
}

/// An agent that knows tasks.
async fn with_tasks(world: &World) -> Agent {
    with_tasks_in(world, "dev").await
}

async fn with_tasks_in(world: &World, workspace: &str) -> Agent {
    Agent::start_as(world, &["--workspace", workspace], knows_tasks(), new_lifecycle()).await
}

fn new_lifecycle() -> ClientLifecycleMode {
    ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
}

fn knows_tasks() -> Client {
    Client { capabilities: ClientCapabilities::builder().enable_tasks().build(), ..Client::default() }
}

/// Waits for a message of this sort, and answers it.
pub async fn hear(told: &mut UnboundedReceiver<ProgressNotificationParam>, part: &str) -> String {
    let heard = async {
        loop {
            let message = told.recv().await.unwrap().message.unwrap();
            if message.contains(part) {
                return message;
            }
        }
    };
    timeout(SOON, heard).await.unwrap_or_else(|_| panic!("nothing is heard of {part:?}"))
}

/// A restart whose stop build waits in the queue, and whose request is dropped, which cancels it.
async fn begin_restart_and_cancel_the_request(
    world: &World,
    agent: &Agent,
    told: &mut UnboundedReceiver<ProgressNotificationParam>,
) {
    world.let_builds_run(false).await;
    tokio::select! {
        result = agent.call("restart_workspace", json!({})) => panic!("{result:?}"),
        _ = hear(told, "stop build 2: pending") => {}
    }
}

/// Waits for the end of the newest call, and answers it.
async fn ended(world: &World) -> CallRow {
    world.until_calls(|calls| calls[0].state == CallState::Ended).await;
    world.calls().swap_remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_hears_of_the_queue_the_build_and_its_log() {
    let world = World::with_a_workspace().await;
    let slow = BuildSpec { duration_ms: Some(2000), ..BuildSpec::default() };
    world.create("other", VersionSpec { stop: slow, ..VersionSpec::default() }).await;
    world.plane().admin().set_provisioners(1).await.unwrap();
    world.ask_for("other", Stop).await;
    let (agent, mut told) = hearing(&world).await;
    let heard = async {
        for part in [
            "stop build 2: pending, place 1 in the queue",
            "Stopping workspace",
            "start build 3",
            "Starting workspace",
            "agent main: connected",
        ] {
            hear(&mut told, part).await;
        }
    };
    let (result, ()) = tokio::join!(agent.call("restart_workspace", json!({})), heard);
    assert_eq!(data(&result)["restarted"], true, "{result:?}");
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_while_nothing_happens_hears_that_it_goes_on() {
    let world = World::with_a_workspace().await;
    let ((agent, mut told), other) = (hearing(&world).await, Agent::start(&world, &IN_DEV).await);
    let heard = async {
        hear(&mut told, "the command has not ended").await;
        other.call("execute", json!({ "command": "touch ended" })).await;
    };
    let wait = json!({ "command": "until [ -e ended ]; do sleep 0.05; done" });
    let (result, ()) = tokio::join!(agent.call("execute", wait), heard);
    assert!(!is_error(&result), "{result:?}");

    world.let_builds_run(false).await;
    let heard = async {
        // Twice: it goes on.
        for _ in 0..2 {
            let message = hear(&mut told, " s: stop build 2: pending").await;
            assert!(message.starts_with("after "), "{message}");
        }
        world.let_builds_run(true).await;
    };
    let (result, ()) = tokio::join!(agent.call("stop_workspace", json!({})), heard);
    assert_eq!(data(&result)["stopped"], true, "{result:?}");
    agent.close().await;
    other.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_call_of_another_process_hears_how_it_is() {
    let world = World::with_a_workspace().await;
    let (carrier, (agent, mut told)) = (Agent::start(&world, &IN_DEV).await, hearing(&world).await);
    world.let_builds_run(false).await;
    let joins = async {
        world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
        agent.call("restart_workspace", json!({})).await
    };
    let heard = async {
        hear(&mut told, "stop build 2: pending").await;
        world.let_builds_run(true).await;
    };
    let (first, second, ()) = tokio::join!(carrier.call("restart_workspace", json!({})), joins, heard);
    assert_eq!(data(&first)["restarted"], true, "{first:?}");
    assert_eq!(data(&first), data(&second), "it is one call");
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    agent.close().await;
    carrier.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_call_that_another_process_has_taken_over_hears_how_it_is() {
    let slow = BuildSpec { duration_ms: Some(4000), ..BuildSpec::default() };
    let world = World::with_a_workspace_of(VersionSpec { start: slow, ..VersionSpec::default() }).await;
    let ((agent, mut told), other) = (hearing(&world).await, Agent::start(&world, &IN_DEV).await);
    world.let_builds_run(false).await;
    let heard = async {
        hear(&mut told, "stop build 2: pending").await;
        let host = world.calls()[0].owner;
        agent.signal(rustix::process::Signal::STOP);
        world.until_calls(|calls| calls[0].owner.is_some() && calls[0].owner != host).await;
        agent.signal(rustix::process::Signal::CONT);
        world.let_builds_run(true).await;
        hear(&mut told, " s: start build 3: running").await;
    };
    let (result, ()) = tokio::join!(agent.call("restart_workspace", json!({})), heard);
    assert_eq!(data(&result)["restarted"], true, "{result:?}");
    agent.close().await;
    other.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_command_hears_nothing_of_another_one_in_the_same_chat() {
    let world = World::with_a_workspace().await.at_a_deployment().await;
    let (agent, mut told) = hearing(&world).await;
    let command =
        agent.call("execute", json!({ "command": "touch begun; until [ -e ended ]; do sleep 0.05; done" }));
    let meanwhile = async {
        let is_there = json!({ "command": "until [ -e begun ]; do sleep 0.05; done" });
        assert!(!is_error(&agent.call("execute", is_there).await));
        world.deployment().says(|request| if is_terminal(request) { Says::Nothing } else { Says::Truth });
        let unreachable = agent.call("execute", json!({ "command": "true" })).await;
        assert!(is_error(&unreachable), "{unreachable:?}");
        world.deployment().says(|_| Says::Truth);
        agent.call("execute", json!({ "command": "touch ended" })).await;
    };
    let (result, ()) = tokio::join!(command, meanwhile);
    assert!(!is_error(&result), "{result:?}");
    agent.close().await;
    let mut who = HashSet::new();
    while let Ok(told) = told.try_recv() {
        if told.message.unwrap().contains("the agent does not answer") {
            who.insert(told.progress_token);
        }
    }
    assert_eq!(who.len(), 1, "{who:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_cancelled_before_its_call_has_begun_begins_none() {
    for lifecycle in [ClientLifecycleMode::Initialize, new_lifecycle()] {
        let world = World::with_a_workspace().await.at_a_deployment().await;
        world.deployment().says(|request| if is_user(request) { Says::Silence } else { Says::Truth });
        let (progress, mut told) = unbounded_channel();
        let client = Client { progress: Some(progress), ..knows_tasks() };
        let agent = Agent::start_as(&world, &IN_DEV, client, lifecycle).await;
        tokio::select! {
            result = agent.call("stop_workspace", json!({})) => panic!("{result:?}"),
            _ = hear(&mut told, "has not begun yet") => {}
        }
        // Asked after the cancellation was sent: it has arrived.
        agent.call("workspace_status", json!({})).await;
        let closed = Instant::now();
        assert_eq!(agent.close().await, Some(0));
        assert!(closed.elapsed() < PATIENCE, "it still waits for the control plane: {:?}", closed.elapsed());
        assert_eq!(world.calls(), []);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_ends_a_call_that_has_sent_nothing() {
    let world = World::with_a_workspace().await;
    let (agent, mut told) = hearing(&world).await;
    world.let_builds_run(false).await;
    let stop = agent.call("stop_workspace", json!({}));
    let cancelled = async {
        hear(&mut told, "stop build 2: pending").await;
        // Dropped, it is cancelled.
        tokio::select! {
            result = agent.call("restart_workspace", json!({})) => panic!("{result:?}"),
            waits = hear(&mut told, "waiting for") => assert!(waits.contains("stop_workspace")),
        }
        let restart = ended(&world).await;
        assert_eq!((restart.tool.as_str(), restart.interrupted), ("restart_workspace", true));
        world.let_builds_run(true).await;
    };
    let (stopped, ()) = tokio::join!(stop, cancelled);
    assert_eq!(data(&stopped)["stopped"], true, "the other call is none of its business");
    assert_eq!(world.transitions().await, [Start, Stop]);
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_leaves_a_call_that_has_sent_something_and_the_same_call_joins_it() {
    let world = World::with_a_workspace().await;
    let (agent, mut told) = hearing(&world).await;
    begin_restart_and_cancel_the_request(&world, &agent, &mut told).await;
    let again = agent.call("restart_workspace", json!({}));
    let release = async {
        // Asked after the cancellation was sent: it has arrived.
        agent.call("workspace_status", json!({})).await;
        assert!(!world.calls()[0].interrupted);
        world.let_builds_run(true).await;
    };
    let (result, ()) = tokio::join!(again, release);
    assert_eq!(data(&result)["restarted"], true, "{result:?}");
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    assert_eq!(world.calls().len(), 1);
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_its_restart_to_the_background() {
    let world = World::with_a_workspace().await;
    let (agent, mut told) = hearing(&world).await;
    begin_restart_and_cancel_the_request(&world, &agent, &mut told).await;
    let closed = Instant::now();
    assert_eq!(agent.close().await, Some(0));
    assert!(closed.elapsed() < PATIENCE, "clients kill a server that takes longer: {:?}", closed.elapsed());
    world.let_builds_run(true).await;
    assert!(!ended(&world).await.interrupted);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_call_to_a_server_that_was_restarted_joins_the_one_of_the_killed_one() {
    let world = World::with_a_workspace().await;
    let (agent, mut told) = hearing(&world).await;
    world.let_builds_run(false).await;
    tokio::select! {
        result = agent.call("restart_workspace", json!({})) => panic!("{result:?}"),
        () = async {
            hear(&mut told, "stop build 2: pending").await;
            agent.signal(rustix::process::Signal::KILL);
        } => {}
    }
    agent.kill().await;
    let agent = Agent::start(&world, &IN_DEV).await;
    world.let_builds_run(true).await;
    let result = agent.call("restart_workspace", json!({})).await;
    assert_eq!(data(&result)["restarted"], true, "{result:?}");
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    agent.close().await;
    world.end().await;
}

/// The task that a call has become.
async fn task(agent: &Agent, tool: &str, arguments: Value) -> String {
    match agent.call_once(tool, arguments).await {
        CallToolResponse::Task(created) => created.task.task_id,
        other => panic!("{other:?}"),
    }
}

/// Waits until a task has ended.
async fn result_of(agent: &Agent, id: &str) -> TaskPayload {
    let end = Instant::now() + SOON;
    loop {
        let now = agent.peer().get_task(GetTaskParams::new(id)).await.unwrap().task;
        if now.status().is_terminal() {
            return now.payload;
        }
        assert!(now.task.poll_interval_ms.is_some() && now.task.ttl_ms.is_some());
        assert!(Instant::now() < end, "{now:?}");
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_outlives_the_server() {
    let world = World::with_a_workspace().await;
    let agent = with_tasks(&world).await;
    world.let_builds_run(false).await;
    let id = task(&agent, "restart_workspace", json!({})).await;
    world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
    agent.kill().await;
    let agent = with_tasks(&world).await;
    let now = agent.peer().get_task(GetTaskParams::new(id.clone())).await.unwrap().task;
    assert_eq!(now.status(), TaskStatus::Working);
    world.let_builds_run(true).await;
    let TaskPayload::Completed { result } = result_of(&agent, &id).await else { panic!("it has a result") };
    assert_eq!(result["structuredContent"]["restarted"], true);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    agent.peer().update_task(UpdateTaskParams::new(id, InputResponses::new())).await.unwrap();
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_an_older_revision_gets_no_task_whatever_it_says_that_it_knows() {
    let world = World::with_a_workspace().await;
    let agent = Agent::start_as(&world, &IN_DEV, knows_tasks(), ClientLifecycleMode::Initialize).await;
    let stopped = agent.call("stop_workspace", json!({})).await;
    assert_eq!(data(&stopped)["stopped"], true, "{stopped:?}");
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_says_what_it_waits_for() {
    let world = World::with_a_workspace().await;
    let agent = with_tasks(&world).await;
    world.let_builds_run(false).await;
    let first = task(&agent, "stop_workspace", json!({})).await;
    let second = task(&agent, "restart_workspace", json!({})).await;
    for (id, part) in
        [(&first, "stop build 2: pending"), (&second, "its turn at the workspace, after stop_workspace")]
    {
        let says = async {
            let now = || agent.peer().get_task(GetTaskParams::new(id.clone()));
            while !now().await.unwrap().task.task.status_message.is_some_and(|says| says.contains(part)) {
                tokio::time::sleep(LOOK).await;
            }
        };
        timeout(SOON, says).await.unwrap_or_else(|_| panic!("{part:?} is not said"));
    }
    world.let_builds_run(true).await;
    for id in [first, second] {
        result_of(&agent, &id).await;
    }
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_cancelled_between_stop_and_start_says_that_the_workspace_is_down() {
    let world = World::with_a_workspace().await;
    let agent = with_tasks(&world).await;
    world.let_builds_run(false).await;
    let id = task(&agent, "restart_workspace", json!({})).await;
    world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
    agent.peer().cancel_task(CancelTaskParams::new(id.clone())).await.unwrap();
    world.let_builds_run(true).await;
    let TaskPayload::Completed { result } = result_of(&agent, &id).await else { panic!("it has a result") };
    assert_eq!(result["structuredContent"]["interrupted"], true, "{result:?}");
    assert_eq!(world.transitions().await, [Start, Stop]);
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_for_its_turn_is_cancelled_without_a_result() {
    let world = World::with_a_workspace().await;
    let agent = with_tasks(&world).await;
    world.let_builds_run(false).await;
    let first = task(&agent, "stop_workspace", json!({})).await;
    let second = task(&agent, "restart_workspace", json!({})).await;
    agent.peer().cancel_task(CancelTaskParams::new(second.clone())).await.unwrap();
    assert!(matches!(result_of(&agent, &second).await, TaskPayload::Cancelled));
    let cancelled = agent.peer().get_task(GetTaskParams::new(second)).await.unwrap().task;
    assert_eq!(cancelled.task.status_message, None, "it waits for nothing any more");
    world.let_builds_run(true).await;
    assert!(matches!(result_of(&agent, &first).await, TaskPayload::Completed { .. }));
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_for_those_who_know_them_and_only_their_own() {
    let world = World::with_a_workspace().await;
    world.create("other", VersionSpec::default()).await;
    let agent = with_tasks(&world).await;
    let id = task(&agent, "start_workspace", json!({})).await;
    result_of(&agent, &id).await;
    let refused = agent.call("stop_workspace", json!({ "odd": 1 })).await;
    assert!(is_error(&refused) && text(&refused).contains("odd"), "a refusal is no task: {refused:?}");
    world.signal(AgentSignal::Kill).await;
    assert!(is_error(&agent.call("execute", json!({ "command": "true" })).await));
    let verdict = &world.calls()[0];
    let verdict = format!("call-{}-{:x}", verdict.id, verdict.created_ms);
    let (counted, long) = (id.rsplit_once('-').unwrap().0, id.replace('-', "-0"));
    for unknown in ["call-999", "call-", "7", "", &verdict, counted, &long] {
        let error = agent.peer().get_task(GetTaskParams::new(unknown)).await.unwrap_err();
        assert!(matches!(error, ServiceError::McpError(_)), "{unknown}: {error:?}");
    }
    let plain = Agent::start(&world, &IN_DEV).await;
    assert!(plain.peer().get_task(GetTaskParams::new(id.clone())).await.is_err());
    let elsewhere = with_tasks_in(&world, "other").await;
    assert!(elsewhere.peer().get_task(GetTaskParams::new(id)).await.is_err());
    for agent in [agent, plain, elsewhere] {
        agent.close().await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_pipes_that_is_terminated_does_not_say_that_the_request_was_cancelled() {
    let world = World::with_a_workspace().await;
    world.let_builds_run(false).await;
    let (agent, mut told) = hearing(&world).await;
    let terminates = async {
        hear(&mut told, "stop build 2: pending").await;
        agent.signal(rustix::process::Signal::TERM);
    };
    let (stopped, ()) = tokio::join!(agent.call("stop_workspace", json!({})), terminates);
    let goes_on = "the server ends. If this call had sent something, it goes on in the background";
    assert!(is_error(&stopped) && text(&stopped).starts_with(goes_on), "{}", text(&stopped));
    assert_eq!(agent.close().await, Some(0));
    world.let_builds_run(true).await;
    ended(&world).await;
    world.end().await;
}
