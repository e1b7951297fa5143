//! A host is suspended for longer than its lease, and wakes up when another one has carried its call to the end.

use futures_util::StreamExt;
use rustix::process::{Signal, kill_process};
use workspace_recovery::store::Listing;

use crate::child::{Blow, Fault, Side};
use crate::world::{Before, Scene, World, ended, pid, suspended};

const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_wakes_up_after_its_lease_writes_and_sends_nothing() {
    let world = World::new().await;
    let scene = Scene { tool: "restart_workspace", arguments: "{}", workspace: Before::Running };
    let undisturbed = world.case(scene).await.run("undisturbed", None).await;
    let requests = &undisturbed.report().requests;
    let places = (0..requests.len()).flat_map(|at| [(at, Side::Before), (at, Side::After)]);
    let cases = places.map(|(at, side)| {
        let world = &world;
        async move {
            let wrong = woken_at(world, scene, Fault { at, side, blow: Blow::Stop }).await?;
            Some(format!("suspended {side:?} request {at} ({}): {wrong}", requests[at]))
        }
    });
    let wrong: Vec<_> = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE).collect().await;
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "of {} cases:\n{}", 2 * requests.len(), wrong.join("\n"));
    world.end().await;
}

/// What was wrong, if anything was.
async fn woken_at(world: &World, scene: Scene, fault: Fault) -> Option<String> {
    let case = world.case(scene).await;
    let (sleeper, report) = case.spawn("sleeper", Some(fault));
    let pid = pid(&sleeper);
    if !suspended(pid).await {
        // There were fewer requests than there had been.
        ended(sleeper, report).await.report();
        return None;
    }
    let store = case.store();
    let begun = !store.calls(Listing::All, 1).unwrap().is_empty();
    let other = case.run("other", None).await;
    let before = (store.recording(1).unwrap(), case.transitions().await);
    kill_process(pid, Signal::CONT).unwrap();
    let woken = ended(sleeper, report).await;
    if !begun {
        // The call was the other's: the sleeper comes with a second one, as it has to.
        return None;
    }
    let after = (store.recording(1).unwrap(), case.transitions().await);
    if before != after {
        return Some(format!("builds {:?} became {:?}, or entries were added", before.1, after.1));
    }
    let (seen, told) = (&woken.report().result, &other.report().result);
    (seen != told).then(|| format!("it tells {seen:?} and the other host {told:?}"))
}
