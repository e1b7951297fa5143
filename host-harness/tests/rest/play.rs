//! Recordings played in their own time: chats run commands while the workspace goes through what was recorded.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{Action, Cause};
use workspace_recovery::chat::{
    Began, ChatHost, Execute, ExecuteError, Executed, MAX_OUTPUT_BYTES, Unreachable,
};
use workspace_recovery::clock::Clock;
use workspace_recovery::driver::Driver;
use workspace_recovery::policy::Timings;
use workspace_recovery::simulate::shell::{Notes, Run, Shell};
use workspace_recovery::store::Store;

use crate::replay::{Reply, Server, Shows};
use crate::stage::Frozen;
use crate::transcript::{Transcript, agents, is_workspace_read, path_of, recorded};
use crate::verdicts::{plugin, tools};

/// More time than any command here takes.
const LONG: Duration = Duration::from_secs(150);
/// The host's clock when a play begins: far from the recordings' time, with which it must never be mixed.
const HOST_TIME: u64 = 1_000_000_000_000;
const TEN_MINUTES: i64 = 600_000;

/// What a living agent does with a command.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Runs,
    /// It begins, and says nothing more.
    BeginsOnly,
    /// The connection breaks off once, in the middle of its output.
    BreaksOff,
    /// The same, and nothing is known of it afterwards.
    IsForgotten,
}

/// One workspace of a recording, from some second on.
struct Play {
    clock: Frozen,
    server: Server,
    chats: ChatHost,
    agent: Workplace,
}

/// What happened: who was there when is not always what the server says.
#[derive(Clone, Copy)]
struct Script {
    file: &'static str,
    workspace: &'static str,
    /// When the agent was able to work, in seconds.
    alive: &'static [(f64, f64)],
    /// A recording of what a terminal is answered with while its agent reads disconnected.
    refused: (&'static str, usize),
}

/// The page of a server of 2025, and that of one of 2026.
const PAGE_2025: (&str, usize) = ("12b-pty-dead-and-hung", 29);
const PAGE_2026: (&str, usize) = ("20-killed-agent-2026", 6);

const KILLED: Script = Script {
    file: "03a-agent-killed",
    workspace: "f9150dd7",
    alive: &[(0.8, 22.31), (172.6, 1000.0)],
    refused: PAGE_2025,
};
const HUNG: Script = Script {
    file: "03b-agent-hung",
    workspace: "04185d7d",
    alive: &[(0.6, 20.68), (172.8, 1000.0)],
    refused: PAGE_2025,
};
const KILLED_SOON: Script = Script {
    file: "03d-agent-killed-soon-after-reconnect",
    workspace: "f9150dd7",
    alive: &[(33.0, 38.04), (84.0, 103.06)],
    refused: PAGE_2025,
};
const DATABASE_AWAY: Script =
    Script { file: "13-database-outage", workspace: "18f41cd6", alive: &[(0.0, 1000.0)], refused: PAGE_2025 };
const SERVER_AWAY: Script = Script {
    file: "13b-control-plane-outage",
    workspace: "18f41cd6",
    alive: &[(0.0, 24.3), (133.0, 1000.0)],
    refused: PAGE_2025,
};
const KILLED_2026: Script = Script {
    file: "20-killed-agent-2026",
    workspace: "38767b8b",
    alive: &[(0.0, 0.172), (125.8, 1000.0)],
    refused: PAGE_2026,
};
const HUNG_2026: Script = Script {
    file: "21-hung-agent-2026",
    workspace: "8ec0cad9",
    alive: &[(0.0, 0.049), (74.2, 1000.0)],
    refused: PAGE_2026,
};
const SERVER_RESTARTED_2026: Script = Script {
    file: "25-server-restart-2026",
    workspace: "38767b8b",
    alive: &[(0.0, 0.146), (51.0, 1000.0)],
    refused: PAGE_2026,
};

impl Play {
    /// Begins at this second of the recording, on a host whose clock goes wrong by so many milliseconds.
    async fn begin(script: Script, from: f64, skew: i64) -> Self {
        let clock = Frozen::new();
        let begun = Instant::now();
        let agent = Workplace::new();
        let transcript = Transcript::load(script.file);
        let polls: Vec<_> = (0..transcript.exchanges.len())
            .filter(|index| {
                let exchange = &transcript.exchanges[*index];
                is_workspace_read(exchange) && path_of(exchange).contains(script.workspace)
            })
            .collect();
        let workspace = path_of(&transcript.exchanges[polls[0]]).rsplit('/').next().unwrap().to_owned();
        let workplace = agent.clone();
        let now = move || {
            let second = from + begun.elapsed().as_secs_f64();
            let last = polls.iter().rev().find(|index| transcript.at(**index) <= second);
            (second, transcript.reply(*last.unwrap_or(&polls[0])))
        };
        let polled = now.clone();
        let server = Server::start(move |asked| {
            let (second, now) = now();
            // The user has this workspace and no other.
            if now.status == 200 && asked.path.contains("/workspaces?q=") {
                let list = json!({ "workspaces": [now.body], "count": 1 });
                return Reply { body: list, ..now };
            }
            if now.status != 200 || !asked.path.contains("/pty") {
                return now;
            }
            let alive = script.alive.iter().find(|(since, until)| (*since..*until).contains(&second));
            let until = alive.map(|(_, until)| begun + Duration::from_secs_f64(until - from));
            terminal(&now, until, script.refused, &workplace)
        })
        .await;
        server.says_of_its_database(move |_| database(polled().1.status == 200));
        let store = Store::in_memory();
        store.update("ana", move |chat| chat.bind(Some(&workspace))).await.unwrap();
        let host_clock = Arc::new(WrongClock { begun, skew });
        let plane = Arc::new(server.client());
        let driver = Driver::with_clock(plugin(), plane, store, Timings::default(), host_clock);
        Self { clock, server, chats: ChatHost::new(driver), agent }
    }

