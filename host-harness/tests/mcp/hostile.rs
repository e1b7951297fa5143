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
        let answered = async {
            loop {
                let mut line = String::new();
                assert_ne!(self.stdout.read_line(&mut line).await.unwrap(), 0, "it has ended");
                let message: Value = serde_json::from_str(&line).unwrap();
                if message["id"] == id {
                    return message;
                }
            }
        };
        timeout(SOON, answered).await.expect("it answers")
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
async fn what_is_no_message_is_passed_over_before_and_after_the_beginning() {
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
        br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
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
    // Whole, and too long: it is not answered, so that the next line is the answer to the next one.
    let padding = "x".repeat(17 * 1024 * 1024);
    let long = json!({ "jsonrpc": "2.0", "id": 98, "method": "tools/list", "params": { "cursor": padding } });
    raw.write(long.to_string().as_bytes()).await;
    raw.write(br#"{"jsonrpc":"2.0","id":99,"method":"tools/list"}"#).await;
    let mut line = String::new();
    timeout(SOON, raw.stdout.read_line(&mut line)).await.expect("it answers").unwrap();
    assert!(line.contains("\"id\":99"), "{line}");
    raw.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_a_message_is_told() {
    let world = World::new().await;
    let mut raw = Raw::start(&world);
    raw.initialize().await;
    for (id, method, params, code) in [
        (10, "tools/erase", json!({}), -32601),
        (11, "resources/read", json!({ "uri": "file:///etc/passwd" }), -32601),
        (12, "tools/call", json!({ "name": "erase" }), -32602),
        (13, "tasks/get", json!({ "taskId": "call-1" }), -32021),
    ] {
        let answer = raw.ask(id, method, params).await;
        assert_eq!(answer["error"]["code"], code, "{method}: {answer}");
    }
    // Without a place for the answer to go, it goes to nobody in particular.
    raw.write(br#"{"jsonrpc":"2.0","id":20,"method":"tools/call","params":{"name":7}}"#).await;
    let mut line = String::new();
    timeout(SOON, raw.stdout.read_line(&mut line)).await.expect("it answers").unwrap();
    assert!(line.contains("error"), "{line}");
    // No progress is told to who has not asked for it, so that the next line is the answer.
    raw.write(br#"{"jsonrpc":"2.0","id":21,"method":"tools/list"}"#).await;
    line.clear();
    timeout(SOON, raw.stdout.read_line(&mut line)).await.expect("it answers").unwrap();
    assert!(line.contains("\"id\":21"), "{line}");
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
    let mut line = String::new();
    timeout(SOON, raw.stdout.read_line(&mut line)).await.expect("it answers").unwrap();
    let refused: Value = serde_json::from_str(&line).unwrap();
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
    let mut raw = Raw::start(&world);
    raw.initialize().await;
    // Several times what a pipe holds: most of them it has read by the end, and its answers are stuck.
    for id in 0..5000 {
        raw.write(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/list\"}}").as_bytes()).await;
    }
    kill_process(Pid::from_raw(raw.child.id().unwrap().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    let ended = timeout(SOON, raw.child.wait()).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(0));
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
