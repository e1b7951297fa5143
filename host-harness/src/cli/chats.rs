//! `chat bind`, `chat list` and `exec`.

use std::io::{IsTerminal, Read};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::args::ExecArgs;
use super::context::CommandContext;
use super::events::{self, CallFilter};
use super::exit::Exit;
use super::output::{Output, notice, table};
use super::signals::interrupted_by_signals;
use crate::chat::{Began, Execute, ExecuteError, Executed, MAX_TYPED_BYTES};
use crate::describe::{too_long, verdict_json};

/// Exit codes of `exec` for its own failures; they leave the command's own codes alone as far as shells do.
const EXEC_UNREACHABLE: u8 = 123;
const EXEC_TIMED_OUT: u8 = 124;
pub const EXEC_FAILED: u8 = 125;

pub async fn bind(
    context: &CommandContext,
    output: Output,
    name: &str,
    workspace: &str,
) -> anyhow::Result<Exit> {
    let host = context.open().await?;
    let found = host.find(workspace).await?;
    host.chats.bind(name, workspace).await?;
    let value = json!({ "chat": name, "workspace": found.name, "workspace_id": found.id });
    output.print(&value, |_| format!("chat {name} works in {}/{}", found.owner, found.name))?;
    Ok(Exit::Done)
}

pub async fn list(context: &CommandContext, output: Output) -> anyhow::Result<Exit> {
    let host = context.open().await?;
    let chats = host.store.chats()?;
    let mut shown = Vec::new();
    for chat in &chats {
        let name = match &chat.workspace {
            None => None,
            // A name that cannot be read, as of a deleted workspace, is no reason to hide the chat.
            Some(id) => host.plane.workspace(id).await.ok().map(|workspace| workspace.name),
        };
        shown.push(json!({ "chat": chat.name, "workspace": name, "workspace_id": chat.workspace }));
    }
    output.print(&shown, |shown| {
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let rows: Vec<_> =
            shown.iter().map(|chat| vec![text(&chat["chat"]), text(&chat["workspace"])]).collect();
        table(&["CHAT", "WORKSPACE"], &rows)
    })?;
    Ok(Exit::Done)
}

pub async fn exec(context: &CommandContext, output: Output, args: ExecArgs) -> anyhow::Result<Exit> {
    let host = context.open().await?;
    let command = Execute {
        command: command_line(&args.command)?,
        workdir: args.workdir,
        timeout: args.timeout.map(|seconds| Duration::from_secs(seconds.into())),
        input: piped_input()?,
    };
    let interrupt = interrupted_by_signals()?;
    let chat = args.chat.clone();
    let shown = events::show(&host.driver, async { CallFilter::Chat(chat) });
    let executed = host.chat(&args.chat).await?.execute(&command, &interrupt).await;
    drop(shown);
    match executed {
        Ok(executed) => {
            output.print(&executed, |executed| executed.output.clone())?;
            if executed.exit_code.is_none() {
                notice(&format!("error: {}; --timeout gives it more time", too_long(&executed)));
            }
            Ok(Exit::Command(exit_code(&executed)))
        }
        Err(error @ ExecuteError::Interrupted { .. }) => {
            notice(&format!("error: {error}"));
            Ok(Exit::Interrupted)
        }
        Err(ExecuteError::Unreachable(unreachable)) => {
            if output.json {
                let tried_ms = u64::try_from(unreachable.tried.as_millis()).unwrap_or(u64::MAX);
                let verdict = verdict_json(&unreachable.verdict);
                let value = json!({
                    "verdict": verdict, "call": unreachable.call, "tried_ms": tried_ms,
                    "last_error": unreachable.last_error, "began": unreachable.began.known(),
                    "output": output_of(unreachable.began, &unreachable.output),
                });
                output.print(&value, |_| String::new())?;
            } else {
                output.print(&unreachable.output, Clone::clone)?;
            }
            notice(&format!("error: {}", ExecuteError::Unreachable(unreachable)));
            Ok(Exit::Command(EXEC_UNREACHABLE))
        }
        Err(ExecuteError::Lost { began, output: text }) => {
            let value = json!({ "began": began.known(), "output": output_of(began, &text) });
            output.print(&value, |_| text.clone())?;
            Err(ExecuteError::Lost { began, output: text }.into())
        }
        Err(ExecuteError::Unbound { chat, .. }) => {
            anyhow::bail!(
                "the chat \"{chat}\" is not bound to a workspace: bind it with \
                 `workspace-recovery chat bind {chat} WORKSPACE`"
            )
        }
        Err(error) => Err(error.into()),
    }
}

/// What is piped to the program is for the command. A terminal's input is not: it would be waited for.
fn piped_input() -> anyhow::Result<Option<Vec<u8>>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    let mut input = Vec::new();
    stdin
        .lock()
        .take(MAX_TYPED_BYTES as u64 + 1)
        .read_to_end(&mut input)
        .context("standard input cannot be read")?;
    anyhow::ensure!(
        input.len() <= MAX_TYPED_BYTES,
        "what is piped to `exec` is for the command, and more than {MAX_TYPED_BYTES} bytes cannot be sent: write it into a \
         file in the workspace piece by piece, or give `exec` no input (</dev/null)"
    );
    Ok((!input.is_empty()).then_some(input))
}

/// What a command has put out: nothing, as data, of one that did not begin.
fn output_of(began: Began, output: &str) -> Option<&str> {
    (began != Began::No).then_some(output)
}

/// One argument is a shell command line as it stands; several are quoted, so that the shell sees them unchanged.
fn command_line(words: &[String]) -> anyhow::Result<String> {
    match words {
        [line] => Ok(line.clone()),
        words => Ok(shlex::try_join(words.iter().map(String::as_str))?),
    }
}

fn exit_code(executed: &Executed) -> u8 {
    match executed.exit_code {
        None => EXEC_TIMED_OUT,
        Some(code) => u8::try_from(code).unwrap_or(EXEC_FAILED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> String {
        command_line(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn one_argument_is_a_command_line_for_the_shell() {
        assert_eq!(line(&["echo $HOME | wc"]), "echo $HOME | wc");
    }

    #[test]
    fn several_arguments_reach_the_command_unchanged() {
        assert_eq!(line(&["echo", "$HOME", "it's", ""]), r#"echo '$HOME' "it's" ''"#);
    }
}
