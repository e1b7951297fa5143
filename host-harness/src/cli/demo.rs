//! `demo`: a workspace dies and is brought back; three times one is left alone; and a host dies in the middle of it
//! all. Everything is real (processes, builds, terminals) but the length of the waits, and each thing that is claimed
//! is looked up before it is said.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;

use self::stage::{Claims, Stage};
use super::context::CommandContext;
use super::events::{self, CallFilter};
use super::exit::Exit;
use super::output::{Output, notice};
use super::signals::interrupted_by_signals;
use crate::bindings::{Action, AgentState, JobStatus, Transition};
use crate::chat::{ExecuteError, Unreachable};
use crate::describe::gone_for;
use crate::describe::{action_word, cause_word, describe_build};
use crate::local::AgentSignal;

mod stage;

/// The tool call that a restart verdict names.
const RESTART: &str = "restart_workspace";
const ONLY_IF_UNREACHABLE: &str = r#"{"only_if_unreachable": true}"#;

pub async fn run(context: &CommandContext, output: Output, real_timings: bool) -> anyhow::Result<Exit> {
    let interrupt = interrupted_by_signals()?;
    let began = Instant::now();
    let mut claims = Claims::new(output);
    let mut stage = Stage::set(context, real_timings, output).await?;
    let played = tokio::select! {
        biased;
        () = interrupt.cancelled() => None,
        played = play(&mut stage, &mut claims) => Some(played),
    };
    // Whatever happened: no process and no file is left.
    let cleaned = stage.strike().await;
    match played {
        None => {
            notice("interrupted; its processes and files are gone");
            cleaned?;
            return Ok(Exit::Interrupted);
        }
        Some(played) => played?,
    }
    claims.seen("no agent process and no file is left", cleaned.is_ok());
    cleaned?;
    claims.report(began.elapsed())
}

async fn play(stage: &mut Stage, claims: &mut Claims) -> anyhow::Result<()> {
    let shown = (!claims.quiet()).then(|| events::show(&stage.host.driver, async { CallFilter::All }));
    a_workspace_works(stage, claims).await?;
    its_agent_is_killed(stage, claims).await?;
    it_is_brought_back(stage, claims).await?;
    an_agent_that_comes_back_in_time(stage, claims).await?;
    a_control_plane_that_was_away(stage, claims).await?;
    a_host_that_dies_in_the_middle(stage, claims).await?;
    drop(shown);
    Ok(())
}

async fn a_workspace_works(stage: &mut Stage, claims: &mut Claims) -> anyhow::Result<()> {
    claims.scene("1. A chat works in a workspace");
    stage.create_workspace().await?;
    let executed = stage.execute("echo \"hello from $(uname -s), process $$\"").await;
    let output = executed.map(|executed| executed.output).unwrap_or_default();
    claims.say(format!("$ echo ...\n{}", output.trim_end()));
    claims.seen("a command runs in the workspace", output.starts_with("hello from"));
    Ok(())
}

async fn its_agent_is_killed(stage: &mut Stage, claims: &mut Claims) -> anyhow::Result<()> {
    claims.scene("2. Its agent is killed, as the kernel does when memory runs out");
    let killed = stage.signal(AgentSignal::Kill).await?;
    claims.say(format!("kill -KILL {} (the agent's process)", killed.pid));
    let workspace = stage.workspace().await?;
    let latest = &workspace.latest.build;
    claims.seen(
        "the workspace still reads as running",
        latest.transition == Transition::Start && latest.status == JobStatus::Succeeded,
    );

    let unreachable = stage.expect_unreachable("the first command").await?;
    show_verdict(claims, &unreachable);
    claims.seen("the command timed out instead of hanging", unreachable.tried >= stage.dial_timeout());
    claims.seen(
        "an agent that was only just lost is no reason to stop anything: the verdict is to retry, and names no tool",
        unreachable.verdict.action == Action::Retry && unreachable.verdict.tools.is_empty(),
    );
    claims.seen("it says after how long to try again", unreachable.verdict.retry_after_ms.is_some());
    Ok(())
}

async fn it_is_brought_back(stage: &mut Stage, claims: &mut Claims) -> anyhow::Result<()> {
    claims.scene("3. It stays dead, and is brought back");
    stage.wait_until_known_dead().await?;
    let unreachable = stage.expect_unreachable("a command to the dead agent").await?;
    show_verdict(claims, &unreachable);
    claims.seen(
        "an agent that is known to be dead is not dialled for the whole window",
        unreachable.tried < stage.dial_timeout(),
    );
    claims.seen(
        "two signals agree (a timeout, and an agent gone for long enough): the verdict is to restart",
        unreachable.verdict.action == Action::Restart && unreachable.verdict.tools == [RESTART],
    );

    let before = stage.builds().await?;
    let result = stage.call(RESTART, ONLY_IF_UNREACHABLE).await?;
    claims.say(format!("{RESTART} answered {result}"));
    let made = stage.builds().await?.split_off(before.len());
    let transitions: Vec<_> = made.iter().map(|build| build.transition.clone()).collect();
    claims.seen(
        "the control plane made one stop build and one start build, in this order, and no other",
        transitions == [Transition::Stop, Transition::Start],
    );
    claims.seen(
        "the tool told the same",
        result["started"] == true && result["build_id"] == made[made.len() - 1].id.as_str(),
    );
    claims.seen(
        "a command runs again",
        stage.execute("echo back").await.is_ok_and(|done| done.output == "back\n"),
    );
    Ok(())
}

