//! What a start says of an agent: ready is one on which a command can run, whatever it reads as; and what a deployment
//! says that refuses a build, or fails at it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use workspace_recovery::local::{AgentSignal, VersionSpec};

use crate::agent::{data, is_error, text};
use crate::deployment::{Says, is_build, is_terminal};
use crate::played::Played;
use crate::world::World;

/// The limit of the wait for a command to be able to run: two minutes, shortened.
const LIMIT: Duration = Duration::from_secs(8);

impl Played {
    async fn at_a_deployment() -> Self {
        Self::in_world(World::with_a_workspace().await.at_a_deployment().await).await
    }

    /// What a start answers, which finds the workspace started.
    async fn start(&self) -> Value {
        let result = self.agent.call("start_workspace", json!({})).await;
        assert!(!is_error(&result), "{}", text(&result));
        let answer = data(&result).clone();
        assert_eq!((&answer["started"], &answer["no_build"]), (&json!(true), &json!(true)), "{answer}");
        answer
    }

    /// A start answers that no command can run, and why; it tries for as long as the agent may take to connect.
    async fn is_not_ready(&self, why: &str) {
        let begun = Instant::now();
        let answer = self.start().await;
        assert!(begun.elapsed() >= LIMIT, "{:?}", begun.elapsed());
        assert_eq!(answer["agent_status"], "not_ready", "{answer}");
        assert!(answer["agent_error"].as_str().unwrap().contains(why), "{answer}");
    }

    /// What a stop answers that fails.
    async fn failed_stop(&self) -> Value {
        let result = self.agent.call("stop_workspace", json!({})).await;
        let answer = data(&result).clone();
        assert!(answer["stopped"].is_null() && answer["build_id"].is_null(), "{answer}");
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_or_has_just_died_is_not_called_ready() {
    let played = Played::new(VersionSpec::default()).await;
    assert_eq!(played.start().await["agent_status"], Value::Null);
    played.world.signal(AgentSignal::Stop).await;
    // It reads as connected for a while, then as gone.
    played.is_not_ready("lost its connection").await;
    played.world.signal(AgentSignal::Cont).await;
    assert_eq!(played.start().await["agent_status"], Value::Null, "it is there again");
    played.world.signal(AgentSignal::Kill).await;
    played.is_not_ready("lost its connection").await;
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_for_a_moment_is_waited_for() {
    let played = Played::new(VersionSpec::default()).await;
    played.world.signal(AgentSignal::Stop).await;
    let wake = async {
        played.world.until_calls(|calls| calls.iter().any(|call| call.tool == "start_workspace")).await;
        played.world.signal(AgentSignal::Cont).await;
    };
    let (answer, ()) = tokio::join!(played.start(), wake);
    assert_eq!(answer["agent_status"], Value::Null, "{answer}");
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_reads_connected_and_whose_terminals_stay_silent_is_not_called_ready() {
    let played = Played::at_a_deployment().await;
    played.world.deployment().says(|request| if is_terminal(request) { Says::Silence } else { Says::Truth });
    played.is_not_ready("reads as connected, but no command can run on it: its terminal stays silent.").await;
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_not_open_terminals_gets_the_answer_without_a_probe_and_is_told() {
    let played = Played::at_a_deployment().await;
    for status in [403, 404] {
        let refused = Says::Status;
        played.world.deployment().says(move |request| {
            if is_terminal(request) { refused(status, "No terminals for you.") } else { Says::Truth }
        });
        let answer = played.start().await;
        assert_eq!(answer["agent_status"], Value::Null, "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("Whether a command can run on the agent was not tried"), "{message}");
    }
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_without_a_build_is_told_in_the_deployments_words() {
    let played = Played::at_a_deployment().await;
    played.world.deployment().says(|request| match is_build(request) {
        true => Says::Status(409, "A workspace build is already active."),
        false => Says::Truth,
    });
    let begun = Instant::now();
    let answer = played.failed_stop().await;
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("shows none. It said: A workspace build is already active."), "{error}");
    // Each is followed by a pause of 2 s, shortened.
    assert_eq!(played.world.deployment().asked(is_build), 4);
    assert!(begun.elapsed() >= Duration::from_millis(4 * 133), "{:?}", begun.elapsed());
    played.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failing_deployment_said_of_a_build_is_told() {
    let played = Played::at_a_deployment().await;
    for (message, told) in [("Internal error.", "Internal error."), ("", "The control plane gave no reason.")]
    {
        played.world.deployment().says(move |request| match is_build(request) {
            true => Says::Status(500, message),
            false => Says::Truth,
        });
        let answer = played.failed_stop().await;
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("status 500") && error.contains(told), "{error}");
    }
    assert_eq!(played.world.deployment().asked(is_build), 2, "neither is sent again");
    played.end().await;
}
