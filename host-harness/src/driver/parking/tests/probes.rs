//! Waits for agents: whether a command can run there.

use super::*;
use crate::bindings::{AgentWait, Lifecycle, Probe};
use crate::builders::refusal;
use crate::driver::parking::probes::MAX_PROBES;
use crate::driver::plane::Answers;

/// What a probe of a silent agent says.
const SILENT: &str = "its terminal stays silent";

impl ParkingTest {
    /// Parks a wait for the agent of a workspace, with so many minutes for its connection and for its scripts.
    fn park_for_agent(&self, call: u64, workspace: &str, connect: u32, scripts: u32) {
        let (build, agent) = (format!("build of {workspace}"), format!("agent of {workspace}"));
        let now = Instant::now();
        let what = WaitFor::Agent {
            build: build.into(),
            agent: agent.into(),
            connect_deadline: now + connect * MINUTE,
            probe_limit: connect * MINUTE,
            scripts_limit: scripts * MINUTE,
            last_deadline: now + (connect + scripts) * MINUTE,
        };
        self.park_what(call, workspace, what, now);
    }

    async fn agent_wait(&mut self) -> AgentWait {
        match self.woken().await.answer {
            Answer::WaitForAgent(Ok(wait)) => wait,
            other => panic!("{other:?}"),
        }
    }

    fn answers(&self, answers: Answers) {
        self.plane.world().answers = answers;
    }

    /// How many terminals were asked for.
    fn asked(&self) -> usize {
        self.plane.world().terminals.len()
    }

    fn open_terminals(&self) -> usize {
        self.plane.world().open_terminals
    }
}

fn unanswered(why: &str) -> Option<Probe> {
    Some(Probe::Unanswered(why.to_owned()))
}