async fn an_agent_that_comes_back_in_time(stage: &mut Stage, claims: &mut Claims) -> anyhow::Result<()> {
    claims.scene("4. Not every lost agent is to be restarted: one hangs, and comes back in time");
    let hung = stage.signal(AgentSignal::Stop).await?;
    claims.say(format!("kill -STOP {}", hung.pid));
    stage.wait_until_gone_long_enough().await?;
    let unreachable = stage.expect_unreachable("a command to the hung agent").await?;
    show_verdict(claims, &unreachable);
    claims.seen("the verdict is to restart", unreachable.verdict.action == Action::Restart);

    let before = stage.builds().await?;
    stage.signal(AgentSignal::Cont).await?;
    claims.say(format!("kill -CONT {}, before the advice is followed", hung.pid));
    stage.wait_until_connected().await?;
    let result = stage.call(RESTART, ONLY_IF_UNREACHABLE).await?;
    claims.say(format!("{RESTART} answered {result}"));
    claims.seen(
        "the tool looked again and stopped nothing",
        result["stopped"] == false && stage.builds().await?.len() == before.len(),
    );
    claims.seen("a command runs", stage.execute("echo here").await.is_ok_and(|done| done.output == "here\n"));
    Ok(())
}

async fn a_control_plane_that_was_away(stage: &mut Stage, claims: &mut Claims) -> anyhow::Result<()> {
    claims.scene("5. The control plane was away, and the agent is fine");
    let before = stage.builds().await?;
    let agent = stage.workspace().await?.agents.first().map(|agent| agent.id.clone());
    claims.say("kill the server, and start it again later");
    let away = stage.control_plane_dies_for_a_while().await?;
    claims.say(format!("the server was away for {:.1} s", away.as_secs_f32()));

    let workspace = stage.workspace().await?;
    let first = workspace.agents.first().context("the workspace has lost its agent")?;
    let gone = gone_for(&workspace, first).map(Duration::from_millis).unwrap_or_default();
    claims.say(format!(
        "first read afterwards: the agent is disconnected, gone for {:.1} s",
        gone.as_secs_f32()
    ));
    claims.seen(
        "a healthy agent reads as gone for longer than the threshold, because the server itself was away",
        first.state == AgentState::Disconnected && gone >= stage.recover_after(),
    );
    // What a client would do that had taken that read for the truth.
    let result = stage.call(RESTART, ONLY_IF_UNREACHABLE).await?;
    claims.say(format!("{RESTART} answered {result}"));
    claims.seen("the tool gave the agent time to come back, and stopped nothing", result["stopped"] == false);
    let works = stage.execute("echo never gone").await;
    claims.seen("a command runs", works.is_ok_and(|done| done.output == "never gone\n"));
    let after = stage.workspace().await?.agents.first().map(|agent| agent.id.clone());
    claims.seen(
        "no build was made, and it is the same agent",
        stage.builds().await?.len() == before.len() && after == agent,
    );
    Ok(())
}

async fn a_host_that_dies_in_the_middle(stage: &mut Stage, claims: &mut Claims) -> anyhow::Result<()> {
    claims.scene("6. The program itself is killed between the stop and the start of a restart");
    let before = stage.builds().await?.len();
    let mut caller = stage.another_host(&["call", stage::CHAT, RESTART])?;
    claims.say(format!("another process calls {RESTART}: process {}", caller.id().unwrap_or_default()));
    stage.wait_for_builds(before + 1).await?;
    let call = stage.unended_call()?;
    caller.kill().await?;
    let builds = stage.builds().await?;
    claims.say(format!("kill -KILL, after its {}", builds.last().map(describe_build).unwrap_or_default()));
    claims.seen(
        "it was killed after it had asked for the stop, and before it could ask for the start",
        builds.len() == before + 1 && builds.last().is_some_and(|build| build.transition == Transition::Stop),
    );
    let result = stage.follow(call).await?;
    claims.say(format!("call {call} was carried on by this process, and ended with\n{result}"));
    let made: Vec<_> = stage.builds().await?.into_iter().skip(before).map(|build| build.transition).collect();
    claims.seen(
        "the restart was finished, with one stop build and one start build",
        result["restarted"] == true && made == [Transition::Stop, Transition::Start],
    );
    let works = stage.execute("echo not lost").await;
    claims.seen("a command runs again", works.is_ok_and(|done| done.output == "not lost\n"));
    Ok(())
}

fn show_verdict(claims: &Claims, unreachable: &Unreachable) {
    let Unreachable { verdict, tried, .. } = unreachable;
    claims.say(format!(
        "timed out after {:.1} s; the verdict: {} ({})\n{}",
        tried.as_secs_f32(),
        action_word(verdict.action),
        cause_word(verdict),
        verdict.message
    ));
}

impl Stage {
    /// Runs a command that must fail because the agent cannot be reached.
    async fn expect_unreachable(&self, what: &str) -> anyhow::Result<Unreachable> {
        match self.execute("echo anybody there").await {
            Err(ExecuteError::Unreachable(unreachable)) => Ok(*unreachable),
            Err(error) => Err(error).context(format!("{what} failed in another way than by a timeout")),
            Ok(_) => anyhow::bail!("{what} reached the agent, which should be dead"),
        }
    }
}
