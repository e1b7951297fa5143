//! A driver's waits at the local control plane, over its REST API.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::WaitEnd;
use workspace_recovery::clock::SystemClock;
use workspace_recovery::control_plane::rest::RestClient;
use workspace_recovery::driver::{HostCalls, NoIntentLog};
use workspace_recovery::journal::{Answer, Request};
use workspace_recovery::local::{BuildSpec, VersionSpec};
use workspace_recovery::policy::Timings;
use workspace_recovery::store::Store;

use super::support::*;

#[tokio::test]
async fn an_announced_change_ends_a_wait_long_before_the_next_poll() {
    let plane = Plane::start().await;
    let stop = BuildSpec { duration_ms: Some(1_000), ..BuildSpec::default() };
    let workspace =
        plane.workspace(&plane.template(VersionSpec { stop, ..VersionSpec::default() }).await).await;
    let store = Store::in_memory();
    let id = workspace.clone();
    store.update("ana", move |chat| chat.bind(Some(&id))).await.unwrap();
    let client = RestClient::new(plane.running().url(), plane.running().token()).unwrap();
    let timings = Timings { poll: Duration::from_secs(300), ..Timings::default() };
    let host_calls = HostCalls::new(Arc::new(client), store, timings, Arc::new(SystemClock));
    let call = host_calls.begin("ana", CancellationToken::new()).unwrap();

    let build = plane.build(&workspace, "stop").await;
    let begun = Instant::now();
    let request = Request::WaitForBuild { build, limit_ms: 600_000 };
    let answer = host_calls.answer(&call, &request, &NoIntentLog).await.unwrap().answer;
    let Answer::WaitForBuild(Ok(wait)) = answer else { panic!("{answer:?}") };
    assert_eq!(wait.end, WaitEnd::Reached);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    plane.end().await;
}
