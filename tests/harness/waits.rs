//! Reads and waits of the driver, request by request.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{
    AgentState, Agents, Binding, BuildWait, JobStatus, Lifecycle, Parameter, Provisioner, ReadError,
    Snapshot, Transition, WaitEnd,
};
use workspace_recovery::control_plane::{ApiError, LogLine, TemplateParameter};
use workspace_recovery::driver::{CallContext, EventKind, NoIntentLog};
use workspace_recovery::journal::{Answer, Request};

use crate::builders::refusal;
use crate::plane::{Host, Plane, unavailable};

fn begin(host: &Host) -> CallContext {
    host.host_calls().begin("ana", CancellationToken::new()).unwrap()
}

async fn answer(host: &Host, call: &CallContext, request: Request) -> Answer {
    host.host_calls().answer(call, &request, &NoIntentLog).await.unwrap().answer
}

async fn latest(host: &Host, call: &CallContext, check_start: bool) -> Result<Binding, ReadError> {
    match answer(host, call, Request::LatestBuild { check_start }).await {
        Answer::LatestBuild(read) => read,
        other => panic!("{other:?}"),
    }
}

async fn snapshot(host: &Host) -> Snapshot {
    match latest(host, &begin(host), true).await {
        Ok(Binding::Bound(snapshot)) => snapshot,
        other => panic!("{other:?}"),
    }
}

async fn agents(host: &Host) -> Agents {
    match answer(host, &begin(host), Request::AgentStatus).await {
        Answer::AgentStatus(Ok(agents)) => agents,
        other => panic!("{other:?}"),
    }
}

async fn wait_for_build(host: &Host, call: &CallContext, limit: u64) -> Result<BuildWait, ReadError> {
    let limit_ms = u32::try_from(limit * 1000).unwrap();
    match answer(host, call, Request::WaitForBuild { build: "f2".into(), limit_ms }).await {
        Answer::WaitForBuild(wait) => wait,
        other => panic!("{other:?}"),
    }
}

/// A host whose newest build `f2` goes on until the test ends it.
fn building() -> Host {
    let plane = Plane::running();
    plane.foreign_build("f2", Transition::Stop, JobStatus::Running);
    plane.host()
}

fn end_build(host: &Host, status: JobStatus) {
    host.plane.world().builds[1].read.build.status = status;
}

#[tokio::test(start_paused = true)]
async fn a_binding_is_unbound_rebound_deleted_or_a_snapshot() {
    let host = Plane::running().host();
    let stranger = host.host_calls().begin("nobody", CancellationToken::new()).unwrap();
    assert_eq!(latest(&host, &stranger, false).await, Ok(Binding::Unbound));
    let call = begin(&host);
    assert!(
        matches!(latest(&host, &call, false).await, Ok(Binding::Bound(read)) if read.workspace_name == "dev")
    );
    host.plane.world().reads_fail = Some(ApiError::Gone);
    assert_eq!(latest(&host, &call, false).await, Ok(Binding::Deleted));
    host.change_chat("ana", |chat| chat.bind(Some("w2")));
    assert_eq!(latest(&host, &call, false).await, Ok(Binding::Rebound));
}

