//! A server that outlives its token, and one whose token is blamed for nothing.

use rmcp::service::ClientLifecycleMode;
use serde_json::json;
use workspace_recovery::bindings::Transition::{Start, Stop};

use crate::agent::{Agent, Client, data, is_error, text};
use crate::deployment::{Says, is_of_the_database, is_user};
use crate::world::World;

const NOT_ACCEPTED: &str = "does not accept the token";

/// A deployment that takes the token "first", and an agent whose server has its token from a file with that one.
async fn with_a_token_file() -> (World, Agent, std::path::PathBuf) {
    let world = World::with_a_workspace().await.at_a_deployment().await;
    world.deployment().takes("first", world.plane().token());
    let file = world.folder().join("renewed");
    std::fs::write(&file, "first\n").unwrap();
    let named = ["--coder-token-file", file.to_str().unwrap(), "mcp", "--workspace", "dev"];
    let program = world.program(&named);
    let agent = Agent::start_program(program, Client::default(), ClientLifecycleMode::Initialize).await;
    assert!(!is_error(&agent.call("execute", json!({ "command": "true" })).await));
    (world, agent, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_names_a_token_that_has_expired_and_goes_on_with_the_one_that_is_in_the_file_by_then() {
    let (world, agent, file) = with_a_token_file().await;
    world.deployment().takes("second", world.plane().token());
    for (tool, arguments) in [
        ("execute", json!({ "command": "true" })),
        ("workspace_status", json!({})),
        ("stop_workspace", json!({})),
        ("restart_workspace", json!({ "only_if_unreachable": true })),
    ] {
        let refused = agent.call(tool, arguments).await;
        assert!(is_error(&refused), "{refused:?}");
        let text = text(&refused);
        assert!(text.contains(NOT_ACCEPTED) && text.contains("log in again"), "{tool}: {text}");
        assert!(
            !text.contains("does not answer") && !text.contains("cannot be reached or"),
            "{tool}: {text}"
        );
    }
    std::fs::write(&file, "second\n").unwrap();
    let ran = agent.call("execute", json!({ "command": "echo back" })).await;
    assert_eq!(text(&ran), "back\n");
    assert!(!is_error(&agent.call("workspace_status", json!({})).await));
    let restarted = agent.call("restart_workspace", json!({})).await;
    assert_eq!(data(&restarted)["restarted"], true, "{restarted:?}");
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_goes_on_when_its_expired_token_is_renewed() {
    let (world, agent, file) = with_a_token_file().await;
    world.plane().admin().set_provisioners(0).await.unwrap();
    let peer = agent.peer().clone();
    let restart = tokio::spawn(async move {
        peer.call_tool(crate::agent::request("restart_workspace", json!({}))).await.unwrap()
    });
    let is_pending =
        |workspace: &workspace_recovery::control_plane::Workspace| workspace.latest.build.number == 2;
    world.until("dev", is_pending).await;
    world.deployment().takes("second", world.plane().token());
    world.plane().admin().set_provisioners(3).await.unwrap();
    let is_stopped = |workspace: &workspace_recovery::control_plane::Workspace| {
        workspace_recovery::control_plane::is_terminal(&workspace.latest.build.status)
    };
    world.until("dev", is_stopped).await;
    std::fs::write(&file, "second\n").unwrap();
    let restarted = restart.await.unwrap();
    assert_eq!(data(&restarted)["restarted"], true, "{restarted:?}");
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    agent.close().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_the_token_lacks_is_named_by_doctor_which_goes_on_and_by_a_restart() {
    let world = World::with_a_workspace().await.at_a_deployment().await;
    assert!(world.run(&["chat", "bind", "talk", "dev"]).status.success());
    world.deployment().says(|request| match is_user(request) {
        true => Says::Status(404, "Resource not found or you do not have access to this resource"),
        false => Says::Truth,
    });
    let examined = world.run(&["doctor", "dev"]);
    let told = String::from_utf8(examined.stdout).unwrap();
    assert!(!examined.status.success() && told.contains("`user:read`"), "{told}");
    assert!(told.contains("a command runs in it"), "{told}");
    let restarted = world.run(&["call", "talk", "restart_workspace"]);
    let told = String::from_utf8([restarted.stdout, restarted.stderr].concat()).unwrap();
    assert!(told.contains("`user:read`") && !told.contains("not found"), "{told}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_not_told_as_a_token_that_is_no_good() {
    let world = World::with_a_workspace().await.at_a_deployment().await;
    let chat = ["chat", "bind", "talk", "dev"];
    assert!(world.run(&chat).status.success());
    // As older deployments do.
    world.deployment().says(|request| match request {
        request if request.ends_with("/buildinfo") => Says::Truth,
        request if is_of_the_database(request) => Says::Status(500, "Internal error fetching user count."),
        _ => Says::Status(401, "An internal error occurred."),
    });
    for command in
        [&["doctor", "dev"][..], &["exec", "talk", "--", "true"], &["call", "talk", "stop_workspace"], &chat]
    {
        let ended = world.run(command);
        assert!(!ended.status.success());
        let told = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        assert!(!told.contains(NOT_ACCEPTED) && !told.contains("log in again"), "{command:?}: {told}");
    }
    world.end().await;
}
