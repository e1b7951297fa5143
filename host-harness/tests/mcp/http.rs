//! The server over HTTP: who may ask, what it bears, and clients with and without sessions.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use reqwest::header::{ACCEPT, AUTHORIZATION, HOST, ORIGIN};
use reqwest::{RequestBuilder, Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr};
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::local::{AgentSignal, VersionSpec};
use workspace_recovery::store::CallState;

use crate::world::{LOOK, PROGRAM, World};

const NEW: &str = "2026-07-28";
const OLD: &str = "2025-11-25";

/// The program over HTTP.
struct Served {
    child: Child,
    _stderr: BufReader<ChildStderr>,
    url: String,
    token: String,
    http: reqwest::Client,
}

impl Served {
    async fn start(world: &World, arguments: &[&str]) -> Self {
        let mut command = tokio::process::Command::from(
            world.program(&[&["mcp", "--http", "localhost:0"], arguments].concat()),
        );
        let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).await.unwrap();
        let url = line.strip_prefix("serving ").unwrap().split([';', ',']).next().unwrap().to_owned();
        let file = line.trim_end().rsplit_once("is in ");
        let token = file.map(|(_, file)| std::fs::read_to_string(file).unwrap().trim().to_owned());
        // A connection over which too much was sent is closed by the server: none is used again.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        Self { child, _stderr: stderr, url, token: token.unwrap_or_default(), http }
    }

    /// A request without what the protocol wants of it.
    fn post(&self, path: &str) -> RequestBuilder {
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .header(AUTHORIZATION, format!("Bearer {}", self.token));
        request.header(ACCEPT, "application/json, text/event-stream")
    }

    /// A request of a client that has no session.
    fn stateless(&self, path: &str, method: &str, mut params: Value) -> RequestBuilder {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": NEW,
            "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let mut request = self.post(path).header("Mcp-Protocol-Version", NEW).header("Mcp-Method", method);
        if let Some(name) = params["name"].as_str() {
            request = request.header("Mcp-Name", name);
        }
        request.json(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }))
    }

    async fn call(&self, path: &str, tool: &str, arguments: Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        answer(self.stateless(path, "tools/call", params).send().await.unwrap()).await["result"].clone()
    }

    /// Begins a session, and answers its name.
    async fn session(&self) -> String {
        self.session_of(json!({})).await
    }

    /// Begins a session of a client that can do this.
    async fn session_of(&self, capabilities: Value) -> String {
        let params = json!({
            "protocolVersion": OLD, "capabilities": capabilities,
            "clientInfo": { "name": "test", "version": "1" },
        });
        let begun = self
            .post("")
            .json(&json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }));
        let begun = begun.send().await.unwrap();
        let session = begun.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        assert_eq!(answer(begun).await["result"]["protocolVersion"], OLD);
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let ready = self.post_in(&session, &ready).send().await.unwrap();
        assert_eq!(ready.status(), StatusCode::ACCEPTED);
        session
    }

    /// A message of a client that has a session.
    fn post_in(&self, session: &str, message: &Value) -> RequestBuilder {
        let request = self.post("").header("Mcp-Session-Id", session);
        request.header("Mcp-Protocol-Version", OLD).json(message)
    }

    async fn call_in(&self, session: &str, tool: &str, arguments: Value) -> Value {
        let called = self.post_in(session, &tool_call(1, tool, arguments)).send().await.unwrap();
        answer(called).await["result"].clone()
    }

    /// Asks for what came after an event.
    fn resume_in(&self, session: &str, last: &str) -> RequestBuilder {
        let request = self.http.get(&self.url).header(AUTHORIZATION, format!("Bearer {}", self.token));
        let request = request.header(ACCEPT, "text/event-stream").header("Mcp-Session-Id", session);
        request.header("Mcp-Protocol-Version", OLD).header("Last-Event-ID", last)
    }

    async fn delete(&self, session: &str) {
        let delete = self.http.delete(&self.url).header(AUTHORIZATION, format!("Bearer {}", self.token));
        delete.header("Mcp-Session-Id", session).send().await.unwrap().error_for_status().unwrap();
    }

    /// Terminates it, and answers how it ended.
    async fn end(mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        self.child.wait().await.unwrap().code()
    }
}

