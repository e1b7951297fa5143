//! Bad input: refused where there is somebody to tell, passed over else, and never the end of the server.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use workspace_recovery::bindings::Transition::Stop;
use workspace_recovery::mcp::MAX_CALLS;
use workspace_recovery::store::CallState;

use crate::world::{SOON, World};

/// Lines that are changed by chance. Enough to meet each place of a message many times over, in a few seconds.
const CHANGED_LINES: usize = 3000;

/// The program, and somebody who writes whatever they like.
struct Raw {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Raw {
    fn start(world: &World) -> Self {
        Self::start_program(world.program(&["mcp"]))
    }

    fn start_program(program: std::process::Command) -> Self {
        let mut command = Command::from(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    async fn write(&mut self, line: &[u8]) {
        self.stdin.write_all(line).await.unwrap();
        self.stdin.write_all(b"\n").await.unwrap();
    }

    /// Writes a request, and reads what comes until its answer has come.
    async fn ask(&mut self, id: u64, method: &str, params: Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        self.write(request.to_string().as_bytes()).await;
        self.answer(id).await
    }

    async fn answer(&mut self, id: u64) -> Value {
        loop {
            let message = self.next().await;
            if message["id"] == id {
                return message;
            }
        }
    }

    /// What it says next.
    async fn next(&mut self) -> Value {
        let mut line = String::new();
        let read = timeout(SOON, self.stdout.read_line(&mut line)).await.expect("it answers").unwrap();
        assert_ne!(read, 0, "it has ended");
        serde_json::from_str(&line).unwrap()
    }

    async fn initialize(&mut self) {
        let who = json!({ "name": "test", "version": "1" });
        let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": who });
        assert_eq!(self.ask(1, "initialize", params).await["result"]["protocolVersion"], "2025-11-25");
        self.write(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    }

    /// Closes both ends, and answers what was said on standard error.
    async fn end(self) -> String {
        let Self { mut child, stdin, stdout } = self;
        drop((stdin, stdout));
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        let ended = timeout(SOON, child.wait()).await.expect("it ends").unwrap();
        assert_eq!(ended.code(), Some(0), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_does_no_harm_before_and_after_the_beginning() {
    let world = World::new().await;
    let mut raw = Raw::start(&world);
    let deep = "[".repeat(100_000);
    let long = "x".repeat(17 * 1024 * 1024);
    let odd: [&[u8]; 10] = [
        b"",
        b"\r",
        b"{",
        b"\xff\xfe\x00",
        b"7",
        br#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#,
        br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
        br#"{"jsonrpc":"2.0","id":4,"result":{}}"#,
        deep.as_bytes(),
        long.as_bytes(),
    ];
    for line in odd {
        raw.write(line).await;
    }
    raw.initialize().await;
    for line in odd {
        raw.write(line).await;
    }
    let tools = raw.ask(2, "tools/list", json!({})).await;
    assert_eq!(tools["result"]["tools"].as_array().unwrap().len(), 7);
    raw.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_look_around_before_it_begins_and_change_its_mind() {
    let world = World::new().await;
    let mut raw = Raw::start(&world);
    let cancelled = br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    assert_eq!(raw.ask(1, "ping", json!({})).await["result"], json!({}));
    raw.write(cancelled).await;
    let who = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let found = raw.ask(2, "server/discover", json!({ "_meta": who })).await;
    assert!(found["result"]["supportedVersions"].is_array(), "{found}");
    raw.write(cancelled).await;
    assert!(raw.ask(3, "tools/list", json!({})).await["error"].is_object(), "it has not said who it is");
    raw.write(cancelled).await;
    raw.initialize().await;
    raw.write(cancelled).await;
    assert!(raw.ask(4, "tools/list", json!({})).await["result"].is_object());
    raw.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_a_message_is_told() {
    let world = World::new().await;
    let mut raw = Raw::start(&world);
    raw.initialize().await;
    for (id, method, params, code, says) in [
        (10, "tools/erase", json!({}), -32601, "there is no method \"tools/erase\""),
        (11, "resources/read", json!({ "uri": "file:///etc/passwd" }), -32601, "resources/read"),
        (12, "tools/call", json!({ "name": "erase" }), -32602, "there is no tool \"erase\""),
        (13, "tools/call", json!({}), -32602, "missing field `name`"),
        (14, "tools/call", json!({ "name": 7 }), -32602, "name: invalid type: integer `7`"),
        (15, "tools/list", json!({ "cursor": "two" }), -32602, "no such cursor"),
        (16, "tasks/get", json!({ "taskId": 7 }), -32602, "taskId: invalid type"),
        (16, "tasks/get", json!({ "name": "execute", "arguments": [1] }), -32602, "missing field `taskId`"),
        (17, "tasks/get", json!({ "taskId": "call-1" }), -32021, ""),
        (18, "initialize", json!({}), -32602, "missing field"),
    ] {
        let error = raw.ask(id, method, params).await["error"].clone();
        assert_eq!(error["code"], code, "{method}: {error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{method}: {error}");
    }
    for arguments in [json!([1]), json!("command"), json!(7), json!(true)] {
        let params = json!({ "name": "execute", "arguments": arguments });
        let answer = raw.ask(19, "tools/call", params).await;
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        let told = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert_eq!(told, "execute: the arguments have to be one JSON object");
    }
    let (id, long) = (json!(20), "x".repeat(17 * 1024 * 1024));
    let long = json!({ "jsonrpc": "2.0", "id": 20, "method": "tools/list", "params": { "cursor": long } });
    for (line, id, code, says) in [
        ("{bad", &Value::Null, -32700, "this is no JSON: key must be a string at line 1 column 2"),
        ("\u{1}", &Value::Null, -32700, "this is no JSON"),
        ("7", &Value::Null, -32600, "a message is an object"),
        (r#"[{"jsonrpc":"2.0","id":20,"method":"ping"}]"#, &Value::Null, -32600, "batches are not taken"),
        (r#"{"jsonrpc":"1.0","id":20,"method":"ping"}"#, &id, -32600, "`jsonrpc` has to be \"2.0\""),
        (r#"{"jsonrpc":"2.0","id":20}"#, &id, -32600, "`method` has to be a string"),
        (r#"{"jsonrpc":"2.0","id":20,"method":7}"#, &id, -32600, "`method` has to be a string"),
        (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, &Value::Null, -32600, "`id` has to be a string"),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, &Value::Null, -32600, "`id` has to be a string"),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, &Value::Null, -32600, "`id` has to be a string"),
        (r#"{"jsonrpc":"2.0","id":20,"method":"ping","params":[]}"#, &id, -32600, "`params` has to be"),
        (
            r#"{"jsonrpc":"2.0","id":20,"method":"ping","params":{"_meta":7}}"#,
            &id,
            -32600,
            "`params._meta` has",
        ),
        (&long.to_string(), &id, -32600, "a message has at most 16777216 bytes"),
        (
            r#"{"jsonrpc":"2.0","id":20,"method":"ping","params":{"text":"\ud83d"}}"#,
            &id,
            -32700,
            "this is no JSON",
        ),
        (
            r#"{"method":"ping","params":{"number":NaN,"id":7},"jsonrpc":"2.0","id":20}"#,
            &id,
            -32700,
            "this is no JSON",
        ),
        (&format!(r#"{{"id":20,"params":{}"#, "[".repeat(200)), &id, -32700, "this is no JSON"),
    ] {
        raw.write(line.as_bytes()).await;
        let answer = raw.next().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (id, &json!(code)), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().starts_with(says), "{answer}");
    }
    let latin = b"{\"jsonrpc\":\"2.0\",\"id\":20,\"method\":\"ping\",\"params\":{\"text\":\"caf\xe9\"}}";
    let wide = r#"{"jsonrpc":"2.0","id":20,"method":"ping"}"#.encode_utf16().flat_map(u16::to_le_bytes);
    for line in [latin.to_vec(), wide.collect()] {
        raw.write(&line).await;
        let answer = raw.next().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(-32700)), "{answer}");
    }
    let marked = [&b"\xef\xbb\xbf"[..], br#"{"jsonrpc":"2.0","id":20,"method":"ping"}"#].concat();
    raw.write(&marked).await;
    assert_eq!(raw.next().await["result"], json!({}), "a mark of the encoding is no fault");
    // Nobody waits for an answer to these.
    raw.write(br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":[]}"#).await;
    raw.write(br#"{"jsonrpc":"2.0","id":{},"result":7}"#).await;
    raw.write(br#"{"jsonrpc":"2.0","id":22,"result":{"text":"\ud83d"}}"#).await;
    raw.write(br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"reason":"\ud83d"}}"#).await;
    raw.write(br#"{"jsonrpc":"2.0","id":21,"method":"tools/list"}"#).await;
    assert_eq!(raw.next().await["id"], 21);
    raw.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_may_run_at_the_same_time_are_refused() {
    let world = World::new().await;
    // A deployment that answers nothing: each call waits.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut program = world.program(&["--coder-url", &url, "mcp"]);
    program.env("CODER_SESSION_TOKEN", "none");
    let mut raw = Raw::start_program(program);
    raw.initialize().await;
    let call = |id: u32| {
        let params = json!({ "name": "list_workspaces" });
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string()
    };
    for id in 0..=MAX_CALLS {
        raw.write(call(1000 + id).as_bytes()).await;
    }
    // One is too many, whichever: they begin in no certain order.
    let refused = raw.next().await;
    let text = refused["result"]["content"][0]["text"].as_str().unwrap();
    assert!(refused["result"]["isError"] == true && text.contains("too many calls"), "{refused}");
    assert!(raw.ask(8, "tools/list", json!({})).await["result"]["tools"].is_array());
    // One that nobody wants any more makes room.
    for id in [1000, 1001].into_iter().filter(|id| refused["id"] != *id) {
        let params = json!({ "requestId": id });
        let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
        raw.write(cancel.to_string().as_bytes()).await;
    }
    let status = json!({ "name": "workspace_status" });
    let room = async {
        while raw.ask(9, "tools/call", status.clone()).await["result"].to_string().contains("too many") {}
    };
    timeout(SOON, room).await.expect("there is room again");
    raw.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_goes_away_does_not_end_it_and_its_writer_does() {
    let world = World::with_a_workspace().await;
    let mut raw = Raw::start_program(world.program(&["mcp", "--workspace", "dev"]));
    raw.initialize().await;
    let Raw { mut child, mut stdin, stdout } = raw;
    drop(stdout);
    for id in 0..10 {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/list\"}}\n");
        stdin.write_all(line.as_bytes()).await.unwrap();
    }
    // Done after it has found that nobody reads its answers.
    let stop =
        json!({ "jsonrpc": "2.0", "id": 10, "method": "tools/call", "params": { "name": "stop_workspace" } });
    stdin.write_all(format!("{stop}\n").as_bytes()).await.unwrap();
    world.until("dev", |workspace| workspace.latest.build.transition == Stop).await;
    world.until_calls(|calls| calls[0].state == CallState::Ended).await;
    assert_eq!(child.try_wait().unwrap(), None, "it has ended");
    let ended = timeout(SOON, async {
        drop(stdin);
        child.wait_with_output().await.unwrap()
    });
    let ended = ended.await.expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(!String::from_utf8_lossy(&ended.stderr).contains("panicked"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_does_not_keep_it_from_ending() {
    let world = World::new().await;
    for closes_its_end in [false, true] {
        let mut raw = Raw::start(&world);
        raw.initialize().await;
        // Several times what a pipe holds: most of them it has read by the end, and its answers are stuck.
        for id in 0..5000 {
            raw.write(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/list\"}}").as_bytes())
                .await;
        }
        let Raw { mut child, stdin, stdout } = raw;
        if closes_its_end {
            drop(stdin);
        } else {
            let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
            kill_process(pid, Signal::TERM).unwrap();
        }
        let ended = timeout(SOON, child.wait()).await.expect("it ends").unwrap();
        assert_eq!(ended.code(), Some(0), "{closes_its_end}");
        drop(stdout);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_were_changed_by_chance_do_not_end_it() {
    // No workspace: whatever is asked for by chance, nothing runs.
    let world = World::new().await;
    let mut raw = Raw::start(&world);
    raw.initialize().await;
    let whole = [
        json!({ "jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": { "name": "execute", "arguments": { "command": "true", "timeout_seconds": 5 } } }),
        json!({ "jsonrpc": "2.0", "id": 6, "method": "tools/call", "params": { "name": "stop_workspace", "arguments": { "only_if_unreachable": true }, "_meta": { "progressToken": 3 } } }),
        json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": { "name": "use_workspace", "arguments": { "workspace": "dev" } } }),
        json!({ "jsonrpc": "2.0", "id": 8, "method": "tasks/get", "params": { "taskId": "call-1" } }),
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 5 } }),
        json!({ "jsonrpc": "2.0", "id": 9, "method": "server/discover", "params": { "_meta": {} } }),
    ]
    .map(|message| message.to_string());
    let seed = 6;
    let mut chance = fastrand::Rng::with_seed(seed);
    let Raw { child, mut stdin, mut stdout } = raw;
    // Read meanwhile: a full pipe would hold both up.
    let reads = tokio::spawn(async move {
        let mut line = String::new();
        while !line.contains("\"id\":\"last\"") {
            line.clear();
            assert_ne!(stdout.read_line(&mut line).await.unwrap(), 0, "it has ended, with seed {seed}");
        }
        stdout
    });
    for _ in 0..CHANGED_LINES {
        let mut line = chance.choice(&whole).unwrap().clone().into_bytes();
        for _ in 0..chance.usize(1..4) {
            let at = chance.usize(..line.len());
            match chance.u8(..4) {
                0 => line[at] = chance.u8(..),
                1 => drop(line.drain(at..(at + chance.usize(1..9)).min(line.len() - 1).max(at))),
                2 => line.insert(at, *chance.choice(b"\"{}[],:0e-\\\n\0").unwrap()),
                _ => line.extend_from_within(at..),
            }
        }
        line.push(b'\n');
        stdin.write_all(&line).await.unwrap();
    }
    // On a line of its own, whatever came before.
    stdin.write_all(b"\n{\"jsonrpc\":\"2.0\",\"id\":\"last\",\"method\":\"tools/list\"}\n").await.unwrap();
    let stdout = timeout(SOON, reads).await.expect("it answers").unwrap();
    Raw { child, stdin, stdout }.end().await;
    world.end().await;
}
