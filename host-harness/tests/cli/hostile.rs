//! A control plane and a workspace that say what a terminal would obey.

use workspace_recovery::local::{BuildSpec, TemplateSpec, VersionSpec};

use crate::program::{Ended, World};

/// Colours, renames, clears, hides, and a line that looks like one of this program's. The second form of the first is
/// the one that JSON does not escape by itself.
const HOSTILE: &str =
    "no \u{1b}[31mvolume\u{9b}31m\u{1b}]0;title\u{7} left\u{1b}[2J\r\u{8}\n \u{2713} a command runs in it";

/// Its start builds fail with [`HOSTILE`].
async fn world() -> World {
    let world = World::new().await.at_a_deployment();
    let start = BuildSpec { failure: Some(HOSTILE.into()), ..BuildSpec::default() };
    let version = VersionSpec { start, ..VersionSpec::default() };
    let template = TemplateSpec { name: "hostile".into(), version, ..TemplateSpec::default() };
    let admin = world.plane.admin();
    admin.create_template(&template).await.unwrap();
    admin.create_workspace("dev", "hostile", &[]).await.unwrap();
    assert_eq!(world.run(&["chat", "bind", "talk", "dev"]).code, 0);
    world
}

fn is_plain(ended: &Ended) {
    let obeyed = |c: char| c.is_control() && !['\n', '\t'].contains(&c);
    for shown in [&ended.stdout, &ended.stderr] {
        assert!(!shown.contains(obeyed), "{shown:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_control_plane_says_is_obeyed_by_the_terminal() {
    let world = world().await;
    let called = world.run(&["call", "talk", "start_workspace"]);
    assert_eq!(called.code, 1);
    assert!(called.stderr.contains("no volume left\n"), "the build's log: {}", called.stderr);
    let mut all = vec![called];
    for command in [
        &["workspace", "list"][..],
        &["workspace", "show", "dev"],
        &["doctor", "dev"],
        &["calls", "--all"],
        &["show", "1"],
        &["export", "1"],
        &["attach", "1"],
        &["exec", "talk", "--", "true"],
    ] {
        all.push(world.run(command));
        all.push(world.run(&[&["--json"], command].concat()));
    }
    all.iter().for_each(is_plain);
    let shown = world.json(&["workspace", "show", "dev"]);
    assert_eq!(shown["latest_build"]["error"], HOSTILE, "data is what was said");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_of_others_looks_like_one_of_this_programs() {
    let world = world().await;
    // It waits until the build has failed, which is what doctor is to tell.
    let called = world.run(&["call", "talk", "start_workspace"]).stderr;
    assert!(called.contains("\n  |  \u{2713} a command"), "{called}");
    let examined = world.run(&["doctor", "dev"]).stdout;
    assert!(
        examined.contains("\n    \u{2713} a command") && !examined.contains("\n \u{2713} a command"),
        "{examined}"
    );
    assert_eq!(world.run(&["workspace", "list"]).stdout.lines().count(), 2);
    world.end().await;
}
