//! What a call did, in words: a line for each request with its answer.

use std::time::{Duration, Instant};

use super::context::Host;
use super::output::Progress;
use crate::bindings::{Agent, Binding, Build, CallError, Probe, ReadError, TransitionError, WaitEnd};
use crate::describe::{
    self, action_word, cause_word, describe_build, lifecycle_word, state_word, transition_word,
};
use crate::journal::record::{CallId, Open, Outcome, Recording};
use crate::journal::{Answer, Entry, Output, Request};

/// How often a call that another process carries is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A recorded call as a timeline.
pub fn timeline(id: CallId, recording: &Recording) -> String {
    let call = &recording.call;
    let begun = call.created_ms;
    let arguments = call.call.arguments();
    let mut text = format!("call {id}: {} {arguments}\n", call.call.name());
    text += &format!("  chat {}", call.chat);
    text += &call.pinned.workspace.as_ref().map_or_else(String::new, |id| format!(", workspace {id}"));
    text += &format!(
        "\n  begun {} on component {} (contract {})\n\n",
        clock(begun),
        short(&call.component),
        call.contract
    );
    for (index, entry) in recording.entries.iter().enumerate() {
        let Entry { request, answer, asked, answered_ms, .. } = entry;
        text += &line(index, asked.asked_ms.saturating_sub(begun), request);
        text += &format!("\n{:18}{}", "", answer_line(answer));
        let took = answered_ms.saturating_sub(asked.asked_ms);
        text += &format!(" ({})\n", span(took));
    }
    if let Some(open) = &recording.open {
        let index = recording.entries.len();
        text += &line(index, open.asked_ms.saturating_sub(begun), &open.request);
        text += &format!("\n{:18}not answered\n", "");
    }
    text += match &recording.outcome {
        Some(outcome) => format!("\n{}\n", outcome_line(call.call.name(), outcome)),
        None => "\nnot ended\n".to_owned(),
    }
    .as_str();
    text
}

/// A moment, in UTC.
pub fn clock(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "?".to_owned(), |at| at.to_string())
}

fn line(index: usize, after_ms: u64, request: &Request) -> String {
    format!("{index:3}  {:>10}  {}", format!("+{}", span(after_ms)), request_line(request))
}

