//! A host is suspended for longer than its lease, and wakes up when another one has carried its call to the end.

use futures_util::StreamExt;
use rustix::process::{Signal, kill_process};
use workspace_recovery::store::Listing;

use crate::child::{Blow, Fault, Report, Side};
use crate::world::{Before, Scene, World, ended, pid, suspended};

const AT_ONCE: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_whose_host_wakes_up_after_its_lease_is_left_alone_by_it() {
    woken_everywhere("stop_workspace", Before::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_host_wakes_up_after_its_lease_is_left_alone_by_it() {
    woken_everywhere("start_workspace", Before::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_whose_host_wakes_up_after_its_lease_is_left_alone_by_it() {
    woken_everywhere("restart_workspace", Before::Running).await;
}

/// Runs the call once undisturbed, and then once for each place at which its host can be suspended.
async fn woken_everywhere(tool: &'static str, workspace: Before) {
    let world = World::new().await;
    let scene = Scene { tool, arguments: "{}", workspace };
    let undisturbed = world.case(scene).await.run("undisturbed", None).await;
    let faults = faults(undisturbed.report());
    let cases = faults.iter().map(|fault| {
        let world = &world;
        async move {
            let wrong = woken_at(world, scene, *fault).await?;
            Some(format!("suspended at {fault:?}: {wrong}"))
        }
    });
    let wrong: Vec<_> = futures_util::stream::iter(cases).buffer_unordered(AT_ONCE).collect().await;
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "of {} cases:\n{}", faults.len(), wrong.join("\n"));
    world.end().await;
}

/// Where a host is suspended: directly before and after each request to the control plane, and between writing a
/// request for a build down and the last look at the lease. Between two writes to the store the places are alike but
/// for the time, so that the first and the last of them stand for all.
fn faults(undisturbed: &Report) -> Vec<Fault> {
    let requests = &undisturbed.requests;
    let places = (0..requests.len()).flat_map(|at| [(at, Side::Before), (at, Side::After)]);
    let places: Vec<_> = places.zip(&undisturbed.kept).collect();
    let ends = places.chunk_by(|(_, one), (_, other)| one == other).flat_map(|alike| {
        let (first, last) = (alike[0].0, alike[alike.len() - 1].0);
        [Some(first), Some(last).filter(|last| *last != first)]
    });
    let builds = requests.iter().filter(|name| *name == "create_build").count();
    assert!(builds > 0, "it asks for no build");
    let intended = (0..builds).map(|at| (at, Side::Intended));
    // They take longest.
    let all = intended.chain(ends.flatten());
    all.map(|(at, side)| Fault { at, side, blow: Blow::Stop }).collect()
}

/// What was wrong, if anything was.
async fn woken_at(world: &World, scene: Scene, fault: Fault) -> Option<String> {
    let case = world.case(scene).await;
    let (sleeper, report) = case.spawn("sleeper", Some(fault));
    let pid = pid(&sleeper);
    if !suspended(pid).await {
        assert!(
            fault.side != Side::Intended,
            "it was not looked at the lease, or nothing was written down before"
        );
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
