//! A dormant workspace is told as that, with what wakes it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use workspace_recovery::chat::{Chat, ChatHost, Execute};
use workspace_recovery::driver::Driver;
use workspace_recovery::policy::Timings;
use workspace_recovery::store::Store;

use crate::replay::{Reply, Server};
use crate::stage::Frozen;
use crate::transcript::recorded;
use crate::verdicts::{plugin, tools};

/// An answer in a recording.
type Recorded = (&'static str, usize);

/// A dormant workspace, and what its agent's terminal is refused with: on a server of 2025, whose rule is that nobody
/// may connect to it, and on one of 2026.
const DORMANT: [(Recorded, Recorded); 2] = [
    (("08-deleted-missing-forbidden", 56), ("12b-pty-dead-and-hung", 2)),
    (("23-dormant-2026", 1), ("20-killed-agent-2026", 6)),
];
/// What a server of 2025 says to a start of it.
const START_REFUSED: Recorded = ("08-deleted-missing-forbidden", 58);

/// A chat in such a workspace.
async fn chat(workspace: Reply, terminal: Recorded) -> Chat {
    let id = workspace.body["id"].as_str().unwrap().to_owned();
    let server = Server::start(move |asked| match asked {
        asked if asked.method == "POST" => recorded(START_REFUSED.0, START_REFUSED.1),
        asked if asked.path.ends_with("/users/me") => recorded("01-setup-create-workspace", 7),
        asked if asked.path.contains("/pty") => recorded(terminal.0, terminal.1),
        asked if asked.path.ends_with("parameters") => Reply::json(200, Value::Array(Vec::new())),
        _ => workspace.clone(),
    })
    .await;
    let store = Store::in_memory();
    store.update("ana", move |chat| chat.bind(Some(&id))).await.unwrap();
    let driver = Driver::new(plugin(), Arc::new(server.client()), store, Timings::default());
    ChatHost::new(driver).chat("ana", tools())
}

fn says_what_wakes_it(text: &str) {
    assert!(text.contains("dormant") && text.contains("activate it first"), "{text}");
    assert!(
        !text.contains("not found") && !text.contains("rbac") && !text.contains("restart_workspace"),
        "{text}"
    );
}

#[tokio::test]
async fn a_command_in_a_dormant_workspace_is_refused_at_once_as_that() {
    let clock = Frozen::new();
    for (workspace, terminal) in DORMANT {
        let chat = chat(recorded(workspace.0, workspace.1), terminal).await;
        let execute = Execute { command: "true".into(), ..Execute::default() };
        let interrupt = CancellationToken::new();
        let refused = clock.within(Duration::from_secs(10), chat.execute(&execute, &interrupt)).await;
        says_what_wakes_it(&refused.unwrap_err().to_string());
    }
}

#[tokio::test]
async fn a_start_of_a_dormant_workspace_is_told_so_and_not_in_the_words_of_its_database() {
    for (workspace, terminal) in DORMANT {
        let mut stopped = recorded(workspace.0, workspace.1);
        stopped.body["latest_build"]["transition"] = "stop".into();
        stopped.body["latest_build"]["resources"] = Value::Array(Vec::new());
        let chat = chat(stopped, terminal).await;
        for tool in ["start_workspace", "restart_workspace"] {
            let started = chat.call_tool(tool, "{}", &CancellationToken::new()).await.unwrap().unwrap();
            says_what_wakes_it(&started.json);
        }
    }
}
