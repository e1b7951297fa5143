//! A host is killed, and another one carries its call on.

use std::os::unix::process::ExitStatusExt;

use futures_util::StreamExt;
use rustix::process::Signal;
use serde_json::Value;

use crate::child::{Blow, Fault, Side};
use crate::world::{Before, Scene, World};

/// Cases at the same time. They wait most of their time: for leases to run out, for builds.
const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_whose_host_is_killed_anywhere_ends_as_if_it_had_not_been() {
    killed_everywhere("stop_workspace", "{}", Before::Running, &["stop"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_host_is_killed_anywhere_ends_as_if_it_had_not_been() {
    killed_everywhere("start_workspace", "{}", Before::Stopped, &["start"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_whose_host_is_killed_anywhere_ends_as_if_it_had_not_been() {
    killed_everywhere("restart_workspace", "{}", Before::Running, &["stop", "start"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_an_unreachable_agent_whose_host_is_killed_anywhere_ends_as_if_it_had_not_been() {
    let arguments = r#"{"only_if_unreachable": true}"#;
    killed_everywhere("restart_workspace", arguments, Before::AgentDead, &["stop", "start"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_behind_a_foreign_build_whose_host_is_killed_anywhere_ends_as_if_it_had_not_been() {
    killed_everywhere("stop_workspace", "{}", Before::Starting, &["stop"]).await;
}

/// Runs the call once undisturbed, and then once for each place at which its host can be killed: directly before and
/// directly after each request to the control plane. What is written between two requests lies between two places.
async fn killed_everywhere(
    tool: &'static str,
    arguments: &'static str,
    workspace: Before,
    transitions: &[&str],
) {
    let world = World::new().await;
    let scene = Scene { tool, arguments, workspace };
    let case = world.case(scene).await;
    let undisturbed = case.run("undisturbed", None).await;
    let expected = case.normal(&undisturbed.report().result).await;
    assert_eq!(case.transitions().await, transitions, "{expected}");
    let requests = &undisturbed.report().requests;
    assert_eq!(requests.iter().filter(|name| *name == "create_build").count(), transitions.len());

    let places = (0..requests.len()).flat_map(|at| [(at, Side::Before), (at, Side::After)]);
    let cases = places.map(|(at, side)| {
        let (world, expected) = (&world, &expected);
        async move {
            let fault = Fault { at, side, blow: Blow::Kill };
            let wrong = killed_at(world, scene, fault, expected, transitions).await?;
            Some(format!("killed {side:?} request {at} ({}): {wrong}", requests[at]))
        }
    });
    let wrong: Vec<_> = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE).collect().await;
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "of {} cases:\n{}", 2 * requests.len(), wrong.join("\n"));
    world.end().await;
}

/// What was wrong, if anything was.
async fn killed_at(
    world: &World,
    scene: Scene,
    fault: Fault,
    expected: &Value,
    transitions: &[&str],
) -> Option<String> {
    let case = world.case(scene).await;
    let first = case.run("first", Some(fault)).await;
    // Waits are as long as builds take, so that there may be fewer requests than there were.
    if first.status.signal() != Some(Signal::KILL.as_raw()) && first.report.is_none() {
        return Some(format!("the first host ended with {}", first.status));
    }
    let second = case.run("second", None).await;
    let result = case.normal(&second.report().result).await;
    let made = case.transitions().await;
    if made != transitions {
        return Some(format!("builds {made:?}, result {result}\n{}", second.output));
    }
    (result != *expected).then(|| format!("{result}\n    instead of {expected}\n{}", second.output))
}
