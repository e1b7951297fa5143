//! The printed snippets are what clients start the server with.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use rmcp::service::ClientLifecycleMode;
use serde_json::{Value, json};
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::local::AgentSignal;

use crate::agent::{Agent, Client};
use crate::follower::follow;
use crate::world::{PROGRAM, World};

/// What is printed for a client on standard output.
fn snippet(world: &World, client: &str) -> String {
    let mut program =
        world.program(&["mcp", "--workspace", "dev", "--log", "info", "--print-config", client]);
    // The folder is where the user stands; the client will stand elsewhere.
    let printed = program.current_dir(world.folder()).env("WORKSPACE_RECOVERY_DATA", ".").output().unwrap();
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    assert!(String::from_utf8_lossy(&printed.stderr).contains("belongs into"), "{printed:?}");
    String::from_utf8(printed.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_the_printed_snippet_gets_a_killed_workspace_back() {
    let world = World::with_a_workspace().await;
    world.signal(AgentSignal::Kill).await;
    let snippet: Value = serde_json::from_str(&snippet(&world, "json")).unwrap();
    let server = &snippet["mcpServers"]["workspace-recovery"];
    let mut program = Command::new(server["command"].as_str().unwrap());
    program.args(server["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()));
    assert!(program.get_args().any(|argument| argument == "--log"), "{program:?}");
    program.env_clear().env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    let agent = Agent::start_program(program, Client::default(), ClientLifecycleMode::Initialize).await;
    world.until_gone_for_long().await;
    let followed = follow(&agent, "echo back").await;
    assert!(followed.ran && followed.last == "back\n", "{followed:?}");
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    assert_eq!(agent.close().await, Some(0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_gets_the_same_server_in_its_own_form() {
    let world = World::new().await;
    let json: Value = serde_json::from_str(&snippet(&world, "json")).unwrap();
    let server = &json["mcpServers"]["workspace-recovery"];
    for (client, key) in [
        ("claude-code", "mcpServers"),
        ("claude-desktop", "mcpServers"),
        ("cursor", "mcpServers"),
        ("gemini-cli", "mcpServers"),
        ("langchain", ""),
        ("vscode", "servers"),
        ("zed", "context_servers"),
    ] {
        let snippet: Value = serde_json::from_str(&snippet(&world, client)).unwrap();
        let servers = if key.is_empty() { &snippet } else { &snippet[key] };
        let its = &servers["workspace-recovery"];
        assert_eq!((&its["command"], &its["args"]), (&server["command"], &server["args"]), "{client}");
        let timeout = match client {
            "zed" => json!(7200),
            "claude-code" | "gemini-cli" => json!(7_200_000),
            _ => json!(null),
        };
        assert_eq!(its["timeout"], timeout, "{client}");
        assert_eq!(its["transport"] == "stdio", client == "langchain");
    }
    let opencode: Value = serde_json::from_str(&snippet(&world, "opencode")).unwrap();
    let its = opencode["mcp"]["workspace-recovery"]["command"].as_array().unwrap();
    assert_eq!((&its[0], &its[1..]), (&server["command"], &server["args"].as_array().unwrap()[..]));
    world.end().await;
}

/// What is printed in a folder where nobody serves anything.
fn printed(folder: &Path, arguments: &[&str], client: &str) -> Output {
    let mut program = Command::new(PROGRAM);
    for name in ["RUST_LOG", "CODER_URL", "WORKSPACE_RECOVERY_DATA"] {
        program.env_remove(name);
    }
    program.current_dir(folder).args(arguments).args(["--print-config", client]).output().unwrap()
}

/// What is printed, as data.
fn read(folder: &Path, arguments: &[&str], client: &str) -> Value {
    let printed = printed(folder, arguments, client);
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    let text = std::str::from_utf8(&printed.stdout).unwrap();
    match client {
        "codex" => basic_toml::from_str(text).unwrap(),
        _ => serde_json::from_str(text).unwrap(),
    }
}

#[test]
fn a_snippet_means_the_same_wherever_the_client_starts_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    std::fs::write(folder.join("other.wasm"), workspace_recovery::PLUGIN).unwrap();
    let arguments = [
        ["mcp", "--data=data"],
        ["--plugin", "./other.wasm"],
        ["--coder-url", "https://coder.example/"],
        ["--coder-token-file", "../token"],
        ["--coder-ca-file", "ca.pem"],
        ["--chat", "talk"],
    ];
    let there = |name| folder.join(name).to_str().unwrap().to_owned();
    let printed = read(&folder, arguments.as_flattened(), "json");
    let expected = json!([
        "--data",
        there("data"),
        "--plugin",
        there("other.wasm"),
        "--coder-url",
        "https://coder.example/",
        "--coder-token-file",
        there("../token"),
        "--coder-ca-file",
        there("ca.pem"),
        "mcp",
        "--chat",
        "talk",
    ]);
    assert_eq!(printed["mcpServers"]["workspace-recovery"]["args"], expected);
}

#[test]
fn a_snippet_names_a_chat_that_begins_with_a_dash_so_that_it_is_taken_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let first = read(folder.path(), &["mcp", "--chat=-x"], "json")["mcpServers"]["workspace-recovery"].take();
    let arguments: Vec<_> =
        first["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()).collect();
    // Started with what was printed, the program has to come to the same.
    let again = read(folder.path(), &arguments, "json")["mcpServers"]["workspace-recovery"].take();
    assert_eq!(again, first);
}

#[test]
fn a_snippet_in_toml_says_the_same_as_one_in_json() {
    let folder = tempfile::tempdir().unwrap();
    let odd = ["mcp", "--data", "a \"quoted\" and \\ \t 'odd' Übung"];
    let json = read(folder.path(), &odd, "json")["mcpServers"]["workspace-recovery"].take();
    let toml = read(folder.path(), &odd, "codex")["mcp_servers"]["workspace-recovery"].take();
    assert!(json["args"][1].as_str().unwrap().ends_with(odd[2]), "{json}");
    assert_eq!((&toml["command"], &toml["args"]), (&json["command"], &json["args"]));
    assert_eq!(toml["tool_timeout_sec"], 7200);
}

#[test]
fn what_no_client_can_be_told_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(OsStr::from_bytes(b"\xff"));
    std::fs::create_dir(&odd).unwrap();
    for client in ["json", "codex"] {
        let refused = printed(&odd, &["mcp", "--data", "data"], client);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("not Unicode"), "{refused:?}");
    }
    let refused = printed(folder.path(), &["mcp", "--http", "127.0.0.1:0"], "json");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--http"), "{refused:?}");
}

#[test]
fn a_token_that_the_client_would_have_to_pass_on_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let said = |arguments: &[&str]| {
        let mut program = Command::new(PROGRAM);
        program.args(["--coder-url", "https://coder.example"]).args(arguments).args([
            "mcp",
            "--print-config",
            "json",
        ]);
        program.env("WORKSPACE_RECOVERY_DATA", folder.path()).env("CODER_SESSION_TOKEN", "secret");
        let printed = program.output().unwrap();
        let snippet = String::from_utf8_lossy(&printed.stdout);
        assert!(!snippet.contains("secret") && !snippet.contains("s3cr3t"), "{printed:?}");
        String::from_utf8(printed.stderr).unwrap()
    };
    let told = said(&[]);
    assert!(told.contains("has to pass CODER_SESSION_TOKEN on") && !told.contains("secret"), "{told}");
    assert!(!said(&["--coder-token-file", "token"]).contains("CODER_SESSION_TOKEN"));
    let told = said(&["--coder-header", "X=s3cr3t", "--coder-header-command", "echo Y=s3cr3t"]);
    assert!(told.contains("has to pass CODER_HEADER on as well") && !told.contains("s3cr3t"), "{told}");
    assert!(told.contains("CODER_HEADER_COMMAND"), "{told}");
}