fn tool_call(id: u32, tool: &str, arguments: Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// The next message in a stream of events.
async fn next(stream: &mut Response) -> Value {
    let mut text = String::new();
    loop {
        let chunk = stream.chunk().await.unwrap().unwrap_or_else(|| panic!("it has ended: {text}"));
        text += std::str::from_utf8(&chunk).unwrap();
        let messages = text.lines().filter_map(|line| line.strip_prefix("data:"));
        if let Some(message) = messages.filter_map(|data| serde_json::from_str(data).ok()).next() {
            return message;
        }
    }
}

/// Reads until so many events have come, or to the end: their ids, and their messages.
async fn events(stream: &mut Response, at_least: usize) -> Vec<(String, Value)> {
    let mut text = String::new();
    while text.matches("\n\n").count() < at_least {
        let Some(chunk) = stream.chunk().await.unwrap() else { break };
        text += std::str::from_utf8(&chunk).unwrap();
    }
    let field = |event: &str, name| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let event = |event| {
        let message = field(event, "data:").and_then(|data| serde_json::from_str(&data).ok());
        Some((field(event, "id:")?.trim().to_owned(), message.unwrap_or_default()))
    };
    text.split("\n\n").filter_map(event).collect()
}

/// The answer in a response, which is JSON or a stream of events that ends with it.
async fn answer(response: Response) -> Value {
    let text = response.text().await.unwrap();
    let mut events = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let last = events.rfind(|data| !data.trim().is_empty());
    serde_json::from_str(last.unwrap_or(&text)).unwrap_or_else(|error| panic!("{error}: {text}"))
}

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

#[tokio::test(flavor = "multi_thread")]
async fn more_sessions_than_there_may_be_are_refused_and_clients_without_one_are_not() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev", "--http-rate", "100000"]).await;
    let params = json!({
        "protocolVersion": OLD, "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
    });
    let begin = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    let mut sessions = Vec::new();
    let refused = loop {
        let begun = served.post("").json(&begin).send().await.unwrap();
        match begun.headers().get("mcp-session-id") {
            Some(session) => sessions.push(session.clone()),
            None => break begun.status(),
        }
        assert!(sessions.len() <= 1000);
    };
    assert_eq!((refused, sessions.len()), (StatusCode::SERVICE_UNAVAILABLE, 1000));
    // One that does not look like the beginning of a session, and is one.
    let mut odd = begin.clone();
    odd["params"]["protocolVersion"] = NEW.into();
    let odd = served.post("").header("Mcp-Protocol-Version", NEW).json(&odd).send().await.unwrap();
    assert!(odd.status().is_server_error() && odd.text().await.unwrap().contains("too many sessions"));
    assert!(
        served.call("", "workspace_status", json!({})).await["structuredContent"]["workspace"].is_object()
    );
    served.delete(sessions[0].to_str().unwrap()).await;
    served.session().await;
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
    tokio::time::sleep(std::time::Duration::from_secs(pause)).await;
    let ran = served.call("", "execute", json!({ "command": "echo here" })).await;
    assert_eq!(ran["structuredContent"]["output"], "here\n", "{ran}");
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_chooses_its_own_workspace() {
    let world = World::with_a_workspace().await;
    world.create("other", VersionSpec::default()).await;
    let served = Served::start(&world, &[]).await;
    let sessions = [("dev", served.session().await), ("other", served.session().await)];
    for (workspace, session) in &sessions {
        let unbound = served.call_in(session, "workspace_status", json!({})).await;
        assert_eq!(unbound["isError"], true, "{unbound}");
        served.call_in(session, "use_workspace", json!({ "workspace": workspace })).await;
    }
    for (workspace, session) in &sessions {
        let status = served.call_in(session, "workspace_status", json!({})).await;
        assert_eq!(status["structuredContent"]["workspace"]["name"], *workspace, "{status}");
    }
    // Whoever binds the chat elsewhere does not lead the session there.
    let status = served.call_in(&sessions[0].1, "workspace_status", json!({})).await;
    let chat = format!("mcp {}/dev", status["structuredContent"]["workspace"]["owner"].as_str().unwrap());
    assert!(world.run(&["chat", "bind", &chat, "other"]).status.success());
    let rebound = served.call_in(&sessions[0].1, "execute", json!({ "command": "true" })).await;
    let error = rebound["structuredContent"]["error"].as_str().unwrap();
    assert!(error.contains("nothing was done: call use_workspace again"), "{error}");
    served.call_in(&sessions[0].1, "use_workspace", json!({ "workspace": "dev" })).await;
    let ran = served.call_in(&sessions[0].1, "execute", json!({ "command": "true" })).await;
    assert_eq!(ran["structuredContent"]["exit_code"], 0, "{ran}");
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
async fn a_session_that_is_deleted_ends_a_call_that_has_sent_nothing_and_leaves_one_that_has() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session().await;
    world.let_builds_run(false).await;
    let begin =
        |id: u32, tool: &str| tokio::spawn(served.post_in(&session, &tool_call(id, tool, json!({}))).send());
    let restart = begin(1, "restart_workspace");
    world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
    let stop = begin(2, "stop_workspace");
    world.until_calls(|calls| calls.len() == 2).await;
    served.delete(&session).await;
    let ended = world.until_calls(|calls| calls[0].state == CallState::Ended && calls[0].interrupted);
    // The protocol's library alone would cancel it after five seconds.
    tokio::time::timeout(std::time::Duration::from_secs(3), ended).await.expect("it ends at once");
    world.let_builds_run(true).await;
    world.until_calls(|calls| calls[1].state == CallState::Ended).await;
    assert!(!world.calls()[1].interrupted);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    drop((restart, stop));
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_loses_its_connection_cancels_nothing() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session().await;
    world.let_builds_run(false).await;
    let restart = served.post_in(&session, &tool_call(1, "restart_workspace", json!({}))).send();
    let restart = restart.await.unwrap();
    world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
    let stop = served.post_in(&session, &tool_call(2, "stop_workspace", json!({}))).send().await.unwrap();
    world.until_calls(|calls| calls.len() == 2).await;
    drop((restart, stop));
    // Answered after the connections were closed.
    served.call_in(&session, "workspace_status", json!({})).await;
    world.let_builds_run(true).await;
    world.until_calls(|calls| calls.iter().all(|call| call.state == CallState::Ended)).await;
    assert!(world.calls().iter().all(|call| !call.interrupted), "also the one that had sent nothing");
    assert_eq!(world.transitions().await, [Start, Stop, Start, Stop]);
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_missed_is_given_to_a_client_that_comes_back_once() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let (session, other) = (served.session().await, served.session().await);
    world.let_builds_run(false).await;
    let stop = served.post_in(&session, &tool_call(7, "stop_workspace", json!({})));
    let mut stop = stop.send().await.unwrap();
    let begun = events(&mut stop, 1).await;
    let (last, nothing) = &begun[0];
    assert_eq!((begun.len(), nothing), (1, &Value::Null));
    world.until_calls(|calls| calls.len() == 1).await;
    drop(stop);
    world.let_builds_run(true).await;
    world.until_calls(|calls| calls[0].state == CallState::Ended).await;
    // Answered after that call was.
    served.call_in(&session, "workspace_status", json!({})).await;
    let resume = async |session, last| {
        let mut resumed = served.resume_in(session, last).send().await.unwrap().error_for_status().unwrap();
        events(&mut resumed, usize::MAX).await
    };
    let missed = resume(&session, last).await;
    assert_eq!(missed.len(), 1, "{missed:?}");
    let (id, told) = &missed[0];
    assert_eq!((&told["id"], &told["result"]["isError"]), (&json!(7), &json!(false)), "{told}");
    assert_eq!(resume(&session, last).await, missed, "this connection may have been lost as well");
    assert_eq!(resume(&session, id).await, []);
    assert_eq!(resume(&other, last).await, []);
    assert_eq!(world.transitions().await, [Start, Stop]);
    served.delete(&session).await;
    let gone = served.resume_in(&session, last).send().await.unwrap();
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_sent_to_nobody_who_reads_is_given_again() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session().await;
    let execute = tool_call(1, "execute", json!({ "command": "echo once >> ran; cat ran" }));
    let sent = events(&mut served.post_in(&session, &execute).send().await.unwrap(), usize::MAX).await;
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!(sent[1].1["result"]["structuredContent"]["output"], "once\n");
    let mut resumed = served.resume_in(&session, &sent[0].0).send().await.unwrap();
    assert_eq!(events(&mut resumed, usize::MAX).await, sent[1..]);
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_while_its_call_runs_gets_the_rest_and_the_answer() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session().await;
    world.let_builds_run(false).await;
    let mut stop = tool_call(1, "stop_workspace", json!({}));
    stop["params"]["_meta"] = json!({ "progressToken": "stop" });
    let mut stop = served.post_in(&session, &stop).send().await.unwrap();
    let mut all = events(&mut stop, 2).await;
    drop(stop);
    let mut resumed = served.resume_in(&session, &all.last().unwrap().0).send().await.unwrap();
    world.let_builds_run(true).await;
    all.extend(events(&mut resumed, usize::MAX).await);
    let ids: BTreeSet<_> = all.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), all.len(), "none came twice: {all:?}");
    let (answers, progress): (Vec<_>, Vec<_>) =
        all[1..].iter().map(|(_, message)| message).partition(|message| message["method"].is_null());
    assert_eq!((answers.len(), &answers[0]["id"]), (1, &json!(1)), "{all:?}");
    assert!(progress.len() > 1, "{all:?}");
    assert_eq!(served.end().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_is_asked_in_a_session() {
    let world = World::with_a_workspace().await;
    let served = Served::start(&world, &["--workspace", "dev"]).await;
    let session = served.session_of(json!({ "elicitation": {} })).await;
    world.let_builds_run(false).await;
    world.ask_for("dev", Stop).await;
    world.signal(AgentSignal::Kill).await;
    let execute = tool_call(1, "execute", json!({ "command": "true" }));
    let mut stream = served.post_in(&session, &execute).send().await.unwrap();
    let asked = next(&mut stream).await;
    assert_eq!(asked["method"], "elicitation/create", "{asked}");
    let says = json!({ "action": "accept", "content": { "answer": "wait for it" } });
    let says = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": says });
    served.post_in(&session, &says).send().await.unwrap().error_for_status().unwrap();
    let told = answer(stream).await;
    assert_eq!(told["result"]["structuredContent"]["user"]["answer"], "wait for it", "{told}");
    assert_eq!(served.end().await, Some(0));
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
    assert!(error.starts_with("the server ends. If the command had begun, it was asked to end"), "{error}");
    world.end().await;
}
