//! The program over HTTP, and a client that says exactly what a test wants.

use std::process::Stdio;

use reqwest::header::{ACCEPT, AUTHORIZATION};
use reqwest::{RequestBuilder, Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr};

use crate::world::World;

pub const NEW: &str = "2026-07-28";
pub const OLD: &str = "2025-11-25";

/// The program over HTTP.
pub struct Served {
    pub child: Child,
    _stderr: BufReader<ChildStderr>,
    pub url: String,
    pub token: String,
    pub http: reqwest::Client,
}

impl Served {
    pub async fn start(world: &World, arguments: &[&str]) -> Self {
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
    pub fn post(&self, path: &str) -> RequestBuilder {
        let request = self
            .http
            .post(format!("{}{path}", self.url))
            .header(AUTHORIZATION, format!("Bearer {}", self.token));
        request.header(ACCEPT, "application/json, text/event-stream")
    }

    /// A request of a client that has no session.
    pub fn stateless(&self, path: &str, method: &str, mut params: Value) -> RequestBuilder {
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

    pub async fn call(&self, path: &str, tool: &str, arguments: Value) -> Value {
        let params = json!({ "name": tool, "arguments": arguments });
        answer(self.stateless(path, "tools/call", params).send().await.unwrap()).await["result"].clone()
    }

    /// Begins a session, and answers its name.
    pub async fn session(&self) -> String {
        self.session_of(json!({})).await
    }

    /// Begins a session of a client that can do this.
    pub async fn session_of(&self, capabilities: Value) -> String {
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
    pub fn post_in(&self, session: &str, message: &Value) -> RequestBuilder {
        let request = self.post("").header("Mcp-Session-Id", session);
        request.header("Mcp-Protocol-Version", OLD).json(message)
    }

    pub async fn call_in(&self, session: &str, tool: &str, arguments: Value) -> Value {
        let called = self.post_in(session, &tool_call(1, tool, arguments)).send().await.unwrap();
        answer(called).await["result"].clone()
    }

    /// Asks for what came after an event.
    pub fn resume_in(&self, session: &str, last: &str) -> RequestBuilder {
        let request = self.http.get(&self.url).header(AUTHORIZATION, format!("Bearer {}", self.token));
        let request = request.header(ACCEPT, "text/event-stream").header("Mcp-Session-Id", session);
        request.header("Mcp-Protocol-Version", OLD).header("Last-Event-ID", last)
    }

    pub async fn delete(&self, session: &str) {
        let delete = self.http.delete(&self.url).header(AUTHORIZATION, format!("Bearer {}", self.token));
        delete.header("Mcp-Session-Id", session).send().await.unwrap().error_for_status().unwrap();
    }

    /// Terminates it, and answers how it ended.
    pub async fn end(mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.child.id().unwrap()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        self.child.wait().await.unwrap().code()
    }
}

pub fn tool_call(id: u32, tool: &str, arguments: Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// The next message in a stream of events.
pub async fn next(stream: &mut Response) -> Value {
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
pub async fn events(stream: &mut Response, at_least: usize) -> Vec<(String, Value)> {
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
pub async fn answer(response: Response) -> Value {
    let text = response.text().await.unwrap();
    let mut events = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let last = events.rfind(|data| !data.trim().is_empty());
    serde_json::from_str(last.unwrap_or(&text)).unwrap_or_else(|error| panic!("{error}: {text}"))
}
