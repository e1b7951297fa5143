//! What the plugin makes of the recorded polls: at each of them, the verdict on a dial that has just timed out.
//!
//! Each list has an entry for each poll at which the verdict changes. What *happened* is in the comments, and is what
//! the verdicts are judged by. Three recordings have no polls of a workspace: `12-pty` and `14-two-simultaneous-stops`,
//! which are played elsewhere, and `16-search`, which this client does not ask for.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::{Action, Cause, Evidence, Policy, Verdict};
use workspace_recovery::control_plane::ControlPlane;
use workspace_recovery::driver::{Driver, NoIntentLog};
use workspace_recovery::engine::{Engine, EngineOptions, Plugin};
use workspace_recovery::journal::{Answer, Export, Output, Request};
use workspace_recovery::policy::{ChatTools, Timings};
use workspace_recovery::store::Store;

use crate::builders::evidence;
use crate::every::word;
use crate::replay::{Reply, Server};
use crate::transcript::{Transcript, agents, is_workspace_read, path_of};

/// The dial window, in seconds.
const WINDOW: f64 = 30.0;
/// The user whose host it is, as the recordings name him.
const OWNER: &str = "site owner token";
/// An outage of the control plane counts for this long, in seconds.
const LOOKBACK: f64 = 90.0;

/// Why, and what to do after the first and after a repeated timeout.
type Row = (Cause, Action, Action);
/// A row that came up, and when: in seconds of the recording.
type Entry = (f64, Row);

const AWAY: Row = (Cause::ControlPlaneAway, Action::Retry, Action::AskUser);
const UNREADABLE: Row = (Cause::StatusUnreadable, Action::Retry, Action::AskUser);
const DELETED: Row = (Cause::WorkspaceDeleted, Action::Propagate, Action::Propagate);
const STARTING: Row = (Cause::StartInProgress, Action::Start, Action::Start);
const STOPPING: Row = (Cause::ForeignStopInProgress, Action::AskUser, Action::AskUser);
const STOPPED: Row = (Cause::Stopped, Action::Start, Action::Start);
const STOP_UNFINISHED: Row = (Cause::StopUnfinished, Action::Retry, Action::AskUser);
const START_CANCELED: Row = (Cause::StartCanceled, Action::Retry, Action::AskUser);
const START_FAILED: Row = (Cause::StartFailed, Action::Start, Action::Start);
const OFFLINE: Row = (Cause::ExternalAgentOffline, Action::ReconnectAgent, Action::ReconnectAgent);
const ONLINE: Row = (Cause::ExternalAgentOnline, Action::Retry, Action::AskUser);
const ALIVE: Row = (Cause::AgentAlive, Action::Retry, Action::AskUser);
const NEVER: Row = (Cause::AgentNeverConnected, Action::Retry, Action::AskUser);
const RECENT: Row = (Cause::RecentlyDisconnected, Action::Retry, Action::Retry);
/// Where the disconnect was not recorded, or its age is not known: dates are cut to whole seconds, so that in its first
/// second it lies behind them.
const UNSURE: Row = (Cause::RecentlyDisconnected, Action::Retry, Action::AskUser);
const CHANGED: Row = (Cause::ChangedDuringDial, Action::Retry, Action::AskUser);
const GONE: Row = (Cause::Disconnected, Action::Restart, Action::Restart);

/// Whether the host saw what happened before, or is a new process that knows nothing of outages.
#[derive(Clone, Copy, PartialEq)]
enum Host {
    Watching,
    New,
}

/// The plugin behind the client, for one workspace of a recording.
struct Judge {
    server: Server,
    driver: Driver,
    policy: Policy,
}

pub fn plugin() -> Plugin {
    static PLUGIN: std::sync::LazyLock<Plugin> = std::sync::LazyLock::new(|| {
        Engine::new(EngineOptions::default()).unwrap().load(workspace_recovery::PLUGIN).unwrap()
    });
    PLUGIN.clone()
}

pub fn tools() -> ChatTools {
    let names =
        ["execute", "start_workspace", "stop_workspace", "restart_workspace", "ask_user"].map(str::to_owned);
    ChatTools { names: names.into(), ask_user: Some("ask_user".into()), create: None }
}