    async fn run(&self, execute: Execute) -> Result<Executed, ExecuteError> {
        let chat = self.chats.chat("ana", tools());
        let interrupt = CancellationToken::new();
        self.clock.within(LONG, chat.execute(&execute, &interrupt)).await
    }

    async fn echo(&self) -> Result<Executed, ExecuteError> {
        self.run(Execute { command: "echo hi".into(), ..Execute::default() }).await
    }

    async fn unreachable(&self) -> Unreachable {
        match self.echo().await {
            Err(ExecuteError::Unreachable(unreachable)) => *unreachable,
            other => panic!("{other:?}"),
        }
    }

    async fn verdict(&self) -> (Action, Cause) {
        let verdict = self.unreachable().await.verdict;
        (verdict.action, verdict.cause)
    }
}

/// What a server says of its database.
fn database(there: bool) -> Reply {
    recorded("26-database-outage-2026", if there { 0 } else { 3 })
}

/// What a terminal that is asked for now becomes.
fn terminal(now: &Reply, alive_until: Option<Instant>, refused: (&str, usize), agent: &Workplace) -> Reply {
    let status = agents(&now.body)[0]["status"].clone();
    match (alive_until, status.as_str()) {
        (Some(until), _) => agent.terminal(until),
        // It opens, is silent, and is closed by the server after half a minute.
        (None, Some("connected")) => recorded("12b-pty-dead-and-hung", 7),
        (None, _) => recorded(refused.0, refused.1),
    }
}

/// Where an agent runs commands.
#[derive(Clone)]
struct Workplace {
    does: Arc<Mutex<Does>>,
    notes: Arc<Mutex<Notes>>,
    /// The commands that have begun.
    begun: Arc<Mutex<Vec<String>>>,
}

impl Workplace {
    fn new() -> Self {
        Self { does: Arc::new(Mutex::new(Does::Runs)), notes: Arc::default(), begun: Arc::default() }
    }