/// A test with a workspace `w` whose agent is ready, and answers so.
fn ready(answers: Answers) -> ParkingTest {
    let test = parking_test();
    test.plane.end("w");
    test.answers(answers);
    test
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_answers_is_reached_at_once_and_the_read_that_it_rests_on_is_told() {
    let mut test = ready(Answers::Greeting);
    test.park_for_agent(1, "w", 2, 10);
    let woken = test.woken().await;
    let Answer::WaitForAgent(Ok(wait)) = woken.answer else { panic!("no end of a wait") };
    assert_eq!((wait.end, wait.waited_ms, wait.probe), (WaitEnd::Reached, 0, Some(Probe::Answered)));
    assert_eq!((woken.observed, test.asked(), test.open_terminals()), (Some(NOW), 1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_is_not_reached_and_the_wait_goes_on_to_its_limit() {
    let mut test = ready(Answers::Silence);
    test.park_for_agent(1, "w", 2, 10);
    let wait = test.agent_wait().await;
    assert_eq!((wait.end, wait.waited_ms, wait.probe), (WaitEnd::Limit, 120_000, unanswered(SILENT)));
    // Each takes as long as a dial, with a second terminal beside the first one.
    assert!((6..=10).contains(&test.asked()), "{}", test.asked());
    settle().await;
    assert_eq!(test.open_terminals(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_recovers_within_the_limit_is_reached() {
    let mut test = ready(Answers::Silence);
    test.park_for_agent(1, "w", 2, 10);
    sleep(MINUTE).await;
    test.answers(Answers::Greeting);
    let wait = test.agent_wait().await;
    assert_eq!((wait.end, wait.probe), (WaitEnd::Reached, Some(Probe::Answered)));
    assert!(wait.waited_ms < 95_000, "{}", wait.waited_ms);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_while_it_is_probed_is_given_up_and_probed_anew_when_it_is_back() {
    let mut test = ready(Answers::Silence);
    test.park_for_agent(1, "w", 2, 10);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(test.open_terminals(), 2);
    test.plane.world().disconnected = true;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(test.open_terminals(), 0, "an agent that is not connected is not probed");
    let asked = test.asked();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(test.asked(), asked);
    test.plane.world().disconnected = false;
    test.answers(Answers::Greeting);
    let wait = test.agent_wait().await;
    assert_eq!(wait.end, WaitEnd::Reached);
    assert!(wait.waited_ms < 53_000, "{}", wait.waited_ms);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_not_ready_is_not_probed() {
    let mut test = parking_test();
    test.park_for_agent(1, "w", 2, 10);
    let wait = test.agent_wait().await;
    assert_eq!((wait.end, wait.agent.unwrap().lifecycle), (WaitEnd::Limit, Lifecycle::Starting));
    assert_eq!((wait.probe, test.asked()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_terminal_that_may_not_be_opened_leaves_the_wait_without_a_probe_and_says_why() {
    let refusal = refusal("No.");
    for (error, part) in [
        (ApiError::Forbidden(refusal.clone()), "forbids it: No"),
        (ApiError::NotFound, "this token may not open a terminal"),
        (ApiError::NotCoder("a page".into()), "a page"),
        (ApiError::Other { status: 426, refusal }, "426"),
    ] {
        let mut test = ready(Answers::Refusal(error));
        test.park_for_agent(1, "w", 2, 10);
        let wait = test.agent_wait().await;
        let Some(Probe::Untried(why)) = wait.probe else { panic!("{:?}", wait.probe) };
        assert!(why.contains(part), "{why}");
        assert_eq!(
            (wait.end, test.asked()),
            (WaitEnd::Reached, 2),
            "a control plane in trouble is asked again"
        );
        assert!(wait.waited_ms < 1_000, "{}", wait.waited_ms);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_control_plane_in_trouble_is_not_the_last_word() {
    let mut test = ready(Answers::Refusal(ApiError::NotFound));
    test.park_for_agent(1, "w", 2, 10);
    sleep(Duration::from_millis(100)).await;
    test.answers(Answers::Greeting);
    let wait = test.agent_wait().await;
    assert_eq!((wait.end, wait.probe), (WaitEnd::Reached, Some(Probe::Answered)));
}

#[tokio::test(start_paused = true)]
async fn a_terminal_in_which_no_shell_runs_ends_the_wait_with_what_it_says() {
    let mut test = ready(Answers::Text("PS C:\\> exec : The term 'exec' is not recognized"));
    test.park_for_agent(1, "w", 2, 10);
    let wait = test.agent_wait().await;
    let Some(Probe::Unanswered(why)) = wait.probe else { panic!("{:?}", wait.probe) };
    assert!(why.contains("The term 'exec' is not recognized"), "{why}");
    assert_eq!((wait.end, wait.waited_ms), (WaitEnd::Limit, 10_000));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_not_there_is_tried_again_with_pauses() {
    let away = ApiError::Unavailable("status 502".into());
    let mut test = ready(Answers::Refusal(away));
    test.park_for_agent(1, "w", 2, 10);
    let wait = test.agent_wait().await;
    let why = "the agent's terminal cannot be used: status 502";
    assert_eq!((wait.end, wait.waited_ms, wait.probe), (WaitEnd::Limit, 120_000, unanswered(why)));
    assert!((55..=75).contains(&test.asked()), "{}", test.asked());
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_one_agent_share_its_probe() {
    let mut test = ready(Answers::Silence);
    for call in 0..1000 {
        test.park_for_agent(call, "w", 2, 10);
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!(test.asked(), 2);
    test.answers(Answers::Greeting);
    for _ in 0..1000 {
        assert_eq!(test.agent_wait().await.end, WaitEnd::Reached);
    }
    assert!(test.asked() <= 4, "{}", test.asked());
}

#[tokio::test(start_paused = true)]
async fn a_probe_ends_with_the_last_call_that_waits_for_it() {
    let mut test = ready(Answers::Silence);
    test.park_for_agent(1, "w", 2, 10);
    test.park_for_agent(2, "w", 2, 10);
    sleep(Duration::from_secs(10)).await;
    test.parking.interrupt(1);
    let wait = test.agent_wait().await;
    assert!(wait.end == WaitEnd::Interrupted && matches!(wait.probe, Some(Probe::Unanswered(_))), "{wait:?}");
    settle().await;
    assert_eq!(test.open_terminals(), 2);
    test.parking.forget(2);
    settle().await;
    assert_eq!((test.open_terminals(), Handle::current().metrics().num_alive_tasks()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn probes_are_bounded_take_nothing_from_reads_and_each_gets_its_turn() {
    let mut test = parking_test();
    test.answers(Answers::Silence);
    let many = MAX_PROBES * 2;
    for call in 0..many {
        let name = format!("w{call}");
        test.plane.end(&name);
        test.park_for_agent(call as u64, &name, 2, 10);
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!(test.open_terminals(), 2 * MAX_PROBES);
    // Others are read as ever meanwhile.
    test.park(9_999, "other", HOUR);
    settle().await;
    test.plane.end("other");
    let ended = test.woken().await;
    assert_eq!(ended.call, 9_999);
    test.answers(Answers::Greeting);
    for _ in 0..many {
        let wait = test.agent_wait().await;
        assert!(wait.end == WaitEnd::Reached && wait.waited_ms < 100_000, "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_no_time_for_scripts_the_agent_is_probed_all_the_same() {
    let mut test = parking_test();
    test.answers(Answers::Silence);
    test.park_for_agent(1, "w", 1, 0);
    let wait = test.agent_wait().await;
    assert_eq!((wait.end, wait.waited_ms, wait.probe), (WaitEnd::Limit, 60_000, unanswered(SILENT)));
}
