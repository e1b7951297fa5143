//! The program that made a call is killed, terminated or replaced; the call is finished all the same.

use std::net::TcpListener;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use workspace_recovery::bindings::Transition::{Start, Stop};

use crate::program::{LOOK, SHORTEN_TIMES, SOON, World, another_plugin, wait_until};

/// A result without what differs from call to call.
fn without_ids(result: &Value) -> Value {
    let mut result = result.clone();
    for key in ["build_id", "stop_build_id"] {
        assert!(result.as_object_mut().unwrap().remove(key).is_some(), "{key} of {result}");
    }
    result
}

fn with_short_times<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&SHORTEN_TIMES, arguments].concat()
}

#[test]
fn a_result_that_cannot_be_written_is_told_as_that() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_workspace-recovery"));
    let ended = program.arg("tools").stdout(full).output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(told.contains("standard output: No space left on device"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_killed_after_its_stop_is_finished_for_whoever_attaches() {
    let world = World::with_a_workspace().await;
    let (call, id) = world.begin_restart(&SHORTEN_TIMES).await;
    call.kill();
    // At once: its lease has not run out yet.
    let attached = world.begin(&with_short_times(&["--json", "attach", &id]));
    world.let_builds_run(true).await;
    let attached = attached.end();
    assert_eq!(attached.code, 0, "{}{}", attached.stdout, attached.stderr);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    let undisturbed = world.run(&["--json", "call", "talk", "restart_workspace"]);
    assert_eq!(without_ids(&attached.json()), without_ids(&undisturbed.json()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_killed_after_its_stop_is_finished_by_a_host_that_comes_at_once() {
    let world = World::with_a_workspace().await;
    // A lease that outlasts the two seconds for which a host looks around that has nothing to do.
    let longer_lease = ["--shorten-times", "4"];
    let (call, id) = world.begin_restart(&longer_lease).await;
    call.kill();
    let host = world.begin(&[&longer_lease[..], &["host"]].concat());
    world.let_builds_run(true).await;
    let host = host.end();
    assert_eq!((host.code, host.stdout.as_str()), (0, ""), "{}", host.stderr);
    assert_eq!(world.json(&["calls"]), json!([]), "before anybody else has come");
    let attached = world.run(&["--json", "attach", &id]);
    assert_eq!((attached.code, &attached.json()["restarted"]), (0, &json!(true)), "{}", attached.stderr);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_command_after_a_kill_sees_to_the_call_though_it_comes_at_once_and_is_the_last_one() {
    for command in [&["calls"][..], &["chat", "list"], &["show", "1"], &["doctor", "dev"]] {
        let world = World::with_a_workspace().await;
        let (call, _) = world.begin_restart(&[]).await;
        call.kill();
        world.run(command);
        world.let_builds_run(true).await;
        // Asked of the control plane, and not of the program.
        let end = Instant::now() + SOON;
        while world.transitions().await != [Start, Stop, Start] {
            assert!(Instant::now() < end, "within {SOON:?} after {command:?}");
            tokio::time::sleep(LOOK).await;
        }
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_carried_on_beside_another_is_told_and_its_builds_are_not_shown_as_the_others() {
    let world = World::with_a_workspace().await;
    assert_eq!(world.run(&["workspace", "create", "other"]).code, 0);
    assert_eq!(world.run(&["chat", "bind", "second", "other"]).code, 0);
    assert_eq!(world.run(&["call", "second", "restart_workspace"]).code, 0);
    let (call, id) = world.begin_restart(&[]).await;
    call.kill();
    let mut second = world.begin(&["call", "second", "stop_workspace"]);
    second
        .wait_for_stderr(&format!("call {id} of chat talk, whose own host is gone, is carried on here, too"));
    world.let_builds_run(true).await;
    let second = second.end();
    assert_eq!(second.code, 0, "{}", second.stderr);
    assert!(second.stderr.contains("stop build 4: "), "its own: {}", second.stderr);
    assert!(
        !second.stderr.contains("build 2: ") && !second.stderr.contains("build 3: "),
        "{}",
        second.stderr
    );
    wait_until("the other has ended", || world.json(&["calls"]) == json!([]));
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_in_the_background_that_is_killed_is_replaced_while_somebody_is_attached() {
    let world = World::with_a_workspace().await;
    world.let_builds_run(false).await;
    let detach = with_short_times(&["call", "talk", "restart_workspace", "--detach"]);
    assert_eq!(world.run(&detach).code, 0);
    let mut attached = world.begin(&with_short_times(&["--json", "attach", "1"]));
    attached.wait_for_stderr("stop build 2: pending");
    world.kill_hosts();
    world.let_builds_run(true).await;
    let attached = attached.end();
    assert_eq!((attached.code, &attached.json()["restarted"]), (0, &json!(true)), "{}", attached.stderr);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_terminal_is_closed_goes_on_in_the_background() {
    goes_on_after(Signal::HUP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_terminated_goes_on_in_the_background() {
    goes_on_after(Signal::TERM).await;
}

async fn goes_on_after(signal: Signal) {
    let world = World::with_a_workspace().await;
    let (call, id) = world.begin_restart(&[]).await;
    call.signal(signal);
    let call = call.end();
    assert_eq!((call.code, call.stdout.as_str()), (130, ""), "{}", call.stderr);
    let told = format!("call {id} goes on in the background; `workspace-recovery attach {id}` follows it");
    assert!(call.stderr.contains(&told), "{}", call.stderr);
    // Nothing else is asked of the program: the host in the background does it by itself.
    world.let_builds_run(true).await;
    wait_until("the call has ended", || world.json(&["calls"]) == json!([]));
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    let attached = world.run(&["--json", "attach", &id]);
    assert_eq!((attached.code, &attached.json()["restarted"]), (0, &json!(true)), "{}", attached.stderr);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_can_say_nothing_any_more_is_left_to_the_background_all_the_same() {
    let world = World::with_a_workspace().await;
    let (mut call, _) = world.begin_restart(&[]).await;
    call.close_stderr();
    call.close_stdout();
    call.signal(Signal::HUP);
    assert_eq!(call.end().code, 130);
    assert_eq!(world.hosts().len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_on_the_plugin_file_that_it_began_with_though_that_is_gone() {
    let world = World::with_a_workspace().await;
    let file = world.folder().join("another.wasm");
    std::fs::write(&file, another_plugin()).unwrap();
    let other = ["--plugin", file.to_str().unwrap()];
    let report = world.json(&["plugin", "check", other[1]]);
    let begun = begin_and_kill(&world, &other).await;
    assert_eq!(begun["call"]["component"], report["sha256"]);
    std::fs::remove_file(&file).unwrap();
    let attached = world.begin(&with_short_times(&["--json", "attach", "1"]));
    world.let_builds_run(true).await;
    let attached = attached.end();
    assert_eq!((attached.code, &attached.json()["resTarted"]), (0, &json!(true)), "{}", attached.stderr);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_plugin_finishes_no_call_of_an_older_one() {
    let world = World::with_a_workspace().await;
    let file = world.folder().join("another.wasm");
    std::fs::write(&file, another_plugin()).unwrap();
    let other = ["--plugin", file.to_str().unwrap()];
    begin_and_kill(&world, &[]).await;
    let attached = world.begin(&with_short_times(&[&other[..], &["--json", "attach", "1"]].concat()));
    world.let_builds_run(true).await;
    let attached = attached.end();
    assert_eq!((attached.code, &attached.json()["restarted"]), (0, &json!(true)), "{}", attached.stderr);
    let next = world.run(&[&other[..], &["--json", "call", "talk", "restart_workspace"]].concat());
    assert_eq!((next.code, &next.json()["resTarted"]), (0, &json!(true)), "{}", next.stderr);
    world.end().await;
}

/// Begins a detached restart with a plugin, and kills its host when it has asked for its stop. Answers what `show` says
/// then.
async fn begin_and_kill(world: &World, plugin: &[&str]) -> Value {
    world.let_builds_run(false).await;
    let begin = [&SHORTEN_TIMES, plugin, &["call", "talk", "restart_workspace", "--detach"]].concat();
    assert_eq!(world.run(&begin).code, 0);
    let mut shown = Value::Null;
    wait_until("its stop is waited for", || {
        shown = world.json(&["show", "1"]);
        shown["open"]["request"]["function"] == "wait-for-build"
    });
    world.kill_hosts();
    assert_eq!(world.transitions().await, [Start, Stop]);
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_no_host_may_carry_on_is_told_as_that_and_goes_on_when_one_may() {
    let (world, old) = with_a_call_of_another_control_plane().await;
    let attached = world.run(&["attach", "1"]);
    assert_eq!((attached.code, attached.stdout.as_str()), (1, ""));
    for part in [&old, world.plane.url(), "local serve --port"] {
        assert!(attached.stderr.contains(part), "{part}: {}", attached.stderr);
    }
    let port = old.rsplit(':').next().unwrap().parse().unwrap();
    let world = world.served_at(port).await;
    let attached = world.run(&with_short_times(&["--json", "attach", "1"]));
    assert_eq!((attached.code, &attached.json()["restarted"]), (0, &json!(true)), "{}", attached.stderr);
    assert_eq!(world.transitions().await, [Start, Stop, Start]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_no_host_may_carry_on_keeps_no_host_busy() {
    let (world, _) = with_a_call_of_another_control_plane().await;
    assert_eq!(world.run(&["exec", "nobody", "--", "true"]).code, 125);
    assert_eq!(world.hosts(), [], "none is started for it");
    assert_eq!(world.run(&with_short_times(&["host"])).code, 0, "one that is started finds nothing to do");
    assert_eq!(world.json(&["calls"])[0]["state"], "waits for a host");
    world.end().await;
}

/// With a restart whose host is gone, and which was begun when the control plane was at the address that is answered:
/// at another one it is another control plane.
async fn with_a_call_of_another_control_plane() -> (World, String) {
    let world = World::with_a_workspace().await;
    world.begin_restart(&SHORTEN_TIMES).await.0.kill();
    let old = world.plane.url().to_owned();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let world = world.served_at(free).await;
    // It runs as soon as there is a control plane; that must not be ended in the middle of it.
    wait_until("its stop has succeeded", || {
        let newest = &world.json(&["workspace", "show", "dev"])["latest_build"];
        (&newest["number"], &newest["status"]) == (&Value::from(2), &Value::from("succeeded"))
    });
    (world, old)
}