fn span(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn request_line(request: &Request) -> String {
    match request {
        Request::LatestBuild { check_start: false } => "read the workspace and its newest build".into(),
        Request::LatestBuild { check_start: true } => {
            "read the workspace, its newest build, and what would refuse a start".into()
        }
        Request::AgentStatus => "read the agents of the newest build".into(),
        Request::IssueTransition { to, rests_on, parameters } => {
            let with = if parameters.is_empty() {
                String::new()
            } else {
                let names: Vec<_> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
                format!(" with {}", names.join(", "))
            };
            format!("ask for a {} build{with}, if {rests_on} is still the newest", transition_word(to))
        }
        Request::PublishBinding { build } => format!("bind the chat to build {build}"),
        Request::WaitForBuild { build, limit_ms } => {
            format!("wait for build {build}, at most {}", span((*limit_ms).into()))
        }
        Request::WaitForAgent { agent, connect_limit_ms, scripts_limit_ms, .. } => format!(
            "wait for agent {agent}: to connect, at most {}, for its scripts, at most {}, and until a command can run",
            span((*connect_limit_ms).into()),
            span((*scripts_limit_ms).into())
        ),
    }
}

fn answer_line(answer: &Answer) -> String {
    match answer {
        Answer::LatestBuild(Ok(binding)) => binding_line(binding),
        Answer::AgentStatus(Ok(agents)) => {
            let list: Vec<_> = agents.agents.iter().map(agent_line).collect();
            format!("{}; agents: {}", describe_build(&agents.build), or_none(&list.join("; ")))
        }
        Answer::IssueTransition(Ok(build)) => format!("{}, {}", describe_build(build), build.id),
        Answer::IssueTransition(Err(error)) => format!("refused: {}", refusal_line(error)),
        Answer::PublishBinding(Ok(true)) => "bound".into(),
        Answer::PublishBinding(Ok(false)) => "the chat is bound elsewhere now".into(),
        Answer::WaitForBuild(Ok(wait)) => {
            format!(
                "{} after {}{}",
                end_word(wait.end),
                span(wait.waited_ms.into()),
                after(wait.build.as_ref(), describe_build)
            )
        }
        Answer::WaitForAgent(Ok(wait)) => {
            format!(
                "{} after {}{}{}",
                end_word(wait.end),
                span(wait.waited_ms.into()),
                after(wait.agent.as_ref(), agent_line),
                after(wait.probe.as_ref(), probe_line)
            )
        }
        Answer::LatestBuild(Err(error))
        | Answer::AgentStatus(Err(error))
        | Answer::PublishBinding(Err(error))
        | Answer::WaitForBuild(Err(error))
        | Answer::WaitForAgent(Err(error)) => format!("could not be read: {}", read_error_line(error)),
    }
}

fn probe_line(probe: &Probe) -> String {
    match probe {
        Probe::Answered => "a command can run".into(),
        Probe::Unanswered(why) => format!("no command can run: {why}"),
        Probe::Untried(why) => format!("whether a command can run was not tried: {why}"),
    }
}

fn binding_line(binding: &Binding) -> String {
    match binding {
        Binding::Unbound => "the chat has no workspace".into(),
        Binding::Rebound => "the chat is bound elsewhere now".into(),
        Binding::Deleted => "the workspace is deleted".into(),
        Binding::Bound(snapshot) => {
            let dormant = if snapshot.dormant { ", dormant" } else { "" };
            let refusal = snapshot.start_refusal.as_ref();
            let refusal =
                refusal.map_or_else(String::new, |refusal| format!("; a start: {}", refusal.message));
            format!(
                "workspace {}{dormant}: {}{refusal}",
                snapshot.workspace_name,
                describe_build(&snapshot.latest)
            )
        }
    }
}

fn agent_line(agent: &Agent) -> String {
    format!("{} {}, {}", agent.name, state_word(&agent.state), lifecycle_word(&agent.lifecycle))
}

fn after<T>(value: Option<&T>, line: impl Fn(&T) -> String) -> String {
    value.map_or_else(String::new, |value| format!(": {}", line(value)))
}

fn or_none(list: &str) -> &str {
    if list.is_empty() { "none" } else { list }
}

fn end_word(end: WaitEnd) -> &'static str {
    match end {
        WaitEnd::Reached => "reached",
        WaitEnd::Limit => "timed out",
        WaitEnd::Interrupted => "interrupted",
        WaitEnd::Gone => "gone",
    }
}

fn read_error_line(error: &ReadError) -> String {
    match error {
        ReadError::Unauthorized => "the token is not accepted".into(),
        ReadError::Forbidden => "forbidden".into(),
        ReadError::NotFound => "not found".into(),
        ReadError::Unavailable(_) => "the control plane cannot be reached or cannot answer".into(),
        ReadError::Other(text) => text.clone(),
    }
}

fn refusal_line(error: &TransitionError) -> String {
    let newer = |build: &Build| format!("{} came first", describe_build(build));
    match error {
        TransitionError::Superseded(build) => newer(build),
        TransitionError::Conflict(Some(build)) => newer(build),
        TransitionError::Conflict(None) => "another build is in progress".into(),
        TransitionError::UnseenConflict(refusal) => {
            format!("another build is said to be in progress, and none is seen: {}", refusal.message)
        }
        TransitionError::Rebound => "the chat is bound elsewhere now".into(),
        TransitionError::Interrupted => "interrupted".into(),
        TransitionError::Expired => "the call is too old to begin anything".into(),
        TransitionError::Gone => "the workspace is deleted".into(),
        TransitionError::Unavailable(_) => "the control plane cannot be reached or cannot answer".into(),
        TransitionError::Forbidden(refusal)
        | TransitionError::Invalid(refusal)
        | TransitionError::Policy(refusal)
        | TransitionError::Other(refusal) => refusal.message.clone(),
    }
}

