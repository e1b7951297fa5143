//! Calls that are left to the background: followed, listed, named by a key, cancelled.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;
use workspace_recovery::bindings::Transition::{Start, Stop};
use workspace_recovery::policy::Timings;

use crate::program::{Program, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_call_is_listed_and_followed_from_another_process_to_its_end() {
    let world = World::with_a_workspace().await;
    world.let_builds_run(false).await;
    let detached = world.run(&["--json", "call", "talk", "stop_workspace", "--detach"]);
    assert_eq!((detached.code, detached.json()), (0, json!({ "call": 1 })), "{}", detached.stderr);
    let mut attached = world.begin(&["--json", "attach", "1"]);
    attached.wait_for_stderr("stop build 2: pending");
    let listed = world.json(&["calls"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!((&listed[0]["call"], &listed[0]["state"]), (&json!(1), &json!("active")));
    assert_eq!((&listed[0]["tool"], &listed[0]["chat"]), (&json!("stop_workspace"), &json!("talk")));
    let table = world.run(&["calls"]).stdout;
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().take(4).collect();
    assert_eq!(row, ["1", "active", "stop_workspace", "talk"], "{table}");

    world.let_builds_run(true).await;
    let attached = attached.end();
    assert_eq!((attached.code, &attached.json()["stopped"]), (0, &json!(true)), "{}", attached.stderr);
    assert_eq!(world.json(&["calls"]), json!([]), "it has ended");
    assert_eq!(world.json(&["calls", "--all"])[0]["state"], "ended");
    let again = world.run(&["--json", "attach", "1"]);
    assert_eq!((again.code, again.stdout), (0, attached.stdout), "its end can be asked for again");
    assert_eq!(world.transitions().await, [Start, Stop]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_prints_what_the_call_itself_prints_and_exits_alike() {
    let world = World::with_a_workspace().await;
    for chat in ["talk", "nobody"] {
        let called = world.run(&["call", chat, "start_workspace"]);
        let detached = world.json(&["call", chat, "start_workspace", "--detach"]);
        let attached = world.run(&["attach", &detached["call"].to_string()]);
        assert_eq!((attached.code, attached.stdout), (called.code, called.stdout), "{chat}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_asks_no_more_often_than_a_host_that_waits_and_shows_the_log_to_its_end() {
    let world = World::with_a_workspace().await;
    world.let_builds_run(false).await;
    let detached = world.json(&["call", "talk", "stop_workspace", "--detach"]);
    let mut attached = world.begin_logging_everything(&["attach", &detached["call"].to_string()]);
    let read = "asks method=GET path=/api/v2/workspacebuilds";
    attached.wait_for_stderr(read);
    let begun = Instant::now();
    // Two of a look: the build, and its log.
    (0..4).for_each(|_| attached.wait_for_stderr(read));
    let took = begun.elapsed();
    assert!(took >= Timings::default().poll, "two more looks within {took:?}");
    world.let_builds_run(true).await;
    let attached = attached.end();
    assert_eq!(attached.code, 0);
    assert!(attached.stderr.contains("| Cleaning Up"), "{}", attached.stderr);
    assert!(attached.stderr.contains("stop build 2: succeeded"), "{}", attached.stderr);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_attach_stops_following_and_the_call_goes_on() {
    let world = World::with_a_workspace().await;
    world.let_builds_run(false).await;
    assert_eq!(world.run(&["call", "talk", "restart_workspace", "--detach"]).code, 0);
    let mut attached = [(); 2].map(|()| world.begin(&["--json", "attach", "1"]));
    for attached in &mut attached {
        attached.wait_for_stderr("stop build 2: pending");
    }
    let [impatient, patient] = attached;
    impatient.signal(Signal::INT);
    let impatient = impatient.end();
    assert_eq!((impatient.code, impatient.stdout.as_str()), (130, ""));
    assert!(
        impatient.stderr.contains("the call goes on; `workspace-recovery cancel 1`"),
        "{}",
        impatient.stderr
    );
    world.let_builds_run(true).await;
    let patient = patient.end();
    assert_eq!((patient.code, &patient.json()["restarted"]), (0, &json!(true)), "{}", patient.stderr);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_cancelled_after_its_stop_asks_for_no_start_and_says_how_to_go_on() {
    let world = World::with_a_workspace().await;
    let (call, id) = world.begin_restart(&["--json"]).await;
    let attached = world.begin(&["--json", "attach", &id]);
    let cancelled = world.run(&["--json", "cancel", &id]);
    assert_eq!((cancelled.code, &cancelled.json()["state"]), (0, &json!("interrupted")));
    let (call, attached) = (call.end(), attached.end());
    assert_eq!(call.code, 130, "{}{}", call.stdout, call.stderr);
    assert_eq!((attached.code, &attached.stdout), (130, &call.stdout));
    let result = call.json();
    assert_eq!((&result["interrupted"], &result["started"]), (&json!(true), &json!(false)));
    let error = result["error"].as_str().unwrap();
    assert!(error.contains("the workspace is down if the stop still succeeds"), "{error}");
    assert!(error.contains("start_workspace"), "{error}");

    // The stop that was asked for is not taken back, and nothing comes after it until somebody says so.
    world.let_builds_run(true).await;
    let went_on = world.run(&["--json", "call", "talk", "stop_workspace"]);
    assert_eq!((went_on.code, &went_on.json()["stopped"]), (0, &json!(true)), "{}", went_on.stderr);
    assert_eq!(world.transitions().await, [Start, Stop]);
    let again = world.run(&["--json", "call", "talk", "start_workspace"]);
    assert_eq!((again.code, &again.json()["started"]), (0, &json!(true)), "{}", again.stderr);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_cancelled_while_it_waits_for_its_turn_changes_nothing() {
    let world = World::with_a_workspace().await;
    assert_eq!(world.run(&["chat", "bind", "other", "dev"]).code, 0);
    let (first, _) = world.begin_restart(&[]).await;
    let mut second = world.begin(&["--json", "call", "other", "stop_workspace"]);
    second.wait_for_stderr("waiting for restart_workspace of chat \"talk\" (call 1)");
    assert_eq!(world.json(&["calls"])[0]["state"], "waits for its turn");
    assert_eq!(world.run(&["cancel", "2"]).code, 0);
    let second = second.end();
    assert_eq!((second.code, second.stdout.as_str()), (130, ""));
    assert!(second.stderr.contains("interrupted before it began: nothing was changed"), "{}", second.stderr);
    assert_eq!(world.json(&["calls", "--all"])[0]["state"], "failed");
    world.let_builds_run(true).await;
    assert_eq!(first.end().code, 0);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_given_twice_names_one_call() {
    let world = World::with_a_workspace().await;
    world.let_builds_run(false).await;
    let stop = ["--json", "call", "talk", "stop_workspace", "--key", "before lunch"];
    let mut first = world.begin(&stop);
    first.wait_for_stderr("stop build 2: pending");
    let detached = world.run(&[&stop[..], &["--detach"]].concat());
    assert_eq!((detached.code, detached.json()), (0, json!({ "call": 1 })));
    world.let_builds_run(true).await;
    let first = first.end();
    assert_eq!((first.code, &first.json()["stopped"]), (0, &json!(true)), "{}", first.stderr);
    // Also after its end, when the workspace is up again: nothing is stopped once more.
    assert_eq!(world.run(&["call", "talk", "start_workspace"]).code, 0);
    let again = world.run(&stop);
    assert_eq!((again.code, again.stdout), (0, first.stdout));
    assert_eq!(world.transitions().await, [Start, Stop, Start]);

    let other = world.run(&["call", "talk", "restart_workspace", "--key", "before lunch"]);
    assert_eq!((other.code, other.stdout.as_str()), (1, ""));
    let refused = "the key \"before lunch\" was given before, for another request (call 1): use a new one";
    assert!(other.stderr.contains(refused), "{}", other.stderr);
    let elsewhere = world.run(&["call", "nobody", "stop_workspace", "--key", "before lunch"]);
    assert!(elsewhere.stdout.contains("no workspace"), "a key is a chat's own: {}", elsewhere.stderr);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_there_is_not_is_told_as_that_and_one_that_has_ended_cannot_be_cancelled() {
    let world = World::with_a_workspace().await;
    for command in ["attach", "cancel", "show", "export"] {
        for number in ["7", "18446744073709551615"] {
            let ended = world.run(&["--json", command, number]);
            assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{command}");
            let sentence = format!("error: there is no call {number} in this store; `calls --all` lists");
            assert!(ended.stderr.starts_with(&sentence), "{command}: {}", ended.stderr);
        }
        for no_number in ["", "seven", "call 7", "1.5", "18446744073709551616"] {
            let ended = world.run(&[command, no_number]);
            assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{command} {no_number}");
            assert!(ended.stderr.contains("a call is named by its number"), "{command}: {}", ended.stderr);
        }
    }
    assert_eq!(world.run(&["call", "talk", "start_workspace"]).code, 0);
    let cancelled = world.run(&["cancel", "1"]);
    assert_eq!((cancelled.code, cancelled.stdout.as_str()), (0, "call 1 had ended before\n"));
    assert_eq!(world.json(&["cancel", "1"]), json!({ "call": 1, "state": "ended" }));
    assert_eq!(world.run(&["attach", "1"]).code, 0, "it has not become an interrupted one");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_plugin_refuses_is_told_at_once_and_begins_no_call() {
    let world = World::with_a_workspace().await;
    let refusals = [
        (["erase_workspace", "{}"], "the plugin has no tool \"erase_workspace\""),
        (["stop_workspace", "not JSON"], "stop_workspace: The arguments are not a JSON object."),
        (["stop_workspace", r#"{"x": 1}"#], "stop_workspace: `x` is not an argument of this tool"),
    ];
    for (call, sentence) in refusals {
        for way in [&[][..], &["--detach"], &["--key", "k"]] {
            let ended = world.run(&[&["--json", "call", "talk"], &call[..], way].concat());
            assert_eq!((ended.code, ended.stdout.as_str()), (2, ""));
            assert!(ended.stderr.contains(sentence), "{}", ended.stderr);
        }
    }
    assert_eq!(world.json(&["calls", "--all"]), json!([]));
    world.end().await;
}

#[test]
fn a_name_that_cannot_be_printed_in_a_line_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let long = "k".repeat(201);
    let bad =
        [("", "not empty"), ("a\nb", "one line"), ("a\u{1b}[31m", "one line"), (&long, "at most 200 bytes")];
    for (name, problem) in bad {
        let commands: [&[&str]; 4] = [
            &["call", "talk", "stop_workspace", "--key", name],
            &["call", name, "stop_workspace"],
            &["chat", "bind", name, "dev"],
            &["exec", name, "--", "true"],
        ];
        for command in commands {
            let ended = Program::in_folder(folder.path(), command).end();
            assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{command:?}");
            assert!(ended.stderr.contains(problem), "{command:?}: {}", ended.stderr);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_is_kept_as_a_call_that_has_ended() {
    let world = World::with_a_workspace().await;
    assert_eq!(world.run(&["call", "talk", "stop_workspace"]).code, 0);
    assert_eq!(world.run(&["exec", "talk", "--", "true"]).code, 123);
    let shown = world.run(&["show", "2"]);
    assert!(shown.stdout.contains("the verdict: start"), "{}", shown.stdout);
    let attached = world.run(&["attach", "2"]);
    assert_eq!((attached.code, attached.stdout.as_str()), (1, ""));
    assert!(attached.stderr.contains("`show 2` prints it"), "{}", attached.stderr);
    assert!(world.run(&["cancel", "2"]).stdout.contains("had ended before"));
    world.end().await;
}

#[test]
fn a_folder_without_calls_is_told_as_that_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 5] = [&["calls"], &["cancel", "1"], &["show", "1"], &["export", "1"], &["prune"]];
    for command in commands {
        let ended = Program::in_folder(folder.path(), command).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{command:?}");
        assert!(ended.stderr.contains("has no calls yet"), "{command:?}: {}", ended.stderr);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let ended = Program::in_folder(folder.path(), &["attach", "1"]).end();
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("workspace-recovery local serve"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_program_is_refused_by_every_command_and_left_as_it_is() {
    let world = World::with_a_workspace().await;
    let store = world.folder().join("chats.db");
    let connection = rusqlite::Connection::open(&store).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let before = std::fs::read(&store).unwrap();
    let commands: [&[&str]; 8] = [
        &["calls"],
        &["attach", "1"],
        &["cancel", "1"],
        &["show", "1"],
        &["export", "1"],
        &["prune", "--older-than", "0"],
        &["host"],
        &["call", "talk", "stop_workspace"],
    ];
    for command in commands {
        let ended = world.run(command);
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{command:?}");
        assert!(ended.stderr.contains("has format 99, this program knows"), "{command:?}: {}", ended.stderr);
    }
    assert_eq!(std::fs::read(&store).unwrap(), before);
    world.end().await;
}
