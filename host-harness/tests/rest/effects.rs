//! Builds that are asked for once, whatever becomes of the answer; and reads that are repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{Build, ReadError, Transition, TransitionError};
use workspace_recovery::clock::SystemClock;
use workspace_recovery::driver::{HostCalls, NoIntentLog};
use workspace_recovery::journal::{Answer, Request};
use workspace_recovery::policy::Timings;
use workspace_recovery::store::Store;

use crate::replay::{Asked, Kind, Reply, Server};
use crate::stage::Frozen;
use crate::transcript::recorded;

/// The recording that everything here is from, and its workspace.
const FILE: &str = "05-stop-start-conflicts";
const WORKSPACE: &str = "37bb662f-f699-4f23-a50b-5033c5ee39e6";

/// A recorded workspace of which a stop is asked for.
struct Stage {
    clock: Frozen,
    server: Server,
    host_calls: HostCalls,
}

impl Stage {
    /// A server that makes the recorded stop build when it is asked to, if it does at all, and answers so.
    async fn new(acts: bool, answer: Reply) -> Self {
        let clock = Frozen::new();
        let made = Arc::new(AtomicBool::new(false));
        let (before, stop) = (recorded(FILE, 6), recorded(FILE, 7).body);
        let server = Server::start(move |asked| match asked {
            asked if asked.method == "POST" => {
                made.store(acts, Ordering::Relaxed);
                answer.clone()
            }
            asked if asked.path.ends_with("/users/me") => recorded("01-setup-create-workspace", 7),
            asked if asked.path.contains("/builds") => {
                let first = before.body["latest_build"].clone();
                let builds =
                    if made.load(Ordering::Relaxed) { vec![stop.clone(), first] } else { vec![first] };
                Reply::json(200, Value::Array(builds))
            }
            _ => before.clone(),
        })
        .await;
        let store = Store::in_memory();
        store.update("ana", |chat| chat.bind(Some(WORKSPACE))).await.unwrap();
        let plane = Arc::new(server.client());
        let host_calls = HostCalls::new(plane, store, Timings::default(), Arc::new(SystemClock));
        Self { clock, server, host_calls }
    }

    /// Asks for a stop, which takes so much time at most.
    async fn stop(&self, time: Duration) -> Result<Build, TransitionError> {
        let rests_on = recorded(FILE, 6).body["latest_build"]["id"].as_str().unwrap().to_owned();
        let call = self.host_calls.begin("ana", CancellationToken::new()).unwrap();
        let request = Request::IssueTransition { to: Transition::Stop, rests_on, parameters: Vec::new() };
        let answered = self.clock.within(time, self.host_calls.answer(&call, &request, &NoIntentLog)).await;
        match answered.unwrap().answer {
            Answer::IssueTransition(issued) => issued,
            other => panic!("{other:?}"),
        }
    }

    fn posts(&self) -> usize {
        self.server.requests().iter().filter(|asked| asked.method == "POST").count()
    }
}

/// The ways in which an answer is lost.
fn lost() -> [Reply; 5] {
    let silence = Reply { kind: Kind::Silence, ..Reply::text(0, "") };
    [
        Reply::hang_up(),
        Reply::text(500, "oops"),
        Reply::text(502, "<html>"),
        Reply::text(201, "{\"id\": \"7"),
        silence,
    ]
}

#[tokio::test]
async fn a_build_whose_answer_was_lost_is_found_by_its_number_and_not_asked_for_again() {
    for reply in lost() {
        let stage = Stage::new(true, reply).await;
        let made = stage.stop(Duration::from_secs(30)).await.unwrap();
        assert_eq!((made.number, made.ours, &made.transition), (2, true, &Transition::Stop));
        assert_eq!(stage.posts(), 1);
    }
}

#[tokio::test]
async fn a_build_that_never_came_about_is_given_up_after_a_minute_of_reads_and_not_asked_for_again() {
    for reply in lost() {
        let failed = (reply.status >= 500).then(|| format!("status {}", reply.status));
        let stage = Stage::new(false, reply).await;
        match (stage.stop(Duration::from_secs(90)).await, failed) {
            (Err(TransitionError::Unavailable(None)), None) => {}
            (Err(TransitionError::Other(said)), Some(status)) => {
                assert!(said.message.contains(&status), "{said:?}");
            }
            (other, _) => panic!("{other:?}"),
        }
        assert_eq!(stage.posts(), 1);
        let asked = stage.server.requests();
        let posted = asked.iter().position(|asked| asked.method == "POST").unwrap();
        let looked = asked[asked.len() - 1].at - asked[posted + 1].at;
        assert!(looked >= Duration::from_secs(60), "{looked:?}");
    }
}

#[tokio::test]
async fn somebody_elses_build_is_not_taken_for_the_lost_one() {
    let stage = Stage::new(false, Reply::hang_up()).await;
    let (before, mut foreign) = (recorded(FILE, 6), recorded(FILE, 7).body);
    foreign["initiator_id"] = json!("somebody else");
    let mut posted = false;
    stage.server.answer(move |asked| match asked {
        asked if asked.method == "POST" => {
            posted = true;
            Reply::hang_up()
        }
        asked if asked.path.ends_with("/users/me") => recorded("01-setup-create-workspace", 7),
        asked if asked.path.contains("/builds") && posted => Reply::json(200, json!([foreign])),
        _ => before.clone(),
    });
    let issued = stage.stop(Duration::from_secs(30)).await;
    assert!(matches!(&issued, Err(TransitionError::Superseded(build)) if build.number == 2), "{issued:?}");
    assert_eq!(stage.posts(), 1);
}

