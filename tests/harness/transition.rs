//! `issue-transition`: the gate before sending, refusals, and requests whose answer is lost.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, advance};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{Build, JobStatus, Parameter, Transition, TransitionError};
use workspace_recovery::control_plane::ApiError;
use workspace_recovery::driver::{CallContext, DriveError, IntentLog, NoIntentLog};
use workspace_recovery::journal::record::{Failure, Intent};
use workspace_recovery::journal::{Answer, Request};
use workspace_recovery::store::{Admission, StoreError};

use crate::builders::{self, refusal};
use crate::plane::{Host, Plane, Post, failed, unavailable};

type Issued = Result<Build, TransitionError>;

fn begin(host: &Host) -> CallContext {
    host.host_calls().begin("ana", CancellationToken::new()).unwrap()
}

async fn issue(host: &Host, call: &CallContext, to: Transition, rests_on: &str) -> Issued {
    let parameters = vec![Parameter { name: "size".into(), value: "small".into() }];
    let request = Request::IssueTransition { to, rests_on: rests_on.into(), parameters };
    match host.host_calls().answer(call, &request, &NoIntentLog).await.unwrap().answer {
        Answer::IssueTransition(issued) => issued,
        other => panic!("{other:?}"),
    }
}

/// Issues a stop in a world made by `set_up`, and answers it with the number of requests sent.
async fn stop(set_up: impl FnOnce(&Host, &CallContext)) -> (Issued, usize) {
    let host = Plane::running().host();
    let call = begin(&host);
    set_up(&host, &call);
    let issued = issue(&host, &call, Transition::Stop, "b1").await;
    let posts = host.plane.world().posts.len();
    (issued, posts)
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_sent_once_without_version_or_parameters_and_marked_as_ours() {
    let host = Plane::running().host();
    host.plane.world().workspace.requires_active_version = true;
    let made = issue(&host, &begin(&host), Transition::Stop, "b1").await.unwrap();
    assert_eq!((made.id.as_str(), made.number, made.ours), ("b2", 2, true));
    let world = host.plane.world();
    assert_eq!(world.posts.len(), 1);
    assert_eq!((&world.posts[0].template_version, world.posts[0].parameters.len()), (&None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_start_carries_its_parameters_and_names_the_active_version_only_where_the_template_requires_it() {
    for (required, version) in [(false, None), (true, Some("v2"))] {
        let host = Plane::running().host();
        host.plane.world().workspace.requires_active_version = required;
        issue(&host, &begin(&host), Transition::Start, "b1").await.unwrap();
        let world = host.plane.world();
        assert_eq!(world.posts[0].template_version.as_deref(), version);
        assert_eq!(world.posts[0].parameters.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn only_starts_and_stops_are_sent() {
    let host = Plane::running().host();
    for to in [Transition::Delete, Transition::Unknown("explode".into())] {
        let refused = issue(&host, &begin(&host), to, "b1").await;
        assert!(matches!(refused, Err(TransitionError::Policy(_))), "{refused:?}");
    }
    assert_eq!(host.plane.world().posts.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_call_sends_nothing() {
    let (issued, posts) = stop(|_, call| call.interrupt().cancel()).await;
    assert_eq!((issued, posts), (Err(TransitionError::Interrupted), 0));
}

#[tokio::test(start_paused = true)]
async fn a_chat_that_was_bound_elsewhere_or_unbound_sends_nothing() {
    for workspace in [None, Some("w2")] {
        let (issued, posts) = stop(|host, _| {
            host.change_chat("ana", move |chat| chat.bind(workspace));
        })
        .await;
        assert_eq!((issued, posts), (Err(TransitionError::Rebound), 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_workspace_is_gone_and_nothing_is_sent() {
    let (issued, posts) = stop(|host, _| host.plane.world().reads_fail = Some(ApiError::Gone)).await;
    assert_eq!((issued, posts), (Err(TransitionError::Gone), 0));
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_rests_on_an_older_build_is_superseded() {
    let (issued, posts) =
        stop(|host, _| host.plane.foreign_build("f2", Transition::Start, JobStatus::Succeeded)).await;
    assert!(matches!(issued, Err(TransitionError::Superseded(build)) if build.id == "f2"));
    assert_eq!(posts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_build_in_progress_is_a_conflict_before_anything_is_sent() {
    for status in
        [JobStatus::Pending, JobStatus::Running, JobStatus::Canceling, JobStatus::Unknown("napping".into())]
    {
        let (issued, posts) =
            stop(|host, _| host.plane.world().builds[0].read.build.status = status.clone()).await;
        assert!(matches!(issued, Err(TransitionError::Conflict(Some(build))) if build.id == "b1"));
        assert_eq!(posts, 0);
    }
}

/// A disk on which writing a request down takes this long.
struct Slow(Duration);

#[async_trait]
impl IntentLog for Slow {
    async fn intend(&self, _: &Request, _: Intent) -> Result<Admission, StoreError> {
        tokio::time::sleep(self.0).await;
        Ok(Admission::Granted)
    }

    fn may_send(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_build_that_comes_while_a_request_is_slowly_written_down_is_seen_before_it_is_sent() {
    let host = Plane::running().host();
    let call = begin(&host);
    let request =
        Request::IssueTransition { to: Transition::Stop, rests_on: "b1".into(), parameters: Vec::new() };
    let slow = Slow(Duration::from_secs(2));
    let later = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        host.plane.foreign_build("f2", Transition::Start, JobStatus::Succeeded);
    };
    let (answered, ()) = tokio::join!(host.host_calls().answer(&call, &request, &slow), later);
    let answer = answered.unwrap().answer;
    let Answer::IssueTransition(Err(TransitionError::Superseded(build))) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((build.id.as_str(), host.plane.world().posts.len()), ("f2", 0));
}

#[tokio::test(start_paused = true)]
async fn a_workspace_that_cannot_be_read_is_not_changed() {
    let (issued, posts) = stop(|host, _| host.plane.world().reads_fail = Some(unavailable())).await;
    assert_eq!((issued, posts), (Err(TransitionError::Unavailable(None)), 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_has_sent_nothing_for_half_an_hour_expires_but_one_that_has_may_go_on() {
    let host = Plane::running().host();
    let (idle, busy) = (begin(&host), begin(&host));
    issue(&host, &busy, Transition::Stop, "b1").await.unwrap();
    advance(Duration::from_secs(30 * 60 + 1)).await;
    assert_eq!(issue(&host, &idle, Transition::Start, "b2").await, Err(TransitionError::Expired));
    assert!(issue(&host, &busy, Transition::Start, "b2").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_conflict_at_the_control_plane_names_the_build_that_is_in_the_way() {
    let (overtaken, posts) = stop(|host, _| host.plane.world().next_post = Post::Overtaken).await;
    assert!(matches!(overtaken, Err(TransitionError::Conflict(Some(build))) if build.id == "f2"));
    assert_eq!(posts, 1);
}

/// A refusal for the sake of another build.
fn active() -> Post {
    Post::Refused(ApiError::Conflict(refusal("active")))
}

#[tokio::test(start_paused = true)]
async fn a_conflict_without_a_build_is_answered_in_the_control_planes_words_after_a_pause() {
    let begun = Instant::now();
    let (issued, posts) = stop(|host, _| host.plane.world().next_post = active()).await;
    assert_eq!(issued, Err(TransitionError::UnseenConflict(refusal("active"))));
    assert_eq!((posts, begun.elapsed()), (1, Duration::from_secs(2)));
}

#[tokio::test(start_paused = true)]
async fn a_build_that_is_seen_only_after_a_conflict_is_named() {
    for (status, is_active) in [(JobStatus::Running, true), (JobStatus::Succeeded, false)] {
        let host = Plane::running().host();
        let call = begin(&host);
        host.plane.world().next_post = active();
        let later = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            host.plane.foreign_build("f2", Transition::Start, status);
        };
        let (issued, ()) = tokio::join!(issue(&host, &call, Transition::Stop, "b1"), later);
        match issued {
            Err(TransitionError::Conflict(Some(build))) if is_active => assert_eq!(build.id, "f2"),
            Err(TransitionError::Superseded(build)) if !is_active => assert_eq!(build.id, "f2"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_ends_the_pause_after_a_conflict() {
    let host = Plane::running().host();
    let call = begin(&host);
    host.plane.world().next_post = active();
    let begun = Instant::now();
    let interrupt = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        call.interrupt().cancel();
    };
    let (issued, ()) = tokio::join!(issue(&host, &call, Transition::Stop, "b1"), interrupt);
    assert_eq!(issued, Err(TransitionError::UnseenConflict(refusal("active"))), "it was sent, and refused");
    assert_eq!(begun.elapsed(), Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn refusals_keep_their_kind_and_a_missing_parameter_names_the_template() {
    let post = |error| stop(|host, _| host.plane.world().next_post = Post::Refused(error));
    let (forbidden, _) = post(ApiError::Forbidden(refusal("no"))).await;
    assert_eq!(forbidden, Err(TransitionError::Forbidden(refusal("no"))));
    let (invalid, _) = post(ApiError::Invalid(refusal("size"))).await;
    assert!(
        matches!(invalid, Err(TransitionError::Invalid(refusal)) if refusal.template.as_deref() == Some("t1"))
    );
    let (limited, _) = post(ApiError::RateLimited { retry_after: Some(Duration::from_secs(60)) }).await;
    assert_eq!(limited, Err(TransitionError::Unavailable(Some(60_000))));
    let (away, posts) = post(unavailable()).await;
    assert_eq!((away, posts), (Err(TransitionError::Unavailable(None)), 1));
}

#[tokio::test(start_paused = true)]
async fn a_build_whose_answer_was_lost_is_found_and_not_sent_twice() {
    let host = Plane::running().host();
    host.plane.world().next_post = Post::MadeUnanswered;
    let found = issue(&host, &begin(&host), Transition::Stop, "b1").await.unwrap();
    assert_eq!((found.id.as_str(), found.ours), ("b2", true));
    assert_eq!(host.plane.world().posts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_build_found_instead_of_a_lost_one_supersedes_the_decision() {
    let foreign: [fn(&mut workspace_recovery::control_plane::BuildRead); 5] = [
        |read| read.build.transition = Transition::Start,
        |read| read.initiator = Some("somebody else".into()),
        |read| read.reason = Some("autostop".into()),
        |read| read.build.template_version = Some("v9".into()),
        // A minute, and the second that the time of a read may be cut by.
        |read| read.created = read.created.map(|at| at + 61_001),
    ];
    for change in foreign {
        let plane = Plane::running();
        let host = plane.host();
        let call = begin(&host);
        plane.world().next_post = Post::Lost;
        let later = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            plane.foreign_build("f2", Transition::Stop, JobStatus::Running);
            let mut world = plane.world();
            world.builds[1].read.initiator = Some(builders::ME.into());
            world.builds[1].read.created = Some(builders::NOW);
            change(&mut world.builds[1].read);
        };
        let (issued, ()) = tokio::join!(issue(&host, &call, Transition::Stop, "b1"), later);
        assert!(matches!(&issued, Err(TransitionError::Superseded(build)) if build.id == "f2"), "{issued:?}");
        assert!(!host.store.is_own_build("f2").unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_build_is_recognised_though_the_control_plane_tells_its_time_in_whole_seconds() {
    let plane = Plane::running();
    let host = plane.host();
    let call = begin(&host);
    plane.world().next_post = Post::Lost;
    let later = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        plane.foreign_build("f2", Transition::Stop, JobStatus::Running);
        let mut world = plane.world();
        world.builds[1].read.initiator = Some(builders::ME.into());
        world.builds[1].read.created = Some(builders::NOW + 60_999);
    };
    let (issued, ()) = tokio::join!(issue(&host, &call, Transition::Stop, "b1"), later);
    assert!(matches!(&issued, Ok(build) if build.id == "f2" && build.ours), "{issued:?}");
}

#[tokio::test(start_paused = true)]
async fn the_lowest_newer_build_decides_whether_a_lost_request_arrived() {
    let host = Plane::running().host();
    let call = begin(&host);
    host.plane.world().next_post = Post::MadeThenOutage;
    // When the control plane can be read again, somebody else's build is newer still.
    let later = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        host.plane.foreign_build("f3", Transition::Start, JobStatus::Running);
        host.plane.world().reads_fail = None;
    };
    let (issued, ()) = tokio::join!(issue(&host, &call, Transition::Stop, "b1"), later);
    assert_eq!(issued.unwrap().id, "b2");
}

#[tokio::test(start_paused = true)]
async fn a_lost_request_never_happened_only_after_a_minute_of_successful_reads_without_it() {
    let host = Plane::running().host();
    let call = begin(&host);
    host.plane.world().next_post = Post::Lost;
    let outage = async {
        tokio::time::sleep(Duration::from_secs(50)).await;
        host.plane.world().reads_fail = Some(unavailable());
        tokio::time::sleep(Duration::from_secs(100)).await;
        host.plane.world().reads_fail = None;
    };
    let begun = Instant::now();
    let (issued, ()) = tokio::join!(issue(&host, &call, Transition::Stop, "b1"), outage);
    assert_eq!(issued, Err(TransitionError::Unavailable(None)));
    assert!(begun.elapsed() >= Duration::from_secs(50 + 100 + 60), "{:?}", begun.elapsed());
    assert_eq!(host.plane.world().posts.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_build_that_a_failing_control_plane_made_all_the_same_is_found() {
    let host = Plane::running().host();
    let call = begin(&host);
    host.plane.world().next_post = Post::Refused(failed("Internal error.", None));
    let later = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        host.plane.foreign_build("f2", Transition::Stop, JobStatus::Running);
        host.plane.world().builds[1].read.initiator = Some(builders::ME.into());
    };
    let (issued, ()) = tokio::join!(issue(&host, &call, Transition::Stop, "b1"), later);
    assert!(matches!(&issued, Ok(build) if build.id == "f2" && build.ours), "{issued:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_found_out_is_not_answered() {
    let host = Plane::running().host();
    let call = begin(&host);
    host.plane.world().next_post = Post::Lost;
    let outage = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        host.plane.world().reads_fail = Some(unavailable());
    };
    let request =
        Request::IssueTransition { to: Transition::Stop, rests_on: "b1".into(), parameters: Vec::new() };
    let (answered, ()) = tokio::join!(host.host_calls().answer(&call, &request, &NoIntentLog), outage);
    let Err(DriveError::Failed(failure @ Failure::Unresolved { .. })) = answered else {
        panic!("{answered:?}")
    };
    assert!(failure.to_string().contains("but no answer came: reset;"), "{failure}");
}
