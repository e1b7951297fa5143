//! What a command costs: handed over in an open terminal, beside one that stands in the terminal's address, as it was
//! done before. On the local control plane with a real agent, behind a proxy that adds latency.
//!
//! `cargo bench --bench exec`.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails may panic")]

use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use workspace_recovery::chat::{ChatHost, Execute};
use workspace_recovery::control_plane::rest::RestClient;
use workspace_recovery::control_plane::{ControlPlane, NewTerminal};
use workspace_recovery::driver::Driver;
use workspace_recovery::engine::{Engine, EngineOptions};
use workspace_recovery::local::{AgentCommand, LocalControlPlane, LocalOptions, TemplateSpec};
use workspace_recovery::policy::{ChatTools, Timings};
use workspace_recovery::store::Store;

/// Round-trip times that are added, in milliseconds.
const LATENCIES: [u64; 3] = [0, 20, 100];

fn main() {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (plane, workspace) = runtime.block_on(async {
        let program = AgentCommand::new(env!("CARGO_BIN_EXE_workspace-recovery"));
        let mut options = LocalOptions::new(folder.path(), program);
        options.stop_agents_on_exit = true;
        let plane = LocalControlPlane::start(options).await.unwrap();
        let admin = plane.admin();
        admin
            .create_template(&TemplateSpec { name: "bench".into(), ..TemplateSpec::default() })
            .await
            .unwrap();
        admin.create_workspace("dev", "bench", &[]).await.unwrap();
        let client = RestClient::new(plane.url(), plane.token()).unwrap();
        let ready = async |workspace: &workspace_recovery::control_plane::Workspace| {
            workspace.agents.iter().any(|agent| agent.first_connected.is_some())
        };
        loop {
            let workspace = client.workspace_by_name("dev").await.unwrap();
            if ready(&workspace).await {
                break (plane, workspace);
            }
            // It is looked for: nobody announces an agent's first connection.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    for latency in LATENCIES {
        let url = runtime.block_on(slowed(plane.url(), Duration::from_millis(latency) / 2));
        let client = Arc::new(RestClient::new(&url, plane.token()).unwrap());
        let chats = runtime.block_on(chats(client.clone(), &workspace.id));
        let agent = workspace.agents[0].id.clone();
        let mut group = criterion.benchmark_group(format!("true, {latency} ms of latency"));
        group.bench_function("in the address", |b| {
            b.iter(|| runtime.block_on(in_the_address(&client, &workspace.id, &agent)));
        });
        group.bench_function("handed over", |b| b.iter(|| runtime.block_on(run(&chats, "true"))));
        group.finish();
    }
    let client = Arc::new(RestClient::new(plane.url(), plane.token()).unwrap());
    let chats = runtime.block_on(chats(client, &workspace.id));
    let long = format!(": <<'END'\n{}END\n", "a line of some length, with \"quotes\"\n".repeat(7100));
    assert!(long.len() > 256 << 10);
    let mut group = criterion.benchmark_group("a command of 256 KiB");
    group.sample_size(10).bench_function("handed over", |b| b.iter(|| runtime.block_on(run(&chats, &long))));
    group.finish();
    criterion.final_summary();
    runtime.block_on(plane.shutdown());
}

async fn chats(client: Arc<RestClient>, workspace: &str) -> ChatHost {
    let plugin = Engine::new(EngineOptions::default()).unwrap().load(workspace_recovery::PLUGIN).unwrap();
    let store = Store::in_memory();
    let workspace = workspace.to_owned();
    store.update("talk", move |chat| chat.bind(Some(&workspace))).await.unwrap();
    let chats = ChatHost::new(Driver::new(plugin, client, store, Timings::default()));
    run(&chats, "true").await;
    chats
}

async fn run(chats: &ChatHost, command: &str) {
    let execute = Execute { command: command.to_owned(), ..Execute::default() };
    let chat = chats.chat("talk", ChatTools::default());
    let executed = chat.execute(&execute, &CancellationToken::new()).await.unwrap();
    assert_eq!(executed.exit_code, Some(0));
}

/// The same with the whole command in the terminal's address, and the same look at the agent before.
async fn in_the_address(client: &RestClient, workspace: &str, agent: &str) {
    client.workspace(workspace).await.unwrap();
    let wanted = NewTerminal {
        session: uuid::Uuid::new_v4().to_string(),
        command: "exec /bin/sh -c '{ echo begin; \"${SHELL:-/bin/sh}\" -c true </dev/null; echo end:$?; } 2>&1 | cat'"
            .to_owned(),
        height: 50,
        width: 250,
    };
    let mut terminal = client.open_terminal(agent, &wanted).await.unwrap();
    let mut shown = Vec::new();
    while !shown.windows(5).any(|part| part == b"end:0") {
        shown.extend(terminal.next().await.unwrap().unwrap());
    }
    terminal.close().await;
}

/// The address of a proxy in front of `url`, in which everything takes so long in each direction.
async fn slowed(url: &str, by: Duration) -> String {
    let target = url.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                // A connection takes a round trip to open.
                sleep_until(Instant::now() + by * 2).await;
                let far = TcpStream::connect(target).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let (near, far) = (near.into_split(), far.into_split());
                tokio::join!(passes(near.0, far.1, by), passes(far.0, near.1, by));
            });
        }
    });
    address
}

async fn passes(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, by: Duration) {
    let (pieces, mut arriving) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reads = async move {
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let _ = pieces.send((Instant::now() + by, buffer[..length].to_vec()));
        }
    };
    let writes = async move {
        while let Some((at, piece)) = arriving.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reads, writes);
}