impl Judge {
    async fn new(workspace: &str) -> Self {
        let server = Server::start(|_| Reply::hang_up()).await;
        let store = Store::in_memory();
        let workspace = workspace.to_owned();
        store.update("ana", move |chat| chat.bind(Some(&workspace))).await.unwrap();
        // Reads that fail are repeated at once, or not at all.
        let (first_retry, rate_patience) = (Duration::from_millis(1), Duration::ZERO);
        let timings = Timings { first_retry, rate_patience, ..Timings::default() };
        let policy = timings.policy(&tools());
        let plane: Arc<dyn ControlPlane> = Arc::new(server.client());
        Self { server, driver: Driver::new(plugin(), plane, store, timings), policy }
    }

    /// The verdict while the server answers so.
    async fn verdict(&self, reply: &Reply, evidence: Evidence) -> Verdict {
        let reply = reply.clone();
        self.server.answer(move |_| reply.clone());
        let export = Export::ClassifyFailure { evidence, policy: self.policy.clone() };
        match self.driver.run("ana", &export, &CancellationToken::new()).await.unwrap() {
            Output::ClassifyFailure(verdict) => verdict,
            other => panic!("{other:?}"),
        }
    }
}

/// The verdicts at the polls of one workspace of a recording, one for each change.
async fn verdicts(file: &str, workspace: &str, host: Host) -> Vec<Entry> {
    let transcript = Transcript::load(file);
    let polls: Vec<_> = (0..transcript.exchanges.len())
        .filter(|index| {
            let exchange = &transcript.exchanges[*index];
            is_workspace_read(exchange) && path_of(exchange).contains(workspace)
        })
        .collect();
    assert!(!polls.is_empty(), "{file} has no polls of {workspace}");
    let judge = Judge::new(path_of(&transcript.exchanges[polls[0]]).rsplit('/').next().unwrap()).await;
    let mut entries: Vec<Entry> = Vec::new();
    // Known from an earlier call, as a chat knows the agent that it reached last.
    let mut dialed = None;
    for index in &polls {
        let reply = transcript.reply(*index);
        let agent = dialled(&reply.body);
        dialed = agent.as_ref().map(|agent| text(agent, "id")).or(dialed);
        let begun =
            polls.iter().rev().find(|earlier| transcript.at(**earlier) <= transcript.at(*index) - WINDOW);
        let at_start = begun.and_then(|begun| {
            let agents = agents(&transcript.reply(*begun).body);
            let same = agents.into_iter().find(|agent| Some(text(agent, "id")) == dialed)?;
            millis(&same["disconnected_at"]).filter(|_| text(&same, "status") == "disconnected")
        });
        let evidence = Evidence {
            dialed: dialed.clone(),
            disconnected_at_start: at_start,
            control_plane_away: host == Host::Watching && was_away(&transcript, *index),
            ..evidence()
        };
        let first = judge.verdict(&reply, evidence.clone()).await;
        let repeated =
            judge.verdict(&reply, Evidence { earlier_timeouts: 1, earlier_away: 2, ..evidence }).await;
        assert_eq!(first.cause, repeated.cause, "{file} {index}");
        let row = (first.cause, first.action, repeated.action);
        if entries.last().is_none_or(|(_, last)| *last != row) {
            entries.push((transcript.at(*index), row));
        }
    }
    entries
}

/// Whether a request failed in the window before this poll, or shortly before it.
fn was_away(transcript: &Transcript, index: usize) -> bool {
    let since = transcript.at(index) - WINDOW - LOOKBACK;
    (0..=index).filter(|earlier| transcript.at(*earlier) >= since).any(|earlier| {
        let exchange = &transcript.exchanges[earlier];
        let response = &exchange["response"];
        let ours =
            is_workspace_read(exchange) && matches!(exchange["request"]["auth"].as_str(), None | Some(OWNER));
        let failed = response["status"].as_u64().is_some_and(|status| status == 401 || status >= 500);
        ours && (response.get("transport_error").is_some() || failed)
    })
}