#[tokio::test]
async fn a_refused_build_is_not_asked_for_again_and_keeps_what_was_said() {
    let stage = Stage::new(false, recorded("13a-rate-limit", 1)).await;
    assert_eq!(stage.stop(Duration::from_secs(1)).await, Err(TransitionError::Unavailable(Some(60_000))));
    assert_eq!(stage.posts(), 1);
    drop(stage);
    let stage = Stage::new(false, recorded("09-parameters", 49)).await;
    let Err(TransitionError::Invalid(refusal)) = stage.stop(Duration::from_secs(1)).await else { panic!() };
    assert!(refusal.template.is_some() && !refusal.validations.is_empty(), "{refusal:?}");
    drop(stage);
    let stage = Stage::new(false, recorded("08-deleted-missing-forbidden", 58)).await;
    let forbidden = stage.stop(Duration::from_secs(1)).await;
    assert!(matches!(forbidden, Err(TransitionError::Forbidden(_))), "{forbidden:?}");
    assert_eq!(stage.posts(), 1);
}

/// Reads the workspace for the plugin; answers when each request came, too.
async fn read(
    answers: impl FnMut(&Asked) -> Reply + Send + 'static,
    time: Duration,
) -> (Option<ReadError>, Vec<Duration>) {
    let stage = Stage::new(false, Reply::hang_up()).await;
    stage.server.answer(answers);
    let call = stage.host_calls.begin("ana", CancellationToken::new()).unwrap();
    let begun = tokio::time::Instant::now();
    let answered =
        stage.clock.within(time, stage.host_calls.answer(&call, &Request::AgentStatus, &NoIntentLog)).await;
    let Answer::AgentStatus(read) = answered.unwrap().answer else { panic!() };
    (read.err(), stage.server.requests().iter().map(|asked| asked.at - begun).collect())
}

#[tokio::test]
async fn a_read_that_fails_is_repeated_after_pauses_that_grow_and_differ() {
    let mut pauses = Vec::new();
    for status in [500, 502, 503] {
        let (error, at) = read(move |_| Reply::text(status, ""), Duration::from_secs(5)).await;
        assert_eq!((error, at.len()), (Some(ReadError::Unavailable(None)), 3));
        pauses.push((at[1], at[2] - at[1]));
    }
    for (first, second) in &pauses {
        assert!((Duration::from_millis(200)..Duration::from_millis(400)).contains(first), "{pauses:?}");
        assert!((Duration::from_millis(400)..Duration::from_millis(700)).contains(second), "{pauses:?}");
    }
}

#[tokio::test]
async fn a_read_that_is_refused_for_good_or_for_too_long_is_not_repeated() {
    for (reply, error, times) in [
        (recorded("08-deleted-missing-forbidden", 17), ReadError::NotFound, 1),
        // Once more when it is known that the database is there, without which no token is accepted.
        (recorded("08-deleted-missing-forbidden", 31), ReadError::Unauthorized, 2),
        (recorded("13a-rate-limit", 1).header("Retry-After", "61"), ReadError::Unavailable(Some(61_000)), 1),
    ] {
        let (got, at) = read(move |_| reply.clone(), Duration::from_secs(1)).await;
        assert_eq!((got, at.len()), (Some(error), times));
    }
}

#[tokio::test]
async fn a_read_that_is_refused_for_a_while_is_repeated_after_it() {
    let mut asked = 0;
    let answers = move |_: &Asked| {
        asked += 1;
        if asked == 1 { recorded("13a-rate-limit", 1) } else { recorded(FILE, 6) }
    };
    let (error, at) = read(answers, Duration::from_secs(70)).await;
    assert_eq!((error, at.len()), (None, 2));
    assert!((60..62).contains(&(at[1] - at[0]).as_secs()), "{at:?}");
}

#[tokio::test]
async fn an_interrupt_ends_the_wait_for_a_control_plane_that_limits_requests() {
    let stage = Stage::new(false, Reply::hang_up()).await;
    stage.server.answer(|_| recorded("13a-rate-limit", 1));
    let interrupt = CancellationToken::new();
    let call = stage.host_calls.begin("ana", interrupt.clone()).unwrap();
    let read = stage.host_calls.answer(&call, &Request::AgentStatus, &NoIntentLog);
    let interrupted = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        interrupt.cancel();
    };
    let both = async { tokio::join!(read, interrupted).0 };
    let answered = stage.clock.within(Duration::from_secs(6), both).await.unwrap();
    assert!(matches!(answered.answer, Answer::AgentStatus(Err(ReadError::Unavailable(_)))), "{answered:?}");
    assert_eq!(stage.server.requests().len(), 1);
}

#[tokio::test]
async fn a_read_that_succeeds_when_repeated_is_an_answer() {
    let mut asked = 0;
    let answers = move |_: &Asked| {
        asked += 1;
        if asked < 3 { Reply::hang_up() } else { recorded(FILE, 6) }
    };
    let (error, at) = read(answers, Duration::from_secs(2)).await;
    assert_eq!((error, at.len()), (None, 3));
}
