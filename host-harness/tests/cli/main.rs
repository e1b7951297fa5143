//! The program as users run it: exit codes, what goes to which stream, and what an interrupt leaves behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod deployment;
mod gone;
mod hostile;
mod kept;
mod processes;
mod program;
mod recordings;
mod secrets;

use program::{Program, World};
use rustix::process::Signal;
use serde_json::{Value, json};
use workspace_recovery::local::{BuildSpec, TemplateSpec, VersionSpec};

/// A start build that outlasts every test.
const LONG_BUILD_MS: u64 = 600_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_a_control_plane_says_how_to_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let ended = Program::in_folder(folder.path(), &["workspace", "list"]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    assert!(ended.stderr.contains("workspace-recovery local serve"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_exits_with_the_commands_own_code_and_prints_its_output() {
    let world = World::with_a_workspace().await;
    let ended = world.run(&["exec", "talk", "--", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (7, "out\nerr\n"), "{}", ended.stderr);
    let ended = world.run(&["--json", "exec", "talk", "--", "echo", "$HOME"]);
    let expected = json!({ "output": "$HOME\n", "exit_code": 0, "truncated": false });
    assert_eq!((ended.code, ended.json()), (0, expected), "several words are not the shell's to read");
    let ended = world.run(&["exec", "talk", "--timeout", "1", "--", "echo begun; sleep 600"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (124, "begun\n"), "{}", ended.stderr);
    assert!(ended.stderr.contains("took too long"), "{}", ended.stderr);
    let ended = world.run(&["exec", "nobody", "--", "true"]);
    assert_eq!(ended.code, 125);
    assert!(ended.stderr.contains("workspace-recovery chat bind nobody"), "{}", ended.stderr);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_passes_piped_input_on_and_runs_what_is_longer_than_an_address() {
    let world = World::with_a_workspace().await;
    let input: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let ended = world.begin_with_input(&["exec", "talk", "--", "cksum; wc -l"], &input).end();
    let lines = ended.stdout.lines().collect::<Vec<_>>();
    assert_eq!((ended.code, lines[1]), (0, "0"), "{} {}", ended.stdout, ended.stderr);
    assert!(lines[0].ends_with(" 70000"), "{}", ended.stdout);
    let too_long = world.begin_with_input(&["exec", "talk", "--", "cat"], &vec![b'x'; 3 << 20]).end();
    assert_eq!((too_long.code, too_long.stdout.as_str()), (125, ""));
    assert!(too_long.stderr.contains("cannot be sent"), "{}", too_long.stderr);
    let long = format!("echo {} | wc -c", "x".repeat(100_000));
    assert_eq!(world.run(&["exec", "talk", "--", &long]).stdout, "100001\n");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_started_again_in_mid_command_does_not_hold_the_command_up() {
    let world = World::with_a_workspace().await;
    let mut run =
        world.begin(&["--shorten-times", "10", "exec", "talk", "--", "echo $$ > began; sleep 6; echo done"]);
    while world.run(&["exec", "talk", "--", "test -s began"]).code != 0 {}
    let begun = std::time::Instant::now();
    world.restart_agent();
    run.wait_for_stdout("done");
    assert_eq!(run.end().code, 0, "its processes have outlived the agent's");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_cannot_be_called_so_is_a_usage_error_that_names_the_field() {
    let world = World::with_a_workspace().await;
    let ended = world.run(&["call", "talk", "erase_workspace"]);
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("erase_workspace"), "{}", ended.stderr);
    let ended = world.run(&["call", "talk", "stop_workspace", r#"{"only_if_unreachabel": true}"#]);
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""));
    assert!(ended.stderr.contains("only_if_unreachabel"), "{}", ended.stderr);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_is_created_listed_shown_stopped_and_deleted() {
    let world = World::new().await;
    assert_eq!(world.run(&["workspace", "create", "dev"]).code, 0);
    assert_eq!(world.run(&["workspace", "create", "dev"]).code, 1, "the name is taken");
    let refused = world.run(&["workspace", "create", "two words"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("letters, digits"), "it says what is wrong: {}", refused.stderr);
    let list = world.run(&["--json", "workspace", "list"]).json();
    assert_eq!((&list[0]["name"], &list[0]["latest_build"]["status"]), (&json!("dev"), &json!("succeeded")));
    assert_eq!(world.run(&["workspace", "show", "nothing"]).code, 1);
    assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);
    let chats = world.run(&["--json", "chat", "list"]).json();
    assert_eq!((&chats[0]["chat"], &chats[0]["workspace"]), (&json!("talk"), &json!("dev")));

    let stopped = world.run(&["--json", "call", "talk", "stop_workspace"]);
    assert_eq!((stopped.code, &stopped.json()["stopped"]), (0, &json!(true)), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("stop build 2: succeeded"), "progress is told: {}", stopped.stderr);
    let again = world.run(&["--json", "call", "talk", "stop_workspace"]).json();
    assert_eq!((&again["stopped"], &again["no_build"]), (&json!(true), &json!(true)));

    let deleted = world.run(&["--json", "workspace", "delete", "dev"]);
    assert_eq!((deleted.code, &deleted.json()["deleted"]), (0, &json!(true)));
    assert_eq!(world.run(&["--json", "workspace", "list"]).json(), json!([]));
    let gone = world.run(&["--json", "call", "talk", "start_workspace"]);
    assert_eq!(gone.code, 1);
    assert!(gone.json()["error"].is_string());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_call_ends_with_its_result_and_asks_for_no_build() {
    let world = World::new().await;
    let start = BuildSpec { duration_ms: Some(LONG_BUILD_MS), ..BuildSpec::default() };
    let version = VersionSpec { start, ..VersionSpec::default() };
    let template = TemplateSpec { name: "slow".into(), version, ..TemplateSpec::default() };
    let admin = world.plane.admin();
    admin.create_template(&template).await.unwrap();
    admin.create_workspace("dev", "slow", &[]).await.unwrap();
    assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);

    let mut call = world.begin(&["--json", "call", "talk", "stop_workspace"]);
    call.wait_for_stderr("start build 1: running");
    call.signal(Signal::INT);
    let ended = call.end();
    assert_eq!((ended.code, &ended.json()["interrupted"]), (130, &json!(true)), "{}", ended.stderr);
    let shown = world.run(&["--json", "workspace", "show", "dev"]).json();
    assert_eq!(
        (&shown["latest_build"]["number"], &shown["latest_build"]["status"]),
        (&json!(1), &json!("running"))
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_a_folder_finds_the_first() {
    let world = World::new().await;
    let ended = world.run(&["--json", "local", "serve"]);
    assert_eq!((ended.code, &ended.json()["state"]), (0, &json!("already served")));
    assert_eq!(ended.json()["url"], world.plane.url());
    assert!(!(ended.stdout + &ended.stderr).contains(world.plane.token()), "the token stays in the folder");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_in_use_is_told_once() {
    let world = World::new().await;
    let other = tempfile::tempdir().unwrap();
    let port = world.plane.url().rsplit(':').next().unwrap().to_owned();
    let ended = Program::in_folder(other.path(), &["local", "serve", "--port", &port]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    assert_eq!(ended.stderr.matches("in use").count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("choose another port"), "{}", ended.stderr);
    world.end().await;
}

#[test]
fn a_shell_completes_the_command_line_and_each_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let ended = Program::in_folder(folder.path(), arguments).end();
        assert_eq!(ended.code, 0, "{arguments:?}: {}", ended.stderr);
        ended.stdout
    };
    let script = folder.path().join("completions");
    std::fs::write(&script, run(&["completions", "bash"])).unwrap();
    // What bash offers for `workspace-recovery wor`.
    let offers = format!(
        "source '{}'; COMP_WORDS=(workspace-recovery wor); COMP_CWORD=1; \
         _workspace__recovery workspace-recovery wor workspace-recovery; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let offered = std::process::Command::new("bash").args(["-c", &offers]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&offered.stdout).trim(), "workspace", "{offered:?}");
    assert!(run(&["man"]).contains(".TH workspace-recovery 1"));
    let pages = folder.path().join("man");
    run(&["man", pages.to_str().unwrap()]);
    for page in ["workspace-recovery", "workspace-recovery-exec", "workspace-recovery-chat-bind"] {
        assert!(pages.join(format!("{page}.1")).exists(), "{page}");
    }
}

#[test]
fn a_reader_who_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut tools = Program::in_folder(folder.path(), &["tools"]);
    tools.close_stdout();
    let ended = tools.end();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}

#[test]
fn the_plugins_tools_are_listed_as_protocol_clients_know_them() {
    let folder = tempfile::tempdir().unwrap();
    let tools = Program::in_folder(folder.path(), &["--json", "tools"]).end().json();
    let names: Vec<_> = tools.as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert_eq!(Value::from(names), json!(["stop_workspace", "start_workspace", "restart_workspace"]));
    assert_eq!(tools[0]["annotations"]["destructiveHint"], true);
    assert_eq!(tools[0]["inputSchema"]["type"], "object");
}

#[test]
fn the_built_in_plugin_is_exported_as_it_is_and_told_with_its_tools() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.wasm");
    let run = |arguments: &[&str]| Program::in_folder(folder.path(), arguments).end();
    std::fs::write(&file, "something older").unwrap();
    assert_eq!(run(&["plugin", "export", file.to_str().unwrap()]).code, 0);
    assert_eq!(std::fs::read(&file).unwrap(), workspace_recovery::PLUGIN);
    let piped = std::process::Command::new(env!("CARGO_BIN_EXE_workspace-recovery"))
        .args(["plugin", "export", "-"])
        .env("WORKSPACE_RECOVERY_DATA", folder.path())
        .output()
        .unwrap();
    assert_eq!(piped.stdout, workspace_recovery::PLUGIN);
    let [built_in, exported] = [
        run(&["--json", "plugin", "info"]).json(),
        run(&["--json", "plugin", "info", file.to_str().unwrap()]).json(),
    ];
    assert_eq!(built_in, exported);
    assert_eq!(
        (&built_in["contract"], &built_in["bytes"]),
        (&json!("0.1.0"), &json!(workspace_recovery::PLUGIN.len()))
    );
    assert_eq!(built_in["tools"][0]["name"], "stop_workspace");
    let nowhere = run(&["plugin", "export", "no/such/folder/plugin.wasm"]);
    assert_eq!(nowhere.code, 1);
    assert!(
        nowhere.stderr.contains("cannot write the plugin to no/such/folder/plugin.wasm"),
        "{}",
        nowhere.stderr
    );
}

#[test]
fn a_file_that_is_no_plugin_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.wasm");
    std::fs::write(&file, "not a component").unwrap();
    let ended = Program::in_folder(folder.path(), &["plugin", "check", file.to_str().unwrap()]).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);

    std::fs::write(&file, workspace_recovery::PLUGIN).unwrap();
    let ended =
        Program::in_folder(folder.path(), &["--json", "plugin", "check", file.to_str().unwrap()]).end();
    assert_eq!((ended.code, ended.json()["imports"].as_array().map(Vec::len)), (0, Some(6)));
}

#[test]
fn an_interrupted_demo_leaves_no_process_and_no_file() {
    // Its agent hangs then, and is sure to be there for a while.
    interrupt_demo_at("kill -STOP", Signal::INT);
}

#[test]
fn a_demo_that_is_ended_while_its_server_is_away_leaves_no_process_and_no_file() {
    interrupt_demo_at("kill the server", Signal::TERM);
}

fn interrupt_demo_at(line: &str, signal: Signal) {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    let variables = [("TMPDIR", temporary.to_str().unwrap().to_owned())];
    let mut demo = Program::with_environment(folder.path(), &variables, &["demo"]);
    demo.wait_for_stdout(line);
    assert!(!processes::processes_that_name(&temporary).is_empty(), "its agents name its folder");
    demo.signal(signal);
    let ended = demo.end();
    assert_eq!(ended.code, 130, "{}{}", ended.stdout, ended.stderr);
    assert_eq!(processes::processes_that_name(&temporary), Vec::<u32>::new());
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn the_same_seed_prints_the_same_bytes_and_the_speed_is_told_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let simulated = |threads: &str| {
        let arguments = ["simulate", "--seed", "5", "--calls", "80", "--threads", threads];
        Program::in_folder(folder.path(), &arguments).end()
    };
    let (first, again) = (simulated("1"), simulated("2"));
    assert_eq!(first.code, 0, "{}{}", first.stdout, first.stderr);
    assert_eq!(first.stdout, again.stdout);
    assert!(
        first.stdout.contains("no rule was broken") && first.stdout.contains("digest"),
        "{}",
        first.stdout
    );
    assert!(first.stderr.contains("calls per second"), "{}", first.stderr);
}

#[test]
fn where_address_space_is_short_plugins_run_all_the_same_and_that_is_said_once() {
    let cache = tempfile::tempdir().unwrap();
    // 4 GB, as on machines on which many people are logged in.
    let ended = std::process::Command::new("sh")
        .args(["-c", "ulimit -v 4000000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_workspace-recovery")])
        .args(["simulate", "--seed", "5", "--calls", "20"])
        .envs([("XDG_CACHE_HOME", cache.path().to_str().unwrap()), ("RUST_LOG", "warn")])
        .output()
        .unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{told}");
    assert_eq!(told.matches("address space is short").count(), 1, "{told}");
}
