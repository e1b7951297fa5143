//! `call`, `calls`, `attach` and `cancel`.

use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::{CallArgs, CallsArgs};
use super::host::{Host, Place};
use super::output::{Output, table};
use super::timeline::{self, Follower};
use super::{Exit, events, hosts};
use crate::bindings::{CallError, ToolResult};
use crate::clock::{Clock, SystemClock};
use crate::driver::DriveError;
use crate::journal::record::{CallId, Failure, Outcome};
use crate::store::{CallRow, CallState, Interrupted, Listing};

/// What a call that was followed to its end gave.
type Called = Result<Result<ToolResult, CallError>, DriveError>;

pub async fn call(place: &Place, output: Output, args: CallArgs) -> anyhow::Result<Exit> {
    let host = place.open().await?;
    let chat = host.chat(&args.chat);
    let (tool, arguments, key) = (&args.tool, &args.arguments, args.key.as_deref());
    if args.detach {
        let id = host.driver.submit(chat.name(), tool, arguments, chat.policy(), key).await?;
        hosts::start(place)?;
        output.print(&json!({ "call": id }), |_| {
            format!("call {id}; `workspace-recovery attach {id}` follows it")
        })?;
        return Ok(Exit::Done);
    }
    let interrupt = interrupted_by_signals()?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let shown = events::show(&host.driver);
    let called = async {
        let id = host.driver.begin(chat.name(), tool, arguments, chat.policy(), key).await?;
        tokio::select! {
            called = host.driver.follow(id, &interrupt) => called,
            // The terminal is gone, which is no wish to end what it began.
            _ = hung_up.recv() => {
                host.store.abandon(id).await?;
                Err(DriveError::Halted)
            }
        }
    }
    .await;
    drop(shown);
    leave(place, &host).await?;
    finished(output, tool, called, interrupt.is_cancelled())
}

/// Leaves what this process still carries to another one.
async fn leave(place: &Place, host: &Host) -> anyhow::Result<()> {
    host.driver.leave().await?;
    if host.store.has_orphans(SystemClock.now_ms())? {
        hosts::start(place)?;
    }
    Ok(())
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
        Ok(Err(CallError::UnknownTool)) => {
            eprintln!(
                "error: the plugin has no tool \"{tool}\"; `workspace-recovery tools` lists those that it has"
            );
            Ok(Exit::Usage)
        }
        Ok(Err(CallError::InvalidArguments(sentence))) => {
            eprintln!("error: {tool}: {sentence}");
            Ok(Exit::Usage)
        }
        Err(DriveError::Failed(Failure::Interrupted)) => {
            eprintln!("error: {}", Failure::Interrupted);
            Ok(Exit::Interrupted)
        }
        Err(error) => Err(error.into()),
    }
}

pub fn list(place: &Place, output: Output, args: &CallsArgs) -> anyhow::Result<Exit> {
    let store = place.store()?;
    let listing = if args.all { Listing::All } else { Listing::Unended };
    let rows = store.calls(listing, args.limit)?;
    let mut shown = Vec::new();
    for row in &rows {
        let outcome = store.outcome(row.id)?;
        shown.push(listed(row, outcome.as_ref()));
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
fn listed(row: &CallRow, outcome: Option<&(Outcome, u64)>) -> Value {
    let state = match (row.state, outcome) {
        (CallState::Queued, _) => "waits for its turn",
        (CallState::Active, _) if row.interrupted => "is being interrupted",
        (CallState::Active, _) if row.owner.is_none() => "waits for a host",
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

pub async fn attach(place: &Place, output: Output, id: CallId) -> anyhow::Result<Exit> {
    let host = place.open_and_tidy().await?;
    let Some(row) = host.store.call(id)? else { return Err(DriveError::UnknownCall { call: id }.into()) };
    let stop = interrupted_by_signals()?;
    let mut follower = Follower::new(&host, id);
    let never = CancellationToken::new();
    let called = tokio::select! {
        called = host.driver.follow(id, &never) => called,
        followed = follower.run() => {
            followed?;
            host.driver.follow(id, &never).await
        }
        () = stop.cancelled() => {
            eprintln!("the call goes on; `workspace-recovery cancel {id}` interrupts it");
            return Ok(Exit::Interrupted);
        }
    };
    drop(follower);
    finished(output, &row.tool, called, row.interrupted)
}

pub async fn cancel(place: &Place, output: Output, id: CallId) -> anyhow::Result<Exit> {
    let store = place.store()?;
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

/// Cancelled by the first SIGINT or SIGTERM. A second one ends the program at once.
pub fn interrupted_by_signals() -> anyhow::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if cancel.is_cancelled() {
                std::process::exit(130);
            }
            cancel.cancel();
        }
    });
    Ok(token)
}
