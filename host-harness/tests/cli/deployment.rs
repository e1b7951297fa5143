//! With `--coder-url`: the same program on a deployment, whose part the local control plane plays here.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::local::{AgentSignal, AgentSpec, TemplateSpec, VersionSpec};

use crate::program::{Ended, Program, SHORTEN_TIMES, TOKEN, World};

/// The workspace `dev`, running, and the chat `talk` in it. It is not this program that makes it: on a deployment it
/// cannot.
async fn prepare(world: &World) {
    world.plane.admin().create_workspace("dev", "shell", &[]).await.unwrap();
    let created = world.run(&["call", "talk", "start_workspace"]);
    assert_ne!(created.code, 0, "nobody has bound the chat");
    assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);
    assert_eq!(world.json(&["call", "talk", "start_workspace"])["started"], true);
}

/// Runs commands in it until one says that the workspace has to be restarted.
fn is_advised_to_restart(world: &World) {
    for _ in 0..20 {
        let ended = world.run(&[&SHORTEN_TIMES[..], &["exec", "talk", "--", "true"]].concat());
        assert_eq!(ended.code, 123, "{}", ended.stderr);
        if ended.stderr.contains("restart_workspace") {
            return;
        }
    }
    panic!("no restart is advised");
}

/// Everything that recovery is made of. It knows nothing of where the control plane is.
async fn lives_and_is_recovered(world: &World) {
    prepare(world).await;
    let listed = world.json(&["workspace", "list"]);
    assert_eq!((&listed[0]["name"], &listed[0]["agents"][0]["status"]), (&json!("dev"), &json!("connected")));
    let shown = world.json(&["workspace", "show", "owner/dev"]);
    assert_eq!(shown, world.json(&["workspace", "show", shown["id"].as_str().unwrap()]), "by name and by id");
    let ran = world.run(&["exec", "talk", "--", "echo out; exit 7"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "out\n"));

    world.plane.admin().signal_agent("dev", None, AgentSignal::Kill).await.unwrap();
    is_advised_to_restart(world);
    let options = [&SHORTEN_TIMES[..], &["--json", "call", "talk", "restart_workspace"]].concat();
    let restarted = world.run(&[&options[..], &[r#"{"only_if_unreachable": true}"#]].concat());
    assert_eq!((restarted.code, &restarted.json()["restarted"]), (0, &json!(true)), "{}", restarted.stderr);
    assert!(restarted.stderr.contains("| Starting workspace"), "the build's log: {}", restarted.stderr);
    assert_eq!(world.run(&["exec", "talk", "--", "true"]).code, 0);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);

    let detached = world.json(&["call", "talk", "stop_workspace", "--detach"]);
    let id = detached["call"].to_string();
    assert_eq!(world.json(&["attach", &id])["stopped"], true);
    assert_eq!(world.run(&["show", &id]).code, 0);
    assert_eq!(world.json(&["call", "talk", "start_workspace"])["started"], true);
    assert_eq!(world.transitions().await, [Start, Stop, Start, Stop, Start]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_lives_and_is_recovered_on_the_local_control_plane() {
    let world = World::new().await;
    lives_and_is_recovered(&world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_lives_and_is_recovered_on_a_deployment() {
    let world = World::new().await.at_a_deployment();
    lives_and_is_recovered(&world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workspaces_of_a_deployment_are_not_made_deleted_or_killed_by_this_program() {
    let world = World::new().await.at_a_deployment();
    prepare(&world).await;
    for command in [["create", "other"], ["delete", "dev"], ["kill-agent", "dev"]] {
        let refused = world.run(&[&["workspace"], &command[..]].concat());
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("only the local control plane does that"), "{}", refused.stderr);
    }
    assert_eq!(world.transitions().await, [Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_and_calls_of_each_deployment_are_kept_apart() {
    let world = World::with_a_workspace().await;
    assert_eq!(world.run(&["call", "talk", "start_workspace"]).code, 0);
    let world = world.at_a_deployment();
    assert_eq!(world.json(&["chat", "list"]), json!([]), "`talk` is the local control plane's");
    assert_eq!(world.json(&["calls", "--all"]), json!([]));
    let folder = std::fs::metadata(world.folder().join("deployments")).unwrap();
    assert_eq!(folder.permissions().mode() & 0o077, 0, "they are their user's alone");
    world.end().await;
}

/// `doctor` of a world's deployment, with other variables than usual.
fn doctor(world: &World, variables: &[(&'static str, String)], arguments: &[&str]) -> Ended {
    let url = world.plane.url().to_owned();
    let options = [&["--coder-url", &url, "doctor"], arguments].concat();
    Program::with_environment(world.folder(), variables, &options).end()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_comes_from_a_file_a_variable_or_a_login_to_the_same_deployment() {
    let world = World::new().await;
    let (token, good) = (world.plane.token(), "it accepts the token");
    let none = doctor(&world, &[], &[]);
    assert_eq!((none.code, none.stdout.as_str()), (1, ""));
    assert!(none.stderr.contains(TOKEN) && none.stderr.contains("coder login"), "{}", none.stderr);

    let variable = [(TOKEN, token.to_owned())];
    assert!(doctor(&world, &variable, &[]).stdout.contains(good));

    let login = world.folder().join("coder");
    std::fs::create_dir(&login).unwrap();
    std::fs::write(login.join("session"), token).unwrap();
    std::fs::write(login.join("url"), format!("{}/\n", world.plane.url())).unwrap();
    assert!(doctor(&world, &[], &[]).stdout.contains(good));
    std::fs::remove_file(login.join("session")).unwrap();
    let kept_elsewhere = doctor(&world, &[], &[]).stderr;
    assert!(kept_elsewhere.contains("left no token") && kept_elsewhere.contains(TOKEN), "{kept_elsewhere}");
    std::fs::write(login.join("url"), "https://coder.example.com").unwrap();
    let elsewhere = doctor(&world, &[], &[]);
    assert_eq!((elsewhere.code, elsewhere.stdout.as_str()), (1, ""));
    assert!(elsewhere.stderr.contains("https://coder.example.com"), "{}", elsewhere.stderr);

    let file = world.folder().join("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let wrong = [(TOKEN, "wrong".to_owned())];
    assert_eq!(doctor(&world, &wrong, &[]).code, 1);
    let option = ["--coder-token-file", file.to_str().unwrap()];
    assert!(doctor(&world, &wrong, &option).stdout.contains(good), "the file goes before the variable");
    std::fs::write(&file, " \n").unwrap();
    let empty = doctor(&world, &variable, &option);
    assert!(empty.stderr.contains("is empty"), "{}", empty.stderr);
    world.end().await;
}

#[test]
fn an_address_that_would_give_the_token_away_or_is_none_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("http://coder.example.com", "--coder-allow-http"),
        ("coder.example.com", "https://coder.example.com"),
        ("https://ana:secret@coder.example.com", "leave them out"),
    ];
    for (url, told) in cases {
        let variables = [(TOKEN, "token".to_owned()), ("CODER_URL", url.to_owned())];
        let refused = Program::with_environment(folder.path(), &variables, &["workspace", "list"]).end();
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
        assert!(refused.stderr.contains(told), "{}", refused.stderr);
        assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
    }
}

/// What `doctor` says of a workspace: each state with its sentence.
fn examined(world: &World, workspace: &str) -> (i32, Vec<(String, String)>) {
    let ended = world.run(&[&SHORTEN_TIMES[..], &["--json", "doctor", workspace]].concat());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = ended.json();
    let findings = findings.as_array().unwrap().iter();
    (ended.code, findings.map(|finding| (text(&finding["state"]), text(&finding["text"]))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_what_is_wrong_with_a_workspace_and_changes_nothing() {
    let world = World::new().await.at_a_deployment();
    prepare(&world).await;
    let (code, findings) = examined(&world, "dev");
    assert_eq!(code, 0, "{findings:?}");
    assert!(findings.iter().all(|(state, _)| state == "good"), "{findings:?}");
    let has = |findings: &[(String, String)], state: &str, part: &str| {
        assert!(findings.iter().any(|(is, text)| is == state && text.contains(part)), "{part}: {findings:?}");
    };
    has(&findings, "good", "a command runs in it");

    world.plane.admin().signal_agent("dev", None, AgentSignal::Kill).await.unwrap();
    let (code, findings) = examined(&world, "dev");
    assert_eq!(code, 1);
    has(&findings, "bad", "agent main: disconnected");
    has(&findings, "bad", "no command runs in it: The agent did not answer in time");

    let (code, findings) = examined(&world, "nothing");
    assert_eq!(code, 1);
    has(&findings, "bad", "there is no workspace \"nothing\"");
    assert_eq!(world.transitions().await, [Start]);

    world.plane.admin().set_dormant("dev", true).await.unwrap();
    has(&examined(&world, "dev").1, "bad", "dormant");
    world.plane.admin().set_dormant("dev", false).await.unwrap();

    world.let_builds_run(false).await;
    has(&examined(&world, "dev").1, "bad", "no provisioner daemon is there");
    world.let_builds_run(true).await;

    world.let_builds_run(false).await;
    let detached = world.json(&["call", "talk", "stop_workspace", "--detach"]);
    let mut attached = world.begin(&["attach", &detached["call"].to_string()]);
    attached.wait_for_stderr("stop build 2: pending");
    let (code, findings) = examined(&world, "dev");
    assert_eq!(code, 1);
    has(&findings, "bad", "ask an administrator");
    world.let_builds_run(true).await;
    assert_eq!(attached.end().code, 0);
    let (code, findings) = examined(&world, "dev");
    assert_eq!(code, 0, "a stopped workspace is no fault");
    has(&findings, "note", "start_workspace");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_from_inside_the_workspace_is_refused_or_left_to_a_host_elsewhere() {
    let world = World::with_a_workspace().await;
    let program = env!("CARGO_BIN_EXE_workspace-recovery");
    let restart = format!("'{program}' --data '{}' call talk restart_workspace", world.folder().display());
    let refused = world.run(&["exec", "talk", "--", &restart]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stdout.contains("runs in that very workspace"), "{}", refused.stdout);
    assert!(refused.stdout.contains("--from-inside"), "{}", refused.stdout);
    assert_eq!(world.json(&["calls", "--all"]), json!([]), "nothing was begun");
    let left = world.run(&["exec", "talk", "--", &format!("{restart} --from-inside")]);
    assert_eq!(left.code, 0, "{}", left.stdout);
    assert!(left.stdout.contains("call 1 is left to a host elsewhere"), "{}", left.stdout);
    // Whoever looks after calls inside leaves this one alone, and does not look for ever.
    let attached = world.begin_inside(&["--json", "attach", "1"]);
    let host = world.begin_inside(&["--shorten-times", "10", "host"]).end();
    assert_eq!(host.code, 0, "{}", host.stderr);
    assert!(world.hosts().is_empty(), "attach has started none");
    assert_eq!(world.transitions().await, [Start]);
    // The next command outside has it carried on.
    assert_eq!(world.json(&["calls"])[0]["call"], 1);
    assert_eq!(attached.end().json()["restarted"], true);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_a_workspace_without_agents_as_one_in_which_no_command_can_run() {
    let world = World::new().await.at_a_deployment();
    let version = VersionSpec { agents: Vec::new(), ..VersionSpec::default() };
    let template = TemplateSpec { name: "none".into(), version, ..TemplateSpec::default() };
    world.plane.admin().create_template(&template).await.unwrap();
    world.plane.admin().create_workspace("dev", "none", &[]).await.unwrap();
    assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);
    world.json(&["call", "talk", "start_workspace"]);
    let (code, findings) = examined(&world, "dev");
    assert_eq!(code, 1);
    assert!(findings.iter().any(|(state, text)| state == "bad" && text.contains("no agent")), "{findings:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_no_chat_works_with_is_no_fault_of_a_workspace() {
    let world = World::new().await.at_a_deployment();
    let other = AgentSpec { name: "other".into(), connects: false, ..AgentSpec::default() };
    let version = VersionSpec { agents: vec![AgentSpec::default(), other], ..VersionSpec::default() };
    let template = TemplateSpec { name: "two".into(), version, ..TemplateSpec::default() };
    world.plane.admin().create_template(&template).await.unwrap();
    world.plane.admin().create_workspace("dev", "two", &[]).await.unwrap();
    assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);
    assert_eq!(world.json(&["call", "talk", "start_workspace"])["started"], true);
    let (code, findings) = examined(&world, "dev");
    assert_eq!(code, 0, "{findings:?}");
    let told = |state: &str, part: &str| findings.iter().any(|(is, text)| is == state && text.contains(part));
    assert!(told("note", "agent other: connecting") && told("good", "agent main: connected"), "{findings:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_a_web_site_that_is_no_deployment_and_a_port_where_nobody_answers() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = format!("http://{}", listener.local_addr().unwrap());
    let page = axum::Router::new().fallback(|| async { axum::response::Html("<html>Welcome</html>") });
    tokio::spawn(async move { axum::serve(listener, page).await });
    for (url, told) in [
        (site.as_str(), "does not look like a Coder deployment"),
        ("http://127.0.0.1:1", "cannot be reached"),
    ] {
        let variables = [(TOKEN, "token".to_owned()), ("CODER_URL", url.to_owned())];
        let ended = Program::with_environment(folder.path(), &variables, &["doctor", "dev"]).end();
        assert_eq!(ended.code, 1);
        assert!(ended.stdout.contains(told) && ended.stdout.contains(url), "{}", ended.stdout);
    }
}
