//! What an MCP client waits for: the list of tools, and a call that the plugin refuses, which asks the control plane
//! for nothing. The program itself, over pipes and over HTTP.
//!
//! `cargo bench --bench mcp`. Below criterion's figures stand the median and the 99th percentile of single round trips.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails may panic")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures_util::future::join_all;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use workspace_recovery::store::Store;

/// Clients at the same time.
const CLIENTS: usize = 64;
/// Round trips of which the percentiles are taken.
const SINGLE: usize = 2000;
/// The revision without sessions: each request stands for itself.
const REVISION: &str = "2026-07-28";

/// A client over pipes.
struct Pipes {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// The server over HTTP, and a client for it.
struct Http {
    child: Child,
    url: String,
    client: reqwest::Client,
    runtime: Runtime,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Ask {
    Tools,
    NoOp,
}

fn main() {
    // The client wants one, though it never encrypts here.
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let mut criterion = Criterion::default().configure_from_args();
    let folder = folder();
    let (mut pipes, http) = (Pipes::start(folder.path()), Http::start(folder.path()));
    for (name, ask) in [("tools/list", Ask::Tools), ("no-op call", Ask::NoOp)] {
        criterion.bench_function(&format!("{name}, pipes"), |b| b.iter(|| pipes.round_trip(ask)));
        criterion.bench_function(&format!("{name}, HTTP"), |b| b.iter(|| http.round_trips(ask, 1)));
        let mut group = criterion.benchmark_group(format!("{name}, HTTP, {CLIENTS} clients"));
        group.throughput(Throughput::Elements(CLIENTS as u64));
        group.bench_function("each once", |b| b.iter(|| http.round_trips(ask, CLIENTS)));
        group.finish();
        percentiles(&format!("{name}, pipes"), || pipes.round_trip(ask));
        percentiles(&format!("{name}, HTTP"), || http.round_trips(ask, 1));
    }
    criterion.final_summary();
}

/// A data folder with a chat that has a workspace. The deployment is never asked for it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let deployment = folder.path().join("deployments/127.0.0.1_9");
    std::fs::create_dir_all(&deployment).unwrap();
    let store = Store::open(&deployment.join("chats.db")).unwrap();
    let bind = store.update("talk", |chat| chat.bind(Some("0d6f3c1e-8a55-4f0e-9c8e-000000000000")));
    Runtime::new().unwrap().block_on(bind).unwrap();
    folder
}

fn program(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_workspace-recovery"));
    command
        .args(["--coder-url", "http://127.0.0.1:9", "mcp", "--chat", "talk"])
        .args(arguments)
        .env("CODER_SESSION_TOKEN", "none")
        .env("WORKSPACE_RECOVERY_DATA", data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

impl Ask {
    fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::NoOp => "tools/call",
        }
    }

    fn message(self) -> String {
        let mut params = match self {
            Self::Tools => json!({}),
            Self::NoOp => json!({ "name": "stop_workspace", "arguments": { "nothing": true } }),
        };
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": REVISION,
            "io.modelcontextprotocol/clientInfo": { "name": "bench", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        json!({ "jsonrpc": "2.0", "id": 1, "method": self.method(), "params": params }).to_string()
    }

    fn check(self, answer: &str) {
        let part = match self {
            Self::Tools => "restart_workspace",
            Self::NoOp => "`nothing` is not an argument",
        };
        assert!(answer.contains(part), "{answer}");
    }
}

impl Pipes {
    fn start(data: &Path) -> Self {
        let mut child = program(data, &[]).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    fn round_trip(&mut self, ask: Ask) {
        let mut message = ask.message();
        message.push('\n');
        self.stdin.write_all(message.as_bytes()).unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        ask.check(&answer);
    }
}

impl Http {
    fn start(data: &Path) -> Self {
        let mut command =
            program(data, &["--http", "127.0.0.1:0", "--http-no-token", "--http-rate", "1000000"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.strip_prefix("serving ").unwrap().split(',').next().unwrap().to_owned();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { child, url, client, runtime: Runtime::new().unwrap() }
    }

    /// So many clients, each of which asks once, at the same time.
    fn round_trips(&self, ask: Ask, clients: usize) {
        let once = || async {
            let mut request = self.client.post(&self.url).body(ask.message());
            request = request.header(ACCEPT, "application/json, text/event-stream");
            request = request.header(CONTENT_TYPE, "application/json");
            request = request.header("Mcp-Protocol-Version", REVISION).header("Mcp-Method", ask.method());
            if let Ask::NoOp = ask {
                request = request.header("Mcp-Name", "stop_workspace");
            }
            ask.check(&request.send().await.unwrap().text().await.unwrap());
        };
        self.runtime.block_on(join_all((0..clients).map(|_| once())));
    }
}

/// Prints how long single round trips take.
fn percentiles(name: &str, mut once: impl FnMut()) {
    let mut times: Vec<Duration> = (0..SINGLE)
        .map(|_| {
            let begun = Instant::now();
            once();
            begun.elapsed()
        })
        .collect();
    times.sort();
    println!("{name}: p50 {:?}, p99 {:?}", times[SINGLE / 2], times[SINGLE * 99 / 100]);
}

impl Drop for Pipes {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    // It may have ended, if something went wrong.
    let _ = child.kill();
    let _ = child.wait();
}
