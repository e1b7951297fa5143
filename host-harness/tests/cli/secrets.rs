//! The token stays where it belongs.

use std::path::{Path, PathBuf};

use crate::program::World;

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn holds(bytes: &[u8], token: &str) -> bool {
    bytes.windows(token.len()).any(|window| window == token.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_in_no_log_no_store_and_no_exported_call() {
    let world = World::with_a_workspace().await;
    keeps_the_token_to_itself(&world);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployments_token_is_in_no_log_no_store_and_no_exported_call() {
    let world = World::with_a_workspace().await.at_a_deployment();
    assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);
    let examined = world.begin_logging_everything(&["doctor", "dev"]).end();
    assert_eq!(examined.code, 0, "{}", examined.stdout);
    assert!(!holds(examined.stderr.as_bytes(), world.plane.token()));
    keeps_the_token_to_itself(&world);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn additional_headers_reach_a_host_in_the_background_and_are_in_no_log_file_or_command_line() {
    const SECRET: &str = "s3cr3t-of-a-proxy";
    let world = World::with_a_workspace().await.at_a_deployment();
    assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);
    let header = format!("X-Secret={SECRET}");
    let command = format!("echo Y-Secret={SECRET}");
    let options = ["--coder-header", &header, "--coder-header-command", &command];
    let examined = world.begin_logging_everything(&[&options[..], &["doctor", "dev"]].concat()).end();
    assert_eq!(examined.code, 0, "{}", examined.stdout);
    assert!(!holds(examined.stderr.as_bytes(), SECRET) && !holds(examined.stdout.as_bytes(), SECRET));
    world.let_builds_run(false).await;
    let call = [&options[..], &["call", "talk", "stop_workspace", "--detach"]].concat();
    assert_eq!(world.run(&call).code, 0);
    let hosts = world.hosts();
    assert_eq!(hosts.len(), 1);
    let of_host = |what: &str| std::fs::read(format!("/proc/{}/{what}", hosts[0].as_raw_nonzero())).unwrap();
    let environment = String::from_utf8(of_host("environ")).unwrap();
    assert!(environment.contains(&format!("CODER_HEADER=\"{header}\"\0")), "{environment}");
    assert!(environment.contains(&format!("CODER_HEADER_COMMAND={command}\0")), "{environment}");
    assert!(!holds(&of_host("cmdline"), SECRET));
    world.let_builds_run(true).await;
    assert_eq!(world.run(&["attach", "1"]).code, 0);
    for file in files(world.folder()) {
        assert!(!holds(&std::fs::read(&file).unwrap_or_default(), SECRET), "{}", file.display());
    }
    world.end().await;
}

fn keeps_the_token_to_itself(world: &World) {
    let token = world.plane.token().to_owned();
    let called = world.begin_logging_everything(&["call", "talk", "restart_workspace"]).end();
    let last: Vec<_> = called.stderr.lines().rev().take(8).collect();
    assert_eq!(called.code, 0, "{} {last:#?}", called.stdout);
    assert!(called.stderr.contains("workspace/latest-build") || called.stderr.contains("LatestBuild"));
    let shown = ["show", "export"].map(|command| world.run(&[command, "1"]));
    let listed = world.run(&["--json", "calls", "--all"]);
    let refused = world.begin_logging_everything(&["exec", "nobody", "--", "true"]).end();
    for ended in shown.iter().chain([&called, &listed, &refused]) {
        assert!(!holds(ended.stdout.as_bytes(), &token) && !holds(ended.stderr.as_bytes(), &token));
    }
    // The control plane's own files are the place for it.
    let own = ["server.json", "control.db", "control.db-wal"];
    let kept = files(world.folder()).into_iter().filter(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        !own.contains(&name)
    });
    let mut stores = 0;
    for file in kept {
        let bytes = std::fs::read(&file).unwrap_or_default();
        stores += usize::from(file.to_string_lossy().contains("chats.db") && !bytes.is_empty());
        assert!(!holds(&bytes, &token), "{}", file.display());
    }
    assert!(stores > 0, "the store was looked into");
}
