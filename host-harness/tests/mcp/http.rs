//! The server over HTTP: who may ask, what it bears, and clients without sessions.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, HOST, ORIGIN};
use serde_json::{Value, json};
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::store::CallState;

use crate::served::{Served, answer};
use crate::world::{LOOK, PROGRAM, World};

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_the_token_may_ask_and_no_page_of_a_browser() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let list = || served.stateless("", "tools/list", json!({}));
    let listed = answer(list().send().await.unwrap()).await;
    assert_eq!(listed["result"]["tools"][0]["name"], "stop_workspace", "{listed}");

    let file = world.folder().join("mcp-token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for (name, value, status) in [
        (AUTHORIZATION, "Bearer wrong".to_owned(), StatusCode::UNAUTHORIZED),
        (AUTHORIZATION, served.token.clone(), StatusCode::UNAUTHORIZED),
        (AUTHORIZATION, format!("bearer  {}", served.token), StatusCode::OK),
        (HOST, "evil.example".to_owned(), StatusCode::FORBIDDEN),
        (HOST, "localhost".to_owned(), StatusCode::OK),
        (ORIGIN, "http://evil.example".to_owned(), StatusCode::FORBIDDEN),
        (ORIGIN, "null".to_owned(), StatusCode::FORBIDDEN),
        (ORIGIN, "http://localhost:6274".to_owned(), StatusCode::OK),
    ] {
        let mut request = list().build().unwrap();
        request.headers_mut().insert(name.clone(), value.parse().unwrap());
        let response = served.http.execute(request).await.unwrap();
        assert_eq!(response.status(), status, "{name}: {value}");
    }
    let mut nobody = list().build().unwrap();
    nobody.headers_mut().remove(AUTHORIZATION);
    let refused = served.http.execute(nobody).await.unwrap();
    assert_eq!(
        (refused.status(), &refused.headers()["www-authenticate"]),
        (StatusCode::UNAUTHORIZED, &"Bearer".parse().unwrap())
    );

    let token = served.token.clone();
    assert_eq!(served.end().await, Some(0));
    let again = Served::start(&world, &["--workspace", "dev"]).await;
    assert_eq!(again.token, token, "clients know it already");
    assert_eq!(again.end().await, Some(0));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let refused = world.run(&["mcp", "--http", "localhost:0"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("chmod 600"), "{refused:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_a_slash_at_its_end_and_clients_that_take_any_type_are_served() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &[]).await;
    for path in ["", "/", "/talk", "/talk/"] {
        for accept in [Some("*/*"), Some("text/html, */*;q=0.8"), None] {
            let mut request = served.stateless(path, "tools/list", json!({})).build().unwrap();
            request.headers_mut().remove(ACCEPT);
            request.headers_mut().extend(accept.map(|types| (ACCEPT, types.parse().unwrap())));
            let listed = answer(served.http.execute(request).await.unwrap()).await;
            assert_eq!(listed["result"]["tools"][0]["name"], "stop_workspace", "{path} {accept:?}: {listed}");
        }
    }
    let mut text = served.stateless("", "tools/list", json!({})).build().unwrap();
    text.headers_mut().insert(ACCEPT, "text/plain".parse().unwrap());
    assert_eq!(served.http.execute(text).await.unwrap().status(), StatusCode::NOT_ACCEPTABLE);
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_cannot_be_used_is_told_with_what_to_do() {
    let world = World::new().await;
    let short = world.folder().join("short");
    std::fs::write(&short, "x".repeat(31)).unwrap();
    std::fs::set_permissions(&short, std::fs::Permissions::from_mode(0o600)).unwrap();
    for (file, says) in [
        (short, "31 characters"),
        (world.folder().join("nowhere/token"), "/nowhere; make it, or name another file"),
    ] {
        let file = file.to_str().unwrap();
        let refused = world.run(&["mcp", "--http", "127.0.0.1:0", "--http-token-file", file]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains(says), "{said}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_answered_to_only_if_the_user_says_so() {
    let world = World::with_a_workspace().await;
    let refused = world.run(&["mcp", "--http", "0.0.0.0:0"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--http-host"), "{refused:?}");
    let served = Served::start(&world, &["--http-host", "tools.example", "--workspace", "dev"]).await;
    for (host, status) in [("tools.example", StatusCode::OK), ("other.example", StatusCode::FORBIDDEN)] {
        let asked = served.stateless("", "tools/list", json!({})).header(HOST, host).send().await.unwrap();
        assert_eq!(asked.status(), status, "{host}");
    }
    served.end().await;
    world.end().await;
}

#[test]
fn an_address_or_a_filter_that_is_none_is_refused_with_what_it_should_be() {
    for (arguments, sentence) in [
        (["mcp", "--http", "my-machine:80"], "it takes an address and a port, as in 127.0.0.1:8931"),
        (["mcp", "--http", "127.0.0.1"], "it takes an address and a port, as in 127.0.0.1:8931"),
        (["mcp", "--log", "warn=1=2"], "expected one of"),
    ] {
        let refused = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(sentence), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_only_this_machine_is_served() {
    let world = World::with_a_workspace().await;
    let refused = world.run(&["mcp", "--http", "0.0.0.0:0", "--http-no-token"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("everybody who reaches"), "{refused:?}");
    let served = Served::start(&world, &["--http-no-token", "--workspace", "dev"]).await;
    let mut request = served.stateless("", "tools/list", json!({})).build().unwrap();
    request.headers_mut().remove(AUTHORIZATION);
    assert_eq!(served.http.execute(request).await.unwrap().status(), StatusCode::OK);
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_and_the_server_lives_on() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--http-rate", "20", "--workspace", "dev"]).await;
    let huge = json!({ "name": "execute", "arguments": { "command": "x".repeat(2 * 1024 * 1024) } });
    let refused = served.stateless("", "tools/call", huge).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    for (body, id, code, says) in [
        ("", Value::Null, -32700, "this is no JSON"),
        ("{", Value::Null, -32700, "this is no JSON"),
        ("[]", Value::Null, -32600, "batches are not taken"),
        ("null", Value::Null, -32600, "a message is an object"),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, json!(1), -32600, "`method` has to be a string"),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"text":"\ud83d"}}"#,
            json!(1),
            -32700,
            "this is no JSON",
        ),
        (
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":[]}"#,
            Value::Null,
            -32600,
            "`params`",
        ),
    ] {
        let refused =
            served.post("").header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{body}");
        let refused = answer(refused).await;
        assert_eq!((&refused["id"], &refused["error"]["code"]), (&id, &json!(code)), "{body}: {refused}");
        assert!(refused["error"]["message"].as_str().unwrap().starts_with(says), "{body}: {refused}");
    }
    for method in ["initialize", "tools/erase"] {
        let refused = served.stateless("", method, json!({})).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::NOT_FOUND, "clients without sessions have no such method");
        assert_eq!(answer(refused).await["error"]["code"], -32601, "{method}");
    }
    let many = (0..40).map(|_| served.stateless("", "tools/list", json!({})).send());
    let many = futures_util::future::join_all(many).await;
    let refused = many
        .into_iter()
        .map(Result::unwrap)
        .find(|response| response.status() == StatusCode::TOO_MANY_REQUESTS);
    let pause = refused.unwrap().headers()["retry-after"].to_str().unwrap().parse().unwrap();
    // As a client does that heeds it.
    tokio::time::sleep(std::time::Duration::from_secs(pause)).await;
    let ran = served.call("", "execute", json!({ "command": "echo here" })).await;
    assert_eq!(ran["structuredContent"]["output"], "here\n", "{ran}");
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_session_has_the_chat_that_its_address_names() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &[]).await;
    for (tool, arguments) in [
        ("use_workspace", json!({ "workspace": "dev" })),
        ("execute", json!({ "command": "true" })),
        ("stop_workspace", json!({})),
        ("workspace_status", json!({})),
    ] {
        let nowhere = served.call("", tool, arguments).await;
        assert_eq!(nowhere["isError"], true, "{nowhere}");
        let error = nowhere["structuredContent"]["error"].as_str().unwrap();
        assert!(error.contains("/mcp/NAME"), "{tool}: {error}");
    }
    // The header of other revisions does not make a session.
    let choose = json!({ "name": "use_workspace", "arguments": { "workspace": "dev" } });
    let choose = served.stateless("", "tools/call", choose).header("Mcp-Session-Id", "odd");
    let nowhere = answer(choose.send().await.unwrap()).await;
    assert_eq!(nowhere["result"]["isError"], true, "{nowhere}");
    served.call("/talk", "use_workspace", json!({ "workspace": "dev" })).await;
    let ran = served.call("/talk", "execute", json!({ "command": "echo here" })).await;
    assert_eq!(ran["structuredContent"]["output"], "here\n", "{ran}");
    let elsewhere = served.call("/other", "execute", json!({ "command": "echo here" })).await;
    assert_eq!(elsewhere["isError"], true, "{elsewhere}");
    assert_eq!(
        served.stateless("/a%0Ab", "tools/list", json!({})).send().await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(served.end().await, Some(0));
    let bound = Served::start(&world, &["--workspace", "dev"]).await;
    let named = bound.stateless("/talk", "tools/list", json!({})).send().await.unwrap();
    assert_eq!(named.status(), StatusCode::NOT_FOUND, "there is one chat for all");
    assert_eq!(bound.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_closed_ends_a_call_that_has_sent_nothing_and_leaves_one_that_has() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    world.let_builds_run(false).await;
    let begin = |tool: &str| {
        let params = json!({ "name": tool, "arguments": {} });
        tokio::spawn(served.stateless("", "tools/call", params).send())
    };
    let restart = begin("restart_workspace");
    world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
    let stop = begin("stop_workspace");
    world.until_calls(|calls| calls.len() == 2).await;
    restart.abort();
    stop.abort();
    world.until_calls(|calls| calls[0].state == CallState::Ended && calls[0].interrupted).await;
    assert!(!world.calls()[1].interrupted);
    // The server ends as well: the restart is left to the background.
    assert_eq!(served.end().await, Some(0));
    world.let_builds_run(true).await;
    world.until_calls(|calls| calls[1].state == CallState::Ended).await;
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_terminated_gives_its_clients_an_answer() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let params = json!({ "name": "execute", "arguments": { "command": "touch begun; sleep 600" } });
    let sleeps = tokio::spawn(served.stateless("", "tools/call", params).send());
    while served.call("", "execute", json!({ "command": "test -e begun" })).await["structuredContent"]["exit_code"]
        != 0
    {
        tokio::time::sleep(LOOK).await;
    }
    assert_eq!(served.end().await, Some(0), "it does not wait for the command's end");
    let told = answer(sleeps.await.unwrap().unwrap()).await;
    let error = told["result"]["structuredContent"]["error"].as_str().unwrap();
    assert!(error.starts_with("the server ends. If the command had begun, it was told to end"), "{error}");
    world.end().await;
}