/// The agent that a chat dials.
fn dialled(body: &Value) -> Option<Value> {
    let mut agents = agents(body);
    let suffix = agents.iter().position(|agent| text(agent, "name").ends_with("-coderd-chat"));
    (!agents.is_empty()).then(|| agents.swap_remove(suffix.unwrap_or(0)))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn millis(value: &Value) -> Option<u64> {
    let time: jiff::Timestamp = value.as_str()?.parse().unwrap();
    u64::try_from(time.as_millisecond()).ok()
}

/// Compares the verdicts at the polls of a workspace, which is named by the beginning of its id.
async fn check(file: &str, workspace: &str, host: Host, wanted: &[Entry]) {
    assert_eq!(verdicts(file, workspace, host).await, wanted, "{file} {workspace}");
}

#[tokio::test]
async fn in_01_a_workspace_comes_up() {
    // Its agent is never started here.
    check("01-setup-create-workspace", "2d890d15", Host::Watching, &[(0.47, STARTING), (4.659, ALIVE)]).await;
}

#[tokio::test]
async fn in_02_agents_come_up_and_their_scripts_fail_or_take_long() {
    // A fresh workspace, past its time to connect; the agent comes at 0.28.
    check("02-agent-lifecycle", "2d890d15", Host::Watching, &[(0.0, NEVER), (0.787, ALIVE)]).await;
    for (workspace, at) in
        [("ab817bfc", 4.242), ("ace0eb9a", 10.282), ("3317a2a7", 24.345), ("5714659d", 56.404)]
    {
        check("02-agent-lifecycle", workspace, Host::Watching, &[(at, ALIVE)]).await;
    }
}

#[tokio::test]
async fn in_03a_an_agent_is_killed_and_comes_back() {
    // Killed at 22.31, so gone for 90 s from 112.32 on; back at 172.54.
    let wanted = [(0.0, ALIVE), (22.31, UNSURE), (25.812, RECENT), (116.334, GONE), (172.788, ALIVE)];
    check("03a-agent-killed", "f9150dd7", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_03b_an_agent_hangs_and_wakes() {
    // Stopped at 20.69; the server notices some 20 s later, and counts from there. Woken at 172.72.
    let wanted = [(0.673, ALIVE), (40.687, UNSURE), (42.687, RECENT), (132.695, GONE), (173.22, ALIVE)];
    check("03b-agent-hung", "04185d7d", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_03c_agents_end_in_an_orderly_way_hang_briefly_and_are_replaced_at_once() {
    // SIGTERM at 4.79, watched for less than 90 s.
    check(
        "03c-agent-terminated",
        "2aa1c488",
        Host::Watching,
        &[(0.792, ALIVE), (6.803, UNSURE), (10.417, RECENT)],
    )
    .await;
    // A hang of 20 s is not noticed; at 121.09 the process is replaced.
    let wanted = [(53.082, ALIVE), (121.097, UNSURE), (121.297, ALIVE)];
    check("03c-agent-terminated", "842cad82", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_03d_an_agent_that_is_killed_soon_after_it_came_back_reads_connected_for_a_while() {
    // Killed at 38.04, reads connected until 63; back at 83.06; killed at 103.06; from 111 to 156 it crashes again and
    // again, and is dead from then on. It never is gone for 90 s.
    let wanted = [
        (32.001, RECENT),
        (33.039, ALIVE),
        (63.045, UNSURE),
        (84.058, ALIVE),
        (103.061, UNSURE),
        (112.07, ALIVE),
        (182.146, UNSURE),
    ];
    check("03d-agent-killed-soon-after-reconnect", "f9150dd7", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_04_agents_never_connect_or_late() {
    // One second short of its 10 s at first; the agent comes after all at 31.23.
    let wanted = [(1.158, ALIVE), (10.163, NEVER), (31.49, ALIVE)];
    check("04-agent-never-connected", "65ea6704", Host::Watching, &wanted).await;
    // Without a time to connect it is connecting for ever.
    check("04-agent-never-connected", "448ea395", Host::Watching, &[(21.166, ALIVE)]).await;
}

#[tokio::test]
async fn in_05_somebody_stops_and_starts_the_workspace() {
    let wanted = [(6.522, ALIVE), (6.596, STOPPING), (12.986, STOPPED), (19.326, STARTING), (25.527, ALIVE)];
    check("05-stop-start-conflicts", "37bb662f", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_06_a_start_and_a_stop_fail() {
    check("06-builds-that-fail", "145a98da", Host::Watching, &[(0.348, START_FAILED), (0.76, STOPPED)]).await;
    // The failed stop leaves no agents in the answer, though the agent lives: that is no reason to start anything.
    let wanted = [(1.033, ALIVE), (1.353, STOP_UNFINISHED), (22.02, ALIVE)];
    check("06-builds-that-fail", "220f9f72", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_07_starts_are_cancelled() {
    check("07-cancel", "50bac598", Host::Watching, &[(2.189, START_CANCELED), (2.511, STOPPED)]).await;
    check("07-cancel", "778002cd", Host::Watching, &[(4.617, STARTING), (25.72, START_CANCELED)]).await;
}

#[tokio::test]
async fn in_07b_a_start_and_a_stop_are_cancelled_too_late() {
    // The start did its work, agents and all; whether the stop did cannot be told.
    let wanted = [(8.537, ALIVE), (25.049, STOP_UNFINISHED), (33.36, STOPPED)];
    check("07b-cancel-too-late", "6e9d5f8e", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_08_workspaces_are_deleted_hidden_and_dormant_and_the_user_is_suspended() {
    let file = "08-deleted-missing-forbidden";
    check(file, "15b2227e", Host::Watching, &[(0.194, DELETED)]).await;
    check(file, "8a70bdce", Host::Watching, &[(2.529, UNREADABLE)]).await;
    check(file, "18f41cd6", Host::Watching, &[(2.629, UNREADABLE)]).await;
    check(file, "aaf40843", Host::Watching, &[(4.78, START_CANCELED), (6.867, UNREADABLE)]).await;
    check(file, "e2904fe1", Host::Watching, &[(8.119, ALIVE)]).await;
}

#[tokio::test]
async fn in_09_the_template_is_updated_and_nothing_else() {
    check("09-parameters", "63071dd0", Host::Watching, &[(0.459, ALIVE)]).await;
    check("09-parameters", "50886441", Host::Watching, &[(3.619, ALIVE)]).await;
}

#[tokio::test]
async fn in_10_and_10b_stops_wait_in_a_queue_without_a_provisioner() {
    // One is cancelled while it waits: nothing was done, and the agents are not listed any more.
    let wanted = [(5.541, STOPPING), (5.709, STOP_UNFINISHED), (101.039, STOPPING)];
    check("10-no-provisioner", "0f18e386", Host::Watching, &wanted).await;
    check("10-no-provisioner", "2d890d15", Host::Watching, &[(5.62, STOPPING), (112.804, STOPPED)]).await;
    check("10b-missed-heartbeat", "0f18e386", Host::Watching, &[(6.169, STOPPING)]).await;
}

#[tokio::test]
async fn in_11_and_11b_changes_are_announced_or_not() {
    check("11-watch-events", "2d890d15", Host::Watching, &[(5.268, ALIVE)]).await;
    check("11b-watch-blind-spots", "9d9af37a", Host::Watching, &[(0.181, ALIVE), (10.183, NEVER)]).await;
    // Hung at 59.5, noticed at 81; woken at 102.5; killed at 107.5, which is not recorded and shows at 133.
    let wanted = [(56.5, ALIVE), (81.523, UNSURE), (85.524, RECENT), (103.555, ALIVE), (133.575, UNSURE)];
    check("11b-watch-blind-spots", "04185d7d", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_12b_and_12c_terminals_go_to_agents_that_hang_or_were_killed() {
    // Hung from 0.14 to 100.2.
    check(
        "12b-pty-dead-and-hung",
        "18f41cd6",
        Host::Watching,
        &[(0.145, ALIVE), (20.152, UNSURE), (22.652, RECENT)],
    )
    .await;
    check("12c-pty-times-to-fail", "842cad82", Host::Watching, &[(33.339, UNSURE)]).await;
}

#[tokio::test]
async fn in_13_the_database_is_away_and_the_agent_is_well() {
    check("13-database-outage", "18f41cd6", Host::Watching, &[(0.072, AWAY)]).await;
    let wanted = [(0.072, UNREADABLE), (32.174, ALIVE), (39.288, UNREADABLE), (44.562, ALIVE)];
    check("13-database-outage", "18f41cd6", Host::New, &wanted).await;
}

#[tokio::test]
async fn in_13a_the_rate_of_requests_is_limited() {
    check("13a-rate-limit", "2aa1c488", Host::Watching, &[(9.061, UNREADABLE)]).await;
    // Another workspace's path is free. Its agent is not there any more; nobody has looked before.
    check("13a-rate-limit", "18f41cd6", Host::Watching, &[(9.062, CHANGED)]).await;
}

#[tokio::test]
async fn in_13b_the_control_plane_is_away_for_100_s_and_the_agent_is_well() {
    // From 124.7 to 134 the agent reads disconnected, for as long as the control plane was away.
    let wanted = [(20.252, ALIVE), (24.3, AWAY), (144.752, ALIVE)];
    check("13b-control-plane-outage", "18f41cd6", Host::Watching, &wanted).await;
    // Who does not know of the outage is not misled either: the agent did not read so when the dial began.
    let wanted = [(20.252, ALIVE), (24.3, UNREADABLE), (124.735, CHANGED), (133.993, ALIVE)];
    check("13b-control-plane-outage", "18f41cd6", Host::New, &wanted).await;
}

#[tokio::test]
async fn in_17_an_external_agent_comes_and_goes() {
    // There at 0.31, killed at 5.31.
    let wanted = [(0.194, OFFLINE), (0.81, ONLINE), (5.312, OFFLINE)];
    check("17-external-agent", "a9eed6cd", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_20_an_agent_of_a_newer_server_is_killed_and_comes_back() {
    // Killed at 0.17, so gone for 90 s from 90.18 on; back at 125.8.
    let wanted = [(0.004, ALIVE), (0.172, UNSURE), (1.19, RECENT), (95.254, GONE), (125.812, ALIVE)];
    check("20-killed-agent-2026", "38767b8b", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_21_an_agent_of_a_newer_server_hangs_and_wakes() {
    // Stopped at 0.05 and noticed some 20 s later; continued at 74.16.
    let wanted = [(0.024, ALIVE), (26.112, UNSURE), (30.112, RECENT), (74.659, ALIVE)];
    check("21-hung-agent-2026", "8ec0cad9", Host::Watching, &wanted).await;
}

#[tokio::test]
async fn in_22_and_23_workspaces_of_a_newer_server_are_stopped_started_and_dormant() {
    let wanted = [(0.517, STOPPED), (2.988, START_CANCELED), (3.357, ALIVE)];
    check("22-builds-2026", "9507dbf3", Host::Watching, &wanted).await;
    // Its agent has long been gone; then somebody stops it.
    check("23-dormant-2026", "7bf828d8", Host::Watching, &[(0.051, CHANGED), (0.18, STOPPING)]).await;
}

#[tokio::test]
async fn in_25_and_26_a_newer_server_and_its_database_are_away_and_the_agent_is_well() {
    check("25-server-restart-2026", "38767b8b", Host::Watching, &[(0.028, ALIVE), (0.146, AWAY)]).await;
    // Who does not know of the restart sees an agent that has read disconnected for as long as the server was away.
    let wanted = [(0.028, ALIVE), (0.146, UNREADABLE), (40.515, UNSURE), (50.415, ALIVE)];
    check("25-server-restart-2026", "38767b8b", Host::New, &wanted).await;
    check("26-database-outage-2026", "38767b8b", Host::Watching, &[(0.13, AWAY)]).await;
}

/// What `agent-status` answers at the polls of a workspace, one entry for each change: the chat's agent and its
/// scripts.
async fn states(file: &str, workspace: &str) -> Vec<(f64, String, String)> {
    let transcript = Transcript::load(file);
    let mut states: Vec<(f64, String, String)> = Vec::new();
    let mut judge = None;
    for (index, exchange) in transcript.exchanges.iter().enumerate() {
        if !is_workspace_read(exchange) || !path_of(exchange).contains(workspace) {
            continue;
        }
        if judge.is_none() {
            judge = Some(Judge::new(path_of(exchange).rsplit('/').next().unwrap()).await);
        }
        let judge = judge.as_ref().unwrap();
        let reply = transcript.reply(index);
        judge.server.answer(move |_| reply.clone());
        let host_calls = judge.driver.host_calls();
        let call = host_calls.begin("ana", CancellationToken::new()).unwrap();
        let answered = host_calls.answer(&call, &Request::AgentStatus, &NoIntentLog).await.unwrap();
        let Answer::AgentStatus(Ok(read)) = answered.answer else { panic!("{file} {index}") };
        assert_eq!(read.observed, answered.observed, "{file} {index}");
        let agent = &read.agents[0];
        let state = (word(&agent.state), word(&agent.lifecycle));
        if states.last().is_none_or(|last| (&last.1, &last.2) != (&state.0, &state.1)) {
            states.push((transcript.at(index), state.0, state.1));
        }
    }
    states
}

#[tokio::test]
async fn the_plugin_sees_each_state_of_an_agent_and_its_scripts() {
    for (file, workspace, wanted) in [
        (
            "02-agent-lifecycle",
            "2d890d15",
            "timeout created, connected created, connected starting, connected ready",
        ),
        ("02-agent-lifecycle", "ab817bfc", "connecting created, connected start_error"),
        ("02-agent-lifecycle", "ace0eb9a", "connecting created, connected starting, connected start_timeout"),
        ("03c-agent-terminated", "2aa1c488", "connected ready, connected shutting_down, disconnected off"),
        ("04-agent-never-connected", "65ea6704", "connecting created, timeout created, connected ready"),
    ] {
        let seen = states(file, workspace).await;
        let seen: Vec<_> = seen.iter().map(|(_, state, lifecycle)| format!("{state} {lifecycle}")).collect();
        assert_eq!(seen.join(", "), wanted, "{file} {workspace}");
    }
}
