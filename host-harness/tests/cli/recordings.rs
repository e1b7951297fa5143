//! What is kept of a call: shown, exported, run again, removed.

use std::path::{Path, PathBuf};

use serde_json::json;
use workspace_recovery::bindings::Transition::{Start, Stop};

use crate::program::{Ended, Program, World, another_plugin};

/// Days, in milliseconds.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A recorded call of this repository.
fn recorded(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recordings");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// A folder in which nothing is served, with files to be replayed.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn add(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.0.path().join(name);
        std::fs::write(&file, content).unwrap();
        file
    }

    fn replay(&self, options: &[&str], file: &Path) -> Ended {
        let command = [options, &["replay", file.to_str().unwrap()]].concat();
        Program::in_folder(self.0.path(), &command).end()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn show_tells_what_a_call_did_in_words_and_as_data() {
    let world = World::with_a_workspace().await;
    let (call, id) = world.begin_restart(&[]).await;
    let so_far = world.run(&["show", &id]);
    assert_eq!(so_far.code, 0, "{}", so_far.stderr);
    assert!(so_far.stdout.ends_with("not answered\n\nnot ended\n"), "{}", so_far.stdout);
    world.let_builds_run(true).await;
    assert_eq!(call.end().code, 0);

    let shown = world.run(&["show", &id]).stdout;
    let told = [
        "call 1: restart_workspace {}\n  chat talk, workspace ",
        "  0    +",
        "read the workspace, its newest build, and what would refuse a start",
        "ask for a stop build, if ",
        "stop build 2: pending",
        "wait for build ",
        ": stop build 2: succeeded (",
        "ask for a start build, if ",
        "\nended: {\"build_id\":",
    ];
    let mut rest = shown.as_str();
    for part in told {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} comes next in {shown}"));
        rest = &rest[at + part.len()..];
    }
    assert_eq!(shown.matches(" s)\n").count(), shown.matches(" +").count(), "how long each took: {shown}");

    let data = world.json(&["show", &id]);
    assert_eq!(
        (&data["id"], &data["call"]["chat"], &data["open"]),
        (&json!(1), &json!("talk"), &json!(null))
    );
    let asked = data["entries"].as_array().unwrap().iter().map(|entry| &entry["request"]["function"]);
    assert_eq!(asked.filter(|function| **function == "issue-transition").count(), 2);
    assert_eq!(data["outcome"]["ended"], "done");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_call_runs_again_to_the_same_bytes_where_nothing_is_served() {
    let world = World::with_a_workspace().await;
    assert_eq!(world.run(&["call", "talk", "restart_workspace"]).code, 0);
    let exported = world.run(&["export", "1"]);
    assert_eq!((exported.code, exported.stderr.as_str()), (0, ""));
    assert_eq!(world.run(&["--json", "export", "1"]).stdout, exported.stdout);
    world.end().await;

    let files = Files::new();
    let whole = files.add("call.jsonl", &exported.stdout);
    let entries = exported.stdout.lines().filter(|line| line.starts_with(r#"{"line":"entry""#)).count();
    let replayed = files.replay(&[], &whole);
    let told = format!("the same {entries} requests, the same end\n");
    assert_eq!((replayed.code, replayed.stdout, replayed.stderr), (0, told, String::new()));
    let replayed = files.replay(&["--json"], &whole);
    assert_eq!(replayed.json(), json!({ "same": true, "requests": entries, "ended": true }));

    // A call that goes on is exported as far as it is.
    let lines: Vec<_> = exported.stdout.split_inclusive('\n').collect();
    let begun = files.add("begun.jsonl", lines[..3].concat());
    let replayed = files.replay(&["--json"], &begun);
    assert_eq!((replayed.code, replayed.json()), (0, json!({ "same": true, "requests": 2, "ended": false })));
}

#[test]
fn a_recording_that_was_tampered_with_shows_where_and_how_it_differs() {
    let files = Files::new();
    let stop = recorded("stop.jsonl");
    let asks = files.add("asks.jsonl", stop.replace(r#""to":"Stop""#, r#""to":"Start""#));
    let asks = files.replay(&[], &asks);
    assert_eq!(asks.code, 1);
    assert!(asks.stdout.starts_with("--- recorded\n+++ replayed\n"), "{}", asks.stdout);
    assert_eq!(changes(&asks.stdout), [r#"-  "to": "Start""#, r#"+  "to": "Stop""#]);
    let sentence = "error: entry 1 (`show` numbers them so) differs: workspace/issue-transition was recorded, \
                    and now comes workspace/issue-transition\n";
    assert!(asks.stderr.ends_with(sentence), "{}", asks.stderr);

    let ends = files.add("ends.jsonl", stop.replace(r#"\"stopped\":true"#, r#"\"stopped\":false"#));
    let ends = files.replay(&["--json"], &ends);
    assert_eq!((ends.code, &ends.json()["same"]), (1, &json!(false)));
    let difference = ends.json()["difference"].as_str().unwrap().to_owned();
    let [removed, added] = &changes(&difference)[..] else { panic!("one line differs: {difference}") };
    assert!(
        removed.contains(r#"\"stopped\":false"#) && added.contains(r#"\"stopped\":true"#),
        "{difference}"
    );
    assert!(ends.stderr.contains("the call ended otherwise than recorded"), "{}", ends.stderr);

    let (head, rest) = stop.split_once('\n').unwrap();
    let lacks = format!("{head}\n{}", rest.split_once('\n').unwrap().1);
    let lacks = files.replay(&[], &files.add("lacks.jsonl", lacks));
    assert_eq!(lacks.code, 1);
    assert!(lacks.stderr.contains("error: entry 0 "), "{}", lacks.stderr);
    assert!(
        lacks.stderr.ends_with("was recorded, and now comes workspace/latest-build\n"),
        "{}",
        lacks.stderr
    );
}

/// The lines that a diff removes and adds.
fn changes(diff: &str) -> Vec<&str> {
    diff.lines()
        .skip(2)
        .filter(|line| line.starts_with(['-', '+']))
        .map(|line| line.trim_end_matches(','))
        .collect()
}

#[test]
fn a_file_that_is_no_exported_call_is_told_as_that() {
    let files = Files::new();
    let stop = recorded("stop.jsonl");
    let (head, rest) = stop.split_once('\n').unwrap();
    let cut = stop.trim_end().len() - 10;
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("empty", Vec::new(), "the first line has to be the call itself"),
        ("headless", rest.into(), "the first line has to be the call itself"),
        ("cut", stop[..cut].into(), "line 7 is not one of an exported call: it is cut off"),
        ("cut early", stop[..100].into(), "line 1 is not one of an exported call: it is cut off"),
        ("text", "hello\n".into(), "line 1 is not one of an exported call: expected value"),
        ("json", "{}\n".into(), "line 1 is not one of an exported call: missing field `line`"),
        ("bytes", vec![0xff, 0xfe, 0], "it is not text"),
        ("twice", stop.repeat(2).into(), "line 8 is not one of an exported call: a second call begins here"),
        ("newer", head.replace(r#""format":1"#, r#""format":2"#).into(), "use a newer program"),
    ];
    for (name, content, problem) in cases {
        let ended = files.replay(&[], &files.add(name, content));
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{name}");
        assert!(ended.stderr.contains(&format!("{name} is no exported call: ")), "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains(problem), "{name}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{name}: {}", ended.stderr);
    }
    let goes_on = stop.clone() + rest;
    let ended = files.replay(&[], &files.add("goes on", goes_on));
    assert!(ended.stderr.contains("line 8 is not one of an exported call: the call has ended before it"));
    let missing = files.replay(&[], Path::new("nothing.jsonl"));
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("cannot read nothing.jsonl"), "{}", missing.stderr);
}

#[test]
fn a_recording_can_be_replayed_on_another_plugin() {
    let files = Files::new();
    let restart = files.add("restart.jsonl", recorded("restart-of-a-dead-agent.jsonl"));
    let built_in = files.add("built-in.wasm", workspace_recovery::PLUGIN);
    let same = files.replay(&["--plugin", built_in.to_str().unwrap()], &restart);
    assert_eq!(same.code, 0, "{}{}", same.stdout, same.stderr);
    let another = files.add("another.wasm", another_plugin());
    let other = files.replay(&["--plugin", another.to_str().unwrap()], &restart);
    assert_eq!(other.code, 1);
    assert!(other.stderr.contains("note: recorded with component "), "{}", other.stderr);
    let [removed, added] = &changes(&other.stdout)[..] else { panic!("one line differs: {}", other.stdout) };
    assert!(removed.contains("restarted") && added.contains("resTarted"), "{}", other.stdout);
    let none = files.replay(&["--plugin", restart.to_str().unwrap()], &restart);
    assert_eq!((none.code, none.stdout.as_str()), (1, ""));
    assert!(none.stderr.contains("cannot be used as a plugin"), "{}", none.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_removes_calls_that_ended_long_enough_ago_and_never_one_that_goes_on() {
    let world = World::with_a_workspace().await;
    for _ in 0..3 {
        assert_eq!(world.run(&["call", "nobody", "start_workspace"]).code, 1);
    }
    let (call, id) = world.begin_restart(&[]).await;
    let store = rusqlite::Connection::open(world.folder().join("chats.db")).unwrap();
    let older = |id: i64, days: i64| {
        let changed = store.execute(
            "UPDATE call SET ended_ms = ended_ms - ?2, created_ms = created_ms - ?2 WHERE id = ?1",
            [id, days * DAY_MS],
        );
        assert_eq!(changed.unwrap(), 1);
    };
    let calls = || {
        let listed = world.json(&["calls", "--all"]);
        listed.as_array().unwrap().iter().map(|call| call["call"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    older(1, 3);
    older(2, 13);
    let unchanged = world.run(&["prune"]);
    assert_eq!((unchanged.code, unchanged.stdout.as_str()), (0, "0 calls removed\n"));
    assert_eq!(calls(), [4, 3, 2, 1]);
    assert_eq!(world.run(&["prune", "--older-than", "12"]).stdout, "1 call removed\n");
    assert_eq!(calls(), [4, 3, 1]);
    assert_eq!(world.json(&["prune", "--older-than", "0"]), json!({ "removed": 2 }));
    assert_eq!(calls(), [4]);
    assert_eq!(world.run(&["show", "1"]).code, 1);

    world.let_builds_run(true).await;
    assert_eq!(call.end().code, 0, "the one that goes on comes to its end");
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    assert_eq!(world.run(&["show", &id]).code, 0);
    world.end().await;
}