fn outcome_line(tool: &str, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(failure) => format!("failed: {failure}"),
        Outcome::Done { result: Output::CallTool(Ok(result)) } if result.is_error => {
            format!("ended with an error response: {}", result.json)
        }
        Outcome::Done { result: Output::CallTool(Ok(result)) } => format!("ended: {}", result.json),
        Outcome::Done { result: Output::CallTool(Err(refusal)) } => {
            format!("refused: {}", refused(tool, refusal))
        }
        Outcome::Done { result: Output::ClassifyFailure(verdict) } => {
            format!(
                "the verdict: {} ({})\n{}",
                action_word(verdict.action),
                cause_word(verdict),
                verdict.message
            )
        }
        Outcome::Done { result } => format!("ended: {result:?}"),
    }
}

/// Shows a call while another process carries it.
pub struct Follower<'a> {
    host: &'a Host,
    call: CallId,
    progress: Progress,
    /// Entries that have been shown.
    shown: usize,
    /// The build whose log is shown, and its last line.
    log: Option<(String, u64)>,
    /// When the control plane was asked last.
    asked: Option<Instant>,
}

impl<'a> Follower<'a> {
    pub fn new(host: &'a Host, call: CallId) -> Self {
        Self { host, call, progress: Progress::new(), shown: 0, log: None, asked: None }
    }

    /// Ends with the call.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        while let Some(recording) = self.catch_up().await? {
            if let Some(open) = &recording.open {
                self.look(open).await;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Shows what has been answered since the last time. Answers the call, unless it has ended.
    pub async fn catch_up(&mut self) -> anyhow::Result<Option<Recording>> {
        let Some(recording) = self.host.store.recording(self.call)? else { return Ok(None) };
        for entry in recording.entries.iter().skip(self.shown) {
            match &entry.request {
                Request::WaitForBuild { build, .. } if self.follows(build) => self.show_log(build).await,
                _ => {}
            }
            self.progress.line(&answer_line(&entry.answer));
        }
        self.shown = self.shown.max(recording.entries.len());
        Ok(recording.outcome.is_none().then_some(recording))
    }

    /// What is waited for now. The control plane is asked no more often than by a host that waits, and what cannot be
    /// read is not shown: this is only a view.
    async fn look(&mut self, open: &Open) {
        let Request::WaitForBuild { build, .. } = &open.request else {
            return self.progress.status(request_line(&open.request));
        };
        let poll = self.host.driver.host_calls().timings().poll;
        if self.follows(build) && self.asked.is_some_and(|asked| asked.elapsed() < poll) {
            return;
        }
        self.asked = Some(Instant::now());
        if let Ok(read) = self.host.plane.build(build).await {
            self.progress.status(describe_build(&read.build));
        }
        self.show_log(build).await;
    }

    fn follows(&self, build: &str) -> bool {
        self.log.as_ref().is_some_and(|(known, _)| known == build)
    }

    async fn show_log(&mut self, build: &str) {
        let after = match &self.log {
            Some((known, last)) if known == build => *last,
            _ => 0,
        };
        let lines = self.host.plane.build_logs(build, after).await.unwrap_or_default();
        let last = lines.iter().map(|line| line.id).fold(after, u64::max);
        for line in lines {
            self.progress.log(&line);
        }
        self.log = Some((build.to_owned(), last));
    }
}

/// Why the plugin has refused a call, as a sentence for somebody at a terminal.
pub fn refused(tool: &str, refusal: &CallError) -> String {
    let text = describe::refused(tool, refusal);
    match refusal {
        CallError::UnknownTool => format!("{text}; `workspace-recovery tools` lists those that it has"),
        CallError::InvalidArguments(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_the_plugin_refused_ends_with_a_sentence() {
        let recorded = include_str!("../../../tests/recordings/start-with-wrong-arguments.jsonl");
        let shown = timeline(7, &Recording::from_json_lines(recorded).unwrap());
        let end = shown.lines().last().unwrap();
        assert!(end.starts_with("refused: start_workspace: "), "{end}");
    }
}
