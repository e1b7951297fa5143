//! `call`, `calls`, `attach` and `cancel`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};
use tokio::signal::unix::SignalKind;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::args::{CallArgs, CallsArgs};
use super::context::{CommandContext, Host};
use super::events::{self, CallFilter};
use super::exit::Exit;
use super::hosts;
use super::output::{Output, notice, table};
use super::signals::{cancelled_by, interrupted_by_signals};
use super::timeline::{self, Follower, refused};
use crate::bindings::{CallError, ToolResult};
use crate::chat::Chat;
use crate::clock::{Clock, SystemClock};
use crate::driver::DriveError;
use crate::journal::record::{CallId, Failure, Outcome};
use crate::store::{CallRow, CallState, Interrupted, Listing};

/// How often `attach` looks whether somebody carries the calls.
const LOOK: Duration = Duration::from_millis(500);

/// What a call that was followed to its end gave.
type Called = Result<Result<ToolResult, CallError>, DriveError>;

pub async fn call(context: &CommandContext, output: Output, args: CallArgs) -> anyhow::Result<Exit> {
    let host = context.open().await?;
    let chat = host.chat(&args.chat).await?;
    // Told at once, and not when the call has got its turn, which may be in the background.
    if let Some(refusal) = host.driver.refusal(&args.tool, &args.arguments, chat.policy()).await {
        return finished(output, &args.tool, Ok(Err(refusal)), false);
    }
    let workspace = chat.record()?.and_then(|record| record.workspace).unwrap_or_default();
    match chat.would_end_this_process(&args.tool, &workspace).await {
        Some(why) if !args.from_inside => bail!(why),
        Some(_) => {
            let id = submit(&host, &chat, &args).await?;
            let text = format!(
                "call {id} is left to a host elsewhere; `workspace-recovery attach {id}` follows it there"
            );
            output.print(&json!({ "call": id }), |_| text)?;
            Ok(Exit::Done)
        }
        None if args.detach => {
            let id = submit(&host, &chat, &args).await?;
            hosts::start(context)?;
            let text = format!("call {id}; `workspace-recovery attach {id}` follows it");
            output.print(&json!({ "call": id }), |_| text)?;
            Ok(Exit::Done)
        }
        None => run(context, &host, &chat, output, &args).await,
    }
}

/// Begins a call that another host carries.
async fn submit(host: &Host, chat: &Chat, args: &CallArgs) -> Result<CallId, DriveError> {
    let key = args.key.as_deref();
    host.driver.submit(chat.name(), &args.tool, &args.arguments, chat.policy(), key).await
}

/// Begins a call, shows what it does, and waits for its end.
async fn run(
    context: &CommandContext,
    host: &Host,
    chat: &Chat,
    output: Output,
    args: &CallArgs,
) -> anyhow::Result<Exit> {
    let (tool, key) = (&args.tool, args.key.as_deref());
    let interrupt = cancelled_by([SignalKind::interrupt()])?;
    // Neither is a wish to end what was begun: the terminal is closed, or the machine goes down.
    let end = cancelled_by([SignalKind::hangup(), SignalKind::terminate()])?;
    let (tell, told) = oneshot::channel();
    // Listened to from the beginning; nothing is shown of a call that was not begun.
    let shown = events::show(&host.driver, async {
        match told.await {
            Ok(id) => CallFilter::Call(id),
            Err(_) => std::future::pending().await,
        }
    });
    let begun = host.driver.begin(chat.name(), tool, &args.arguments, chat.policy(), key).await;
    if let Ok(id) = begun {
        // It waits for it.
        let _ = tell.send(id);
    }
    let called = match &begun {
        Err(_) => None,
        Ok(id) => tokio::select! {
            called = host.driver.follow(*id, &interrupt) => Some(called),
            () = end.cancelled() => None,
        },
    };
    drop(shown);
    leave(context, host).await?;
    let id = begun?;
    let Some(called) = called else {
        notice(&format!("call {id} goes on in the background; `workspace-recovery attach {id}` follows it"));
        return Ok(Exit::Interrupted);
    };
    finished(output, tool, called, was_interrupted(host, id)?)
}

/// Leaves what this process still carries to another one.
pub async fn leave(context: &CommandContext, host: &Host) -> anyhow::Result<()> {
    host.driver.leave().await?;
    if host.driver.has_orphans().await? {
        hosts::start(context)?;
    }
    Ok(())
}

/// Whether a call was interrupted, by whomever.
fn was_interrupted(host: &Host, id: CallId) -> anyhow::Result<bool> {
    Ok(host.store.call(id)?.is_some_and(|row| row.interrupted))
}

