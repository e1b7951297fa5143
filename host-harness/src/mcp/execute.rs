//! `execute`: runs a command, and says what to do when the workspace cannot be reached.

use std::time::Duration;

use rmcp::model::{CallToolRequestParams, CallToolResponse, CallToolResult};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Value, json};

use super::progress::{Progress, WaitsFor};
use super::tools::{ExecuteArguments, HostTool, read};
use super::workspaces::BoundChat;
use super::{Server, elicitation, results};
use crate::bindings::Action;
use crate::chat::{Began, Execute, ExecuteError, Executed, Unreachable};
use crate::describe::{too_long, verdict_json};

impl Server {
    pub(super) async fn execute(
        &self,
        request: CallToolRequestParams,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResponse {
        let answered = elicitation::answered(&request);
        let execute = match arguments(request) {
            Ok(execute) => execute,
            Err(sentence) => return results::error_result(sentence).into(),
        };
        if let Some(answered) = answered {
            return answered.into();
        }
        let bound = match self.bound_chat(context).await {
            Ok(bound) => bound,
            Err(answer) => return (*answer).into(),
        };
        let chat = bound.chat.name().to_owned();
        let mut progress = Progress::new(self, context);
        match self.run(bound, &execute, &mut progress, context).await {
            Ok(executed) => executed_result(executed).into(),
            Err(ExecuteError::Unreachable(unreachable)) => {
                let answer = unreachable_result(&unreachable);
                match unreachable.verdict.action {
                    Action::AskUser => {
                        let (command, told) = (&execute.command, &unreachable.verdict.message);
                        let about = elicitation::About { chat: &chat, command, told };
                        elicitation::ask(about, answer, self, &mut progress, context).await
                    }
                    _ => answer.into(),
                }
            }
            Err(ExecuteError::Lost { began, output }) => {
                let text = ExecuteError::Lost { began, output: String::new() }.to_string();
                let data = json!({ "error": text, "began": began.known(), "output": output });
                results::structured_error(data, format!("{output}\n[{text}]")).into()
            }
            Err(ExecuteError::Interrupted { .. }) => results::error_result(if self.shared.closing.is_cancelled() {
                "the server ends. If the command had begun, it was told to end, and may have done a part of its work"
            } else {
                "the request was cancelled"
            })
            .into(),
            Err(error) => results::error_result(error).into(),
        }
    }

    /// Runs a command to its end. It is asked to end when nobody is interested any more, if it has begun; else its dial
    /// goes on, for whoever asks for the same again.
    async fn run(
        &self,
        bound: BoundChat,
        execute: &Execute,
        progress: &mut Progress,
        context: &RequestContext<RoleServer>,
    ) -> Result<Executed, ExecuteError> {
        let dials = &self.shared.cancelled_dials;
        let mut running = dials.join_or_begin(bound, execute, self.shared.host.driver().host_calls());
        let of = WaitsFor::Command(running.number);
        tokio::select! {
            executed = running.ended() => {
                dials.forget_same_as(&running);
                return executed;
            }
            never = progress.tell(of) => match never {},
            () = self.gone(context) => {}
        }
        if !self.shared.closing.is_cancelled() {
            match dials.keep(running) {
                Ok(()) => return Err(ExecuteError::Interrupted { running: false }),
                Err(handed_over) => running = handed_over,
            }
        }
        running.interrupt();
        tokio::select! {
            executed = running.ended() => executed,
            never = progress.tell(of) => match never {},
        }
    }
}

fn arguments(request: CallToolRequestParams) -> Result<Execute, String> {
    let arguments: ExecuteArguments = read(HostTool::Execute, request.arguments)?;
    if arguments.command.trim().is_empty() {
        return Err("execute: `command` is empty; give it a command line".to_owned());
    }
    Ok(Execute {
        command: arguments.command,
        workdir: arguments.workdir,
        timeout: arguments.timeout_seconds.map(|seconds| Duration::from_secs(seconds.into())),
        input: None,
    })
}

/// A command that was run. One that failed is no error of the tool; one that did not end in its time is.
fn executed_result(executed: Executed) -> CallToolResult {
    let data = json!({
        "output": executed.output, "exit_code": executed.exit_code, "truncated": executed.truncated,
    });
    match executed.exit_code {
        // Some clients refuse a text without a character, and some models take it for a failure.
        Some(0) if executed.output.is_empty() => results::structured(data, "[exit code 0, no output]"),
        Some(0) => results::structured(data, executed.output),
        Some(code) => results::structured(data, format!("{}\n[exit code {code}]", executed.output)),
        None => {
            let text = format!("{}; `timeout_seconds` gives it more time", too_long(&executed));
            results::structured_error(data, format!("{}\n[{text}]", executed.output))
        }
    }
}

/// What happened, and what to do about it.
fn unreachable_result(unreachable: &Unreachable) -> CallToolResult {
    let text = ExecuteError::Unreachable(Box::new(unreachable.clone())).to_string();
    let tried_ms = u64::try_from(unreachable.tried.as_millis()).unwrap_or(u64::MAX);
    let mut data = json!({
        "error": text,
        "verdict": verdict_json(&unreachable.verdict),
        "tried_ms": tried_ms,
        "last_error": unreachable.last_error,
    });
    if unreachable.began != Began::No {
        // Whoever runs it again should know how far it came.
        data["began"] = Value::from(unreachable.began.known());
        data["output"] = Value::from(unreachable.output.as_str());
    }
    results::structured_error(data, text)
}