#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_if_the_failure_may_pass_and_else_answered() {
    let host = Plane::running().host();
    host.plane.world().next_reads = vec![unavailable(), unavailable()];
    assert!(latest(&host, &begin(&host), false).await.is_ok());
    host.plane.world().reads_fail = Some(ApiError::Forbidden(refusal("no")));
    let before = host.plane.world().reads;
    assert_eq!(latest(&host, &begin(&host), false).await, Err(ReadError::Forbidden));
    assert_eq!(host.plane.world().reads, before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_lacks_the_required_parameters_of_the_version_it_would_use() {
    let host = Plane::running().host();
    let parameter =
        |name: &str, required, ephemeral| TemplateParameter { name: name.into(), required, ephemeral };
    host.plane.world().parameters = vec![
        parameter("region", true, false),
        parameter("size", false, false),
        parameter("known", true, false),
        parameter("once", true, true),
    ];
    let value = |name: &str| Parameter { name: name.into(), value: String::new() };
    host.plane.world().values = vec![value("known"), value("once")];
    assert_eq!(snapshot(&host).await.start_refusal, None, "the version of the last build asks for nothing");

    host.plane.world().workspace.requires_active_version = true;
    let fields = |read: Snapshot| -> Vec<String> {
        read.start_refusal.unwrap().validations.into_iter().map(|problem| problem.field).collect()
    };
    assert_eq!(fields(snapshot(&host).await), ["region", "once"]);
    host.plane.world().workspace.classic_parameters = true;
    assert_eq!(fields(snapshot(&host).await), ["region", "known", "once"], "an empty value is none");
}

#[tokio::test(start_paused = true)]
async fn a_dormant_workspace_would_be_refused_a_start() {
    let host = Plane::running().host();
    host.plane.world().workspace.dormant = true;
    let read = snapshot(&host).await;
    assert!(read.dormant && read.start_refusal.is_some_and(|refusal| refusal.validations.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_build_refused_for_its_owners_budget_comes_with_the_budget() {
    let host = building();
    end_build(&host, JobStatus::Failed);
    host.plane.world().builds[1].read.build.error_code = Some("INSUFFICIENT_QUOTA".into());
    let wait = wait_for_build(&host, &begin(&host), 600).await.unwrap();
    assert_eq!(wait.build.unwrap().quota.map(|quota| quota.budget), Some(10));
    assert_eq!(snapshot(&host).await.latest.quota.map(|quota| quota.budget), Some(10));
}

#[tokio::test(start_paused = true)]
async fn reads_are_known_to_have_worked_since_the_last_failure_or_silence() {
    let host = Plane::running().host();
    assert_eq!(agents(&host).await.readable_for_ms, 0);
    for _ in 0..5 {
        sleep(Duration::from_secs(20)).await;
        agents(&host).await;
    }
    assert_eq!(agents(&host).await.readable_for_ms, 100_000);
    sleep(Duration::from_secs(31)).await;
    assert_eq!(agents(&host).await.readable_for_ms, 0, "an outage may have been in the silence");
    sleep(Duration::from_secs(10)).await;
    host.plane.world().next_reads = vec![unavailable()];
    assert_eq!(agents(&host).await.readable_for_ms, 0, "one read failed, the next one worked");
    assert_eq!(agents(&host).await.observed, Some(host.plane.world().now()));
}

#[tokio::test(start_paused = true)]
async fn a_published_binding_names_the_build_and_clears_the_agent() {
    let host = Plane::running().host();
    let call = begin(&host);
    let mut events = host.driver.subscribe();
    host.change_chat("ana", |chat| chat.agent = Some("a1".into()));
    let publish = || Request::PublishBinding { build: "b9".into() };
    assert_eq!(answer(&host, &call, publish()).await, Answer::PublishBinding(Ok(true)));
    let chat = host.store.chat("ana").unwrap().unwrap();
    assert_eq!((chat.build.as_deref(), chat.agent), (Some("b9"), None));
    let told = std::iter::from_fn(|| events.try_recv().ok());
    assert!(told.map(|event| event.kind).any(|kind| matches!(kind, EventKind::BindingPublished { .. })));

    host.change_chat("ana", |chat| chat.bind(Some("w2")));
    assert_eq!(answer(&host, &call, publish()).await, Answer::PublishBinding(Ok(false)));
    assert_eq!(host.store.chat("ana").unwrap().unwrap().build, None);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_job_and_failed_reads_say_nothing_about_it() {
    let host = building();
    let call = begin(&host);
    let outage = async {
        sleep(Duration::from_secs(10)).await;
        host.plane.world().reads_fail = Some(unavailable());
        sleep(Duration::from_secs(60)).await;
        end_build(&host, JobStatus::Failed);
        host.plane.world().reads_fail = None;
    };
    let (wait, ()) = tokio::join!(wait_for_build(&host, &call, 600), outage);
    let wait = wait.unwrap();
    assert_eq!((wait.end, wait.build.unwrap().status), (WaitEnd::Reached, JobStatus::Failed));
    assert!((70_000..=72_000).contains(&wait.waited_ms), "{}", wait.waited_ms);
}

#[tokio::test(start_paused = true)]
async fn a_wait_keeps_its_limit_whatever_the_reads_do_and_tells_the_last_thing_known() {
    let host = building();
    let call = begin(&host);
    let outage = async {
        sleep(Duration::from_secs(10)).await;
        host.plane.world().reads_fail = Some(unavailable());
    };
    let (wait, ()) = tokio::join!(wait_for_build(&host, &call, 60), outage);
    let wait = wait.unwrap();
    assert_eq!((wait.end, wait.waited_ms), (WaitEnd::Limit, 60_000));
    assert_eq!(wait.build.unwrap().status, JobStatus::Running);
    assert_eq!(wait_for_build(&host, &call, 60).await.unwrap().build, None, "not read even once");
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_at_one_workspace_share_its_reads() {
    let host = building();
    let mut waits = JoinSet::new();
    for _ in 0..1000 {
        let (host_calls, call) = (host.host_calls().clone(), begin(&host));
        let request = Request::WaitForBuild { build: "f2".into(), limit_ms: 600_000 };
        waits.spawn(async move { host_calls.answer(&call, &request, &NoIntentLog).await.unwrap().answer });
    }
    sleep(Duration::from_secs(60)).await;
    end_build(&host, JobStatus::Succeeded);
    while let Some(answer) = waits.join_next().await {
        assert!(
            matches!(answer, Ok(Answer::WaitForBuild(Ok(BuildWait { end: WaitEnd::Reached, .. })))),
            "{answer:?}"
        );
    }
    let reads = host.plane.world().reads;
    assert!((27..=36).contains(&reads), "{reads}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_without_time_reads_once() {
    let host = building();
    end_build(&host, JobStatus::Succeeded);
    let wait = wait_for_build(&host, &begin(&host), 0).await.unwrap();
    assert_eq!((wait.end, wait.waited_ms), (WaitEnd::Reached, 0));
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_a_wait_at_once() {
    let host = building();
    let call = begin(&host);
    let interrupt = async {
        sleep(Duration::from_millis(2_500)).await;
        call.interrupt().cancel();
    };
    let (wait, ()) = tokio::join!(wait_for_build(&host, &call, 600), interrupt);
    let wait = wait.unwrap();
    assert_eq!((wait.end, wait.waited_ms), (WaitEnd::Interrupted, 2_500));
    assert!(wait.build.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_for_the_given_build_also_when_a_newer_one_came() {
    let host = building();
    end_build(&host, JobStatus::Succeeded);
    host.plane.foreign_build("f3", Transition::Start, JobStatus::Running);
    let wait = wait_for_build(&host, &begin(&host), 600).await.unwrap();
    assert_eq!((wait.end, wait.build.unwrap().id.as_str()), (WaitEnd::Reached, "f2"));
}

#[tokio::test(start_paused = true)]
async fn a_build_that_no_longer_exists_is_gone_and_one_that_may_not_be_read_is_an_error() {
    let host = Plane::running().host();
    assert_eq!(wait_for_build(&host, &begin(&host), 600).await.unwrap().end, WaitEnd::Gone);
    host.plane.world().reads_fail = Some(ApiError::Unauthorized("log in again".into()));
    assert_eq!(wait_for_build(&host, &begin(&host), 600).await, Err(ReadError::Unauthorized));
}

#[tokio::test(start_paused = true)]
async fn listeners_hear_of_a_build_when_it_changes_and_of_each_log_line_once() {
    let host = building();
    {
        let mut world = host.plane.world();
        world.builds[1].read.build.status = JobStatus::Pending;
        world.builds[1].read.build.provisioner = Provisioner::Missing;
        let line = |id| LogLine { id, stage: "Build".into(), text: format!("line {id}") };
        world.log = vec![line(1), line(2)];
    }
    let mut events = host.driver.subscribe();
    let call = begin(&host);
    let progress = async {
        sleep(Duration::from_secs(9)).await;
        let mut world = host.plane.world();
        world.log.push(LogLine { id: 7, stage: "Build".into(), text: "line 7".into() });
        world.builds[1].read.build.status = JobStatus::Succeeded;
    };
    let (wait, ()) = tokio::join!(wait_for_build(&host, &call, 600), progress);
    assert_eq!(wait.unwrap().end, WaitEnd::Reached);
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::Build(build) => told.push(format!("{:?}, {:?}", build.status, build.provisioner)),
            EventKind::BuildLog { line, .. } => told.push(line.text),
            _ => {}
        }
    }
    let (waits, over) =
        ("JobStatus::Pending, Provisioner::Missing", "JobStatus::Succeeded, Provisioner::Missing");
    assert_eq!(told, [waits, "line 1", "line 2", "line 7", over], "the end comes last");
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_waited_for_until_its_scripts_have_ended_and_no_longer_than_each_limit() {
    let host = Plane::running().host();
    let call = begin(&host);
    let wait = |build: &str, scripts_limit_ms| Request::WaitForAgent {
        build: build.into(),
        agent: "a1".into(),
        connect_limit_ms: 120_000,
        scripts_limit_ms,
    };
    let ended = |answer: Answer| match answer {
        Answer::WaitForAgent(Ok(wait)) => (wait.end, wait.waited_ms),
        other => panic!("{other:?}"),
    };
    let set = |state: AgentState, lifecycle: Lifecycle| {
        let mut world = host.plane.world();
        world.agents[0].state = state;
        world.agents[0].lifecycle = lifecycle;
    };

    set(AgentState::Connecting, Lifecycle::Created);
    assert_eq!(ended(answer(&host, &call, wait("b1", 600_000)).await), (WaitEnd::Limit, 120_000));
    let begun = Instant::now();
    let progress = async {
        sleep(Duration::from_secs(60)).await;
        set(AgentState::Connected, Lifecycle::Starting);
        sleep(Duration::from_secs(300)).await;
        set(AgentState::Connected, Lifecycle::StartError);
    };
    let (answered, ()) = tokio::join!(answer(&host, &call, wait("b1", 600_000)), progress);
    assert_eq!(ended(answered).0, WaitEnd::Reached);
    assert!(begun.elapsed() < Duration::from_secs(363));

    set(AgentState::Connected, Lifecycle::Starting);
    assert_eq!(ended(answer(&host, &call, wait("b1", 600_000)).await), (WaitEnd::Limit, 600_000));
    assert_eq!(ended(answer(&host, &call, wait("b1", 0)).await), (WaitEnd::Reached, 0));
    assert_eq!(
        ended(answer(&host, &call, wait("b0", 0)).await).0,
        WaitEnd::Gone,
        "another build is the newest"
    );
}