/// Prints what a call gave, and chooses the exit code.
fn finished(output: Output, tool: &str, called: Called, interrupted: bool) -> anyhow::Result<Exit> {
    match called {
        Ok(Ok(result)) => {
            let value: Value = serde_json::from_str(&result.json)?;
            let pretty = serde_json::to_string_pretty(&value)?;
            output.print(&value, |_| pretty)?;
            Ok(if interrupted {
                Exit::Interrupted
            } else if result.is_error || value.get("error").is_some() {
                Exit::Failed
            } else {
                Exit::Done
            })
        }
        Ok(Err(refusal)) => {
            notice(&format!("error: {}", refused(tool, &refusal)));
            Ok(Exit::Usage)
        }
        Err(DriveError::Failed(Failure::Interrupted)) => {
            notice(&format!("error: {}", Failure::Interrupted));
            Ok(Exit::Interrupted)
        }
        Err(error) => Err(error.into()),
    }
}

pub fn list(context: &CommandContext, output: Output, args: &CallsArgs) -> anyhow::Result<Exit> {
    let store = context.store()?;
    let listing = if args.all { Listing::All } else { Listing::Unended };
    let rows = store.calls(listing, args.limit)?;
    let orphans: BTreeSet<_> = store.orphans(SystemClock.now_ms())?.iter().map(|row| row.id).collect();
    let mut shown = Vec::new();
    for row in &rows {
        let outcome = store.outcome(row.id)?;
        shown.push(listed(row, orphans.contains(&row.id), outcome.as_ref()));
    }
    output.print(&shown, |shown| {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let columns = ["call", "state", "tool", "chat", "begun", "note"];
        let rows: Vec<_> =
            shown.iter().map(|call| columns.iter().map(|column| text(&call[*column])).collect()).collect();
        table(&["CALL", "STATE", "TOOL", "CHAT", "BEGUN", "NOTE"], &rows)
    })?;
    Ok(Exit::Done)
}

/// A call as `calls` prints it.
fn listed(row: &CallRow, orphan: bool, outcome: Option<&(Outcome, u64)>) -> Value {
    let state = match (row.state, outcome) {
        (CallState::Queued | CallState::Active, _) if orphan => "waits for a host",
        (CallState::Queued, _) => "waits for its turn",
        (CallState::Active, _) if row.interrupted => "is being interrupted",
        (CallState::Active, _) => "active",
        (CallState::Ended, Some((Outcome::Failed(_), _))) => "failed",
        (CallState::Ended, _) => "ended",
    };
    let note = match outcome {
        Some((Outcome::Failed(failure), _)) => Some(failure.to_string()),
        _ => row.note.clone(),
    };
    json!({
        "call": row.id,
        "state": state,
        "tool": row.tool,
        "chat": row.chat,
        "workspace_id": row.pinned.workspace,
        "begun": timeline::clock(row.created_ms),
        "note": note,
    })
}

pub async fn attach(context: &CommandContext, output: Output, id: CallId) -> anyhow::Result<Exit> {
    let host = context.open().await?;
    let Some(row) = host.store.call(id)? else { return Err(DriveError::UnknownCall { call: id }.into()) };
    let (begun_at, now_at) = (&row.pinned.deployment, host.plane.deployment());
    if row.state != CallState::Ended && *begun_at != now_at {
        bail!(
            "call {id} was begun when the control plane was at {begun_at}, and it is at {now_at} now: the call goes on \
             when it is served there again (`workspace-recovery local serve --port PORT`)"
        );
    }
    let stop = interrupted_by_signals()?;
    let mut follower = Follower::new(&host, id);
    let never = CancellationToken::new();
    let called = tokio::select! {
        // First, so that of a call that has ended nothing but its end is shown.
        biased;
        called = host.driver.follow(id, &never) => {
            if row.state != CallState::Ended {
                follower.catch_up().await?;
            }
            called
        }
        followed = follower.run() => {
            followed?;
            host.driver.follow(id, &never).await
        }
        failed = tend(context, &host) => match failed? {},
        () = stop.cancelled() => {
            notice(&format!("the call goes on; `workspace-recovery cancel {id}` interrupts it"));
            return Ok(Exit::Interrupted);
        }
    };
    drop(follower);
    finished(output, &row.tool, called, was_interrupted(&host, id)?)
}

/// Sees to it that there is a host for calls whose own is gone, now or later. Ends only if that fails.
async fn tend(context: &CommandContext, host: &Host) -> anyhow::Result<Infallible> {
    loop {
        tokio::time::sleep(LOOK).await;
        if host.driver.has_orphans().await? {
            hosts::start(context)?;
            // It comes, or is gone as well.
            tokio::time::sleep(host.driver.host_calls().timings().lease).await;
        }
    }
}

pub async fn cancel(context: &CommandContext, output: Output, id: CallId) -> anyhow::Result<Exit> {
    let store = context.store()?;
    let (state, text) = match store.interrupt(id).await? {
        Interrupted::Unknown => return Err(DriveError::UnknownCall { call: id }.into()),
        Interrupted::Ended => ("ended", format!("call {id} had ended before")),
        Interrupted::Noted => (
            "interrupted",
            format!(
                "call {id} is interrupted: no build is asked for any more; `attach {id}` shows how it ends"
            ),
        ),
    };
    output.print(&json!({ "call": id, "state": state }), |_| text)?;
    Ok(Exit::Done)
}
