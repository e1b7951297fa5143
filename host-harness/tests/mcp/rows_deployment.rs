//! Rows of the decision table that need a deployment in trouble, or one that changes at the wrong moment. The program
//! works with `--coder-url` here, as it does on a real deployment.

use jiff::{SignedDuration, Timestamp};
use rmcp::service::ClientLifecycleMode;
use serde_json::{Value, json};
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::local::AgentSignal;

use crate::agent::{Agent, Client, is_error};
use crate::calls::{hear, hearing};
use crate::deployment::{Says, is_read, is_terminal};
use crate::follower::follow;
use crate::played::{ASKS, Played};
use crate::world::World;

/// The workspace `dev` on a deployment.
async fn played() -> Played {
    Played::in_world(World::with_a_workspace().await.at_a_deployment().await).await
}

impl Played {
    fn deployment_says(&self, answers: impl FnMut(&str) -> Says + Send + 'static) {
        self.world.deployment().says(answers);
    }

    /// Each read of a workspace is changed, by its number from 1 on.
    fn reads_are_changed(&self, change: fn(&mut Value, i64)) {
        let mut reads = 0;
        self.deployment_says(move |request| {
            if !is_read(request) {
                return Says::Truth;
            }
            reads += 1;
            let number = reads;
            Says::Changed(Box::new(move |workspace| change(workspace, number)))
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_of_a_deployment_is_brought_back_as_a_local_one_is() {
    let played = played().await;
    played.world.signal(AgentSignal::Kill).await;
    played.world.until_gone_for_long().await;
    let followed = follow(&played.agent, "true").await;
    assert!(followed.ran && followed.called == ["execute", "restart_workspace", "execute"], "{followed:?}");
    assert_eq!(played.world.transitions().await, [Start, Stop, Start]);
    assert_eq!(played.world.calls()[0].tool, "restart_workspace", "kept with the deployment's calls");
    assert!(!played.world.folder().join("chats.db").exists(), "and not with the local ones");
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_1_a_command_whose_request_is_cancelled_while_the_agent_is_dialled_never_runs() {
    let world = World::with_a_workspace().await.at_a_deployment().await;
    let (agent, mut told) = hearing(&world).await;
    let played = Played { world, agent };
    played.deployment_says(|request| {
        if is_terminal(request) { Says::Status(502, "Not connected.") } else { Says::Truth }
    });
    // Dropped, it is cancelled.
    tokio::select! {
        result = played.agent.call("execute", json!({ "command": "touch ran" })) => panic!("{result:?}"),
        _ = hear(&mut told, "the agent does not answer") => {}
    }
    // Asked after the cancellation was sent: it has arrived.
    played.agent.call("workspace_status", json!({})).await;
    played.deployment_says(|_| Says::Truth);
    let followed = follow(&played.agent, "[ -e ran ] && echo ran || echo never").await;
    assert_eq!((followed.called.len(), followed.last.as_str()), (1, "never\n"), "{followed:?}");
    assert_eq!(played.world.transitions().await, [Start]);
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_2_a_dial_that_waiting_cannot_cure_is_told_as_what_it_is() {
    let played = played().await;
    for (status, told) in [
        (403, "forbids it: No terminals for you; an administrator"),
        (404, "not found, or not visible to this user"),
        (200, "does not look like a Coder deployment"),
    ] {
        played.deployment_says(move |request| {
            if is_terminal(request) { Says::Status(status, "No terminals for you.") } else { Says::Truth }
        });
        let before = played.world.deployment().asked(is_terminal);
        played.gives_up_after(1, &["the workspace cannot be reached", told]).await;
        assert_eq!(played.world.deployment().asked(is_terminal), before + 1, "it is not tried again");
    }
    assert!(played.world.calls().is_empty(), "there was nothing to come to a verdict on");
    played.deployment_says(|_| Says::Truth);
    played.brought_back_by(&["execute"], &[Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_2_a_token_that_is_not_accepted_is_told_as_that() {
    let world = World::with_a_workspace().await.at_a_deployment().await;
    assert!(world.run(&["chat", "bind", "talk", "dev"]).status.success());
    let mut program = world.program(&["mcp", "--chat", "talk"]);
    program.env("CODER_SESSION_TOKEN", "wrong");
    let agent = Agent::start_program(program, Client::default(), ClientLifecycleMode::Initialize).await;
    let played = Played { world, agent };
    played.gives_up_after(1, &["does not accept the token: log in again"]).await;
    assert_eq!(played.world.deployment().asked(is_terminal), 0);
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_3_a_control_plane_that_comes_back_needs_no_more_than_the_same_call_again() {
    let played = played().await;
    played.deployment_says(|_| Says::Nothing);
    let verdict = played.verdict().await;
    assert_eq!((&verdict["cause"], &verdict["action"]), (&json!("control-plane-away"), &json!("retry")));
    played.deployment_says(|_| Says::Truth);
    played.brought_back_by(&["execute"], &[Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_3_a_control_plane_that_stays_away_is_for_the_user_the_third_time() {
    let played = played().await;
    played.deployment_says(|_| Says::Nothing);
    played.left_to_the_user_after(3, &["The control plane was away", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_3_an_agent_is_not_judged_soon_after_the_control_plane_was_away_and_that_does_not_count() {
    let world = World::with_an_agent_that_nobody_saw_go().await;
    let played = Played::in_world(world.at_a_deployment().await).await;
    played.deployment_says(|_| Says::Nothing);
    assert!(is_error(&played.agent.call("workspace_status", json!({})).await));
    played.deployment_says(|_| Says::Truth);
    let mut away = Vec::new();
    let judged = loop {
        let verdict = played.verdict().await;
        assert_eq!(verdict["tools"], json!([]), "{verdict}");
        if verdict["cause"] != "control-plane-away" {
            break verdict;
        }
        away.push(verdict["action"].clone());
        assert!(away.len() < 10, "it was away for ever: {away:?}");
    };
    assert!(!away.is_empty(), "it was away: {judged}");
    for (number, action) in away.iter().enumerate() {
        assert_eq!(action, if number < 2 { "retry" } else { "ask-user" }, "{away:?}");
    }
    // The first that counts: a second one would restart.
    assert_eq!((&judged["cause"], &judged["action"]), (&json!("inferred-disconnect"), &json!("retry")));
    assert_eq!(played.world.transitions().await, [Start]);
    played.brought_back_by(&["execute", "restart_workspace", "execute"], &[Start, Stop, Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_4_a_status_that_cannot_be_read_is_tried_again_and_then_for_the_user() {
    let played = played().await;
    assert!(follow(&played.agent, "true").await.ran);
    played.world.signal(AgentSignal::Kill).await;
    // Refused for asking too often, which is no sign that the control plane is away.
    played.deployment_says(|request| {
        if is_read(request) { Says::Status(429, "Too many requests.") } else { Says::Truth }
    });
    played.left_to_the_user_after(2, &["its status could not be read", ASKS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_19_an_agent_that_was_made_meanwhile_is_dialled_however_often_that_happens() {
    let played = played().await;
    // A dial that finds nobody to dial ends at once, and the verdict's own read finds the new agent: three times.
    played.reads_are_changed(|workspace, number| {
        if number % 2 == 1 && number < 6 {
            workspace["latest_build"]["resources"] = json!([]);
        }
    });
    let verdict = played.verdict().await;
    assert_eq!((&verdict["cause"], &verdict["action"]), (&json!("agent-replaced"), &json!("retry")));
    assert!(verdict["message"].as_str().unwrap().contains("has a new agent since"), "{verdict}");
    played.brought_back_by(&["execute"; 3], &[Start]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_23_an_agent_that_was_seen_meanwhile_is_tried_again_and_then_for_the_user() {
    let played = played().await;
    played.world.signal(AgentSignal::Kill).await;
    played.world.until_gone_for_long().await;
    // Each read shows another time at which it went, all of them long ago.
    played.reads_are_changed(|workspace, number| {
        // It is stopped if this test fails.
        let Some(gone) = workspace.pointer_mut("/latest_build/resources/0/agents/0/disconnected_at") else {
            return;
        };
        let at: Timestamp = gone.as_str().unwrap().parse().unwrap();
        *gone = json!((at + SignedDuration::from_millis(number)).to_string());
    });
    played.left_to_the_user_after(2, &["had come back", ASKS]).await;
}