    /// A terminal that is answered until then.
    fn terminal(&self, until: Instant) -> Reply {
        let (workplace, mut shell) = (self.clone(), Shell::default());
        Reply::typed(move |typed| {
            if Instant::now() >= until {
                return Shows::Text(String::new());
            }
            let Some(typed) = typed else { return Shows::Text(Shell::greeting()) };
            let (mut does, mut notes) = (workplace.does.lock().unwrap(), workplace.notes.lock().unwrap());
            let mut shown = shell.typed(typed, &mut notes, &mut |command, _| {
                workplace.begun.lock().unwrap().push(command.to_owned());
                match *does {
                    Does::BeginsOnly => Run { output: String::new(), code: None },
                    _ => run(command),
                }
            });
            let cut = shown.len() / 2;
            match *does {
                Does::Runs | Does::BeginsOnly => return Shows::Text(shown),
                Does::BreaksOff => {}
                Does::IsForgotten => *notes = Notes::default(),
            }
            *does = Does::Runs;
            shown.truncate(cut);
            Shows::Last(shown)
        })
    }
}

/// Runs a command to its end, in no time.
fn run(command: &str) -> Run {
    let ran = Command::new("/bin/sh").arg("-c").arg(format!("exec 2>&1; {command}")).output().unwrap();
    Run { output: String::from_utf8(ran.stdout).unwrap(), code: ran.status.code() }
}

/// A wall clock that is wrong, on the runtime's clock.
struct WrongClock {
    begun: Instant,
    skew: i64,
}

impl Clock for WrongClock {
    fn now_ms(&self) -> u64 {
        HOST_TIME.saturating_add_signed(self.skew) + self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap()
    }
}

// Verdicts.

#[tokio::test]
async fn a_killed_agent_is_brought_back_when_it_has_been_gone_for_long_and_used_when_it_is_back() {
    let play = Play::begin(KILLED, 60.0, 0).await;
    let unreachable = play.unreachable().await;
    assert_eq!(
        (unreachable.verdict.action, unreachable.verdict.cause),
        (Action::Retry, Cause::RecentlyDisconnected)
    );
    assert!((30..32).contains(&unreachable.tried.as_secs()), "{:?}", unreachable.tried);
    let terminals = play.server.requests().iter().filter(|asked| asked.path.contains("/pty")).count();
    assert!(terminals > 10, "a refused terminal is asked for again and again, not only {terminals} times");
    // The second one ends at 120 s, 98 s after the kill.
    let unreachable = play.unreachable().await;
    assert_eq!(
        (unreachable.verdict.action, unreachable.verdict.cause),
        (Action::Restart, Cause::Disconnected)
    );
    play.clock.pass(Duration::from_secs(30)).await;
    // From 150 s on: known to be dead.
    let unreachable = play.unreachable().await;
    assert_eq!(
        (unreachable.verdict.action, unreachable.verdict.cause),
        (Action::Restart, Cause::Disconnected)
    );
    assert!((5..7).contains(&unreachable.tried.as_secs()), "{:?}", unreachable.tried);
    play.clock.pass(Duration::from_secs(15)).await;
    // Begun at 170 s, and the agent comes back at 172.6 s: within the five seconds.
    assert_eq!(play.echo().await.unwrap().exit_code, Some(0));
}

#[tokio::test]
async fn a_hung_agent_that_still_reads_connected_is_found_by_its_silence() {
    let play = Play::begin(HUNG, 21.0, 0).await;
    let unreachable = play.unreachable().await;
    assert_eq!(unreachable.verdict.cause, Cause::RecentlyDisconnected, "noticed meanwhile");
    assert!((30..32).contains(&unreachable.tried.as_secs()), "{:?}", unreachable.tried);
    let play = {
        drop(play);
        Play::begin(KILLED_SOON, 39.0, 0).await
    };
    assert_eq!(play.verdict().await, (Action::Retry, Cause::RecentlyDisconnected));
}

#[tokio::test]
async fn on_a_newer_server_a_dead_agent_whose_terminal_is_not_found_is_told_from_one_that_does_not_exist() {
    let play = Play::begin(KILLED_2026, 5.0, 0).await;
    let unreachable = play.unreachable().await;
    assert_eq!(unreachable.verdict.cause, Cause::RecentlyDisconnected);
    assert!((30..32).contains(&unreachable.tried.as_secs()), "{:?}", unreachable.tried);
    assert!(unreachable.last_error.contains("not connected"), "{}", unreachable.last_error);
    // From 66 s on: the window ends 96 s after the kill.
    play.clock.pass(Duration::from_secs(31)).await;
    let unreachable = play.unreachable().await;
    assert_eq!(
        (unreachable.verdict.action, unreachable.verdict.cause),
        (Action::Restart, Cause::Disconnected)
    );
    // From 105 s on: the agent comes back at 125.8 s.
    play.clock.pass(Duration::from_secs(10)).await;
    assert_eq!(play.echo().await.unwrap().exit_code, Some(0));
}

#[tokio::test]
async fn on_a_newer_server_a_hung_agent_is_found_by_its_silence_and_then_by_its_status() {
    let play = Play::begin(HUNG_2026, 2.0, 0).await;
    assert_eq!(play.verdict().await, (Action::Retry, Cause::RecentlyDisconnected));
    // It goes on at 74.2 s, in the window of the third call.
    assert_eq!(play.verdict().await.1, Cause::RecentlyDisconnected);
    assert_eq!(play.echo().await.unwrap().exit_code, Some(0));
}

#[tokio::test]
async fn on_a_newer_server_a_healthy_agent_is_used_as_soon_as_it_is_back_after_a_restart_of_the_server() {
    // The server is back at 40.5 s; until 51 s it says of each terminal that it is not found.
    let play = Play::begin(SERVER_RESTARTED_2026, 40.6, 0).await;
    assert_eq!(play.echo().await.unwrap().exit_code, Some(0));
}

#[tokio::test]
async fn a_healthy_agent_is_not_restarted_after_an_outage_of_the_control_plane() {
    let play = Play::begin(SERVER_AWAY, 22.0, 0).await;
    assert_eq!(play.echo().await.unwrap().exit_code, Some(0));
    play.clock.pass(Duration::from_secs(5)).await;
    assert_eq!(play.verdict().await, (Action::Retry, Cause::ControlPlaneAway));
    // From 87 s on: the control plane is back at 124.7 s, with an agent that reads gone for 109 s, and is not.
    assert_eq!(play.echo().await.unwrap().exit_code, Some(0));
    // A host that knows nothing of the outage.
    let play = {
        drop(play);
        Play::begin(SERVER_AWAY, 124.8, 0).await
    };
    assert_eq!(play.echo().await.unwrap().exit_code, Some(0));
}

#[tokio::test]
async fn a_database_that_is_away_refuses_good_tokens_and_costs_nothing_but_time() {
    let play = Play::begin(DATABASE_AWAY, 33.0, 0).await;
    play.echo().await.unwrap();
    play.clock.pass(Duration::from_secs(7)).await;
    // From 40 to 44.6 s every answer is a 401.
    assert_eq!(play.echo().await.unwrap().exit_code, Some(0));
}

#[tokio::test]
async fn a_terminal_that_is_not_found_while_the_database_is_away_is_asked_for_again() {
    let play = Play::begin(DATABASE_AWAY, 33.0, 0).await;
    let (body, begun, agent) = (recorded("13-database-outage", 7), Instant::now(), play.agent.clone());
    let mut asked_before = false;
    play.server.says_of_its_database(move |_| database(begun.elapsed() >= Duration::from_secs(5)));
    play.server.answer(move |asked| {
        let away = asked_before && begun.elapsed() < Duration::from_secs(5);
        asked_before = true;
        match (away, asked.path.contains("/pty")) {
            // As it answers who has no valid token.
            (true, true) => recorded("12b-pty-dead-and-hung", 2),
            (true, false) => recorded("13-database-outage", 11),
            (false, true) => agent.terminal(begun + LONG),
            (false, false) => body.clone(),
        }
    });
    assert_eq!(play.echo().await.unwrap().exit_code, Some(0));
}

#[tokio::test]
async fn a_hosts_clock_that_is_wrong_by_minutes_changes_no_verdict() {
    for (script, from, wanted) in [
        (KILLED, 60.0, [Some(Cause::RecentlyDisconnected), Some(Cause::Disconnected)]),
        (HUNG, 100.0, [Some(Cause::RecentlyDisconnected), Some(Cause::Disconnected)]),
        (KILLED_SOON, 39.0, [Some(Cause::RecentlyDisconnected), None]),
        (SERVER_AWAY, 27.0, [Some(Cause::ControlPlaneAway), None]),
    ] {
        for skew in [-TEN_MINUTES, TEN_MINUTES] {
            let play = Play::begin(script, from, skew).await;
            for wanted in &wanted {
                let cause = match play.echo().await {
                    Ok(_) => None,
                    Err(ExecuteError::Unreachable(unreachable)) => Some(unreachable.verdict.cause),
                    Err(error) => panic!("{error}"),
                };
                assert_eq!(cause, *wanted, "{} from {from} with {skew}", script.file);
            }
        }
    }
}

// Commands.

#[tokio::test]
async fn a_command_has_its_output_of_both_streams_and_its_exit_code() {
    let play = Play::begin(KILLED, 2.0, 0).await;
    let run = async |command: &str| {
        play.run(Execute { command: command.into(), ..Execute::default() }).await.unwrap()
    };
    let executed = run("printf 'one\\n\\033[31mtwo\\033[0m\\n'; echo three >&2; exit 7").await;
    assert_eq!(
        executed,
        Executed { output: "one\ntwo\nthree\n".into(), exit_code: Some(7), ..Executed::default() }
    );
    assert_eq!(run("nosuchcommand").await.exit_code, Some(127));
    let long = run("seq 1 100000").await;
    assert!(
        long.truncated && long.output.len() < MAX_OUTPUT_BYTES + 100 && long.output.ends_with("\n100000\n")
    );
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_interrupted() {
    let play = Play::begin(KILLED, 2.0, 0).await;
    *play.agent.does.lock().unwrap() = Does::BeginsOnly;
    let timeout = Some(Duration::from_secs(4));
    let executed = play.run(Execute { command: "true".into(), timeout, ..Execute::default() }).await.unwrap();
    assert_eq!(executed.exit_code, None);
    play.clock.pass(Duration::from_secs(1)).await;
    let typed = play.server.typed();
    let typed: Vec<_> = typed.iter().skip(1).map(|frame| frame["data"].as_str().unwrap()).collect();
    assert_eq!(typed, ["e\n", "d\n"], "it is ended, and what is noted of it is not needed any more");
}

#[tokio::test]
async fn a_session_that_breaks_off_half_way_is_followed_from_there_and_runs_once() {
    let play = Play::begin(KILLED, 2.0, 0).await;
    *play.agent.does.lock().unwrap() = Does::BreaksOff;
    let executed = play.run(Execute { command: "seq 1 2000".into(), ..Execute::default() }).await.unwrap();
    let whole: String = (1..=2000).map(|number| format!("{number}\n")).collect();
    assert_eq!((executed.output, executed.exit_code), (whole, Some(0)));
    assert_eq!(*play.agent.begun.lock().unwrap(), ["seq 1 2000"]);
}

#[tokio::test]
async fn a_command_of_which_the_workspace_knows_nothing_any_more_is_told_as_that_and_not_run_again() {
    let play = Play::begin(KILLED, 2.0, 0).await;
    *play.agent.does.lock().unwrap() = Does::IsForgotten;
    let error = play.run(Execute { command: "seq 1 2000".into(), ..Execute::default() }).await.unwrap_err();
    let ExecuteError::Lost { began: Began::Yes, output } = &error else { panic!("{error:?}") };
    assert!(output.starts_with("1\n2\n"), "what it had put out: {output}");
    assert!(error.to_string().contains("may still be running"), "{error}");
    assert_eq!(play.agent.begun.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_agent_that_is_killed_under_a_silent_command_is_noticed_though_its_terminal_stays_open() {
    let play = Play::begin(KILLED, 2.0, 0).await;
    *play.agent.does.lock().unwrap() = Does::BeginsOnly;
    let begun = Instant::now();
    let unreachable = play.unreachable().await;
    assert_eq!((unreachable.began, unreachable.output.as_str()), (Began::Yes, ""));
    assert_eq!(unreachable.verdict.cause, Cause::RecentlyDisconnected);
    // Killed 20.3 s after the beginning; then a sign of life is missed for 15 s at most, and the window is 30 s.
    assert!(begun.elapsed() < Duration::from_secs(67), "{:?}", begun.elapsed());
}
